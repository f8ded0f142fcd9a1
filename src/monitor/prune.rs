//! The launcher's own root: a mount namespace that holds next to nothing.
//!
//! Every container is cloned from here, and a clone copies the mount table: on a node with hundreds of mounts that
//! alone would cost a millisecond a container. It is also why no path of the host can be reached by mistake: there is
//! none.
//!
//! ```text
//! /       tmpfs        /null   the null device, to mask files with
//! /proc   procfs       /root   where a container's root is placed before it becomes one
//!                      /shm    where a monitor mounts its pod's shared memory
//! ```

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use engine::launch::{LANDING, NULL_DEVICE, POD_SHM};
use kernel::{
    file::{Special, make_special},
    identity,
    mount::{self, FsContext, MountAttrs, PropagationType},
    namespace::{self, Namespaces},
    path_in_root::{OpenFlags, make_directories, open_beneath},
};

/// Room for a handful of directories; nothing is ever written here.
const SIZE: &std::ffi::CStr = c"64k";

/// Moves this process into a mount namespace and root of its own. Gives the step that failed.
pub(crate) fn prune() -> Result<(), (&'static str, io::Error)> {
    let during = |step: &'static str| move |error| (step, error);
    namespace::unshare(Namespaces::MOUNT).map_err(during("make a mount namespace"))?;
    mount::set_propagation(Path::new("/"), PropagationType::Private, true)
        .map_err(during("leave the host's mounts"))?;
    // The devices here have modes for every user of every container.
    let umask = identity::umask(0);
    let made = make_root().map_err(during("make a small root"));
    identity::umask(umask);
    made?;
    mount::pivot_root_here().map_err(during("enter the small root"))
}

fn make_root() -> io::Result<()> {
    let context = FsContext::open(c"tmpfs")?;
    context.set_string(c"source", c"coracle")?;
    context.set_string(c"mode", c"0755")?;
    context.set_string(c"size", SIZE)?;
    context.create()?;
    // Devices must work: the null device is bound from here into containers, and a bind keeps the flag.
    let root = context.mount(MountAttrs::NOSUID | MountAttrs::NOEXEC)?;
    // Any directory will do: once this is the root, what lies below is gone.
    let place = nix::fcntl::open(
        "/proc",
        OpenFlags::O_PATH | OpenFlags::O_DIRECTORY | OpenFlags::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    mount::move_mount(root.as_fd(), place.as_fd())?;
    let root = root.as_fd();
    for directory in ["/proc", LANDING, POD_SHM] {
        make_directories(root, Path::new(directory), 0o755)?;
    }
    make_special(root, Path::new(&NULL_DEVICE[1..]), Special::Char { major: 1, minor: 3 }, 0o666)?;
    mount_proc(root)?;
    // Every copy of the null device is one file: with it writable, the root user of one container could change its mode
    // for all of them. Copies of a mount keep this attribute; a device can be written on a read-only mount.
    mount::mount_setattr(root, false, MountAttrs::RDONLY, MountAttrs::empty(), None)?;
    nix::unistd::fchdir(root)?;
    Ok(())
}

fn mount_proc(root: BorrowedFd<'_>) -> io::Result<()> {
    let context = FsContext::open(c"proc")?;
    context.set_string(c"source", c"proc")?;
    context.create()?;
    let proc = context.mount(MountAttrs::NOSUID | MountAttrs::NODEV | MountAttrs::NOEXEC)?;
    let place = open_beneath(root, Path::new("proc"), OpenFlags::O_PATH | OpenFlags::O_DIRECTORY, 0)?;
    mount::move_mount(proc.as_fd(), place.as_fd())
}
