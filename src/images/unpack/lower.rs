//! The layers below the one that is being unpacked, as overlay would show them together.

use std::{
    cell::{Cell, OnceCell},
    collections::BTreeSet,
    ffi::OsStr,
    fmt,
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

use crate::{Fault, unpack::attributes::OPAQUE_XATTR};

/// Names that one layer may have looked up below it: each layer below is asked for each name on the way. An honest
/// archive has its directories in it, and asks for little more than for what it deletes; this many take minutes.
const LOOK_UPS: u64 = 100_000_000;

/// The layers, topmost first. They may still be in the making: then whoever looks into them first waits for them.
pub(crate) struct Lowers {
    /// Each with its path, which is only listed by, and its directory.
    layers: OnceCell<Vec<(PathBuf, OwnedFd)>>,
    coming: Box<dyn Fn() -> Result<Vec<PathBuf>, Fault>>,
    /// Names that may still be looked up.
    left: Cell<u64>,
}

impl fmt::Debug for Lowers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lowers({:?})", self.layers)
    }
}

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
    /// Those that are there.
    #[cfg(test)]
    pub(super) fn of(layers: &[PathBuf]) -> Self {
        let layers = layers.to_vec();
        Self::coming(move || Ok(layers.clone()))
    }

    /// Those that `coming` tells when they are there. It may wait.
    pub(crate) fn coming(coming: impl Fn() -> Result<Vec<PathBuf>, Fault> + 'static) -> Self {
        Self { layers: OnceCell::new(), coming: Box::new(coming), left: Cell::new(LOOK_UPS) }
    }

    /// With another bound.
    #[cfg(test)]
    pub(super) fn within(self, look_ups: u64) -> Self {
        Self { left: Cell::new(look_ups), ..self }
    }

    /// Counts a name that is looked up.
    fn take_look_up(&self) -> io::Result<()> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| io::Error::other(Fault::budget("look-ups in layers below", LOOK_UPS)))?);
        Ok(())
    }

    fn layers(&self) -> io::Result<&[(PathBuf, OwnedFd)]> {
        if self.layers.get().is_none() {
            let open = |path: PathBuf| File::open(&path).map(|directory| (path, directory.into()));
            let coming = (self.coming)().map_err(io::Error::other)?;
            let layers = coming.into_iter().map(open).collect::<io::Result<_>>()?;
            self.layers.get_or_init(|| layers);
        }
        Ok(self.layers.get().map(Vec::as_slice).unwrap_or_default())
    }

    /// The root of the topmost layer.
    pub(super) fn root(&self) -> io::Result<Option<&OwnedFd>> {
        Ok(self.layers()?.first().map(|(_, root)| root))
    }

    /// What shows at a path that passes through no link. `names` is not empty.
    pub(super) fn look_up(&self, names: &[&[u8]]) -> io::Result<Option<Found>> {
        for (_, layer) in self.layers()? {
            match self.ask(layer, names)? {
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
        for (path, _) in self.layers()? {
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

    fn ask(&self, layer: &OwnedFd, names: &[&[u8]]) -> io::Result<Said> {
        let mut directory = layer.try_clone()?;
        let mut hides = false;
        for (at, name) in names.iter().enumerate() {
            self.take_look_up()?;
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
}

fn is_opaque(directory: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    match xattr::get_at(directory.as_fd(), Path::new(OsStr::from_bytes(name)), OPAQUE_XATTR) {
        Ok(value) => Ok(value.as_deref() == Some(b"y")),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
        Err(error) => Err(error),
    }
}
