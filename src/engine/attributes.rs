//! What a copy of a file has of its original beside the content: owner, permission bits, extended attributes, times.

use std::{ffi::CStr, io, os::fd::BorrowedFd, path::Path};

use kernel::{
    file::{self, FileTime},
    xattr,
};
use nix::{
    fcntl::AtFlags,
    sys::stat::{FileStat, fstatat},
};

/// Gives what has the name in `target` all that what has it in `source` has. `.` is the directory itself; a link is not
/// followed.
///
/// In this order: a new owner clears set-id bits and file capabilities; times are last because nothing may touch the
/// file after them. A filesystem that keeps no extended attributes has none to give; one that refuses them is an error.
pub fn copy_attributes(source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    let found = fstatat(source, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    file::set_owner(target, name, Some(found.st_uid), Some(found.st_gid))?;
    if found.st_mode & libc::S_IFMT != libc::S_IFLNK {
        file::set_mode(target, name, found.st_mode & 0o7777)?;
    }
    let attributes = match xattr::list_at(source, name) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSUP) => Vec::new(),
        listed => listed?,
    };
    for attribute in attributes.iter().filter(|attribute| !is_of_place(attribute)) {
        if let Some(value) = xattr::get_at(source, name, attribute)? {
            xattr::set_at(target, name, attribute, &value)?;
        }
    }
    let (read, written) = times(&found);
    file::set_times(target, name, read, written)
}

/// Whether an attribute says something about where the original lies, and would be false of a copy.
fn is_of_place(attribute: &CStr) -> bool {
    attribute == c"security.selinux" || attribute.to_bytes().starts_with(b"trusted.overlay.")
}

/// When a file was last read and written.
fn times(found: &FileStat) -> (FileTime, FileTime) {
    let moment = |seconds, nanoseconds| FileTime { seconds, nanoseconds: nanoseconds as u32 };
    (moment(found.st_atime, found.st_atime_nsec), moment(found.st_mtime, found.st_mtime_nsec))
}
