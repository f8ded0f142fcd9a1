//! Ends: of containers' first processes, of execs, of the init, of whatever was left to us.
//!
//! A container's end, in order: reaped, its count of out-of-memory kills read (before anybody can remove the cgroup),
//! what it left running killed, its streams drained into the log, its exit on disk, the news. So whoever hears of an
//! exit finds the whole log and the record.

use std::{
    os::fd::AsFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use engine::launch::{Failure, Heard};
use kernel::{
    clock::realtime_ns,
    process::{self, Ended, Pid},
};
use link::{EXIT_RECORD_KIND, EXIT_RECORD_VERSION, RecordedExit, exit_record_name, wire};
use model::{Exit, ExitRecord, Signal};
use wire::monitor_reply::Result as Reply;

use crate::{
    asker::Asker,
    container::{Container, Phase},
    kill,
    pod::{Pod, SetUp, report},
};

impl Pod {
    /// Reaps everyone who has ended.
    pub(crate) fn reap(&mut self) {
        self.drain_signals();
        while let Ok(Some((pid, ended))) = process::reap_any() {
            self.ended(pid, ended);
        }
        self.commands.forget_strangers();
    }

    fn ended(&mut self, pid: Pid, ended: Ended) {
        // Unreaped until now, so the number is still this process's own.
        let is_it = |container: &Container| container.pid == pid && container.process().is_some();
        if self.command_ended(pid, ended) {
            // A runtime's command stands in for what it makes, so it is looked for first.
        } else if let Some(index) = self.containers.iter().position(is_it) {
            self.container_ended(index, ended);
        } else if let Some(index) = self.execs.iter().position(|exec| exec.pid == pid) {
            self.exec_ended(index, exit(ended));
        } else if let SetUp::Done(ready) = &mut self.set_up
            && ready.init.as_ref().is_some_and(|init| init.pid == pid)
        {
            ready.init = None;
            if self.end_asker.is_none() {
                self.daemon.tell(&self.epoll, Reply::InitExited(wire::InitExited {}));
            }
        } else {
            self.commands.note_stranger(pid, ended);
        }
    }

    pub(crate) fn container_ended(&mut self, index: usize, ended: Ended) {
        // Its last word may lie unread beside the news of its end.
        let number = self.containers[index].number;
        self.hear_container(number);
        let now = realtime_ns();
        if self.is_started_by_runtime(number) {
            self.containers[index].early_end = Some((ended, now));
            return;
        }
        let container = &mut self.containers[index];
        let oom_killed = container
            .live
            .as_ref()
            .and_then(|live| live.kept.oom.as_ref())
            .is_some_and(|counter| kill::out_of_memory_kills(counter.as_fd()).is_ok_and(|count| count > 0));
        let failure = container.live.as_mut().and_then(|live| live.failure.take());
        let record = |how| ExitRecord { how, at: from_ns(now), oom_killed };
        let for_memory = if oom_killed { ", killed for want of memory" } else { "" };
        let (started, record) = match container.phase {
            Phase::Preparing { asker } => {
                let early = || Failure::wrong(format!("the container ended too early: {ended:?}{for_memory}"));
                let failure = failure.unwrap_or_else(early);
                self.drop_container(index);
                return self.answer(asker, Err(failure));
            }
            Phase::Forgotten => return self.dismiss(index),
            Phase::Starting { asker } => {
                // It never said that exec failed, and its socket is closed: `hear_container` has made it running. So
                // this is a failure, or it was killed in between.
                let failure =
                    failure.unwrap_or_else(|| Failure::wrong(format!("it ended before exec: {ended:?}{for_memory}")));
                let why = failure.to_string();
                self.answer(asker, Err(failure));
                (None, record(Exit::StartFailed { why }))
            }
            Phase::Waiting => (None, record(exit(ended))),
            Phase::Running { since } => (Some(since), record(exit(ended))),
            Phase::Ending { .. } | Phase::Ended { .. } | Phase::Dismissed => return,
        };
        if self.containers[index].begin_end(&self.epoll, started, record) {
            self.finish(index);
        }
    }

    /// A container's child has said something.
    pub(crate) fn hear_container(&mut self, number: u64) {
        let Some(index) = self.numbered(number) else { return };
        let container = &mut self.containers[index];
        let Some(heard) = container.hear() else { return };
        match (heard, &container.phase) {
            (Heard::Nothing, _) => {}
            (Heard::Ready { terminal }, Phase::Preparing { asker }) => {
                let (asker, pid) = (*asker, container.pid.0);
                if let Some(Err(error)) = terminal.map(|both| container.take_terminal(&self.epoll, both)) {
                    if let Some(live) = &mut container.live {
                        live.failure = Some(Failure::new("watch the terminal", &error));
                    }
                    // The child sees the end of its socket and goes; its end answers.
                    return container.drop_word(&self.epoll);
                }
                container.phase = Phase::Waiting;
                self.answer(asker, Ok(Reply::Created(wire::Created { pid })));
            }
            (Heard::Failed(failure), _) => {
                // Answered when it has been reaped, so that nothing of it is left then.
                if let Some(live) = &mut container.live {
                    live.failure = Some(failure);
                }
                container.drop_word(&self.epoll);
            }
            (Heard::Closed, Phase::Starting { asker }) => {
                let (asker, since) = (*asker, realtime_ns());
                container.drop_word(&self.epoll);
                container.phase = Phase::Running { since };
                self.tell_started(index, asker, since);
            }
            // Killed while it prepared or waited; a second "ready" means nothing.
            (Heard::Closed | Heard::Ready { .. }, _) => container.drop_word(&self.epoll),
        }
    }

    /// Tells that a container's program runs.
    pub(crate) fn tell_started(&mut self, index: usize, asker: Asker, since: i64) {
        let container_id = self.containers[index].id.to_string();
        let started = Reply::Started(wire::Started { started_at_ns: since, container_id });
        // Whoever asked may be gone, and its successor was told that it waits.
        if self.daemon.hears(asker) {
            self.answer(asker, Ok(started));
        } else {
            self.daemon.tell(&self.epoll, started);
        }
    }

    /// Puts a container's end on record and tells it.
    pub(crate) fn finish(&mut self, index: usize) {
        let mut changes = Vec::new();
        let container = &mut self.containers[index];
        container.let_go(&self.epoll, &mut |change| changes.push(change));
        changes.into_iter().for_each(|change| container.log_health.note(change));
        let Phase::Ending { started, record, .. } = &container.phase else { return };
        let (started, record, id) = (*started, record.clone(), container.id.clone());
        container.phase = Phase::Ended { started, record: record.clone() };
        if let Some(change) = self.containers[index].log_health.take_last() {
            report(&mut self.daemon, &self.epoll, &id, change);
        }
        let written = RecordedExit { container: id.clone(), started: started.map(from_ns), record: record.clone() };
        if let Err(text) = self.write_record(&written) {
            self.daemon.trouble(&self.epoll, Some(&id), &text);
        }
        self.daemon.tell(&self.epoll, Reply::Exited(link::exit_to_wire(&id, &record)));
    }

    fn write_record(&self, written: &RecordedExit) -> Result<(), String> {
        let SetUp::Done(ready) = &self.set_up else { return Ok(()) };
        let name = exit_record_name(&written.container);
        disk::encode(EXIT_RECORD_KIND, EXIT_RECORD_VERSION, written)
            .and_then(|bytes| disk::write_at(ready.records.as_fd(), &name, &bytes))
            .map_err(|error| format!("its exit is not on disk: {error}"))
    }

    /// Lets go of a container of which nobody need know.
    pub(crate) fn drop_container(&mut self, index: usize) {
        let mut container = self.containers.swap_remove(index);
        container.let_go(&self.epoll, &mut |_| ());
    }
}

pub(crate) fn exit(ended: Ended) -> Exit {
    match ended {
        Ended::Code(code) => Exit::Code(code),
        Ended::Signal(number) => match Signal::new(number) {
            Ok(signal) => Exit::Signal(signal),
            Err(error) => Exit::Unknown { why: error.to_string() },
        },
    }
}

fn from_ns(ns: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(ns.max(0) as u64)
}
