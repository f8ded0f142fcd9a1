//! System calls tried by number: what the kernel, or a filter on the way to it, says to each (`seccomp(2)`).
//!
//! Each call is made in a child of its own, which its outcome may end.
#![allow(unsafe_code, reason = "any call with any arguments: no program of a node may do that")]

use std::{
    io::{self, Read},
    os::fd::AsFd,
    time::Duration,
};

use kernel::process::{Ended, exit_now, fork, pidfd_send_signal, wait_blocking};
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// How long a call may take before it counts as one that waits.
const PATIENCE: Duration = Duration::from_millis(300);

/// What came of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was done.
    Done,
    /// It returned this errno.
    Refused(i32),
    /// It never returned: the process ended so.
    Ended(Ended),
    /// It waits.
    Waits,
}

/// Makes a system call with these arguments, in a child. Most numbers refuse arguments that are all ones; what an
/// argument means is the caller's affair. The child may be forked by it too: both copies say what came of it, and end.
///
/// For a process of one thread, as [`kernel::process::clone3`] says.
pub(crate) fn system_call(number: i64, arguments: [i64; 6]) -> io::Result<Outcome> {
    let (mut hears, says) = io::pipe()?;
    let (_, pidfd) = fork(|| {
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: nothing of ours is used after it but a number on the stack: whatever the call does to this child's
        // memory and descriptors, the child has nothing to lose, and no one shares its memory.
        let returned = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        let errno = if returned == -1 { nix::errno::Errno::last_raw() } else { 0 };
        let _ = nix::unistd::write(&says, &errno.to_ne_bytes());
        exit_now(0)
    })?;
    drop(says);
    let mut word = [PollFd::new(hears.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
    if poll(&mut word, patience)? == 0 {
        pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)?;
        wait_blocking(pidfd.as_fd())?;
        return Ok(Outcome::Waits);
    }
    let mut errno = [0; 4];
    let said = hears.read_exact(&mut errno);
    let ended = wait_blocking(pidfd.as_fd())?;
    Ok(match said {
        Ok(()) if errno == [0; 4] => Outcome::Done,
        Ok(()) => Outcome::Refused(i32::from_ne_bytes(errno)),
        Err(_) => Outcome::Ended(ended),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_told_from_the_others() {
        assert_eq!(system_call(libc::SYS_getpid, [0; 6]).unwrap(), Outcome::Done);
        assert_eq!(system_call(libc::SYS_close, [-1; 6]).unwrap(), Outcome::Refused(libc::EBADF));
        assert_eq!(system_call(libc::SYS_exit, [7; 6]).unwrap(), Outcome::Ended(Ended::Code(7)));
        assert_eq!(system_call(libc::SYS_pause, [-1; 6]).unwrap(), Outcome::Waits);
    }
}
