//! A pod's monitor as a process: known for certain after any time, and ended when it lives and does not answer.
//!
//! A monitor that does not answer is worse than a dead one: its containers run on, and nobody sees their ends. So it is
//! killed, its containers die with it (each has asked the kernel for that), and its pod goes on as one whose monitor
//! died.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use kernel::process::{self, Pid};
use link::Monitor;
use model::Class;
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{error::Error, step::Step};

/// How long a killed process may take to be gone: at once, unless the kernel holds it (a log on a disk that hangs).
const DEATH_PATIENCE: Duration = Duration::from_secs(5);

/// A process by a name that is never used again within a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MonitorProcess {
    pub(crate) pid: i32,
    /// When it began, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    started: u64,
}

/// Whether there was a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// It had ended before.
    Dead,
    /// It lived until now.
    Alive,
}

impl MonitorProcess {
    /// The process that has this number now; `None` when none has.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        process::start_time(Pid(pid)).ok().map(|started| Self { pid, started })
    }

    /// Whether it runs no more, reaped or not. One that cannot be looked at may run.
    pub(crate) fn has_ended(self) -> bool {
        match self.handle() {
            Ok(Some(handle)) => is_over(&handle).unwrap_or(false),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// A handle on this very process; `None` when it has ended.
    fn handle(self) -> io::Result<Option<OwnedFd>> {
        let handle = match process::pidfd_open(Pid(self.pid)) {
            Ok(handle) => handle,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Asked after the handle was opened: if the number is still ours now, it was then.
        Ok((MonitorProcess::of(self.pid) == Some(self)).then_some(handle))
    }
}

/// Kills the monitor of a pod and waits until it is gone: the `recorded` one, else whoever listens in `pod_dir`.
pub(crate) async fn end(recorded: Option<MonitorProcess>, pod_dir: &Path) -> Result<Found, Error> {
    let failed = |source: io::Error| Error::at(Step::StopPodMonitor, Class::Internal, source);
    let handle = match recorded.map(MonitorProcess::handle).transpose().map_err(failed)?.flatten() {
        Some(handle) => handle,
        None => match listening(pod_dir)? {
            Some(handle) => handle,
            None => return Ok(Found::Dead),
        },
    };
    kill(handle).await
}

/// Kills a process and waits until it is gone.
pub(crate) async fn kill(handle: OwnedFd) -> Result<Found, Error> {
    let failed = |source: io::Error| Error::at(Step::StopPodMonitor, Class::Internal, source);
    if is_over(&handle).map_err(failed)? {
        return Ok(Found::Dead);
    }
    match process::pidfd_send_signal(handle.as_fd(), libc::SIGKILL) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(Found::Dead),
        Err(error) => return Err(failed(error)),
    }
    // The successor of this call wants a promise that the descriptor never changes; an `OwnedFd`'s never does.
    #[allow(deprecated)]
    let handle = AsyncFd::with_interest(handle, Interest::READABLE).map_err(failed)?;
    match tokio::time::timeout(DEATH_PATIENCE, handle.readable()).await {
        Ok(gone) => gone.map(|_| Found::Alive).map_err(failed),
        Err(_) => Err(Error::ProcessStuck { seconds: DEATH_PATIENCE.as_secs() }),
    }
}

/// Whether a process has ended; it may wait for its parent to reap it.
fn is_over(handle: &OwnedFd) -> io::Result<bool> {
    let mut ended = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut ended, PollTimeout::ZERO)? > 0)
}

/// Who listens on the monitor's socket of a pod, where anybody does.
fn listening(pod_dir: &Path) -> Result<Option<OwnedFd>, Error> {
    let dir = match std::fs::File::open(pod_dir) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("open", pod_dir, error)),
    };
    match Monitor::process(dir.as_fd()) {
        Ok(handle) => Ok(Some(handle)),
        Err(link::Error::Absent { .. }) => Ok(None),
        Err(error) => Err(Error::at(Step::StopPodMonitor, error.class(), error)),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap()
    }

    fn now(child: &Child) -> MonitorProcess {
        MonitorProcess::of(child.id() as i32).unwrap()
    }

    #[tokio::test]
    async fn a_process_that_stands_still_is_ended_and_one_that_is_gone_is_fine() {
        let mut child = sleeper();
        let monitor = now(&child);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor.pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
        let nowhere = Path::new("/nonexistent");
        assert!(!monitor.has_ended());
        assert_eq!(end(Some(monitor), nowhere).await.unwrap(), Found::Alive);
        assert!(monitor.has_ended(), "and nobody has reaped it");
        child.wait().unwrap();
        assert!(monitor.has_ended());
        assert_eq!(end(Some(monitor), nowhere).await.unwrap(), Found::Dead);
        assert_eq!(end(None, nowhere).await.unwrap(), Found::Dead);
    }

    #[tokio::test]
    async fn whoever_has_the_number_of_a_dead_monitor_is_not_touched() {
        let mut child = sleeper();
        let other = MonitorProcess { started: now(&child).started + 1, ..now(&child) };
        assert_eq!(end(Some(other), Path::new("/nonexistent")).await.unwrap(), Found::Dead);
        assert!(child.try_wait().unwrap().is_none(), "it runs on");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
