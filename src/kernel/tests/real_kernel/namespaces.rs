//! Namespaces held by descriptor, left and entered, on threads of their own.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
};

use kernel::{
    namespace::{Namespaces, is_nsfs, kind, of_process, of_thread, own, setns, unshare},
    process::{CloneArgs, Ended, exit_now, own_pid, pidfd_open},
};

use super::{assert_root, ends};

fn inode(fd: BorrowedFd<'_>) -> u64 {
    nix::sys::stat::fstat(fd).unwrap().st_ino
}

#[test]
fn a_namespace_descriptor_is_known_by_its_kind() {
    for one in [Namespaces::MOUNT, Namespaces::NET, Namespaces::PID, Namespaces::UTS, Namespaces::CGROUP] {
        let fd = own(one).unwrap();
        assert!(is_nsfs(fd.as_fd()).unwrap());
        assert_eq!(kind(fd.as_fd()).unwrap(), one);
        assert_eq!(inode(fd.as_fd()), inode(of_process(own_pid(), one).unwrap().as_fd()));
    }
    let file = File::open("/etc/passwd").unwrap();
    assert!(!is_nsfs(file.as_fd()).unwrap());
    assert_eq!(kind(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    assert!(own(Namespaces::MOUNT | Namespaces::NET).is_err());
    assert!(own(Namespaces::empty()).is_err());
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn a_thread_leaves_and_comes_back_alone() {
    assert_root();
    let there_and_back = || {
        unshare(Namespaces::NET).unwrap();
        let new = of_thread(Namespaces::NET).unwrap();
        let home = own(Namespaces::NET).unwrap();
        assert_ne!(inode(new.as_fd()), inode(home.as_fd()));
        // A wrong kind is refused, nothing happens.
        assert_eq!(setns(home.as_fd(), Namespaces::UTS).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        setns(home.as_fd(), Namespaces::NET).unwrap();
        assert_eq!(inode(of_thread(Namespaces::NET).unwrap().as_fd()), inode(home.as_fd()));
        setns(new.as_fd(), Namespaces::empty()).unwrap();
        assert_eq!(inode(of_thread(Namespaces::NET).unwrap().as_fd()), inode(new.as_fd()));
    };
    std::thread::scope(|scope| scope.spawn(there_and_back).join()).unwrap();
}

#[test]
#[ignore = "needs root: enters namespaces"]
fn a_pidfd_leads_into_several_namespaces_at_once() {
    assert_root();
    let me = pidfd_open(own_pid()).unwrap();
    let namespaces = Namespaces::UTS | Namespaces::IPC;
    let how = ends(CloneArgs { namespaces, cgroup: None }, || {
        exit_now(setns(me.as_fd(), namespaces).err().map_or(0, |error| error.raw_os_error().unwrap_or(1)))
    });
    assert_eq!(how, Ended::Code(0));
}
