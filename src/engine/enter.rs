//! A process that enters a running container: exec.
//!
//! It joins every namespace of the container's first process through that process's pidfd, so that a number used again
//! cannot lead it elsewhere, and the container's cgroups, and below them a cgroup of its own by which it can be killed
//! with everything it starts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::process::{CloneArgs, Pid, clone3};
use link::wire;

use crate::{
    child,
    launch::{Beside, During, Failure, PidSpace, PodPlaces, ReadyProcess, enter_pid_space, word_pair},
};

/// Where a process enters.
#[derive(Debug)]
pub struct Door<'a> {
    /// A process of the container that lives: its first.
    pub process: BorrowedFd<'a>,
    /// Its pid namespace. `Host` when the container shares the host's.
    pub pid_space: PidSpace<'a>,
    /// v1: `tasks` of the container's cgroups and, last, of the exec's own.
    pub tasks: Vec<BorrowedFd<'a>>,
    /// v2: the exec's own directory.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A process on its way into the container. [`crate::launch::hear`] tells `Closed` once its program runs.
#[derive(Debug)]
pub struct Entered {
    /// In the host's pid namespace.
    pub pid: Pid,
    /// The same, for ever.
    pub pidfd: OwnedFd,
    /// The socket on which it says what failed.
    pub word: OwnedFd,
}

/// Starts a process inside a container. Its streams come with the order.
pub fn enter(order: &wire::Exec, fds: &[OwnedFd], door: &Door<'_>, pod: &PodPlaces) -> Result<Entered, Failure> {
    let beside = Beside(fds);
    let process = order.process.as_ref().ok_or_else(|| Failure::wrong("the order has no process"))?;
    let process = ReadyProcess::new(process, &beside)?;
    let (word, childs_word) = word_pair()?;
    let work = child::EnterWork {
        container: door.process,
        tasks: &door.tasks,
        process: &process,
        stdin: beside.maybe(order.stdin_fd, "stdin_fd")?,
        stdout: beside.maybe(order.stdout_fd, "stdout_fd")?,
        stderr: beside.maybe(order.stderr_fd, "stderr_fd")?,
        word: childs_word.as_fd(),
    };
    let (pid, pidfd) = {
        let _back = enter_pid_space(door.pid_space, pod)?;
        let args = CloneArgs { cgroup: door.cgroup, ..CloneArgs::default() };
        clone3(args, || child::enter(&work)).during(|| "clone the exec".into())?
    };
    Ok(Entered { pid, pidfd, word })
}
