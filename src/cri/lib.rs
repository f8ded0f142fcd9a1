//! The kubelet's face: every call of the Container Runtime Interface, one file per call.

mod error;
mod field;
mod request;

pub use error::Error;
