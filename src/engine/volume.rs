//! Storage for the volumes that an image declares: a directory of the container's own each, filled with what the image
//! has at that place.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown},
        },
    },
    path::{Path, PathBuf},
};

use kernel::{
    file::{self, FileTime, Special},
    path_in_root::{OpenFlags, open_in_root, open_no_links},
    xattr,
};
use nix::{
    dir::Dir,
    fcntl::{OFlag, readlinkat},
    sys::stat::{Mode, major, minor, mkdirat},
    unistd::symlinkat,
};

use crate::{Error, Result};

/// Deepest directory that is copied.
const MAX_DEPTH: usize = 256;

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Path inside the container.
    pub target: PathBuf,
    /// Directory on the host.
    pub source: PathBuf,
}

/// Makes `<dir>/volumes/<n>` for each target and copies what the image has there: content, owners, modes, times and
/// attributes. What an SELinux host labelled is not copied: the copy is labelled for where it stands.
pub(crate) fn make(dir: &Path, root: BorrowedFd<'_>, targets: Vec<PathBuf>) -> Result<Vec<Volume>> {
    let mut volumes = Vec::with_capacity(targets.len());
    for (number, target) in targets.into_iter().enumerate() {
        let source = dir.join("volumes").join(number.to_string());
        let failed = |act| {
            let path = target.clone();
            move |source| Error::Volume { act, path, source }
        };
        fs::create_dir_all(&source).map_err(failed("make"))?;
        fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).map_err(failed("make"))?;
        let directory = OpenFlags::O_RDONLY | OpenFlags::O_DIRECTORY;
        match open_in_root(root, &target, directory, 0) {
            Ok(from) => {
                let to = File::open(&source).map_err(failed("open"))?;
                copy_directory(from.as_fd(), to.as_fd(), 0).map_err(failed("copy content of"))?;
            }
            // Nothing there, or a file: an empty volume, as elsewhere.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(failed("open")(error)),
        }
        volumes.push(Volume { target, source });
    }
    Ok(volumes)
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    let mut listing = Dir::openat(from, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        copy_entry(from, to, Path::new(OsStr::from_bytes(name.to_bytes())), depth)?;
    }
    let about = File::from(from.try_clone_to_owned()?).metadata()?;
    copy_attributes(from, to)?;
    finish(to, &about)?;
    file::set_times(
        to,
        Path::new("."),
        time(about.atime(), about.atime_nsec()),
        time(about.mtime(), about.mtime_nsec()),
    )
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &Path, depth: usize) -> io::Result<()> {
    let handle = File::from(open_no_links(from, path, OpenFlags::O_PATH | OpenFlags::O_NOFOLLOW, 0)?);
    let about = handle.metadata()?;
    let kind = about.file_type();
    let times = (time(about.atime(), about.atime_nsec()), time(about.mtime(), about.mtime_nsec()));
    if kind.is_dir() {
        mkdirat(to, path, Mode::from_bits_truncate(0o700))?;
        let directory = OpenFlags::O_RDONLY | OpenFlags::O_DIRECTORY;
        let (from, to) = (open_no_links(from, path, directory, 0)?, open_no_links(to, path, directory, 0)?);
        return copy_directory(from.as_fd(), to.as_fd(), depth + 1);
    }
    if kind.is_file() {
        let read = OpenFlags::O_RDONLY | OpenFlags::O_NONBLOCK;
        let mut source = File::from(open_no_links(from, path, read, 0)?);
        let new = OpenFlags::O_WRONLY | OpenFlags::O_CREAT | OpenFlags::O_EXCL;
        let mut target = File::from(open_no_links(to, path, new, 0o600)?);
        io::copy(&mut source, &mut target)?;
        copy_attributes(source.as_fd(), target.as_fd())?;
        finish(target.as_fd(), &about)?;
    } else if kind.is_symlink() {
        symlinkat(readlinkat(from, path)?.as_os_str(), to, path)?;
        file::set_owner(to, path, Some(about.uid()), Some(about.gid()))?;
    } else {
        let (major, minor) = (major(about.rdev()), minor(about.rdev()));
        let what = if kind.is_char_device() {
            Special::Char { major, minor }
        } else if kind.is_block_device() {
            Special::Block { major, minor }
        } else if kind.is_fifo() {
            Special::Fifo
        } else {
            // A socket has nobody at its other end in a copy.
            return Ok(());
        };
        file::make_special(to, path, what, about.mode() & 0o7777)?;
        file::set_owner(to, path, Some(about.uid()), Some(about.gid()))?;
    }
    file::set_times(to, path, times.0, times.1)
}

/// Owner first: changing it clears the set-user-id bit.
fn finish(target: BorrowedFd<'_>, about: &Metadata) -> io::Result<()> {
    let target: OwnedFd = target.try_clone_to_owned()?;
    fchown(&target, Some(about.uid()), Some(about.gid()))?;
    File::from(target).set_permissions(fs::Permissions::from_mode(about.mode() & 0o7777))
}

fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    for name in xattr::list(from)? {
        if name.as_bytes().starts_with(b"security.selinux") || name.as_bytes().starts_with(b"trusted.overlay.") {
            continue;
        }
        if let Some(value) = xattr::get(from, &name)? {
            xattr::set(to, &name, &value)?;
        }
    }
    Ok(())
}

fn time(seconds: i64, nanoseconds: i64) -> FileTime {
    FileTime { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) }
}
