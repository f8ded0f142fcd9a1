//! What happened: results of jobs and news from the monitor become what is true, and whoever waited is told.

use std::time::SystemTime;

use link::News;
use model::{ContainerId, Event, Exit, ExitRecord, Phase};

use super::{Finished, Goal, Keeper, answer, blocking};
use crate::{
    container::{Container, Making},
    create,
    error::Error,
    record::PodStage,
    remove, run,
    step::Step,
    stop::Act,
    stop_pod,
};

impl Keeper {
    pub(super) fn finished(&mut self, finished: Finished) {
        match finished {
            Finished::Ran(result) => self.ran(*result),
            Finished::Created { container, result } => self.created(&container, result),
            Finished::Started { container, result } => self.started(&container, result),
            Finished::Signalled { container, act, result } => self.signalled(&container, act, result),
            Finished::ContainerRemoved { container, result } => self.container_removed(&container, result),
            Finished::MonitorEnded(result) => self.monitor_ended(result),
            Finished::TornDown(result) => self.torn_down(result),
            Finished::Removed(result) => self.removed(result),
            Finished::Answered => {}
        }
    }

    fn ran(&mut self, result: Result<run::Sandbox, run::Failed>) {
        self.pod_job = false;
        match result {
            Ok(sandbox) => {
                self.record = sandbox.record.clone();
                self.adopt(Some(sandbox));
                self.publish();
                let id = self.record.id.clone();
                self.joiners.drain(..).for_each(|reply| answer(reply, Ok(id.clone())));
            }
            Err(run::Failed { error, remains: None }) => {
                self.home.index.remove(&self.record.id);
                self.gone = true;
                self.joiners.drain(..).for_each(|reply| answer(reply, Err(error.clone())));
            }
            Err(run::Failed { error, remains: Some(record) }) => {
                // It could not be taken back whole: shown as not ready, so that somebody stops and removes it.
                self.record = *record;
                self.publish();
                self.joiners.drain(..).for_each(|reply| answer(reply, Err(error.clone())));
            }
        }
    }

    fn created(&mut self, id: &ContainerId, result: Result<create::Container, create::Failed>) {
        let Some(kept) = self.containers.get_mut(id) else { return };
        let (making, outcome) = match result {
            Ok(create::Container { made, waiting_pid, lease }) => {
                let done = Making::Done { made, phase: Phase::Created, waiting_pid, _lease: Some(lease) };
                (done, Ok(id.clone()))
            }
            Err(create::Failed { error, remains }) => (Making::Failed, Err((error, remains.is_none()))),
        };
        let waiters = match std::mem::replace(&mut kept.making, making) {
            Making::Going(waiters) => waiters,
            _ => Vec::new(),
        };
        let outcome = match outcome {
            Ok(id) => Ok(id),
            Err((error, clean)) => {
                if clean {
                    let removers = kept.removing.take().unwrap_or_default();
                    self.containers.remove(id);
                    removers.into_iter().for_each(|reply| answer(reply, Ok(())));
                } else {
                    // Nobody can name it, so nobody will remove it: do so as soon as it can be done.
                    kept.removing.get_or_insert_default();
                }
                Err(error)
            }
        };
        self.publish();
        waiters.into_iter().for_each(|reply| answer(reply, outcome.clone()));
        if self.sandbox.is_none() {
            // The monitor died while this was being made, and took the waiting process with it.
            self.end_unseen(id);
        }
    }

    fn started(&mut self, id: &ContainerId, result: Result<SystemTime, Error>) {
        let Some(kept) = self.containers.get_mut(id) else { return };
        let waiters = kept.starting.take().unwrap_or_default();
        let early_exit = kept.early_exit.take();
        let Making::Done { waiting_pid, .. } = &kept.making else { return };
        let event = match &result {
            Ok(at) => Event::Started { pid: *waiting_pid, at: *at },
            Err(error) => {
                let why = match error {
                    Error::StartFailed { why, .. } => why.clone(),
                    other => other.to_string(),
                };
                Event::Ended(ExitRecord { how: Exit::StartFailed { why }, at: SystemTime::now(), oom_killed: false })
            }
        };
        self.happen(id, event);
        if let (Ok(_), Some(record)) = (&result, early_exit) {
            self.happen(id, Event::Ended(record));
        }
        let outcome = result.map(|_| ());
        waiters.into_iter().for_each(|reply| answer(reply, outcome.clone()));
    }

    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Exited { container, record } => match self.containers.get_mut(&container) {
                Some(kept) if kept.starting.is_some() => kept.early_exit = Some(record),
                Some(kept) if kept.is_alive() => self.happen(&container, Event::Ended(record)),
                // What could not be taken back while the monitor was silent: it is there again.
                Some(kept) if matches!(kept.making, Making::Failed) => _ = kept.removing.get_or_insert_default(),
                Some(_) => {}
                None => self.drop_unknown(container),
            },
            News::ExecExited { .. } => {}
            News::Trouble { container, text } => {
                tracing::warn!(pod = %self.record.id.short(), ?container, "monitor: {text}");
            }
            News::Lost => self.lose_monitor(),
        }
    }

    /// A container that no record names has died: nothing of it is kept.
    fn drop_unknown(&mut self, id: ContainerId) {
        let (home, sandbox, cgroup) = (self.home.clone(), self.sandbox.clone(), self.record.cgroup.clone());
        self.jobs.spawn(async move {
            if let Err(error) = remove::container(&home, sandbox.as_deref(), cgroup.as_ref(), &id, None).await {
                tracing::warn!(container = %id, %error, "remove a container without a record");
            }
            Finished::Answered
        });
    }

    /// The monitor is gone, and with it what held the pod together: nothing of the pod may run on unseen.
    fn lose_monitor(&mut self) {
        self.news = None;
        self.sandbox = None;
        if self.record.stage == PodStage::Ready {
            tracing::error!(pod = %self.record.id, monitor = self.record.monitor.map(|process| process.pid), "the pod's monitor died");
            self.record.stage = PodStage::Stopping;
            self.record.trouble = Some("its monitor died; its containers were ended with it".to_owned());
            self.save(Step::StopPodIntent);
        }
        let alive: Vec<_> =
            self.containers.values().filter(|kept| kept.is_alive()).map(|kept| kept.id.clone()).collect();
        alive.iter().for_each(|id| self.end_unseen(id));
        self.publish();
    }

    /// Ends a container whose monitor is gone: whatever of it is left is killed, and how it ended stays unknown.
    fn end_unseen(&mut self, id: &ContainerId) {
        let Some(Container { making: Making::Done { made, phase, .. }, .. }) = self.containers.get(id) else { return };
        if matches!(phase, Phase::Exited { .. }) {
            return;
        }
        let (engine, launch) = (self.home.engine.clone(), made.launch.clone());
        if let Err(error) = blocking(|| engine.kill_cgroup(&launch.cgroup.path)) {
            tracing::error!(container = %id, %error, "kill what a dead monitor left");
        }
        let how = Exit::Unknown { why: "the pod's monitor died".to_owned() };
        self.happen(id, Event::Ended(ExitRecord { how, at: SystemTime::now(), oom_killed: false }));
    }

    /// Something happened to a container: remembers it, shows it, tells who waited.
    fn happen(&mut self, id: &ContainerId, event: Event) {
        let Some(kept) = self.containers.get_mut(id) else { return };
        if let Err(refused) = kept.take(event) {
            tracing::error!(container = %id, %refused, "an event that cannot be");
            return;
        }
        let ended = matches!(kept.phase(), Some(Phase::Exited { .. }));
        let waiters = if ended { kept.stopping.take().map(|stopping| stopping.waiters) } else { None };
        let saved = self.save_phase(id, if ended { Step::ExitRecord } else { Step::StartDone });
        self.publish();
        waiters.into_iter().flatten().for_each(|reply| answer(reply, Ok(())));
        // With a full disk the monitor's own record is the only one: it stays until the container is removed.
        if ended && saved {
            self.clear_away(id);
        }
    }

    /// After an exit has been written down: the monitor may forget the container, and its cgroup can go.
    fn clear_away(&mut self, id: &ContainerId) {
        let Some(Container { making: Making::Done { made, .. }, .. }) = self.containers.get(id) else { return };
        let (home, id, launch) = (self.home.clone(), id.clone(), made.launch.clone());
        let monitor = self.sandbox.as_ref().map(|sandbox| sandbox.monitor.clone());
        self.jobs.spawn(async move {
            remove::clear_away(&home, monitor.as_ref(), &id, launch).await;
            Finished::Answered
        });
    }

    /// A signal was sent. A monitor that does not take the order to kill stands in the way of every stop: one that the
    /// whole pod waits for is worth the monitor, one of a single container is not.
    fn signalled(&mut self, id: &ContainerId, act: Act, result: Result<(), Error>) {
        let Some(kept) = self.containers.get_mut(id) else { return };
        if let Some(stop) = kept.stop() {
            stop.signalled();
        }
        let Err(error) = result else { return };
        if act == Act::Ask || !kept.is_alive() {
            return;
        }
        if self.goal == Goal::Keep {
            let stopping = kept.stopping.take().map(|stopping| stopping.waiters);
            let waiters = stopping.into_iter().chain(kept.removing.take()).flatten();
            waiters.for_each(|reply| answer(reply, Err(error.clone())));
            return;
        }
        let (home, id, process) = (self.home.clone(), self.record.id.clone(), self.record.monitor);
        self.jobs.spawn(async move {
            Finished::MonitorEnded(stop_pod::end_by_force(&home, &id, process).await.map(|_| ()))
        });
    }

    /// A killed monitor is lost, as the news says. One that cannot be killed keeps the pod from stopping.
    fn monitor_ended(&mut self, result: Result<(), Error>) {
        let Err(error) = result else { return };
        self.record.trouble = Some(error.to_string());
        self.publish();
        self.goal = Goal::Keep;
        let waiters: Vec<_> = self.stop_waiters.drain(..).chain(self.remove_waiters.drain(..)).collect();
        waiters.into_iter().for_each(|reply| answer(reply, Err(error.clone())));
    }

    fn container_removed(&mut self, id: &ContainerId, result: Result<(), Error>) {
        let Some(kept) = self.containers.get_mut(id) else { return };
        kept.removal_runs = false;
        let waiters = kept.removing.take().unwrap_or_default();
        if result.is_ok() {
            self.containers.remove(id);
            self.publish();
        }
        waiters.into_iter().for_each(|reply| answer(reply, result.clone()));
        if let Err(error) = &result
            && self.goal == Goal::Remove
            && self.record.stage == PodStage::Stopped
        {
            // Not tried again until somebody asks again: what fails now would fail again at once, without end.
            self.goal = Goal::Keep;
            self.remove_waiters.drain(..).for_each(|reply| answer(reply, Err(error.clone())));
        }
    }

    fn torn_down(&mut self, result: Result<(), Error>) {
        self.pod_job = false;
        match &result {
            Ok(()) => {
                self.record.stage = PodStage::Stopped;
                self.record.trouble = None;
                self.record.monitor = None;
                self.record.init_pid = None;
                self.record.netns = None;
                self.sandbox = None;
                self.news = None;
            }
            Err(error) => {
                self.record.trouble = Some(error.to_string());
                // Not tried again until somebody asks again: a kubelet does, every few seconds.
                self.goal = Goal::Keep;
                let waiters: Vec<_> = self.remove_waiters.drain(..).collect();
                waiters.into_iter().for_each(|reply| answer(reply, Err(error.clone())));
            }
        }
        self.save(Step::StopPodDone);
        self.publish();
        self.stop_waiters.drain(..).for_each(|reply| answer(reply, result.clone()));
    }

    fn removed(&mut self, result: Result<(), Error>) {
        self.pod_job = false;
        match &result {
            Ok(()) => {
                self.home.index.remove(&self.record.id);
                self.gone = true;
            }
            Err(_) => self.goal = Goal::Keep,
        }
        self.remove_waiters.drain(..).for_each(|reply| answer(reply, result.clone()));
    }
}
