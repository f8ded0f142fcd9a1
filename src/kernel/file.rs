//! Files by directory descriptor and single name: what the standard library cannot say. Nothing here follows a final
//! link.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

use nix::{
    fcntl::{AtFlags, RenameFlags, renameat2},
    sys::{
        stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mknodat, utimensat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchownat},
};

use crate::sys::done;

/// A special file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    /// A character device.
    Char {
        /// Which driver.
        major: u64,
        /// Which of its devices.
        minor: u64,
    },
    /// A block device.
    Block {
        /// Which driver.
        major: u64,
        /// Which of its devices.
        minor: u64,
    },
    /// A named pipe.
    Fifo,
}

/// A moment, as files keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Since 1970 UTC, before it negative.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanoseconds: u32,
}

/// A filesystem: what it is and what is free, in bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filesystem {
    /// `f_type` of `statfs(2)`, such as `OVERLAYFS_SUPER_MAGIC`.
    pub magic: i64,
    /// Its size.
    pub bytes: u64,
    /// What an ordinary user could still write.
    pub bytes_available: u64,
    /// All inodes; 0 where they are made as needed.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// Renames, refusing (`EEXIST`) to replace. `EINVAL`: the filesystem cannot promise that.
pub fn rename_noreplace(from_dir: BorrowedFd<'_>, from: &Path, to_dir: BorrowedFd<'_>, to: &Path) -> io::Result<()> {
    Ok(renameat2(from_dir, from, to_dir, to, RenameFlags::RENAME_NOREPLACE)?)
}

/// Swaps two names in one step. `ENOENT`: one is missing.
pub fn exchange(one_dir: BorrowedFd<'_>, one: &Path, other_dir: BorrowedFd<'_>, other: &Path) -> io::Result<()> {
    Ok(renameat2(one_dir, one, other_dir, other, RenameFlags::RENAME_EXCHANGE)?)
}

/// Has the kernel begin to write a file's content to its device, and waits for nothing but room in that one's queue.
/// `sync_file_range(2)`.
///
/// Blocks for it are allocated on return, so that a journal that keeps data before names keeps this data before names
/// to come.
pub fn start_writing(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes numbers only.
    done(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) } as i64)
}

/// Writes everything of the filesystem that holds `fd` to its device. Reports write errors since the last call (5.8).
pub fn syncfs(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes a number.
    done(unsafe { libc::syncfs(fd.as_raw_fd()) })
}

/// Makes the names in a directory durable.
pub fn fsync_dir(dir: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::unistd::fsync(dir)?)
}

/// The filesystem that holds `fd` (`O_PATH` too).
pub fn filesystem(fd: BorrowedFd<'_>) -> io::Result<Filesystem> {
    let found = nix::sys::statfs::fstatfs(fd)?;
    let size = found.block_size() as u64;
    Ok(Filesystem {
        magic: found.filesystem_type().0,
        bytes: found.blocks().saturating_mul(size),
        bytes_available: found.blocks_available().saturating_mul(size),
        inodes: found.files(),
        inodes_free: found.files_free(),
    })
}

/// Makes a special file. `mode` is less the umask; `EPERM`: a device without CAP_MKNOD, or in a user namespace.
pub fn make_special(dir: BorrowedFd<'_>, name: &Path, what: Special, mode: u32) -> io::Result<()> {
    let (kind, device) = match what {
        Special::Char { major, minor } => (SFlag::S_IFCHR, makedev(major, minor)),
        Special::Block { major, minor } => (SFlag::S_IFBLK, makedev(major, minor)),
        Special::Fifo => (SFlag::S_IFIFO, 0),
    };
    Ok(mknodat(dir, name, kind, Mode::from_bits_truncate(mode), device)?)
}

/// Sets owner and group of a name, of a link itself; `None` leaves one as it is. Clears set-id bits and file
/// capabilities, so it comes before both.
pub fn set_owner(dir: BorrowedFd<'_>, name: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    Ok(fchownat(dir, name, uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

/// Sets the permission bits of a name. `EOPNOTSUPP`: a link, which has none.
///
/// Before Linux 6.6 (`fchmodat2`) the C library goes through `/proc/self/fd`, so a procfs must be at `/proc`.
pub fn set_mode(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<()> {
    Ok(fchmodat(dir, name, Mode::from_bits_truncate(mode), FchmodatFlags::NoFollowSymlink)?)
}

/// Sets when a name was last read and written, of a link itself.
pub fn set_times(dir: BorrowedFd<'_>, name: &Path, read: FileTime, written: FileTime) -> io::Result<()> {
    let spec = |time: FileTime| TimeSpec::new(time.seconds, i64::from(time.nanoseconds));
    Ok(utimensat(dir, name, &spec(read), &spec(written), UtimensatFlags::NoFollowSymlink)?)
}

/// The path by which this process can hand an opened file to code that wants a path. Valid while `fd` is open.
pub fn path_of(fd: &impl AsFd) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::path::PathBuf::from(OsStr::from_bytes(crate::sys::FdPath::of(fd.as_fd()).as_bytes()))
}
