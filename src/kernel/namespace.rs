//! Namespaces: making, entering, holding by descriptor (`namespaces(7)`).

use std::{
    fmt::Write,
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use bitflags::bitflags;
use nix::sched::CloneFlags;

use crate::{process::Pid, sys::check};

bitflags! {
    /// A set of namespace kinds (`CLONE_NEW*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Namespaces: i32 {
        /// The mount table.
        const MOUNT = libc::CLONE_NEWNS;
        /// Host name and NIS domain.
        const UTS = libc::CLONE_NEWUTS;
        /// System V and POSIX message queues, semaphores, shared memory.
        const IPC = libc::CLONE_NEWIPC;
        /// Users, groups and capabilities.
        const USER = libc::CLONE_NEWUSER;
        /// Process numbers; unshared or entered, it counts for children only.
        const PID = libc::CLONE_NEWPID;
        /// Interfaces, addresses, routes, ports.
        const NET = libc::CLONE_NEWNET;
        /// What a process sees as the root of its cgroups.
        const CGROUP = libc::CLONE_NEWCGROUP;
    }
}

impl Namespaces {
    /// The name in `/proc/<pid>/ns`. `None` for no kind or several.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::MOUNT => Some("mnt"),
            Self::UTS => Some("uts"),
            Self::IPC => Some("ipc"),
            Self::USER => Some("user"),
            Self::PID => Some("pid"),
            Self::NET => Some("net"),
            Self::CGROUP => Some("cgroup"),
            _ => None,
        }
    }
}

/// Leaves the namespaces of these kinds for new ones (`unshare(2)`): the calling thread; for PID its future children.
///
/// `MOUNT` in a process with other threads also splits the thread's working directory and root from theirs.
/// `EINVAL`: `USER` in a process of several threads. Does not allocate.
pub fn unshare(namespaces: Namespaces) -> io::Result<()> {
    Ok(nix::sched::unshare(flags(namespaces))?)
}

/// Gives the calling thread a working directory, root and umask of its own (`CLONE_FS`).
///
/// A thread of a larger process needs this before it may enter a mount namespace.
pub fn unshare_working_directory() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_FS)?)
}

/// Enters the namespace that `fd` stands for (`setns(2)`): the calling thread; for PID its future children.
///
/// `kinds` guards against a descriptor of another kind (`EINVAL`); empty means any. `fd` may also be a pidfd (Linux
/// 5.8), and then `kinds` says which of that process's namespaces to enter, all in one step. Does not allocate.
pub fn setns(fd: BorrowedFd<'_>, kinds: Namespaces) -> io::Result<()> {
    Ok(nix::sched::setns(fd, flags(kinds))?)
}

/// This process's namespace of one kind, by `/proc/self/ns`. Exactly one kind, or `EINVAL`.
pub fn own(kind: Namespaces) -> io::Result<OwnedFd> {
    open("self", kind)
}

/// The calling thread's namespace of one kind, which may differ from its process's.
pub fn of_thread(kind: Namespaces) -> io::Result<OwnedFd> {
    open("thread-self", kind)
}

/// Another process's namespace of one kind. `ENOENT`: no such process. Hold its pidfd, or the number may be another's.
pub fn of_process(pid: Pid, kind: Namespaces) -> io::Result<OwnedFd> {
    let mut number = String::new();
    let _ = write!(number, "{}", pid.0);
    open(&number, kind)
}

/// Whether a descriptor stands for a namespace, as a bind-mounted netns file should.
pub fn is_nsfs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(crate::file::filesystem(fd)?.magic == libc::NSFS_MAGIC)
}

/// Which kind of namespace a descriptor stands for. `ENOTTY`: none at all. Linux 4.11.
pub fn kind(fd: BorrowedFd<'_>) -> io::Result<Namespaces> {
    // SAFETY: NS_GET_NSTYPE takes no argument and touches no memory of ours.
    let kind = check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) })?;
    Namespaces::from_bits(kind as i32).ok_or(io::Error::from_raw_os_error(libc::EINVAL))
}

fn open(whose: &str, kind: Namespaces) -> io::Result<OwnedFd> {
    let name = kind.name().ok_or(io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(File::open(format!("/proc/{whose}/ns/{name}"))?.into())
}

fn flags(namespaces: Namespaces) -> CloneFlags {
    CloneFlags::from_bits_truncate(namespaces.bits())
}
