//! The root filesystem of a container: an overlay of its image's layers and a writable one, mounted nowhere.
//!
//! The mount is made in the daemon, in the host's namespace where the layers are, and stays detached: only its
//! descriptor goes to the container. So the host's mount table never grows, and a lost container leaves nothing to
//! unmount.

use std::{
    ffi::CString,
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
};

use kernel::mount::{FsContext, MountAttrs, mount_detached_by_options};

use crate::{Error, Result, copy_attributes};

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
        make_directory(&work).map_err(failed("make the work directory"))?;
        make_upper(&upper, top).map_err(failed("make the writable layer"))?;
        let mounted = match option {
            LayerOption::Each => overlay(layers, &upper, &work, durability),
            LayerOption::Joined => overlay_joined(dir, layers, durability),
        };
        Ok(Self { mount: mounted.map_err(failed("mount overlay"))? })
    }
}

/// Makes the writable layer. Its directory is what `/` looks like inside, so it begins with all that the image's has,
/// which is that of the layer it covers. One that is there has become the container's own, and stays as it is.
fn make_upper(upper: &Path, top: &Path) -> io::Result<()> {
    if upper.try_exists()? {
        return Ok(());
    }
    make_directory(upper)?;
    copy_attributes(fs::File::open(top)?.as_fd(), fs::File::open(upper)?.as_fd(), Path::new("."))
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

/// The way of kernels before 6.7: one string of options, as mount(2) takes them.
fn overlay_joined(dir: &Path, layers: &[PathBuf], durability: Durability) -> io::Result<OwnedFd> {
    let mut options = b"lowerdir=".to_vec();
    for (number, layer) in layers.iter().enumerate() {
        if number > 0 {
            options.push(b':');
        }
        // What separates layers and options does so within a path too, unless it is marked.
        for byte in layer.as_os_str().as_bytes() {
            if matches!(byte, b'\\' | b':' | b',') {
                options.push(b'\\');
            }
            options.push(*byte);
        }
    }
    // Found from the container's directory, which saves room for the layers.
    options.extend_from_slice(b",upperdir=upper,workdir=work");
    if durability == Durability::Volatile {
        options.extend_from_slice(b",volatile");
    }
    mount_detached_by_options(c"overlay", fs::File::open(dir)?.as_fd(), &CString::new(options)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use kernel::path_in_root::{OpenFlags, open_in_root};

    use super::*;

    #[test]
    #[ignore = "needs root: mounts overlay"]
    fn both_ways_of_naming_layers_make_the_same_root_and_show_nowhere_on_the_host() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        for option in [LayerOption::Each, LayerOption::Joined] {
            let dir = tempfile::tempdir().unwrap();
            let layers = ["top, with: marks\\", "bottom"].map(|name| dir.path().join(name));
            for layer in &layers {
                fs::create_dir(layer).unwrap();
                fs::write(layer.join("file"), layer.as_os_str().as_bytes()).unwrap();
            }
            fs::write(layers[1].join("below"), "").unwrap();
            let own = dir.path().join("own");
            fs::create_dir(&own).unwrap();
            let rootfs = Rootfs::make(&own, &layers, Durability::Volatile, option).unwrap();
            for (name, length) in [("file", layers[0].as_os_str().len()), ("below", 0)] {
                let file = open_in_root(rootfs.root(), Path::new(name), OpenFlags::O_RDONLY, 0).unwrap();
                assert_eq!(fs::File::from(file).metadata().unwrap().size(), length as u64, "{option:?} {name}");
            }
            let table = kernel::mount_table::read().unwrap();
            assert!(!table.iter().any(|mount| mount.mount_point.starts_with(dir.path())), "{option:?}");
        }
    }
}
