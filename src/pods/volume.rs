//! Storage for an image's volumes: a directory each, that begins with what the image has at the volume's path.
//!
//! The content is copied from the container's assembled root by descriptor: a path is resolved as the container itself
//! would resolve it, below that no link is followed, so an image cannot have a file of the host copied.
//! Kept: owners, permission bits, times, extended attributes, holes, links of either kind, special files. Not kept:
//! sockets (nobody listens), `security.selinux` (a label of another place), overlayfs's own attributes.
//! Owns: the copy. Does not own: which volumes, and the mounts onto them (`engine`); their end (they lie in the
//! container's directory and go with it).

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{DirBuilder, File},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
};

use kernel::{
    file::{self, Special},
    path_in_root::{OpenFlags, open_in_root, open_no_links},
};
use model::{Class, ContainerId, ContainerPlan, ImageFacts};
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, readlinkat},
    libc,
    sys::stat::{FileStat, Mode, fstatat, major, minor, mkdirat},
    unistd::{Whence, linkat, lseek, symlinkat},
};

use crate::{error::Error, home::Home, step::Step};

/// What a volume gets of which the image has nothing.
const ABSENT_MODE: u32 = 0o755;

/// What everything has until its own bits are set, which is after its owner is.
const UNFINISHED_DIRECTORY: u32 = 0o700;
const UNFINISHED_FILE: u32 = 0o600;

/// A directory, only to be named by.
const PLACE: OpenFlags = OpenFlags::O_PATH.union(OpenFlags::O_DIRECTORY);

/// Makes the storage of the volumes that the container gets of its image. What a failure leaves behind lies in the
/// container's directory, and goes with it.
pub(crate) fn make(
    home: &Home,
    id: &ContainerId,
    plan: &ContainerPlan,
    image: &ImageFacts,
    rootfs: &engine::Rootfs,
) -> Result<Vec<engine::Volume>, Error> {
    let targets = engine::wanted_volumes(image, plan);
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let storage = home.container_dir(id).join("volumes");
    fill(rootfs.root(), &storage, targets).map_err(|trouble| Error::at(Step::CreateVolumes, trouble.class(), trouble))
}

/// Why a volume was not made.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("make storage of volumes in {}", path.display())]
    Storage { path: PathBuf, source: io::Error },
    #[error("volume {} is not a directory in the image", volume.display())]
    NotDirectory { volume: PathBuf },
    #[error("find volume {} in the image", volume.display())]
    Find { volume: PathBuf, source: io::Error },
    #[error("copy volume {} from the image", volume.display())]
    Copy { volume: PathBuf, source: io::Error },
}

impl Trouble {
    fn class(&self) -> Class {
        match self {
            Trouble::NotDirectory { .. } => Class::Invalid,
            Trouble::Storage { source, .. } | Trouble::Find { source, .. } | Trouble::Copy { source, .. } => {
                Class::of_kernel(source)
            }
        }
    }
}

/// Where in a tree a copy failed.
#[derive(Debug, thiserror::Error)]
#[error("at {}", path.display())]
struct Stuck {
    path: PathBuf,
    source: io::Error,
}

/// Makes `<storage>/0`, `<storage>/1` and so on for the targets, with what `root` has there.
fn fill(root: BorrowedFd<'_>, storage: &Path, targets: Vec<PathBuf>) -> Result<Vec<engine::Volume>, Trouble> {
    let unmade = |source| Trouble::Storage { path: storage.to_owned(), source };
    // Closed to the host's users: an image's set-id programs must not become theirs.
    DirBuilder::new().recursive(true).mode(UNFINISHED_DIRECTORY).create(storage).map_err(unmade)?;
    let shelf = File::open(storage).map_err(unmade)?;
    let mut volumes = Vec::with_capacity(targets.len());
    for (index, target) in targets.into_iter().enumerate() {
        let name = index.to_string();
        let volume = make_directory(shelf.as_fd(), Path::new(&name))
            .and_then(|()| open_no_links(shelf.as_fd(), Path::new(&name), PLACE, 0))
            .map_err(unmade)?;
        match open_in_root(root, &target, OpenFlags::O_RDONLY | OpenFlags::O_DIRECTORY, 0) {
            Ok(origin) => copy_tree(origin.as_fd(), volume.as_fd())
                .map_err(|source| Trouble::Copy { volume: target.clone(), source })?,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => file::set_mode(volume.as_fd(), Path::new("."), ABSENT_MODE).map_err(unmade)?,
                Some(libc::ENOTDIR) => return Err(Trouble::NotDirectory { volume: target }),
                _ => return Err(Trouble::Find { volume: target, source: error }),
            },
        }
        volumes.push(engine::Volume { target, source: storage.join(name) });
    }
    Ok(volumes)
}

/// Makes the directory `to`, which is empty, equal to the directory `from`. An error names the path it happened at.
///
/// Nobody else may write to `to` meanwhile; it holds half a copy after an error. However deep the tree, a handful of
/// descriptors is open; a path longer than `PATH_MAX` (4096 bytes) below `from` is `ENAMETOOLONG`.
fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut copy = TreeCopy { from, to, linked: HashMap::new() };
    let mut visits = vec![Visit::Enter(PathBuf::from("."))];
    while let Some(visit) = visits.pop() {
        match visit {
            Visit::Enter(directory) => {
                let inner = copy.enter(&directory)?;
                visits.push(Visit::Leave(directory));
                visits.extend(inner.into_iter().map(Visit::Enter));
            }
            Visit::Leave(directory) => copy.leave(&directory).map_err(|error| stuck(&directory, error))?,
        }
    }
    Ok(())
}

/// What is still to be done with a directory; the path is the same in both trees.
enum Visit {
    /// Copy its files, and make its directories.
    Enter(PathBuf),
    /// Give it its attributes: last, because every name made in it changes its time, and because a default access list
    /// would pass to what is made in it.
    Leave(PathBuf),
}

/// A copy under way.
struct TreeCopy<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// Files of several names (device, inode), and the first name that was copied.
    linked: HashMap<(libc::dev_t, libc::ino_t), PathBuf>,
}

impl TreeCopy<'_> {
    /// Copies what the directory holds, except for the content of the directories in it, which it names.
    fn enter(&mut self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let here = |error| stuck(directory, error);
        let source = open_no_links(self.from, directory, OpenFlags::O_RDONLY | OpenFlags::O_DIRECTORY, 0);
        let source = source.map_err(here)?;
        let target = open_no_links(self.to, directory, PLACE, 0).map_err(here)?;
        let mut listing = Dir::from_fd(source.try_clone().map_err(here)?).map_err(|errno| here(errno.into()))?;
        let mut inner = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(|errno| here(errno.into()))?;
            let name = Path::new(OsStr::from_bytes(entry.file_name().to_bytes()));
            if name == Path::new(".") || name == Path::new("..") {
                continue;
            }
            let path = directory.join(name);
            let found = status(source.as_fd(), name).map_err(|error| stuck(&path, error))?;
            if found.st_mode & libc::S_IFMT == libc::S_IFDIR {
                make_directory(target.as_fd(), name).map_err(|error| stuck(&path, error))?;
                inner.push(path);
            } else {
                let pair = Pair { source: source.as_fd(), target: target.as_fd(), name };
                self.copy(&pair, &found, &path).map_err(|error| stuck(&path, error))?;
            }
        }
        Ok(inner)
    }

    fn leave(&self, directory: &Path) -> io::Result<()> {
        let source = open_no_links(self.from, directory, PLACE, 0)?;
        let target = open_no_links(self.to, directory, PLACE, 0)?;
        engine::copy_attributes(source.as_fd(), target.as_fd(), Path::new("."))
    }

    /// Copies anything but a directory.
    fn copy(&mut self, pair: &Pair<'_>, found: &FileStat, path: &Path) -> io::Result<()> {
        let kind = found.st_mode & libc::S_IFMT;
        if kind == libc::S_IFSOCK {
            return Ok(());
        }
        if found.st_nlink > 1 {
            let file = (found.st_dev, found.st_ino);
            if let Some(first) = self.linked.get(&file) {
                return self.link(first, pair);
            }
            self.linked.insert(file, path.to_owned());
        }
        match kind {
            libc::S_IFREG => pair.copy_content(found.st_size)?,
            libc::S_IFLNK => symlinkat(readlinkat(pair.source, pair.name)?.as_os_str(), pair.target, pair.name)?,
            _ => {
                let (major, minor) = (major(found.st_rdev), minor(found.st_rdev));
                let what = match kind {
                    libc::S_IFCHR => Special::Char { major, minor },
                    libc::S_IFBLK => Special::Block { major, minor },
                    libc::S_IFIFO => Special::Fifo,
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                };
                file::make_special(pair.target, pair.name, what, UNFINISHED_FILE)?;
            }
        }
        engine::copy_attributes(pair.source, pair.target, pair.name)
    }

    /// Gives the copy that stands at `first` another name.
    fn link(&self, first: &Path, pair: &Pair<'_>) -> io::Result<()> {
        let (Some(parent), Some(name)) = (first.parent(), first.file_name()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let parent = open_no_links(self.to, parent, PLACE, 0)?;
        Ok(linkat(&parent, name, pair.target, pair.name, AtFlags::empty())?)
    }
}

/// The same name in the two trees; `.` is the directory itself.
struct Pair<'a> {
    source: BorrowedFd<'a>,
    target: BorrowedFd<'a>,
    name: &'a Path,
}

impl Pair<'_> {
    /// Makes a regular file of the same content. What the image holds as a hole stays one.
    fn copy_content(&self, size: libc::off_t) -> io::Result<()> {
        let mut source = File::from(open_no_links(self.source, self.name, OpenFlags::O_RDONLY, 0)?);
        let new = OpenFlags::O_WRONLY | OpenFlags::O_CREAT | OpenFlags::O_EXCL;
        let mut target = File::from(open_no_links(self.target, self.name, new, UNFINISHED_FILE)?);
        target.set_len(size.unsigned_abs())?;
        let mut at = 0;
        while at < size {
            let data = match lseek(&source, at, Whence::SeekData) {
                // Nothing but a hole up to the end.
                Err(Errno::ENXIO) => break,
                found => found?,
            };
            at = lseek(&source, data, Whence::SeekHole)?;
            source.seek(SeekFrom::Start(data.unsigned_abs()))?;
            target.seek(SeekFrom::Start(data.unsigned_abs()))?;
            let piece = (at - data).unsigned_abs();
            // In the kernel, and shared instead of copied where the filesystem can.
            if io::copy(&mut (&source).take(piece), &mut target)? != piece {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// Of the name itself, be it a link.
fn status(dir: BorrowedFd<'_>, name: &Path) -> io::Result<FileStat> {
    Ok(fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

fn make_directory(dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    Ok(mkdirat(dir, name, Mode::from_bits_truncate(UNFINISHED_DIRECTORY))?)
}

fn stuck(path: &Path, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), Stuck { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
