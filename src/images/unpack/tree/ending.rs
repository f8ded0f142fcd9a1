//! What directories get at the end.

use std::{io, os::fd::BorrowedFd};

use crate::unpack::attributes::{Attributes, set_passed_on, set_time};

/// What a directory gets when nothing is made in it any more.
#[derive(Debug)]
pub(super) struct Ending {
    /// Every name that is made changes it.
    modified: (i64, u32),
    /// The list of who may use what is made in it: of that, archives tell what they mean.
    pub(super) passes_on: Option<Vec<u8>>,
}

impl Ending {
    pub(super) fn of(attributes: &Attributes) -> Self {
        Self { modified: attributes.modified, passes_on: attributes.passes_on().map(<[u8]>::to_vec) }
    }

    pub(super) fn give(&self, directory: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(list) = &self.passes_on {
            set_passed_on(directory, list)?;
        }
        set_time(directory, self.modified)
    }
}
