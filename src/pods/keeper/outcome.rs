//! What happened: results of jobs and news from the monitor become what is true, and whoever waited is told.

use std::time::{Instant, SystemTime};

use link::News;
use model::{ContainerId, Event, Exit, ExitRecord, Phase, with_causes};

use super::{Finished, Goal, Keeper, answer, blocking, stuck};
use crate::{
    container::{Container, Making},
    create,
    error::Error,
    record::PodStage,
    remove, run,
    step::Step,
    stop::Act,
    stop_pod::{self, Obstacle, Unsent},
};

/// Why nobody knows how a container ended that ran while its monitor did.
const MONITOR_DIED: &str = "the pod's monitor died";

impl Keeper {
    pub(super) fn finished(&mut self, finished: Finished) {
        match finished {
            Finished::Ran(result) => self.ran(*result),
            Finished::Created { container, result } => self.created(&container, result),
            Finished::Started { container, result } => self.started(&container, result),
            Finished::Signalled { container, act, result } => self.signalled(&container, act, result),
            Finished::Reconnected(connection) => self.reconnected(connection),
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
        let early_exit = kept.early_exit.take();
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
                    if early_exit.is_some() {
                        // The answer was lost and the monitor knows it, killed as it has been.
                        self.drop_unknown(id.clone());
                    }
                } else {
                    // Nobody can name it, so nobody will remove it: do so as soon as it can be done.
                    kept.removing.get_or_insert_default();
                }
                Err(error)
            }
        };
        self.publish();
        if let Some(record) = early_exit.filter(|_| outcome.is_ok()) {
            // It was killed as soon as it was there, before it was written down.
            self.happen(id, Event::Ended(record));
        }
        waiters.into_iter().for_each(|reply| answer(reply, outcome.clone()));
        if self.sandbox.is_none() {
            // The monitor died while this was being made, and took the waiting process with it.
            self.end_unseen(id, MONITOR_DIED);
        }
    }

    fn started(&mut self, id: &ContainerId, result: Result<SystemTime, Error>) {
        let is_wanted = self.goal == Goal::Keep;
        let Some(kept) = self.containers.get_mut(id) else { return };
        // Told meanwhile by the monitor itself, over another connection.
        let Some(mut starting) = kept.starting.take() else { return };
        let early_exit = kept.early_exit.take();
        let error = match result {
            Ok(at) => {
                kept.starting = Some(starting);
                self.begin(id, at);
                early_exit.into_iter().for_each(|record| self.happen(id, Event::Ended(record)));
                return;
            }
            Err(Error::MonitorGone { .. })
                if is_wanted && kept.stopping.is_none() && kept.removing.is_none() && early_exit.is_none() =>
            {
                // Whether it began is not known: asked again over the next connection, if the monitor lives.
                starting.asked = false;
                kept.starting = Some(starting);
                return;
            }
            Err(error) => error,
        };
        let record = early_exit.or_else(|| {
            let why = match &error {
                // It waits, or runs, and is to end anyway: how, its monitor says.
                Error::MonitorGone { .. } => return None,
                Error::StartFailed { why, .. } => why.clone(),
                other => other.to_string(),
            };
            Some(ExitRecord { how: Exit::StartFailed { why }, at: SystemTime::now(), oom_killed: false })
        });
        record.into_iter().for_each(|record| self.happen(id, Event::Ended(record)));
        starting.waiters.into_iter().for_each(|reply| answer(reply, Err(error.clone())));
    }

    /// A container's program runs: whoever waited for it is told.
    pub(super) fn begin(&mut self, id: &ContainerId, at: SystemTime) {
        let Some(kept) = self.containers.get_mut(id) else { return };
        let Making::Done { waiting_pid, .. } = &kept.making else { return };
        let event = Event::Started { pid: *waiting_pid, at };
        let starting = kept.starting.take();
        self.happen(id, event);
        starting.into_iter().flat_map(|starting| starting.waiters).for_each(|reply| answer(reply, Ok(())));
    }

    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Exited { container, record } => match self.containers.get_mut(&container) {
                Some(kept) if kept.is_awaited() => kept.early_exit = Some(record),
                Some(kept) if kept.is_alive() => self.happen(&container, Event::Ended(record)),
                // What could not be taken back while the monitor was silent: it is there again.
                Some(kept) if matches!(kept.making, Making::Failed) => _ = kept.removing.get_or_insert_default(),
                Some(_) => {}
                None => self.drop_unknown(container),
            },
            News::Started { container, at } => {
                if let Some(Phase::Created) = self.containers.get(&container).and_then(Container::phase) {
                    self.begin(&container, at);
                }
            }
            News::InitExited => self.lose_init(),
            News::ExecExited { .. } => {}
            News::Trouble { container, text } => {
                tracing::warn!(pod = %self.record.id.short(), ?container, "monitor: {text}");
            }
            News::Lost => self.lose_connection(),
        }
    }

    /// The pod's init has ended, and the containers that share its processes end with it: their own news say how.
    pub(super) fn lose_init(&mut self) {
        let was_ready = self.record.stage == PodStage::Ready;
        self.record.lose_init();
        if was_ready {
            tracing::error!(pod = %self.record.id, "the pod's init has ended");
            self.save(Step::StopPodIntent);
        }
        self.publish();
    }

    /// A container that no record names has died: nothing of it is kept. How one ended whose record cannot be read, its
    /// monitor goes on to know.
    pub(super) fn drop_unknown(&mut self, id: ContainerId) {
        if self.home.is_unread(&id) {
            return tracing::warn!(container = %id, "a container whose record cannot be read has ended");
        }
        let (home, sandbox, cgroup) = (self.home.clone(), self.sandbox.clone(), self.record.cgroup.clone());
        self.jobs.spawn(async move {
            if let Err(error) = remove::container(&home, sandbox.as_deref(), cgroup.as_ref(), &id, None).await {
                tracing::warn!(container = %id, %error, "remove a container without a record");
            }
            Finished::Answered
        });
    }

    /// The monitor is gone, and with it what held the pod together: nothing of the pod may run on unseen.
    pub(super) fn lose_monitor(&mut self) {
        self.news = None;
        self.sandbox = None;
        if self.record.stage == PodStage::Ready {
            let monitor = self.record.monitor.map(|process| process.pid);
            tracing::error!(pod = %self.record.id, monitor, "the pod's monitor died");
            self.record.stage = PodStage::Stopping;
            self.record.trouble = Some("its monitor died; its containers were ended with it".to_owned());
            self.save(Step::StopPodIntent);
        }
        let alive: Vec<_> =
            self.containers.values().filter(|kept| kept.is_alive()).map(|kept| kept.id.clone()).collect();
        alive.iter().for_each(|id| self.end_unseen(id, MONITOR_DIED));
        self.publish();
    }

    /// Ends a container of which no monitor speaks: whatever of it is left is killed. How it ended a monitor that died
    /// may have written down; else nobody knows.
    pub(super) fn end_unseen(&mut self, id: &ContainerId, why: &str) {
        let Some(Container { making: Making::Done { made, phase, .. }, .. }) = self.containers.get(id) else { return };
        let waits = match phase {
            Phase::Exited { .. } => return,
            Phase::Created => true,
            Phase::Running { .. } | Phase::Unsettled { .. } => false,
        };
        let (home, launch) = (self.home.clone(), made.launch.clone());
        if let Err(error) = blocking(|| home.engine.kill_cgroup(&launch.cgroup.path)) {
            tracing::error!(container = %id, %error, "kill what a dead monitor left");
        }
        let record = match blocking(|| home.recorded_exit(&self.record.id, id)) {
            Some(left) => {
                left.started.filter(|_| waits).into_iter().for_each(|at| self.begin(id, at));
                left.record
            }
            None => {
                let how = Exit::Unknown { why: why.to_owned() };
                ExitRecord { how, at: SystemTime::now(), oom_killed: false }
            }
        };
        self.happen(id, Event::Ended(record));
    }

    /// Something happened to a container: remembers it, shows it, tells who waited.
    pub(super) fn happen(&mut self, id: &ContainerId, event: Event) {
        let Some(kept) = self.containers.get_mut(id) else { return };
        if let Err(refused) = kept.take(event) {
            tracing::error!(container = %id, %refused, "an event that cannot be");
            return;
        }
        let ended = matches!(kept.phase(), Some(Phase::Exited { .. }));
        let (stopping, starting) = if ended { (kept.stopping.take(), kept.starting.take()) } else { (None, None) };
        let saved = self.save_phase(id, if ended { Step::ExitRecord } else { Step::StartDone });
        self.publish();
        stopping.into_iter().flat_map(|stopping| stopping.waiters).for_each(|reply| answer(reply, Ok(())));
        let unstarted = match &self.sandbox {
            Some(_) => {
                Error::StartFailed { container: id.short().to_owned(), why: "it ended before its start".to_owned() }
            }
            None => Error::MonitorGone { pod: self.record.id.to_string() },
        };
        let starting = starting.into_iter().flat_map(|starting| starting.waiters);
        starting.for_each(|reply| answer(reply, Err(unstarted.clone())));
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

    /// What became of a signal. A monitor that does not take the order to kill stands in the way of every stop: one
    /// that the whole pod waits for is worth the monitor, one of a single container is not.
    fn signalled(&mut self, id: &ContainerId, act: Act, result: Result<(), Unsent>) {
        let Some(kept) = self.containers.get_mut(id) else { return };
        let pid = kept.pid();
        let Some(stop) = kept.stop() else { return };
        let error = match result {
            Ok(()) => {
                stop.signalled();
                if let Some(pid) = pid.filter(|_| act == Act::Kill && stop.is_stuck()) {
                    self.trouble(id, stuck::describe(pid));
                }
                return;
            }
            Err(Unsent { obstacle: Obstacle::Lost, .. }) => return stop.missed(act, Instant::now()),
            Err(Unsent { obstacle: Obstacle::Refusal, error }) => {
                stop.signalled();
                return self.trouble(id, with_causes(&error));
            }
            Err(Unsent { obstacle: Obstacle::Silence, error }) => {
                stop.signalled();
                error
            }
        };
        if act == Act::Ask {
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

    /// A container does not end though it is to: says so in its status, and once in the log.
    fn trouble(&mut self, id: &ContainerId, why: String) {
        let Some(kept) = self.containers.get_mut(id) else { return };
        if kept.trouble.is_none() {
            tracing::warn!(container = %id, why, "a container that is to stop has not ended");
        }
        kept.trouble = Some(why);
        self.publish();
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
