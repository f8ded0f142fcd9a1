//! The layers below the one that is being unpacked, as overlay would show them together.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use kernel::xattr;
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstat},
};

use crate::unpack::attributes::OPAQUE_XATTR;

/// The layers, topmost first: each with its path, which is only listed by, and its directory.
#[derive(Debug)]
pub(super) struct Lowers(Vec<(PathBuf, OwnedFd)>);

/// Something that shows through from below, or was found in this layer.
#[derive(Debug)]
pub(super) struct Found {
    /// Opened with `O_PATH`.
    pub(super) fd: OwnedFd,
    pub(super) stat: FileStat,
}

impl Found {
    /// What has this name in the directory, of a link itself; `None` if nothing has.
    pub(super) fn at(directory: impl AsFd, name: &[u8]) -> io::Result<Option<Self>> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(directory, OsStr::from_bytes(name), flags, Mode::empty()) {
            Ok(fd) => {
                let stat = fstat(&fd)?;
                Ok(Some(Self { fd, stat }))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn kind(&self) -> SFlag {
        SFlag::from_bits_truncate(self.stat.st_mode & SFlag::S_IFMT.bits())
    }

    pub(super) fn is_whiteout(&self) -> bool {
        self.kind() == SFlag::S_IFCHR && self.stat.st_rdev == 0
    }

    /// Where the link points.
    pub(super) fn target(&self) -> io::Result<Vec<u8>> {
        Ok(readlinkat(&self.fd, "")?.into_vec())
    }
}

/// What one layer says about a path.
enum Said {
    Here(Found),
    /// It is not here, and nothing below shows.
    Hidden,
    /// Nothing: ask the next layer.
    Nothing,
}

impl Lowers {
    pub(super) fn open(layers: &[PathBuf]) -> io::Result<Self> {
        let open = |path: &PathBuf| Ok((path.clone(), File::open(path)?.into()));
        layers.iter().map(open).collect::<io::Result<_>>().map(Self)
    }

    /// The root of the topmost layer.
    pub(super) fn root(&self) -> Option<&OwnedFd> {
        self.0.first().map(|(_, root)| root)
    }

    /// What shows at a path that passes through no link. `names` is not empty.
    pub(super) fn look_up(&self, names: &[&[u8]]) -> io::Result<Option<Found>> {
        for (_, layer) in &self.0 {
            match ask(layer, names)? {
                Said::Here(found) => return Ok(Some(found)),
                Said::Hidden => return Ok(None),
                Said::Nothing => {}
            }
        }
        Ok(None)
    }

    /// Every name that shows in the root.
    pub(super) fn root_names(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut names = BTreeSet::new();
        for (path, _) in &self.0 {
            for entry in fs::read_dir(Path::new(path))? {
                names.insert(entry?.file_name().into_vec());
            }
        }
        let mut shown = Vec::new();
        for name in names {
            if self.look_up(&[&name])?.is_some() {
                shown.push(name);
            }
        }
        Ok(shown)
    }
}

fn ask(layer: &OwnedFd, names: &[&[u8]]) -> io::Result<Said> {
    let mut directory = layer.try_clone()?;
    let mut hides = false;
    for (at, name) in names.iter().enumerate() {
        let Some(found) = Found::at(&directory, name)? else {
            return Ok(if hides { Said::Hidden } else { Said::Nothing });
        };
        match found.kind() {
            _ if found.is_whiteout() => return Ok(Said::Hidden),
            _ if at + 1 == names.len() => return Ok(Said::Here(found)),
            SFlag::S_IFDIR => hides |= is_opaque(&directory, name)?,
            // Something that is no directory hides any directory below.
            _ => return Ok(Said::Hidden),
        }
        directory = found.fd;
    }
    Ok(Said::Nothing)
}

fn is_opaque(directory: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    match xattr::get_at(directory.as_fd(), Path::new(OsStr::from_bytes(name)), OPAQUE_XATTR) {
        Ok(value) => Ok(value.as_deref() == Some(b"y")),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
        Err(error) => Err(error),
    }
}
