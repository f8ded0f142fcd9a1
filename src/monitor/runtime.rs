//! Containers that another OCI runtime runs: the runtime's commands under way, and what comes of each.
//!
//! ```text
//!  create   the command stands in for the container while it prepares; what it leaves is the container's process
//!  start    the container starts while the command runs; an end seen meanwhile is told after it
//!  kill     a polite signal goes by the runtime. SIGKILL does not: it must not depend on one
//!  delete   before the container is forgotten; a runtime that cannot is no reason to keep it
//!  exec     the command stands in for the exec; what it leaves is the exec's process
//! ```
//! Every command has a deadline, at which it is killed with all of its session. It comes soon once its container is to
//! end: a runtime that hangs holds no stop.

mod command;

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
};

use engine::{
    launch::Failure,
    runtime::{self, CREATE, Run},
};
use kernel::{
    clock::realtime_ns,
    process::{self, Ended, Pid, own_pid, pidfd_open, pidfd_send_signal},
};
use link::wire;
use model::ContainerId;
use nix::libc;
use wire::monitor_reply::Result as Reply;

use command::Purpose;

pub(crate) use command::{Commands, kill_session};

use crate::{
    asker::Asker,
    container::{Container, Phase, Then},
    kill,
    pod::Pod,
};

/// Why a container is not taken whose runtime was told to join a process by its number, which is then anybody's.
const JOINED_NOBODY: &str = "the process whose pid namespace the container joins has ended meanwhile";

/// What a command has left behind: a child of ours.
#[derive(Debug)]
pub(crate) enum Left {
    Alive {
        pid: Pid,
        pidfd: OwnedFd,
    },
    /// It has been reaped.
    Ended {
        pid: Pid,
        ended: Ended,
    },
}

/// What a command that failed has left in its container, where nobody would ever ask for it.
pub(crate) struct Stray {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// A child of ours: its end comes to us.
    pub(crate) is_child: bool,
}

impl Pod {
    /// Has another runtime make a container.
    pub(crate) fn begin_by_runtime(
        &mut self,
        number: u64,
        id: ContainerId,
        asker: Asker,
        order: &wire::Launch,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let joined = self.joined(order)?.map(|process| process.try_clone_to_owned()).transpose();
        let joined = joined.map_err(|error| Failure::new("hold the process whose pid namespace is joined", &error))?;
        // The last step that can fail: from here on the runtime is at work, and somebody has to know of it.
        let (launched, runtime) = runtime::create(order, fds)?;
        self.commands.add(number, CREATE, launched.pid, None, Purpose::Create { joined });
        let container = Container::new(number, id, launched, order, asker);
        self.take_in(Container { runtime: Some(runtime), ..container }, asker);
        Ok(())
    }

    /// Starts a container that another runtime has made.
    pub(crate) fn start_by_runtime(&mut self, index: usize, asker: Asker) {
        let container = &mut self.containers[index];
        let (number, name) = (container.number, "start");
        let run = container.runtime.as_ref().map(|runtime| runtime.start(container.id.as_str(), name));
        match run {
            Some(Ok(run)) => {
                container.phase = Phase::Starting { asker };
                self.commands.add(number, name, run.pid, Some(run.word), Purpose::Start);
            }
            Some(Err(failure)) => self.answer(asker, Err(failure)),
            None => self.answer(asker, Err(Failure::wrong("the container does not wait for its start"))),
        }
    }

    /// Sends a polite signal by the runtime. Answers whether this is a container of one.
    pub(crate) fn kill_by_runtime(&mut self, index: usize, asker: Asker, signal: i32) -> bool {
        let name = format!("kill-{}", self.number());
        let container = &self.containers[index];
        let Some(runtime) = &container.runtime else { return false };
        match runtime.kill(container.id.as_str(), &name, signal) {
            Ok(Run { pid, word, .. }) => {
                self.commands.add(container.number, &name, pid, Some(word), Purpose::Kill { asker });
            }
            Err(failure) => self.answer(asker, Err(failure)),
        }
        true
    }

    /// Lets go of a container that has ended, or never began: its runtime first. Safe to repeat.
    pub(crate) fn dismiss(&mut self, index: usize) {
        let container = &mut self.containers[index];
        let number = container.number;
        if !matches!(container.phase, Phase::Ended { .. }) {
            container.phase = Phase::Dismissed;
        }
        if self.commands.is_deleting(number) {
            return;
        }
        let Some(runtime) = &container.runtime else { return self.dismissed(number) };
        match runtime.delete(container.id.as_str(), "delete") {
            Ok(run) => self.commands.add(number, "delete", run.pid, Some(run.word), Purpose::Delete),
            Err(failure) => {
                self.daemon.trouble(&self.epoll, Some(&container.id), &failure.to_string());
                self.dismissed(number);
            }
        }
    }

    fn dismissed(&mut self, number: u64) {
        let Some(index) = self.numbered(number) else { return };
        let unrecorded = self.forget_record(index);
        let leave = std::mem::take(&mut self.containers[index].leave);
        if unrecorded.is_none() {
            self.drop_container(index);
        }
        for then in leave {
            match (then, unrecorded.clone()) {
                (Then::Done(asker), None) => self.done(asker),
                (Then::Done(asker), Some(failure)) | (Then::Failed(asker, failure), _) => {
                    self.answer(asker, Err(failure));
                }
            }
        }
    }

    /// Watches the command that puts a process into a container.
    pub(crate) fn await_exec(&mut self, container: u64, name: &str, pid: Pid, number: u64) {
        self.commands.add(container, name, pid, None, Purpose::Exec { number });
    }

    /// Whether the end of a container's process has to wait until it is known that the process had begun.
    pub(crate) fn is_started_by_runtime(&self, number: u64) -> bool {
        self.commands.is_starting(number)
    }

    /// If this process was a command: what comes of it. Answers whether it was one.
    pub(crate) fn command_ended(&mut self, pid: Pid, ended: Ended) -> bool {
        let Some(at) = self.commands.under_way.iter().position(|command| command.pid == pid) else { return false };
        let command = self.commands.under_way.swap_remove(at);
        let index = self.numbered(command.container);
        let container = index.map(|index| &self.containers[index]);
        let failure = command.failure(container, ended);
        match (command.purpose, index) {
            (Purpose::Create { joined }, Some(index)) => {
                let joined_nobody = || joined.filter(is_reaped).map(|_| Failure::wrong(JOINED_NOBODY));
                self.made_by_runtime(index, failure.or_else(joined_nobody));
            }
            (Purpose::Start, Some(index)) => self.started_by_runtime(index, failure),
            (Purpose::Kill { asker }, index) => {
                let is_over = index.is_none_or(|index| self.containers[index].has_ended());
                match failure.filter(|_| !is_over) {
                    Some(failure) => self.answer(asker, Err(failure)),
                    None => self.done(asker),
                }
            }
            (Purpose::Delete, Some(index)) => {
                if let (Some(failure), id) = (failure, &self.containers[index].id) {
                    // What is left of it goes with its bundle and its cgroup.
                    self.daemon.trouble(&self.epoll, Some(id), &failure.to_string());
                }
                self.dismissed(command.container);
            }
            (Purpose::Exec { number }, _) => self.entered_by_runtime(number, &command.name, command.since, failure),
            (Purpose::Create { .. } | Purpose::Start | Purpose::Delete, None) => {}
        }
        if let Some(runtime) = self.numbered(command.container).and_then(|i| self.containers[i].runtime.as_ref()) {
            runtime.tidy(&command.name);
        }
        true
    }

    fn made_by_runtime(&mut self, index: usize, failure: Option<Failure>) {
        // Why it could not become the runtime may lie unread beside the news of its end.
        let number = self.containers[index].number;
        self.hear_container(number);
        let left = self.left(number, CREATE);
        let container = &mut self.containers[index];
        let said = container.live.as_mut().and_then(|live| live.failure.take());
        let made = match (said.or(failure), left) {
            (None, left) => left.and_then(|left| container.adopt(&self.epoll, left)),
            (Some(failure), left) => {
                // It may have been cut short after its work was done.
                if let Ok(left) = left {
                    left.kill();
                }
                Err(failure)
            }
        };
        match (&container.phase, made) {
            (Phase::Preparing { asker }, Ok(())) => {
                let (asker, pid) = (*asker, container.pid.0);
                container.phase = Phase::Waiting;
                self.answer(asker, Ok(Reply::Created(wire::Created { pid })));
            }
            (Phase::Preparing { asker }, Err(failure)) => {
                container.leave.push(Then::Failed(*asker, failure));
                container.kill_whole();
                self.dismiss(index);
            }
            // Made after all: its end is still to come.
            (Phase::Forgotten, Ok(())) => container.kill_whole(),
            (Phase::Forgotten, Err(_)) => {
                container.kill_whole();
                self.dismiss(index);
            }
            _ => {}
        }
    }

    fn started_by_runtime(&mut self, index: usize, failure: Option<Failure>) {
        let container = &mut self.containers[index];
        let Phase::Starting { asker } = container.phase else { return };
        let early_end = container.early_end.take();
        match failure {
            None => {
                let since = early_end.map_or_else(realtime_ns, |(_, at)| at);
                container.phase = Phase::Running { since };
                self.tell_started(index, asker, since);
            }
            Some(failure) => {
                if let Some(live) = &mut container.live {
                    live.failure = Some(failure);
                }
                // Whatever it is now, nobody has been told that it runs.
                container.kill_whole();
            }
        }
        if let Some((ended, _)) = early_end {
            self.container_ended(index, ended);
        }
    }

    fn entered_by_runtime(&mut self, number: u64, name: &str, since: u64, failure: Option<Failure>) {
        let Some(exec) = self.execs.iter().find(|exec| exec.is(number)) else { return };
        let container = exec.container;
        let (failure, left) = match (failure, self.left(container, name)) {
            (None, Ok(Left::Alive { pid, .. })) => return self.exec_entered(number, Ok(pid), None),
            (None, Ok(Left::Ended { pid, ended })) => return self.exec_entered(number, Ok(pid), Some(ended)),
            (None, Err(failure)) => (failure, None),
            (Some(failure), left) => (failure, left.ok()),
        };
        // It may have been cut short after its work was done, or in the middle of it: before it wrote down whom it has
        // put into the container.
        let mut strays = self.strays(container, since);
        if let Some(Left::Alive { pid, pidfd }) = left {
            strays.retain(|stray| stray.pid != pid);
            strays.insert(0, Stray { pid, pidfd, is_child: true });
        }
        self.exec_astray(number, failure, &strays);
    }

    /// Who is in a container since some command of its runtime began (clock ticks since boot), has come to us or is to
    /// come, and is nothing else: what the command has put there when it was cut short.
    ///
    /// Where the container shares the host's pid namespace, whoever it has orphaned in that time looks the same.
    fn strays(&self, container: u64, since: u64) -> Vec<Stray> {
        let container = self.numbered(container).map(|index| &self.containers[index]);
        let Some((container, tree)) = container.and_then(|container| Some((container, container.tree()?))) else {
            return Vec::new();
        };
        // Of those that have done their work and have not been reaped: theirs is still to be found.
        let others = self.commands.under_way.iter().filter(|command| command.container == container.number);
        let others = others.filter_map(|command| container.runtime.as_ref()?.child(&command.name).ok());
        let others: Vec<_> = others.collect();
        let (mut known, mut found) = (HashSet::new(), Vec::new());
        // Whoever stood between it and the runtime has been killed, but may not have ended: then its children are not
        // ours yet. We alone reap it, so it is seen while it has children, and once more afterwards.
        loop {
            let seen = known.len();
            let mut next = kill::children(own_pid());
            next.retain(|pid| !self.has(*pid) && !others.contains(pid));
            while !next.is_empty() {
                next.retain(|pid| known.insert(*pid) && process::start_time(*pid).is_ok_and(|start| start >= since));
                found.extend(next.iter().filter_map(|pid| Some((*pid, pidfd_open(*pid).ok()?))));
                next = next.iter().flat_map(|pid| kill::children(*pid)).collect();
            }
            if known.len() == seen {
                break;
            }
        }
        let ours = kill::children(own_pid());
        let members = kill::members(tree).unwrap_or_default();
        found.retain(|(pid, pidfd)| members.contains(pid) && kill::is_unreaped(pidfd.as_fd()));
        let stray = |(pid, pidfd)| Stray { pid, pidfd, is_child: ours.contains(&pid) };
        found.into_iter().map(stray).collect()
    }

    /// What a command has left. It wrote down a number, which may be anybody's by now, or have been from the beginning:
    /// the process is a child of ours that is nothing else yet, or there is none.
    fn left(&self, container: u64, name: &str) -> Result<Left, Failure> {
        let none = |error| Failure::new("find the process that the runtime has left", &error);
        let runtime = self.numbered(container).and_then(|index| self.containers[index].runtime.as_ref());
        let runtime = runtime.ok_or_else(|| Failure::wrong("the container has no other runtime"))?;
        let pid = runtime.child(name).map_err(none)?;
        if self.has(pid) {
            return Err(Failure::wrong(format!("the runtime has left a process that is another's: {}", pid.0)));
        }
        let looked = pidfd_open(pid).and_then(|pidfd| Ok((process::wait(pidfd.as_fd())?, pidfd)));
        match looked {
            Ok((None, pidfd)) => Ok(Left::Alive { pid, pidfd }),
            Ok((Some(ended), _)) => Ok(Left::Ended { pid, ended }),
            // Reaped already, before anybody knew whose it was; or never ours.
            Err(error) => {
                let stranger = self.commands.strangers.iter().find(|(stranger, _)| *stranger == pid);
                stranger.map(|(_, ended)| Left::Ended { pid, ended: *ended }).ok_or_else(|| none(error))
            }
        }
    }

    /// Whether an unreaped process of this number has a purpose already.
    fn has(&self, pid: Pid) -> bool {
        let init = self.init().map(|init| init.pid);
        let containers = self.containers.iter().filter(|container| container.process().is_some());
        let commands = self.commands.under_way.iter().map(|command| command.pid);
        let execs = self.execs.iter().map(|exec| exec.pid);
        containers.map(|container| container.pid).chain(execs).chain(commands).chain(init).any(|other| other == pid)
    }
}

impl Left {
    fn kill(self) {
        if let Left::Alive { pidfd, .. } = self {
            // ESRCH alone can happen here: it has ended meanwhile.
            let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        }
    }
}

/// Whether a child of ours has ended and been reaped. Until then its number was its own.
fn is_reaped(process: &OwnedFd) -> bool {
    pidfd_send_signal(process.as_fd(), 0).is_err()
}
