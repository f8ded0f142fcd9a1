//! One file below a directory descriptor: written whole by rename, read with a limit, removed.
//!
//! Works through descriptors alone, so that the monitor, which can resolve no host path, writes its exit records with
//! the same code as the daemon.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use kernel::file;
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat, renameat},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, fsync, unlinkat},
};

use crate::{Error, LARGEST, Result};

/// Marks a file that is still being written: `.<name>.<pid>-<n>.tmp`. A scan deletes what a crash left of them.
pub(crate) const UNFINISHED: &str = ".tmp";

/// Tells two writers of one name in one process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// When a write has to be on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// Whenever the kernel likes, or when a [`crate::Flusher`] says so.
    Later,
    /// Before the call returns.
    Now,
}

/// Puts `bytes` at `name`, whole or not at all: a reader sees the old content or the new one. Not synced to the medium.
pub fn write_at(dir: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    check(name)?;
    replace(dir, name, bytes, Durable::Later)
}

/// The content of `name`; `None` when there is no such file. At most [`LARGEST`] + 1 bytes are read: one more than any
/// record has, so that [`crate::decode`] names it as too large.
pub fn read_at(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    check(name)?;
    let failed = |source: io::Error| Error::Read { name: name.to_owned(), source };
    // O_NONBLOCK: a FIFO in the place of a record must not hang the start.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// Removes `name`. That it was gone already is fine. Needs no room on the disk.
pub fn remove_at(dir: BorrowedFd<'_>, name: &str) -> Result<()> {
    check(name)?;
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Error::Remove { name: name.to_owned(), source: errno.into() }),
    }
}

/// As [`write_at`], but what was replaced is not deleted: it lies under the name that is answered, which a scan would
/// delete. Deleting a file takes the kernel longer than all of the rest.
pub(crate) fn exchange(dir: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<Option<String>> {
    let unfinished = unfinished(name);
    let failed = |source| {
        let _ = unlinkat(dir, unfinished.as_str(), UnlinkatFlags::NoRemoveDir);
        Error::Write { name: name.to_owned(), source }
    };
    let written = write_new(dir, &unfinished, bytes, Durable::Later).map_err(failed)?;
    let (from, to) = (Path::new(&unfinished), Path::new(name));
    match file::rename_noreplace(dir, from, dir, to) {
        Ok(()) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // A rename over a file has the new content on its way to the disk first, so that a power loss leaves one or
            // the other, and never the name with nothing behind it (ext4's `auto_da_alloc`). An exchange has to be
            // helped.
            file::start_writing(written.as_fd()).map_err(failed)?;
            if file::exchange(dir, from, dir, to).is_ok() {
                return Ok(Some(unfinished));
            }
        }
        // A file system that knows only the plain way.
        Err(_) => {}
    }
    renameat(dir, unfinished.as_str(), dir, name).map(|()| None).map_err(|errno| failed(errno.into()))
}

/// Takes a file's name away. What is left to be deleted lies under the name that is answered; `None` when nothing is.
pub(crate) fn set_aside(dir: BorrowedFd<'_>, name: &str) -> Result<Option<String>> {
    check(name)?;
    let unfinished = unfinished(name);
    match renameat(dir, name, dir, unfinished.as_str()) {
        Ok(()) => Ok(Some(unfinished)),
        Err(Errno::ENOENT) => Ok(None),
        // A full disk may have no room for the other name; deleting needs none.
        Err(_) => remove_at(dir, name).map(|()| None),
    }
}

fn unfinished(name: &str) -> String {
    format!(".{name}.{}-{}{UNFINISHED}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn replace(dir: BorrowedFd<'_>, name: &str, bytes: &[u8], durable: Durable) -> Result<()> {
    let unfinished = unfinished(name);
    let written = write_new(dir, &unfinished, bytes, durable)
        .and_then(|_| renameat(dir, unfinished.as_str(), dir, name).map_err(io::Error::from));
    if let Err(source) = written {
        // On a full disk this also gives back what the attempt had taken.
        let _ = unlinkat(dir, unfinished.as_str(), UnlinkatFlags::NoRemoveDir);
        return Err(Error::Write { name: name.to_owned(), source });
    }
    match durable {
        Durable::Later => Ok(()),
        // The rename itself lives in the directory.
        Durable::Now => {
            fsync(dir.as_fd()).map_err(|errno| Error::Write { name: name.to_owned(), source: errno.into() })
        }
    }
}

fn write_new(dir: BorrowedFd<'_>, name: &str, bytes: &[u8], durable: Durable) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mut file = File::from(openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    file.write_all(bytes)?;
    if durable == Durable::Now {
        file.sync_data()?;
    }
    Ok(file)
}

/// Refuses names that would leave the directory or look like a file of our own.
pub(crate) fn check(name: &str) -> Result<()> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.bytes().all(fits) {
        return Err(Error::Name { name: name.chars().take(220).collect() });
    }
    Ok(())
}
