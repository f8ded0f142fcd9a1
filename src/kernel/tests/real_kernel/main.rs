//! The doors against the kernel that is really there. What needs root says so and is run with `--include-ignored`.
//!
//! Children made here are copies of a process with several threads, so they do nothing that allocates: that is also the
//! law of the child between clone and exec, and these tests would hang if a door broke it.
#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod children;
mod devices;
mod files;
mod identity;
mod mounts;
mod namespaces;
mod path_in_root;
mod terminal;

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use kernel::{
    mount::{PropagationType, set_propagation},
    namespace::{Namespaces, unshare},
    path_in_root::OpenFlags,
    process::{CloneArgs, Ended, Never, clone3, wait_blocking},
};

/// Root tests say so when they are not run as root, and do not pass.
fn assert_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
}

/// Runs `work` on a thread with a mount table of its own, from which nothing travels to the host's.
fn in_private_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    assert_root();
    let private = || {
        unshare(Namespaces::MOUNT).unwrap();
        set_propagation(Path::new("/"), PropagationType::Private, true).unwrap();
        work()
    };
    match std::thread::scope(|scope| scope.spawn(private).join()) {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// How a child ends that runs `child`.
fn ends(args: CloneArgs<'_>, child: impl FnOnce() -> Never) -> Ended {
    let (_, pidfd) = clone3(args, child).unwrap();
    wait_blocking(pidfd.as_fd()).unwrap()
}

/// A directory or file by path alone.
fn place(path: &Path) -> OwnedFd {
    nix::fcntl::open(path, OpenFlags::O_PATH | OpenFlags::O_CLOEXEC, nix::sys::stat::Mode::empty()).unwrap()
}
