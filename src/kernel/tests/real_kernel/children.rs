//! Children: born where they should be, told of their parent's death, reaped by the right one.

use std::os::fd::AsFd;

use kernel::{
    identity::{child_subreaper, parent_death_signal},
    namespace::Namespaces,
    poll::{Epoll, Events, Interest},
    process::{
        self, CloneArgs, Ended, Pid, clone3, exit_now, own_pid, pidfd_open, pidfd_send_signal, reap_any, wait,
        wait_blocking,
    },
    signal::SignalFd,
};

use super::{assert_root, ends};

#[test]
#[ignore = "needs root: makes a PID namespace"]
fn the_first_child_of_a_pid_namespace_is_number_one() {
    assert_root();
    let args = CloneArgs { namespaces: Namespaces::PID | Namespaces::UTS, cgroup: None };
    assert_eq!(ends(args, || exit_now(own_pid().0)), Ended::Code(1));
}

#[test]
fn a_pidfd_is_readable_when_its_process_has_ended() {
    let (read, write) = nix::unistd::pipe().unwrap();
    let (pid, pidfd) = clone3(CloneArgs::default(), || {
        let _ = nix::unistd::read(&read, &mut [0; 1]);
        exit_now(3)
    })
    .unwrap();
    let poll = Epoll::new().unwrap();
    let mut events = Events::with_room(1);
    poll.add(pidfd.as_fd(), 1, Interest::READ).unwrap();
    poll.wait(&mut events, Some(std::time::Duration::ZERO)).unwrap();
    assert_eq!(events.iter().count(), 0);
    assert_eq!(wait(pidfd.as_fd()).unwrap(), None);
    assert!(process::start_time(pid).unwrap() >= process::start_time(own_pid()).unwrap());

    nix::unistd::write(&write, b"x").unwrap();
    poll.wait(&mut events, None).unwrap();
    assert!(events.iter().all(|event| event.readable));
    assert_eq!(wait(pidfd.as_fd()).unwrap(), Some(Ended::Code(3)));
}

#[test]
fn a_stranger_cannot_be_reaped_only_signalled() {
    let parent = pidfd_open(process::parent_pid()).unwrap();
    assert_eq!(wait(parent.as_fd()).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    pidfd_send_signal(parent.as_fd(), 0).unwrap();
    assert_eq!(pidfd_open(Pid(i32::MAX)).unwrap_err().raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn a_child_dies_with_its_parent_when_it_asked_to() {
    let (read, write) = nix::unistd::pipe().unwrap();
    let (told, tell) = nix::unistd::pipe().unwrap();
    // The grandchild holds the pipe's write end for as long as it lives; its parent ends once it is armed.
    let how = ends(CloneArgs::default(), || {
        let grandchild = clone3(CloneArgs::default(), || {
            if parent_death_signal(libc::SIGKILL).is_err() {
                exit_now(1);
            }
            let _ = nix::unistd::write(&tell, b"x");
            loop {
                nix::unistd::pause();
            }
        });
        let armed = nix::unistd::read(&told, &mut [0; 1]);
        exit_now(if grandchild.is_ok() && armed == Ok(1) { 0 } else { 1 })
    });
    assert_eq!(how, Ended::Code(0));
    drop(write);
    assert_eq!(nix::unistd::read(&read, &mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_subreaper_reaps_its_orphans() {
    // Made before the clone: the child must not allocate.
    let mut events = Events::with_room(1);
    let how = ends(CloneArgs::default(), || {
        let (Ok(()), Ok(signals), Ok(poll)) = (child_subreaper(), SignalFd::new(&[libc::SIGCHLD]), Epoll::new()) else {
            exit_now(90)
        };
        if poll.add(signals.as_fd(), 0, Interest::READ).is_err() {
            exit_now(91);
        }
        let child = clone3(CloneArgs::default(), || {
            let orphan = clone3(CloneArgs::default(), || exit_now(5));
            exit_now(if orphan.is_ok() { 6 } else { 7 })
        });
        if child.is_err() {
            exit_now(92);
        }
        let (mut orphan, mut child) = (false, false);
        while !(orphan && child) {
            match reap_any() {
                Ok(Some((_, Ended::Code(5)))) => orphan = true,
                Ok(Some((_, Ended::Code(6)))) => child = true,
                Ok(None) => {
                    let waited = poll.wait(&mut events, None);
                    let drained = signals.receive();
                    if waited.is_err() || drained.is_err() {
                        exit_now(93);
                    }
                }
                _ => exit_now(94),
            }
        }
        exit_now(if matches!(reap_any(), Ok(None)) { 0 } else { 95 })
    });
    assert_eq!(how, Ended::Code(0));
}

#[test]
fn a_copy_that_lives_on_is_told_apart_from_its_parent() {
    let (_, pidfd) = process::fork(|| exit_now(if process::parent_pid() == own_pid() { 1 } else { 0 })).unwrap();
    assert_eq!(wait_blocking(pidfd.as_fd()).unwrap(), Ended::Code(0));
}
