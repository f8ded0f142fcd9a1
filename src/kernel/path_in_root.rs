//! Paths inside a root that somebody else fills: resolved by the kernel beneath a descriptor, never joined as strings.
//!
//! `openat2(2)`, Linux 5.6. `..`, absolute paths and links cannot lead out of the root, whatever another process
//! renames meanwhile; magic links (`/proc/*/fd/*`, `/proc/*/root`) are refused with `ELOOP` everywhere.
//! Nothing here allocates except what reads, so the child may use it between clone and exec.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

pub use nix::fcntl::OFlag as OpenFlags;
use nix::{
    fcntl::{OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, mkdirat},
};

use crate::sys::{FdPath, with_path};

/// How often a look-up that lost a race with a rename is tried again; runc's and libpathrs's number.
const RACE_RETRIES: usize = 128;

/// Opens `path` as a process would whose `/` is `root`: absolute paths and links start at `root`, `..` stops there.
///
/// `mode` counts only when a file is made. The descriptor is close-on-exec. `EAGAIN`: somebody kept renaming.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OpenFlags, mode: u32) -> io::Result<OwnedFd> {
    open(root, path, flags, mode, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// Opens `path` only if it never leaves `dir`: an absolute path or link, or a `..` too many, is `EXDEV`.
pub fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: OpenFlags, mode: u32) -> io::Result<OwnedFd> {
    open(dir, path, flags, mode, ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// As [`open_beneath`], and any symbolic link on the way or at the end is `ELOOP`.
///
/// With `O_PATH | O_NOFOLLOW` a final link opens as itself.
pub fn open_no_links(dir: BorrowedFd<'_>, path: &Path, flags: OpenFlags, mode: u32) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    open(dir, path, flags, mode, resolve)
}

/// Makes the directories of `path` that are missing in `root` and opens the last (`O_PATH`); for no path, `root`
/// itself.
///
/// Links that exist are followed as in [`open_in_root`]; a dangling one is `ENOENT`, never made real. New directories
/// get `mode` less the umask. Safe to repeat, and to run beside others making the same path.
pub fn make_directories(root: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let directory = OpenFlags::O_PATH | OpenFlags::O_DIRECTORY;
    match open_in_root(root, path, directory, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let mut parent = open_in_root(root, Path::new("."), directory, 0)?;
    let bytes = path.as_os_str().as_bytes();
    let mut from = 0;
    while from < bytes.len() {
        let to = bytes[from..].iter().position(|byte| *byte == b'/').map_or(bytes.len(), |at| from + at);
        let (name, so_far) = (&bytes[from..to], Path::new(OsStr::from_bytes(&bytes[..to])));
        from = to + 1;
        if name.is_empty() || name == b"." {
            continue;
        }
        // Looked up from the root each time: a link in the middle must be read as the container reads it.
        parent = match open_in_root(root, so_far, directory, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match mkdirat(&parent, OsStr::from_bytes(name), Mode::from_bits_truncate(mode)) {
                    Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                open_in_root(root, so_far, directory, 0)?
            }
            opened => opened?,
        };
    }
    Ok(parent)
}

/// Opens the file at `path` in `root` (`O_PATH`), making it empty, and its directories, if nothing is there.
///
/// What a bind mount of a file needs to be placed on. An existing thing of any kind is opened as it is.
pub fn make_file(root: BorrowedFd<'_>, path: &Path, file_mode: u32, directory_mode: u32) -> io::Result<OwnedFd> {
    match open_in_root(root, path, OpenFlags::O_PATH, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let parent = match path.parent() {
        Some(parent) => make_directories(root, parent, directory_mode)?,
        None => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
    };
    let name = path.file_name().ok_or(io::Error::from_raw_os_error(libc::EISDIR))?;
    let new = OpenFlags::O_CREAT | OpenFlags::O_EXCL | OpenFlags::O_WRONLY | OpenFlags::O_NOFOLLOW;
    match open_no_links(parent.as_fd(), Path::new(name), new, file_mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    open_in_root(root, path, OpenFlags::O_PATH, 0)
}

/// Opens again, with other flags, what a descriptor (`O_PATH` too) stands for.
///
/// Through `/proc/self/fd`, so a procfs must be at `/proc`: not for the child after its pivot.
pub fn reopen(fd: BorrowedFd<'_>, flags: OpenFlags) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(FdPath::of(fd).as_c_str(), flags | OpenFlags::O_CLOEXEC, Mode::empty())?)
}

/// Reads the regular file at `path` in `root`; more than `max` bytes is `EFBIG`, anything but a file `EINVAL`.
///
/// For files that strangers own, such as an image's `/etc/passwd`: a pipe would block for ever and opening a device
/// would act on it, so what is there is looked at before it is opened. Needs `/proc`, as [`reopen`] does.
pub fn read_regular(root: BorrowedFd<'_>, path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let found = open_in_root(root, path, OpenFlags::O_PATH, 0)?;
    if nix::sys::stat::fstat(&found)?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    read_limited(reopen(found.as_fd(), OpenFlags::O_RDONLY)?, max)
}

/// Reads a file to its end. More than `max` bytes is `EFBIG`, and no more than that is ever held.
pub fn read_limited(fd: impl Into<OwnedFd>, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(fd.into()).take(max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max { Err(io::Error::from_raw_os_error(libc::EFBIG)) } else { Ok(bytes) }
}

fn open(dir: BorrowedFd<'_>, path: &Path, flags: OpenFlags, mode: u32, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    let makes = flags.intersects(OpenFlags::O_CREAT | OpenFlags::O_TMPFILE.difference(OpenFlags::O_DIRECTORY));
    // openat2 refuses a mode where nothing is made.
    let mode = if makes { Mode::from_bits_truncate(mode) } else { Mode::empty() };
    let how = OpenHow::new().flags(flags | OpenFlags::O_CLOEXEC).mode(mode).resolve(resolve);
    with_path(path, |path| {
        for _ in 0..RACE_RETRIES {
            match openat2(dir, path, how) {
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                opened => return Ok(opened?),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    })
}
