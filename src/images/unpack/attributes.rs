//! Owner, extended attributes, mode and time of an entry, set in the order that keeps them.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use kernel::{
    file::{FileTime, set_owner, set_times},
    path_in_root::reopen,
    xattr,
};
use nix::{
    fcntl::OFlag,
    sys::{
        stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstat, futimens},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchown},
};

use crate::{
    Fault,
    tar_stream::Entry,
    unpack::{Place, failed},
};

/// The list that what is made in a directory gets.
const PASSED_ON: &CStr = c"system.posix_acl_default";
/// What makes a directory of overlay hide everything below it.
pub(super) const OPAQUE_XATTR: &CStr = c"trusted.overlay.opaque";

/// What a file is besides its content.
#[derive(Debug)]
pub(super) struct Attributes {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) modified: (i64, u32),
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl Attributes {
    /// What the archive says.
    pub(super) fn of(entry: &Entry) -> Self {
        let allowed = |(name, value): &(Vec<u8>, Vec<u8>)| {
            let name = CString::new(name.as_slice()).ok()?;
            is_allowed(&name).then(|| (name, value.clone()))
        };
        Self {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            modified: entry.modified,
            xattrs: entry.xattrs.iter().filter_map(allowed).collect(),
        }
    }

    /// What a file has. `fd` may be `O_PATH`; extended attributes are read of files and directories only.
    pub(super) fn of_fd(fd: &OwnedFd) -> io::Result<Self> {
        let stat = fstat(fd)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        let mut xattrs = Vec::new();
        if kind == SFlag::S_IFREG || kind == SFlag::S_IFDIR {
            let fd = reopen(fd.as_fd(), OFlag::O_RDONLY)?;
            for name in xattr::list(fd.as_fd())?.into_iter().filter(|name| is_allowed(name)) {
                if let Some(value) = xattr::get(fd.as_fd(), &name)? {
                    xattrs.push((name, value));
                }
            }
        }
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Ok(Self {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            modified: (stat.st_mtime, nanoseconds),
            xattrs,
        })
    }

    /// The list that what is made in the directory gets.
    pub(super) fn passes_on(&self) -> Option<&[u8]> {
        self.xattrs.iter().rev().find(|(name, _)| name.as_c_str() == PASSED_ON).map(|(_, value)| value.as_slice())
    }

    /// What a file may be made with, to be given nothing more afterwards: all but what the umask takes away, and what
    /// is lost when the owner changes.
    pub(super) fn permissions(&self) -> Mode {
        Mode::from_bits_truncate(self.mode & 0o777)
    }

    /// What a directory gets that no layer describes.
    pub(super) fn of_nobody() -> Self {
        Self { uid: 0, gid: 0, mode: 0o755, modified: (0, 0), xattrs: Vec::new() }
    }
}

/// Only what means something inside a container. Nothing that overlay reads (it would smuggle redirects and opaque
/// marks past the path checks), no labels of another machine's policy.
fn is_allowed(name: &CStr) -> bool {
    let name = name.to_bytes();
    let is_user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    is_user || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// All of it, on a file that was just written.
pub(super) fn set_on_file(file: &File, attributes: &Attributes) -> io::Result<()> {
    set_on_directory(file.as_fd(), attributes)?;
    let time = time(attributes.modified);
    Ok(futimens(file, &time, &time)?)
}

/// All but what a directory gets when nothing is made in it any more: its time, and the list that it passes on.
///
/// What is right already is not set again: to look costs a tenth of what a change of an inode does.
pub(super) fn set_on_directory(fd: BorrowedFd<'_>, attributes: &Attributes) -> io::Result<()> {
    let there = fstat(fd)?;
    let is_owned = (there.st_uid, there.st_gid) == (attributes.uid, attributes.gid);
    if !is_owned {
        fchown(fd, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))?;
    }
    for (name, value) in attributes.xattrs.iter().filter(|(name, _)| name.as_c_str() != PASSED_ON) {
        ignore_unsupported(name, xattr::set(fd, name, value))?;
    }
    // A change of owner and a list of who may use it change the mode.
    if is_owned && attributes.xattrs.is_empty() && there.st_mode & 0o7777 == attributes.mode & 0o7777 {
        return Ok(());
    }
    Ok(fchmod(fd, Mode::from_bits_truncate(attributes.mode))?)
}

/// Where the file system keeps none of this kind, a container on it would not find them either.
fn ignore_unsupported(name: &CStr, set: io::Result<()>) -> io::Result<()> {
    match set {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            tracing::debug!(?name, "an extended attribute is not supported here");
            Ok(())
        }
        set => set,
    }
}

/// The list that the directory passes on to what is made in it from now on.
pub(super) fn set_passed_on(fd: BorrowedFd<'_>, list: &[u8]) -> io::Result<()> {
    ignore_unsupported(PASSED_ON, xattr::set(fd, PASSED_ON, list))
}

/// The time alone.
pub(super) fn set_time(fd: BorrowedFd<'_>, modified: (i64, u32)) -> io::Result<()> {
    let time = time(modified);
    Ok(futimens(fd, &time, &time)?)
}

/// Of links and special files, by name: they cannot be opened. A special file may have lists of who may open it; a link
/// has no attributes that a container could use.
pub(super) fn set_attributes(place: &Place<'_>, attributes: &Attributes, kind: SFlag) -> Result<(), Fault> {
    let set = || {
        set_owner(place.directory.fd(), place.path(), Some(attributes.uid), Some(attributes.gid))?;
        if kind != SFlag::S_IFLNK {
            for (name, value) in attributes.xattrs.iter().filter(|(name, _)| name.to_bytes().starts_with(b"system.")) {
                ignore_unsupported(name, xattr::set_at(place.directory.fd(), place.path(), name, value))?;
            }
            // Made by us a moment ago in a directory that nobody else can reach, and not a link.
            let mode = Mode::from_bits_truncate(attributes.mode);
            fchmodat(place.directory.fd(), place.path(), mode, FchmodatFlags::FollowSymlink)?;
        }
        let (seconds, nanoseconds) = attributes.modified;
        let time = FileTime { seconds, nanoseconds };
        set_times(place.directory.fd(), place.path(), time, time)
    };
    set().map_err(failed("set the attributes of", place))
}

fn time((seconds, nanoseconds): (i64, u32)) -> TimeSpec {
    TimeSpec::new(seconds, i64::from(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attributes_that_mean_something_in_a_container_come_in() {
        for name in [c"user.a", c"security.capability", c"system.posix_acl_default"] {
            assert!(is_allowed(name), "{name:?}");
        }
        for name in [
            c"trusted.overlay.redirect",
            c"trusted.overlay.opaque",
            c"trusted.x",
            c"user.overlay.redirect",
            c"user.overlay.opaque",
            c"security.selinux",
            c"security.ima",
            c"system.data",
            c"",
        ] {
            assert!(!is_allowed(name), "{name:?}");
        }
    }
}
