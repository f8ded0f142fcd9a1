//! What can be wrong with a call, before and after it reaches the rooms below.

use model::{Class, InvalidImageRef};

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the request that cannot be.
    #[error("{field}: want {want}")]
    Invalid {
        /// Path of the field in the request.
        field: &'static str,
        /// What would be right. Never the value, which may be a secret.
        want: &'static str,
    },
    /// The text names no image.
    #[error(transparent)]
    Reference(#[from] InvalidImageRef),
    /// Nobody takes the answer any more.
    #[error("the client has gone")]
    ClientGone,
    /// What images say.
    #[error(transparent)]
    Images(#[from] images::Error),
}

impl Error {
    /// What the caller may do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::Invalid { .. } | Error::Reference(_) => Class::Invalid,
            Error::ClientGone => Class::Cancelled,
            Error::Images(error) => error.class(),
        }
    }
}
