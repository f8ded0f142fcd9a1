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
use model::{ContainerId, ContainerPlan, PodId, PodPlan};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    container::Container,
    create,
    error::Error,
    exec::ExecOutput,
    home::Home,
    record::{PhaseRecord, PodRecord, PodStage},
    run,
    step::Step,
    stop::Act,
    stop_pod::Unsent,
    view::PodView,
};

mod advance;
mod command;
mod connection;
mod outcome;
mod stuck;

use connection::Connection;

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
    Ran(Box<Result<run::Sandbox, run::Failed>>),
    Created {
        container: ContainerId,
        result: Result<create::Container, create::Failed>,
    },
    Started {
        container: ContainerId,
        result: Result<SystemTime, Error>,
    },
    /// What became of a signal.
    Signalled {
        container: ContainerId,
        act: Act,
        result: Result<(), Unsent>,
    },
    ContainerRemoved {
        container: ContainerId,
        result: Result<(), Error>,
    },
    /// The lost connection to the monitor was made again; `None`: it is dead.
    Reconnected(Option<Box<Connection>>),
    /// A monitor that did not answer was killed; its end is told as news.
    MonitorEnded(Result<(), Error>),
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
    /// `None` beside a sandbox: the connection to the monitor was lost, and is being made again.
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
    /// A keeper for a pod that is to be made now. Who asked for it is known from the start: what fails at once is told
    /// too.
    pub(crate) fn for_new(home: Arc<Home>, record: PodRecord, asker: Reply<PodId>) -> Self {
        let mut keeper = Self::bare(home, record);
        keeper.joiners.push(asker);
        keeper.pod_job = true;
        let (home, record) = (keeper.home.clone(), keeper.record.clone());
        keeper.jobs.spawn(async move { Finished::Ran(Box::new(run::run(home, record).await)) });
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
            let alarm = self.alarm();
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

    /// When a stop has to be looked at again. Without a connection nobody can be signalled.
    fn alarm(&mut self) -> Option<Instant> {
        if !self.is_connected() {
            return None;
        }
        self.containers.values_mut().filter_map(|kept| kept.stop()?.alarm()).min()
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
    fn save(&self, step: Step) {
        let (home, record) = (&self.home, &self.record);
        if let Err(error) = home.steps.pass_now(step, || blocking(|| home.put_pod(record))) {
            tracing::warn!(pod = %record.id, %error, "write the pod's record");
        }
    }

    /// Writes a container's phase. Answers whether it is on disk: until then its other witnesses must stay.
    fn save_phase(&self, id: &ContainerId, step: Step) -> bool {
        let Some(phase) = self.containers.get(id).and_then(Container::phase) else { return false };
        let (home, phase) = (&self.home, PhaseRecord { phase: phase.clone() });
        let saved = home.steps.pass_now(step, || blocking(|| home.put_phase(id, &phase)));
        if let Err(error) = &saved {
            tracing::warn!(container = %id, %error, "write the container's phase");
        }
        saved.is_ok()
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
            attachment: record.attachment.clone(),
            choice: record.choice.clone(),
            netns: record.netns.clone(),
            monitor_pid: record.monitor.map(|process| process.pid),
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
