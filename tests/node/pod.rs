//! A pod sandbox: how it begins, what it says of itself, what its containers share, how it ends.

mod identity;
mod life;
mod list;
mod sharing;
mod sysctl;
