//! The root filesystem of a container: an overlay of its image's layers and a writable one, mounted nowhere.
//!
//! The mount is made in the daemon, in the host's namespace where the layers are, and stays detached: only its
//! descriptor goes to the container. So the host's mount table never grows, and a lost container leaves nothing to
//! unmount.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, chown},
    },
    path::{Path, PathBuf},
};

use kernel::mount::{FsContext, MountAttrs, open_tree_clone, umount_detach};
use nix::mount::{MsFlags, mount};

use crate::{Error, Result};

/// A container's root filesystem, ready to be placed.
#[derive(Debug)]
pub struct Rootfs {
    mount: OwnedFd,
}

/// Whether the writable layer must survive a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// No: nothing is flushed at unmount, which otherwise writes back the whole disk's dirty pages.
    Volatile,
    /// Yes: the container may be started again.
    Durable,
}

/// How this kernel takes layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerOption {
    /// One by one, any number (`lowerdir+`, Linux 6.7).
    Each,
    /// All in one option of a mount(2) page of 4 KiB.
    Joined,
}

impl Rootfs {
    /// Its root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// The mount itself.
    pub(crate) fn into_mount(self) -> OwnedFd {
        self.mount
    }

    /// Makes `upper` and `work` in the container's directory and mounts the overlay. `layers`: the top one first.
    pub(crate) fn make(dir: &Path, layers: &[PathBuf], durability: Durability, option: LayerOption) -> Result<Self> {
        let failed = |act| move |source| Error::Rootfs { act, path: dir.to_owned(), source };
        let top = layers.first().ok_or_else(|| {
            failed("find a layer")(io::Error::new(io::ErrorKind::InvalidInput, "the image has no layers"))
        })?;
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        for directory in [&upper, &work] {
            make_directory(directory).map_err(failed("make directories"))?;
        }
        // The upper directory is what `/` looks like inside: its owner is the image's, as in the layer it covers.
        let covered = fs::metadata(top).map_err(failed("read the top layer"))?;
        if (covered.uid(), covered.gid()) != (0, 0) {
            chown(&upper, Some(covered.uid()), Some(covered.gid()))
                .map_err(failed("set the owner of the upper layer"))?;
        }
        let mounted = match option {
            LayerOption::Each => overlay(layers, &upper, &work, durability),
            LayerOption::Joined => overlay_joined(dir, layers, &upper, &work, durability),
        };
        Ok(Self { mount: mounted.map_err(failed("mount overlay"))? })
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn overlay(layers: &[PathBuf], upper: &Path, work: &Path, durability: Durability) -> io::Result<OwnedFd> {
    let context = FsContext::open(c"overlay")?;
    let configure = || -> io::Result<()> {
        context.set_string(c"source", c"overlay")?;
        for layer in layers {
            context.set_path(c"lowerdir+", layer)?;
        }
        context.set_path(c"upperdir", upper)?;
        context.set_path(c"workdir", work)?;
        if durability == Durability::Volatile {
            context.set_flag(c"volatile")?;
        }
        // Each saves work at mount, and none is needed for a private upper layer. Kernels built without one refuse its
        // name, which changes nothing.
        for key in [c"index", c"xino", c"uuid"] {
            let _ = context.set_string(key, c"off");
        }
        context.create()
    };
    configure().map_err(|error| context.explain(error))?;
    context.mount(MountAttrs::empty())
}

/// The way of kernels before 6.7: mount(2) onto a directory of the container, copied and taken away at once.
fn overlay_joined(
    dir: &Path,
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    durability: Durability,
) -> io::Result<OwnedFd> {
    let merged = dir.join("merged");
    make_directory(&merged)?;
    let escaped = |path: &Path| -> io::Result<String> {
        let text = path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path is no text"))?;
        Ok(text.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,"))
    };
    let lower = layers.iter().map(|layer| escaped(layer)).collect::<io::Result<Vec<_>>>()?.join(":");
    let volatile = if durability == Durability::Volatile { ",volatile" } else { "" };
    let options = format!("lowerdir={lower},upperdir={},workdir={}{volatile}", escaped(upper)?, escaped(work)?);
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    let here = fs::File::open("/")?;
    let copied = open_tree_clone(here.as_fd(), &merged, false);
    umount_detach(&merged)?;
    copied
}
