//! Signals of this process: which are blocked, which arrive as readable events, which dispositions a child starts with.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    signalfd::{SfdFlags, SignalFd as Descriptor},
};

use crate::{process::Pid, sys::done};

/// The signals that nobody can catch, ignore or block.
const UNTOUCHABLE: [i32; 2] = [libc::SIGKILL, libc::SIGSTOP];
/// The last signal; the first is 1.
const LAST: i32 = 64;

/// Signals as a descriptor that becomes readable. Non-blocking, close-on-exec.
#[derive(Debug)]
pub struct SignalFd(Descriptor);

/// A signal that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// Who sent it; 0 for the kernel.
    pub sender: Pid,
}

impl SignalFd {
    /// Blocks these signals for the calling thread and delivers them here. `EINVAL`: not a standard signal.
    ///
    /// Several of one kind may arrive as one: after SIGCHLD, reap until nobody is left.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in signals {
            set.add(Signal::try_from(*signal)?);
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        Ok(Self(Descriptor::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// The next signal, if one has arrived.
    pub fn receive(&self) -> io::Result<Option<Received>> {
        let received = self.0.read_signal()?;
        Ok(received.map(|info| Received { signal: info.ssi_signo as i32, sender: Pid(info.ssi_pid as i32) }))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Blocks every signal of the calling thread that can be: what it has to say waits.
pub fn block_all() -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?)
}

/// Gives this process the signals of a newborn: nothing ignored, nothing caught, nothing blocked.
///
/// Ignored and blocked signals pass an exec, and Rust programs ignore SIGPIPE: without this a container's `yes | head`
/// would never end. Does not allocate.
pub fn reset() -> io::Result<()> {
    for signal in (1..=LAST).filter(|signal| !UNTOUCHABLE.contains(signal)) {
        set_default(signal)?;
    }
    // The raw call, with every bit clear: the C library keeps two signals of its own out of its sets.
    let none = 0_u64;
    let nowhere = std::ptr::null_mut::<u64>();
    // SAFETY: the kernel reads 8 bytes from `none`, which outlives the call, and a null old set is allowed.
    done(unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, nowhere, size_of::<u64>())
    })
}

/// Ignores a signal in this process.
pub fn ignore(signal: i32) -> io::Result<()> {
    // SAFETY: SIG_IGN is no function of ours, so nothing runs when the signal comes.
    if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `struct sigaction` of the kernel, which is not the C library's.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

fn set_default(signal: i32) -> io::Result<()> {
    // The raw call: the C library refuses to touch the two real-time signals it uses itself.
    let action = KernelAction { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    let nowhere = std::ptr::null_mut::<KernelAction>();
    // SAFETY: the kernel reads one action of its own layout from `action`, which outlives the call; SIG_DFL runs
    // nothing.
    done(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, nowhere, size_of::<u64>()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{CloneArgs, Ended, clone3, exit_now, wait_blocking};

    #[test]
    fn a_reset_child_dies_of_what_its_parent_ignores() {
        let (_, child) = clone3(CloneArgs::default(), || {
            // Rust's start-up ignores SIGPIPE; make it blocked as well.
            let _ = block_all();
            if reset().is_err() {
                exit_now(1);
            }
            let _ = nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGPIPE);
            exit_now(2)
        })
        .unwrap();
        assert_eq!(wait_blocking(child.as_fd()).unwrap(), Ended::Signal(libc::SIGPIPE));
    }

    #[test]
    fn a_signal_arrives_as_an_event() {
        let (_, child) = clone3(CloneArgs::default(), || {
            let Ok(signals) = SignalFd::new(&[libc::SIGTERM]) else { exit_now(1) };
            if !matches!(signals.receive(), Ok(None)) {
                exit_now(2);
            }
            let me = nix::unistd::getpid();
            let _ = nix::sys::signal::kill(me, Signal::SIGTERM);
            match signals.receive() {
                Ok(Some(got)) if got == (Received { signal: libc::SIGTERM, sender: Pid(me.as_raw()) }) => exit_now(0),
                _ => exit_now(3),
            }
        })
        .unwrap();
        assert_eq!(wait_blocking(child.as_fd()).unwrap(), Ended::Code(0));
    }
}
