//! Mounts by descriptor: made detached, given their attributes, then placed.
//!
//! Mounts of a container never pass through the host's mount table: [`open_tree_clone`] and [`FsContext`] make a mount
//! that hangs nowhere, [`mount_setattr`] shapes it, [`move_mount`] places it on an opened directory.
//! `open_tree`, `move_mount`, `fsopen` are Linux 5.2, `mount_setattr` is 5.12. All need CAP_SYS_ADMIN over the mount
//! namespace.

mod context;

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use bitflags::bitflags;
use nix::mount::{MntFlags, MsFlags};

pub use self::context::{FsContext, overlay_takes_layers_one_by_one};
use crate::{
    namespace::{self, Namespaces},
    sys::{done, take, with_path},
};

bitflags! {
    /// Attributes of one mount (not of its filesystem), `MOUNT_ATTR_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct MountAttrs: u64 {
        /// Nothing can be written through it.
        const RDONLY = libc::MOUNT_ATTR_RDONLY;
        /// Set-user-id bits and file capabilities do nothing.
        const NOSUID = libc::MOUNT_ATTR_NOSUID;
        /// Device nodes cannot be opened.
        const NODEV = libc::MOUNT_ATTR_NODEV;
        /// Nothing can be executed.
        const NOEXEC = libc::MOUNT_ATTR_NOEXEC;
        /// Reading leaves access times alone.
        const NOATIME = libc::MOUNT_ATTR_NOATIME;
        /// Reading always writes access times.
        const STRICTATIME = libc::MOUNT_ATTR_STRICTATIME;
        /// Reading directories leaves their access times alone.
        const NODIRATIME = libc::MOUNT_ATTR_NODIRATIME;
        /// Symbolic links are not followed (Linux 5.10).
        const NOSYMFOLLOW = libc::MOUNT_ATTR_NOSYMFOLLOW;
        /// Access times at most once a day. The kernel's number for it is 0; this bit of our own tells "asked for
        /// relatime" from "asked for nothing", and never reaches the kernel.
        const RELATIME = 1 << 62;
    }
}

impl MountAttrs {
    /// The three answers to "when are access times written", of which a mount has exactly one.
    const ATIME: MountAttrs = MountAttrs::NOATIME.union(MountAttrs::STRICTATIME).union(MountAttrs::RELATIME);

    /// The bits as the kernel knows them.
    fn kernel(self) -> u64 {
        (self - Self::RELATIME).bits()
    }
}

/// How mounts and unmounts travel between copies of a mount (`mount_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PropagationType {
    /// Neither sent nor received.
    Private,
    /// Sent to and received from every peer.
    Shared,
    /// Received from the master, never sent.
    Slave,
    /// As private, and cannot be copied by a bind.
    Unbindable,
}

impl PropagationType {
    fn flag(self) -> MsFlags {
        match self {
            Self::Private => MsFlags::MS_PRIVATE,
            Self::Shared => MsFlags::MS_SHARED,
            Self::Slave => MsFlags::MS_SLAVE,
            Self::Unbindable => MsFlags::MS_UNBINDABLE,
        }
    }
}

/// A detached copy of the mount at `path` (relative to `dir`), with the mounts below it if `recursive`.
///
/// `open_tree(2)` with `OPEN_TREE_CLONE`. Symbolic links are followed; an empty path means `dir` itself. The copy goes
/// away with its last descriptor unless it is placed. `EINVAL`: the mount is unbindable or belongs to another
/// namespace.
pub fn open_tree_clone(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    with_path(path, |path| {
        // SAFETY: reads the C string `path`, which lives for this call, and takes numbers otherwise.
        let fd = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) };
        // SAFETY: open_tree makes a new descriptor, and `fd` is its only record.
        unsafe { take(fd) }
    })
}

/// Places a detached mount on the opened file or directory `target` (`O_PATH` is enough).
///
/// `move_mount(2)` with both paths empty: nothing is looked up, so nothing can be swapped. `target` was opened in
/// the calling thread's own mount namespace: a descriptor from before the clone is `EINVAL`; so is a directory on a
/// file or a file on a directory, and a `mount` that is already placed under a shared parent. Does not allocate.
pub fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are static C strings, the rest are numbers.
    done(unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), flags)
    })
}

/// Sets and clears attributes of a mount, of everything below it too if `recursive`, and its propagation.
///
/// `mount_setattr(2)`: all or nothing. `set` wins where both name an attribute of access times. `EPERM`: the attribute
/// is locked because the mount came from a more privileged namespace. Does not allocate.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: MountAttrs,
    clear: MountAttrs,
    propagation: Option<PropagationType>,
) -> io::Result<()> {
    let mut attr_clr = clear.kernel();
    if (set | clear).intersects(MountAttrs::ATIME) {
        // The kernel wants the whole field cleared whenever any of it changes.
        attr_clr |= libc::MOUNT_ATTR__ATIME;
    }
    change(
        mount,
        recursive,
        &libc::mount_attr {
            attr_set: set.kernel(),
            attr_clr,
            propagation: propagation.map_or(0, |kind| kind.flag().bits()),
            userns_fd: 0,
        },
    )
}

/// Shows the files of a *detached* mount with the ids mapped as in the user namespace `users`.
///
/// `mount_setattr(2)` with `MOUNT_ATTR_IDMAP`, for which the filesystem must be ready: ext4, xfs, btrfs, overlay's
/// layers (5.19), tmpfs (6.3). `EINVAL`: the filesystem is not, or the mount is placed. Cannot be changed again.
pub fn map_ids(mount: BorrowedFd<'_>, recursive: bool, users: BorrowedFd<'_>) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd() as u64,
    };
    change(mount, recursive, &attr)
}

/// A filesystem mounted the old way, by one string of options, and then detached: for what [`FsContext`] cannot do on
/// this kernel, such as an overlay of many layers before Linux 6.8.
///
/// `mount(2)` with `options` of at most a page (4095 bytes), in which relative paths start at `dir`. It happens on a
/// thread with a mount namespace of its own that ends here, so nothing ever shows in the host's table; copying the
/// table makes it slower than an [`FsContext`]. Not for a process that clones.
pub fn mount_detached_by_options(fstype: &CStr, dir: BorrowedFd<'_>, options: &CStr) -> io::Result<OwnedFd> {
    if options.count_bytes() > 4095 {
        // mount(2) would cut it off in silence.
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let mount = || {
        // The working directory first: the new namespace takes it along, while `dir` stays in the old one.
        namespace::unshare_working_directory()?;
        nix::unistd::fchdir(dir)?;
        namespace::unshare(Namespaces::MOUNT)?;
        set_propagation(Path::new("/"), PropagationType::Private, true)?;
        // Any directory will do, for nobody else sees this table; `dir` itself is the one that surely exists.
        nix::mount::mount(Some(fstype), c".", Some(fstype), MsFlags::empty(), Some(options))?;
        // "." is what lies below the new mount, and this path is what lies above.
        let place = nix::unistd::getcwd()?;
        open_tree_clone(dir, &place, false)
    };
    std::thread::scope(|scope| scope.spawn(mount).join()).unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

/// Sets how the mount at `path` sends and receives mounts. `mount(2)`. `EINVAL`: `path` is no mount point.
pub fn set_propagation(path: &Path, kind: PropagationType, recursive: bool) -> io::Result<()> {
    let recursive = if recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    Ok(nix::mount::mount(None::<&Path>, path, None::<&Path>, kind.flag() | recursive, None::<&Path>)?)
}

/// Makes the working directory the root of this mount namespace and lets go of the old root.
///
/// `pivot_root(".", ".")` stacks the old root on the new one, so no directory for it is needed; then it is detached.
/// Before: the working directory is the root of a mount, and no mount is shared (or the detach would travel to the
/// host). After: `/` and the working directory are the new root. Does not allocate.
pub fn pivot_root_here() -> io::Result<()> {
    nix::unistd::pivot_root(c".", c".")?;
    nix::mount::umount2(c".", MntFlags::MNT_DETACH)?;
    // The manual promises a new root only; the working directory is the caller's to move.
    nix::unistd::chdir(c"/")?;
    Ok(())
}

/// Detaches the topmost mount at `path` now and frees it when its last user lets go. Does not follow a final link.
///
/// `EINVAL`: nothing is mounted there.
pub fn umount_detach(path: &Path) -> io::Result<()> {
    Ok(nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
}

/// Shows `source` (without what is mounted below it) at `target` too. Follows links on both sides: host paths only.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(nix::mount::mount(Some(source), target, None::<&Path>, MsFlags::MS_BIND, None::<&Path>)?)
}

fn change(mount: BorrowedFd<'_>, recursive: bool, attr: &libc::mount_attr) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a static C string and `attr` outlives the call, which reads exactly the size given.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    })
}
