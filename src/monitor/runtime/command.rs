//! The runtime's commands under way, and how long each may take.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use engine::{
    launch::{Failure, Heard, hear},
    runtime,
};
use kernel::process::{self, Ended, Pid};

use crate::{asker::Asker, container::Container};

/// How long a command may take that sets up a container or a process. Less than the daemon waits for it, which so hears
/// why.
const LONG: Duration = Duration::from_secs(50);

/// How long one may take that only signals or clears away; likewise.
const SHORT: Duration = Duration::from_secs(4);

/// How much longer a command may take that sets up what is to end. One that is nearly done is not cut short, since what
/// it has made half-way is harder to find.
const HASTE: Duration = Duration::from_secs(1);

/// Orphans whose ends are remembered while commands run: one of them may be what a command has left.
const STRANGERS: usize = 64;

/// The runtime's commands under way.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    pub(super) under_way: Vec<Command>,
    /// Orphans that ended before any command said that they were its.
    pub(super) strangers: Vec<(Pid, Ended)>,
}

#[derive(Debug)]
pub(super) struct Command {
    pub(super) pid: Pid,
    pub(super) name: String,
    /// `None` once it has been killed for it.
    pub(super) deadline: Option<Instant>,
    /// When it began, in clock ticks since boot.
    pub(super) since: u64,
    /// Where nobody else listens to it.
    pub(super) word: Option<OwnedFd>,
    /// The container's number.
    pub(super) container: u64,
    pub(super) purpose: Purpose,
}

#[derive(Debug)]
pub(super) enum Purpose {
    Create {
        /// The process whose pid namespace the container joins, where it joins one.
        joined: Option<OwnedFd>,
    },
    Start,
    Kill {
        asker: Asker,
    },
    Delete,
    /// Of the exec with this number.
    Exec {
        number: u64,
    },
}

impl Commands {
    /// Whether none is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// When the first has to be ended.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.under_way.iter().filter_map(|command| command.deadline).min()
    }

    /// Kills those that have taken too long. Their ends say so.
    pub(crate) fn kill_overdue(&mut self) {
        let now = Instant::now();
        for command in &mut self.under_way {
            if command.deadline.is_some_and(|deadline| deadline <= now) {
                command.deadline = None;
                kill_session(command.pid);
            }
        }
    }

    /// Leaves little time to those that set up something in a container that is to end, or in any.
    pub(crate) fn hasten(&mut self, container: Option<u64>) {
        let soon = Instant::now() + HASTE;
        let of_it = |command: &&mut Command| container.is_none_or(|number| number == command.container);
        for command in self.under_way.iter_mut().filter(of_it) {
            if matches!(command.purpose, Purpose::Create { .. } | Purpose::Start | Purpose::Exec { .. }) {
                command.deadline = command.deadline.map(|deadline| deadline.min(soon));
            }
        }
    }

    /// An orphan has ended that is nobody's yet.
    pub(crate) fn note_stranger(&mut self, pid: Pid, ended: Ended) {
        if !self.under_way.is_empty() {
            self.strangers.truncate(STRANGERS - 1);
            self.strangers.insert(0, (pid, ended));
        }
    }

    /// Strangers that nobody can ask for any more are forgotten.
    pub(crate) fn forget_strangers(&mut self) {
        if self.under_way.is_empty() {
            self.strangers = Vec::new();
        }
    }

    pub(super) fn add(&mut self, container: u64, name: &str, pid: Pid, word: Option<OwnedFd>, purpose: Purpose) {
        let patience = match purpose {
            Purpose::Create { .. } | Purpose::Start | Purpose::Exec { .. } => LONG,
            Purpose::Kill { .. } | Purpose::Delete => SHORT,
        };
        let deadline = Some(Instant::now() + patience);
        // A child of ours that has not been reaped can be asked.
        let since = process::start_time(pid).unwrap_or_default();
        self.under_way.push(Command { pid, name: name.to_owned(), deadline, since, word, container, purpose });
    }

    pub(super) fn is_starting(&self, container: u64) -> bool {
        self.under_way.iter().any(|command| command.container == container && matches!(command.purpose, Purpose::Start))
    }

    pub(super) fn is_deleting(&self, container: u64) -> bool {
        let of_it = |command: &&Command| command.container == container;
        self.under_way.iter().filter(of_it).any(|command| matches!(command.purpose, Purpose::Delete))
    }
}

impl Command {
    /// Why it failed; `None` when it did not.
    pub(super) fn failure(&self, container: Option<&Container>, ended: Ended) -> Option<Failure> {
        if let Some(Heard::Failed(failure)) = self.word.as_ref().map(|word| hear(word.as_fd())) {
            return Some(failure);
        }
        let runtime = container.and_then(|container| container.runtime.as_ref());
        let who = format!("{} {}", runtime.map_or("runtime".to_owned(), runtime::Runtime::name), verb(&self.name));
        if self.deadline.is_none() {
            return Some(Failure::wrong(format!("{who}: no end in time: it was killed")));
        }
        if ended == Ended::Code(0) {
            return None;
        }
        let why = runtime.and_then(|runtime| runtime.complaint(&self.name)).unwrap_or_else(|| match ended {
            Ended::Code(code) => format!("exit code {code}"),
            Ended::Signal(number) => format!("ended by signal {number}"),
        });
        Some(Failure::wrong(format!("{who}: {why}")))
    }
}

/// Kills a command with everything it has started. Not reaped, so the number is still its own.
pub(crate) fn kill_session(leader: Pid) {
    let pid = nix::unistd::Pid::from_raw(leader.0);
    let _ = nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL);
    // It may not have come as far as a session of its own.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}

/// `exec-7` is an `exec`.
fn verb(name: &str) -> &str {
    name.split('-').next().unwrap_or(name)
}
