//! The keeper of a pod: one task that owns everything about it.
//!
//! Commands come in through a bounded mailbox, news from the pod's monitor, results from jobs. Each is taken by a short
//! synchronous method that changes what is true or wanted; then [`Keeper::advance`] looks at both and starts the next
//! job. Work that can block (mounts, plugins, a dying process) is always a job, so a stuck step of this pod delays
//! nobody's list or status, and no other pod.

use std::{
    collections::BTreeMap,
    future,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use link::News;
use model::{ContainerId, ContainerPlan, Event, Exit, ExitRecord, Phase, PodId, PodPlan};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    container::{Container, Making},
    create,
    error::Error,
    exec,
    exec::ExecOutput,
    home::Home,
    log_file,
    record::{Made, PodRecord, PodStage},
    remove, run,
    step::Step,
    stop::Act,
    stop_pod,
    view::PodView,
};

/// Commands that may wait for one keeper. A kubelet sends a pod a handful at a time; beyond this, callers wait.
pub(crate) const MAILBOX: usize = 64;

pub(crate) type Mailbox = mpsc::Sender<Command>;
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What a keeper can be asked.
pub(crate) enum Command {
    /// Wait until the pod is ready; refused when it was made from another plan.
    Join {
        plan: Arc<PodPlan>,
        reply: Reply<PodId>,
    },
    Stop {
        reply: Reply<()>,
    },
    Remove {
        reply: Reply<()>,
    },
    Create {
        plan: Arc<ContainerPlan>,
        reply: Reply<ContainerId>,
    },
    Start {
        container: ContainerId,
        reply: Reply<()>,
    },
    StopContainer {
        container: ContainerId,
        grace: Duration,
        reply: Reply<()>,
    },
    RemoveContainer {
        container: ContainerId,
        reply: Reply<()>,
    },
    Exec {
        container: ContainerId,
        argv: Vec<Vec<u8>>,
        timeout: Option<Duration>,
        reply: Reply<ExecOutput>,
    },
    ReopenLog {
        container: ContainerId,
        reply: Reply<()>,
    },
}

/// What a job brings back.
pub(crate) enum Finished {
    Ran(Result<run::Sandbox, run::Failed>),
    Created {
        container: ContainerId,
        result: Result<create::Container, create::Failed>,
    },
    Started {
        container: ContainerId,
        result: Result<SystemTime, Error>,
    },
    ContainerRemoved {
        container: ContainerId,
        result: Result<(), Error>,
    },
    TornDown(Result<(), Error>),
    Removed(Result<(), Error>),
    /// A job whose result went straight to whoever asked.
    Answered,
}

/// How far the pod is to go. Only ever raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Goal {
    Keep,
    Stop,
    Remove,
}

pub(crate) struct Keeper {
    home: Arc<Home>,
    record: PodRecord,
    goal: Goal,
    /// What holds the pod together; `None` before it is made and after its monitor has gone.
    sandbox: Option<Arc<run::Sandbox>>,
    news: Option<mpsc::UnboundedReceiver<News>>,
    containers: BTreeMap<ContainerId, Container>,
    jobs: JoinSet<Finished>,
    /// A job on the pod as a whole (making, tearing down, removing) runs: one at a time.
    pod_job: bool,
    joiners: Vec<Reply<PodId>>,
    stop_waiters: Vec<Reply<()>>,
    remove_waiters: Vec<Reply<()>>,
    /// Set when the pod has gone from disk and index.
    gone: bool,
}

impl Keeper {
    /// A keeper for a pod that is to be made now.
    pub(crate) fn for_new(home: Arc<Home>, record: PodRecord) -> Self {
        let mut keeper = Self::bare(home, record);
        keeper.pod_job = true;
        let (home, record) = (keeper.home.clone(), keeper.record.clone());
        keeper.jobs.spawn(async move { Finished::Ran(run::run(home, record).await) });
        keeper
    }

    /// A keeper for a pod found on disk. What `recover` could not confirm is already marked so.
    pub(crate) fn for_found(
        home: Arc<Home>,
        record: PodRecord,
        sandbox: Option<run::Sandbox>,
        containers: Vec<Container>,
    ) -> Self {
        let mut keeper = Self::bare(home, record);
        keeper.adopt(sandbox);
        keeper.containers = containers.into_iter().map(|container| (container.id.clone(), container)).collect();
        keeper.publish();
        keeper
    }

    fn bare(home: Arc<Home>, record: PodRecord) -> Self {
        Self {
            home,
            record,
            goal: Goal::Keep,
            sandbox: None,
            news: None,
            containers: BTreeMap::new(),
            jobs: JoinSet::new(),
            pod_job: false,
            joiners: Vec::new(),
            stop_waiters: Vec::new(),
            remove_waiters: Vec::new(),
            gone: false,
        }
    }

    fn adopt(&mut self, sandbox: Option<run::Sandbox>) {
        if let Some(mut sandbox) = sandbox {
            self.news = sandbox.news.take();
            self.sandbox = Some(Arc::new(sandbox));
        }
    }

    /// Keeps the pod until it is removed or the daemon goes away.
    pub(crate) async fn keep(mut self, mut inbox: mpsc::Receiver<Command>) {
        self.advance();
        while !self.gone {
            let alarm = self.containers.values_mut().filter_map(|kept| kept.stop()).map(|stop| stop.alarm()).min();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.take(command),
                    None => return,
                },
                Some(finished) = self.jobs.join_next() => match finished {
                    Ok(finished) => self.finished(finished),
                    Err(error) => tracing::error!(pod = %self.record.id, %error, "a job ended without a result"),
                },
                news = next(&mut self.news) => self.hear(news),
                () = until(alarm) => {}
            }
            self.advance();
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Join { plan, reply } => self.join(&plan, reply),
            Command::Stop { reply } => {
                self.stop_waiters.push(reply);
                self.raise(Goal::Stop);
            }
            Command::Remove { reply } => {
                self.remove_waiters.push(reply);
                self.raise(Goal::Remove);
            }
            Command::Create { plan, reply } => self.create(plan, reply),
            Command::Start { container, reply } => self.start(&container, reply),
            Command::StopContainer { container, grace, reply } => self.stop_container(&container, grace, reply),
            Command::RemoveContainer { container, reply } => match self.containers.get_mut(&container) {
                Some(kept) => kept.removing.get_or_insert_default().push(reply),
                // Removing what is gone is success (CRI: RemoveContainer is idempotent).
                None => answer(reply, Ok(())),
            },
            Command::Exec { container, argv, timeout, reply } => self.exec(&container, argv, timeout, reply),
            Command::ReopenLog { container, reply } => self.reopen_log(&container, reply),
        }
    }

    fn raise(&mut self, goal: Goal) {
        self.goal = self.goal.max(goal);
    }

    fn join(&mut self, plan: &PodPlan, reply: Reply<PodId>) {
        if plan != &*self.record.plan {
            let taken = Error::NameTaken { name: plan.name_key(), id: self.record.id.to_string() };
            answer(reply, Err(taken));
        } else if self.goal > Goal::Keep || self.record.stage > PodStage::Ready {
            answer(reply, Err(self.wrong_phase("ready")));
        } else if self.record.stage == PodStage::Ready {
            answer(reply, Ok(self.record.id.clone()));
        } else {
            self.joiners.push(reply);
        }
    }

    fn create(&mut self, plan: Arc<ContainerPlan>, reply: Reply<ContainerId>) {
        let sandbox = match &self.sandbox {
            Some(sandbox) if self.is_ready() => sandbox.clone(),
            _ => return answer(reply, Err(self.wrong_phase("ready"))),
        };
        let name = plan.name_key();
        let same_name = self.containers.values_mut().find(|kept| kept.plan.name_key() == name);
        if let Some(kept) = same_name {
            let same = *kept.plan == *plan && kept.removing.is_none();
            match &mut kept.making {
                Making::Going(waiters) if same => waiters.push(reply),
                Making::Done { phase: Phase::Created, .. } if same => answer(reply, Ok(kept.id.clone())),
                _ => answer(reply, Err(Error::NameTaken { name, id: kept.id.to_string() })),
            }
            return;
        }
        let id = ContainerId::from_random(self.home.random());
        let created_at = SystemTime::now();
        let kept = Container::new(id.clone(), plan.clone(), created_at, Making::Going(vec![reply]));
        self.containers.insert(id.clone(), kept);
        let home = self.home.clone();
        let target = match &plan.security.pid {
            model::ContainerPid::Target(target) => {
                self.containers.keys().find(|id| id.as_str().starts_with(target.as_str())).cloned()
            }
            _ => None,
        };
        self.jobs.spawn(async move {
            let result =
                create::create(home, sandbox, create::Request { id: id.clone(), plan, created_at, target }).await;
            Finished::Created { container: id, result }
        });
    }

    fn start(&mut self, id: &ContainerId, reply: Reply<()>) {
        let ready = self.is_ready();
        let wrong_pod = self.wrong_phase("ready");
        let Some(kept) = self.containers.get_mut(id) else {
            return answer(reply, Err(Error::NoContainer { id: id.to_string() }));
        };
        let sandbox = match (&kept.making, &self.sandbox) {
            (Making::Done { phase: Phase::Created, .. }, Some(sandbox)) if ready && kept.removing.is_none() => {
                sandbox.clone()
            }
            (Making::Done { phase: Phase::Created, .. }, _) if kept.removing.is_none() => {
                return answer(reply, Err(wrong_pod));
            }
            _ => {
                let phase = kept.phase_name();
                return answer(
                    reply,
                    Err(Error::WrongPhase { what: "container", id: id.to_string(), phase, wanted: "created" }),
                );
            }
        };
        if let Some(waiters) = &mut kept.starting {
            return waiters.push(reply);
        }
        kept.starting = Some(vec![reply]);
        let (home, id) = (self.home.clone(), id.clone());
        self.jobs.spawn(async move {
            let monitor = sandbox.monitor.clone();
            let work = async {
                monitor.start(&id).await.map_err(|error| match error {
                    link::Error::Refused { .. } => {
                        Error::StartFailed { container: id.short().to_owned(), why: error.to_string() }
                    }
                    _ => Error::MonitorGone { pod: sandbox.id.to_string() },
                })
            };
            let result = home.steps.pass(Step::StartExec, work).await;
            Finished::Started { container: id, result }
        });
    }

    fn stop_container(&mut self, id: &ContainerId, grace: Duration, reply: Reply<()>) {
        match self.containers.get_mut(id) {
            Some(kept)
                if matches!(kept.phase(), Some(Phase::Running { .. } | Phase::Unsettled { .. }))
                    || kept.starting.is_some() =>
            {
                kept.stop_within(grace, Instant::now(), Some(reply));
            }
            // What does not run is stopped (CRI: StopContainer is idempotent).
            _ => answer(reply, Ok(())),
        }
    }

    fn exec(&mut self, id: &ContainerId, argv: Vec<Vec<u8>>, timeout: Option<Duration>, reply: Reply<ExecOutput>) {
        match self.running(id) {
            Ok((sandbox, made)) => {
                let (home, id) = (self.home.clone(), id.clone());
                self.jobs.spawn(async move {
                    answer(reply, exec::exec_sync(&home, &sandbox, &id, &made, argv, timeout).await);
                    Finished::Answered
                });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn reopen_log(&mut self, id: &ContainerId, reply: Reply<()>) {
        match self.running(id) {
            Ok((sandbox, made)) => {
                let (home, id) = (self.home.clone(), id.clone());
                let Some(plan) = self.containers.get(&id).map(|kept| kept.plan.clone()) else { return };
                self.jobs.spawn(async move {
                    answer(reply, log_file::reopen(&home, &sandbox, &id, &made, &plan).await);
                    Finished::Answered
                });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn running(&self, id: &ContainerId) -> Result<(Arc<run::Sandbox>, Made), Error> {
        let kept = self.containers.get(id).ok_or_else(|| Error::NoContainer { id: id.to_string() })?;
        match (&kept.making, &self.sandbox) {
            (Making::Done { phase: Phase::Running { .. }, made, .. }, Some(sandbox)) => {
                Ok((sandbox.clone(), made.clone()))
            }
            _ => Err(Error::WrongPhase {
                what: "container",
                id: id.to_string(),
                phase: kept.phase_name(),
                wanted: "running",
            }),
        }
    }

    fn finished(&mut self, finished: Finished) {
        match finished {
            Finished::Ran(result) => self.ran(result),
            Finished::Created { container, result } => self.created(&container, result),
            Finished::Started { container, result } => self.started(&container, result),
            Finished::ContainerRemoved { container, result } => self.container_removed(&container, result),
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

    fn hear(&mut self, news: News) {
        match news {
            News::Exited { container, record } => match self.containers.get_mut(&container) {
                Some(kept) if kept.starting.is_some() => kept.early_exit = Some(record),
                Some(kept) if kept.is_alive() => self.happen(&container, Event::Ended(record)),
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
            tracing::error!(pod = %self.record.id, monitor = self.record.monitor_pid, "the pod's monitor died");
            self.record.stage = PodStage::Stopping;
            self.record.trouble = Some("its monitor died; its containers were ended with it".to_owned());
            self.save();
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
        self.save_phase(id);
        self.publish();
        waiters.into_iter().flatten().for_each(|reply| answer(reply, Ok(())));
        if ended {
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

    fn container_removed(&mut self, id: &ContainerId, result: Result<(), Error>) {
        let Some(kept) = self.containers.get_mut(id) else { return };
        kept.removal_runs = false;
        let waiters = kept.removing.take().unwrap_or_default();
        if result.is_ok() {
            self.containers.remove(id);
            self.publish();
        }
        waiters.into_iter().for_each(|reply| answer(reply, result.clone()));
    }

    fn torn_down(&mut self, result: Result<(), Error>) {
        self.pod_job = false;
        match &result {
            Ok(()) => {
                self.record.stage = PodStage::Stopped;
                self.record.trouble = None;
                self.record.monitor_pid = None;
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
        self.save();
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

    /// Starts whatever what is wanted still needs. Safe to call at any time, any number of times.
    fn advance(&mut self) {
        if self.gone {
            return;
        }
        self.advance_containers();
        if self.pod_job {
            return;
        }
        match self.record.stage {
            PodStage::Making => {}
            PodStage::Ready | PodStage::Stopping if self.goal >= Goal::Stop => self.advance_stop(),
            PodStage::Stopped => {
                self.stop_waiters.drain(..).for_each(|reply| answer(reply, Ok(())));
                if self.goal == Goal::Remove {
                    self.advance_remove();
                }
            }
            PodStage::Ready | PodStage::Stopping => {}
        }
    }

    fn advance_containers(&mut self) {
        let now = Instant::now();
        let mut acts = Vec::new();
        for kept in self.containers.values_mut() {
            if kept.removing.is_some() && kept.is_alive() && matches!(kept.making, Making::Done { .. }) {
                kept.stop_within(Duration::ZERO, now, None);
            }
            match kept.stop().map(|stop| stop.act(now)) {
                None | Some(Act::Nothing) => {}
                Some(act) => acts.push((kept.id.clone(), act)),
            }
        }
        for (id, act) in acts {
            self.signal(&id, act);
        }
        let removable: Vec<_> = self
            .containers
            .values_mut()
            .filter(|kept| kept.removing.is_some() && !kept.removal_runs && !kept.is_alive())
            .map(|kept| {
                kept.removal_runs = true;
                let made = match &kept.making {
                    Making::Done { made, .. } => Some(made.clone()),
                    _ => None,
                };
                (kept.id.clone(), made)
            })
            .collect();
        for (id, made) in removable {
            let home = self.home.clone();
            let sandbox = self.sandbox.clone();
            let cgroup = self.record.cgroup.clone();
            self.jobs.spawn(async move {
                let result = remove::container(&home, sandbox.as_deref(), cgroup.as_ref(), &id, made).await;
                Finished::ContainerRemoved { container: id, result }
            });
        }
    }

    fn signal(&mut self, id: &ContainerId, act: Act) {
        let Some(Container { making: Making::Done { made, .. }, .. }) = self.containers.get(id) else { return };
        let Some(sandbox) = self.sandbox.clone() else { return };
        let signal = made.launch.stop_signal;
        let (home, id, kill) = (self.home.clone(), id.clone(), act == Act::Kill);
        self.jobs.spawn(async move {
            stop_pod::signal(&home, &sandbox.monitor, &id, (!kill).then_some(signal)).await;
            Finished::Answered
        });
    }

    fn advance_stop(&mut self) {
        if self.record.stage == PodStage::Ready {
            self.record.stage = PodStage::Stopping;
            self.save();
            self.publish();
        }
        let now = Instant::now();
        let mut alive = false;
        for kept in self.containers.values_mut().filter(|kept| kept.is_alive()) {
            alive = true;
            if matches!(kept.making, Making::Done { .. }) && kept.stopping.is_none() {
                kept.stop_within(Duration::ZERO, now, None);
            }
        }
        if alive {
            return self.advance_containers();
        }
        self.pod_job = true;
        let (home, record, sandbox) = (self.home.clone(), self.record.clone(), self.sandbox.clone());
        self.jobs
            .spawn(async move { Finished::TornDown(stop_pod::tear_down(&home, &record, sandbox.as_deref()).await) });
    }

    fn advance_remove(&mut self) {
        if !self.containers.is_empty() {
            let mut more = false;
            for kept in self.containers.values_mut() {
                more |= kept.removing.is_none();
                kept.removing.get_or_insert_default();
            }
            if more {
                self.advance_containers();
            }
            return;
        }
        self.pod_job = true;
        let (home, record) = (self.home.clone(), self.record.clone());
        self.jobs.spawn(async move { Finished::Removed(remove::pod(&home, &record).await) });
    }

    fn is_ready(&self) -> bool {
        self.record.stage == PodStage::Ready && self.goal == Goal::Keep && self.sandbox.is_some()
    }

    fn wrong_phase(&self, wanted: &'static str) -> Error {
        let phase = match self.record.stage {
            PodStage::Making => "being created",
            PodStage::Ready if self.goal == Goal::Keep => "without its monitor",
            PodStage::Ready | PodStage::Stopping => "stopping",
            PodStage::Stopped => "stopped",
        };
        Error::WrongPhase { what: "pod sandbox", id: self.record.id.to_string(), phase, wanted }
    }

    /// Writes the pod's record. A full disk must not keep a pod from stopping: the kernel's truth does not need it.
    fn save(&self) {
        let (records, record) = (&self.home.records, &self.record);
        if let Err(error) = blocking(|| records.pods.put(record.id.as_str(), record)) {
            tracing::warn!(pod = %record.id, %error, "write the pod's record");
        }
        self.home.flusher.soon(records.pods.path(record.id.as_str()));
    }

    fn save_phase(&self, id: &ContainerId) {
        let Some(phase) = self.containers.get(id).and_then(Container::phase) else { return };
        let (records, phase) = (&self.home.records, crate::record::PhaseRecord { phase: phase.clone() });
        if let Err(error) = blocking(|| records.phases.put(id.as_str(), &phase)) {
            tracing::warn!(container = %id, %error, "write the container's phase");
        }
        self.home.flusher.soon(records.phases.path(id.as_str()));
    }

    fn publish(&self) {
        let record = &self.record;
        let mut containers: Vec<_> = self.containers.values().filter_map(|kept| kept.view(&record.id)).collect();
        containers.sort_by_key(|container| container.created_at);
        self.home.index.publish(Arc::new(PodView {
            id: record.id.clone(),
            plan: record.plan.clone(),
            created_at: record.created_at,
            ready: record.stage == PodStage::Ready && self.sandbox.is_some(),
            ips: record.attachment.as_ref().map(|attachment| attachment.ips.clone()).unwrap_or_default(),
            netns: record.netns.clone(),
            monitor_pid: record.monitor_pid,
            init_pid: record.init_pid,
            containers,
            trouble: record.trouble.clone(),
        }));
    }
}

/// Tells whoever asked. They may have given up meanwhile, which is theirs to do.
pub(crate) fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    let _ = reply.send(result);
}

/// Short file work that must stay in order with what the keeper does next. A stuck disk then holds this keeper only.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// The next news; never, when there is no monitor.
async fn next(news: &mut Option<mpsc::UnboundedReceiver<News>>) -> News {
    match news {
        Some(receiver) => receiver.recv().await.unwrap_or(News::Lost),
        None => future::pending().await,
    }
}

async fn until(alarm: Option<Instant>) {
    match alarm {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => future::pending().await,
    }
}
