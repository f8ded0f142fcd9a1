//! What the daemon asks of a monitor. Each request is answered once: at once, or when what it began has come true.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use engine::launch::{Failure, PidSpace, launch, say_start};
use kernel::process::{own_pid, pidfd_send_signal};
use link::{PROTOCOL, RELEASE, exit_record_name, wire};
use model::ContainerId;
use nix::libc;
use wire::{monitor_reply::Result as Reply, monitor_request::Act};

use crate::{
    asker::Asker,
    container::{Container, Phase, Then},
    pod::{Pod, SetUp},
    runtime::kill_session,
};

impl Pod {
    /// Serves one request.
    pub(crate) fn serve_request(&mut self, asker: Asker, act: Option<Act>, fds: Vec<OwnedFd>) {
        match act {
            Some(Act::Hello(_)) => self.greet(asker),
            Some(Act::SetUpPod(order)) => self.set_up_pod(asker, &order, fds),
            Some(Act::Create(order)) => self.create(asker, &order, fds),
            Some(Act::Start(order)) => self.start(asker, &order.container_id),
            Some(Act::Kill(order)) => self.kill(asker, &order),
            Some(Act::Exec(order)) => self.exec(asker, &order, &fds),
            Some(Act::KillExec(order)) => self.kill_exec(asker, order.exec_id),
            Some(Act::ReopenLog(order)) => self.reopen_log(asker, &order, fds),
            Some(Act::Forget(order)) => self.forget(asker, &order.container_id),
            Some(Act::EndPod(_)) => self.end_pod(asker),
            Some(Act::Replace(order)) => self.replace(asker, &order, fds),
            None => self.answer(asker, Err(Failure::wrong("an act that this release does not know"))),
        }
    }

    fn greet(&mut self, asker: Asker) {
        self.forsaken_at = None;
        let hello = wire::MonitorHello {
            protocol: PROTOCOL,
            release: RELEASE.to_owned(),
            pod_id: self.id.clone(),
            pid: own_pid().0,
            set_up: matches!(self.set_up, SetUp::Done(_)),
            containers: self.containers.iter().filter_map(Container::now).collect(),
            init_pid: self.init().map_or(0, |init| init.pid.0),
            program: self.program.clone(),
        };
        self.answer(asker, Ok(Reply::Hello(hello)));
        self.daemon.has_been_greeted();
    }

    fn create(&mut self, asker: Asker, order: &wire::Launch, fds: Vec<OwnedFd>) {
        if let Err(failure) = self.begin_container(asker, order, fds) {
            self.answer(asker, Err(failure));
        }
    }

    fn begin_container(&mut self, asker: Asker, order: &wire::Launch, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let id: ContainerId = order.container_id.parse().map_err(|_| Failure::wrong("the container's id is none"))?;
        if self.ending {
            return Err(Failure::wrong("the pod is ending"));
        }
        if self.position(id.as_str()).is_some() {
            return Err(Failure::wrong("the container exists already"));
        }
        let number = self.number();
        let SetUp::Done(ready) = &self.set_up else { return Err(Failure::wrong("the pod is not set up")) };
        if order.runtime.is_some() {
            return self.begin_by_runtime(number, id, asker, order, fds);
        }
        let pid_space = match (self.joined(order)?, order.pid()) {
            (Some(process), _) => PidSpace::Of(process),
            (None, wire::launch::Pid::Host) => PidSpace::Host,
            (None, _) => PidSpace::New,
        };
        // The last step that can fail: from here on a child is at work, and somebody has to know of it.
        let launched = launch(order, fds, &ready.places, pid_space)?;
        self.take_in(Container::new(number, id, launched, order, asker), asker);
        Ok(())
    }

    /// The process whose pid namespace an order joins: the pod's init, or a container's first. It has not been reaped.
    pub(crate) fn joined(&self, order: &wire::Launch) -> Result<Option<BorrowedFd<'_>>, Failure> {
        let (process, why_not) = match order.pid() {
            wire::launch::Pid::Container | wire::launch::Pid::Host => return Ok(None),
            wire::launch::Pid::Pod => (self.init().map(|init| init.pidfd.as_fd()), "the pod shares no pid namespace"),
            wire::launch::Pid::Target => {
                let target = self.position(&order.pid_target).map(|index| &self.containers[index]);
                (target.and_then(Container::process), "the target container does not run")
            }
        };
        process.map(Some).ok_or_else(|| Failure::wrong(why_not))
    }

    /// Takes in a container whose child is at work. One that cannot be watched is given up.
    pub(crate) fn take_in(&mut self, container: Container, asker: Asker) {
        let watched = container.watch(&self.epoll);
        self.containers.push(container);
        if let Err(error) = watched {
            let failure = Failure::new("watch the container", &error);
            self.give_up(self.containers.len() - 1, Then::Failed(asker, failure));
        }
    }

    /// Ends a container whose program has not run. Whoever waits for that hears it when nothing of it is left.
    fn give_up(&mut self, index: usize, then: Then) {
        let container = &mut self.containers[index];
        let before = std::mem::replace(&mut container.phase, Phase::Forgotten);
        container.leave.push(then);
        // Seen as the end of its socket already; the signal is for a child that cannot see anything any more.
        container.drop_word(&self.epoll);
        if let Some(process) = container.process() {
            let _ = pidfd_send_signal(process, libc::SIGKILL);
        }
        if container.runtime.is_some() {
            if let Phase::Preparing { .. } = before {
                // The runtime's command, which ends this phase when it is reaped: the number is still its own.
                kill_session(container.pid);
            }
            container.kill_whole();
        }
    }

    fn start(&mut self, asker: Asker, id: &str) {
        let Some(index) = self.position(id) else {
            return self.answer(asker, Err(Failure::wrong("there is no such container")));
        };
        let container = &mut self.containers[index];
        let word = container.live.as_ref().and_then(|live| live.word.as_ref());
        match (&container.phase, word) {
            (Phase::Waiting, Some(word)) => match say_start(word.as_fd()) {
                Ok(()) => container.phase = Phase::Starting { asker },
                // It has been killed: its end will be told as one.
                Err(error) => self.answer(asker, Err(Failure::new("start the container", &error))),
            },
            (Phase::Waiting, None) => self.start_by_runtime(index, asker),
            // Asked for over a connection that was lost before the answer: whoever asks now hears it.
            (Phase::Starting { .. }, _) => container.phase = Phase::Starting { asker },
            (Phase::Running { since }, _) => {
                let started = wire::Started { started_at_ns: *since, container_id: id.to_owned() };
                self.answer(asker, Ok(Reply::Started(started)));
            }
            _ => self.answer(asker, Err(Failure::wrong("the container does not wait for its start"))),
        }
    }

    fn kill(&mut self, asker: Asker, order: &wire::Kill) {
        let Some(index) = self.position(&order.container_id) else {
            return self.answer(asker, Err(Failure::wrong("there is no such container")));
        };
        let container = &self.containers[index];
        let is_polite = !order.whole && order.signal != libc::SIGKILL;
        if is_polite && container.process().is_some() && self.kill_by_runtime(index, asker, order.signal) {
            return;
        }
        if order.whole && order.signal == libc::SIGKILL {
            self.commands.hasten(Some(self.containers[index].number));
        }
        let container = &self.containers[index];
        let killed = match (order.whole, container.tree(), container.process()) {
            (true, Some(tree), Some(process)) => {
                let all = tree.signal(order.signal);
                // Where another runtime has put it, it need not be in the cgroup. Here it hears SIGKILL alone: a polite
                // signal must not come twice.
                match order.signal {
                    libc::SIGKILL => all.and(pidfd_send_signal(process, libc::SIGKILL)),
                    _ => all,
                }
            }
            (false, _, Some(process)) => pidfd_send_signal(process, order.signal),
            // It has ended, or is ending, which kills what is left of it.
            _ => Ok(()),
        };
        match killed {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                self.answer(asker, Err(Failure::new(format!("send signal {}", order.signal), &error)));
            }
            _ => self.done(asker),
        }
    }

    fn reopen_log(&mut self, asker: Asker, order: &wire::ReopenLog, fds: Vec<OwnedFd>) {
        let log = fds.into_iter().nth(order.log_fd as usize);
        let live = self.position(&order.container_id).and_then(|index| self.containers[index].live.as_mut());
        match (live, log) {
            (Some(live), Some(log)) => {
                live.log.reopen(log);
                self.done(asker);
            }
            (None, _) => self.answer(asker, Err(Failure::wrong("the container does not run"))),
            (_, None) => self.answer(asker, Err(Failure::wrong("no file came with the order"))),
        }
    }

    fn forget(&mut self, asker: Asker, id: &str) {
        let Some(index) = self.position(id) else { return self.done(asker) };
        let (container, then) = (&mut self.containers[index], Then::Done(asker));
        match container.phase {
            Phase::Waiting => self.give_up(index, then),
            Phase::Preparing { asker: maker } => {
                self.give_up(index, then);
                // Whoever has it made does not wait for it any more, or does so in vain.
                self.answer(maker, Err(Failure::wrong("the container is to be forgotten")));
            }
            Phase::Ended { .. } => {
                container.leave.push(then);
                self.dismiss(index);
            }
            // On its way already.
            Phase::Forgotten | Phase::Dismissed => container.leave.push(then),
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Ending { .. } => {
                self.answer(asker, Err(Failure::wrong("the container has not ended")));
            }
        }
    }

    /// Removes the exit record of a container that has one. Answers why it could not.
    pub(crate) fn forget_record(&self, index: usize) -> Option<Failure> {
        let container = &self.containers[index];
        match (&container.phase, &self.set_up) {
            (Phase::Ended { .. }, SetUp::Done(ready)) => {
                let removed = disk::remove_at(ready.records.as_fd(), &exit_record_name(&container.id));
                removed.err().map(|error| Failure::wrong(format!("remove the exit record: {error}")))
            }
            _ => None,
        }
    }

    fn end_pod(&mut self, asker: Asker) {
        if self.is_alive() {
            return self.answer(asker, Err(Failure::wrong("a container of the pod has not ended")));
        }
        self.ending = true;
        self.commands.hasten(None);
        // ESRCH alone can happen here, of an init that has ended and is about to be reaped.
        let _ = self.init().map(|init| pidfd_send_signal(init.pidfd.as_fd(), libc::SIGKILL));
        self.end_asker = Some(asker);
    }

    /// Answers whoever has ended the pod, once nothing of it is at work any more.
    pub(crate) fn answer_end(&mut self) {
        if self.init().is_none()
            && self.commands.is_empty()
            && let Some(asker) = self.end_asker.take()
        {
            self.done(asker);
        }
    }
}
