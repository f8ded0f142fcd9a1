//! Where something stands in the layer that is being made.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    rc::Rc,
};

/// A directory of the layer that is being made.
#[derive(Debug, Clone)]
pub(in crate::unpack) struct Directory {
    pub(super) fd: Rc<OwnedFd>,
    /// From the root, without links, without a slash at either end.
    pub(super) path: Rc<[u8]>,
}

impl Directory {
    pub(in crate::unpack) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(in crate::unpack) fn path(&self) -> &[u8] {
        &self.path
    }

    pub(super) fn below(&self, name: &[u8], fd: OwnedFd) -> Directory {
        Directory { fd: Rc::new(fd), path: joined(&self.path, name).into() }
    }

    /// The last name of its path.
    pub(super) fn name(&self) -> &[u8] {
        self.path.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }

    pub(super) fn names(&self) -> Vec<&[u8]> {
        self.path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect()
    }
}

/// A name in a directory: all that any system call here is given.
#[derive(Debug)]
pub(in crate::unpack) struct Place<'a> {
    pub(in crate::unpack) directory: Directory,
    /// One name, never `.` or `..`.
    pub(in crate::unpack) name: &'a [u8],
}

impl Place<'_> {
    pub(in crate::unpack) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.name))
    }

    /// For people.
    pub(in crate::unpack) fn shown(&self) -> String {
        String::from_utf8_lossy(&joined(&self.directory.path, self.name)).chars().take(200).collect()
    }
}

pub(super) fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}
