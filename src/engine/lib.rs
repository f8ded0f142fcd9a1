//! One container, from what was asked to a process that waits for its start.

mod child;
pub mod enter;
pub mod init;
pub mod launch;
mod place;
