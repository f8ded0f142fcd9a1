//! One container as its pod's keeper holds it: what is true, what is wanted, and who waits for it.
//!
//! Synchronous and without I/O: the keeper does what these methods ask for, so every rule here is tested without a
//! runtime.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use model::{ContainerId, ContainerPlan, Event, ExitRecord, Phase, PodId, Refused};
use tokio::sync::Notify;

use crate::{
    keeper::Reply,
    record::Made,
    stop::Stop,
    view::{ContainerView, Encoded},
};

/// How far the making of a container has come.
pub(crate) enum Making {
    /// A job is making it; these wait for its id.
    Going(Vec<Reply<ContainerId>>),
    /// It exists.
    Done {
        made: Made,
        phase: Phase,
        /// The process that waits for its start.
        waiting_pid: i32,
        /// Keeps the image's layers while the container may use them.
        _lease: Option<images::Lease>,
    },
    /// Making it failed and could not be taken back whole; only a removal is left.
    Failed,
}

/// A start under way, and who waits for it.
pub(crate) struct Starting {
    pub(crate) waiters: Vec<Reply<()>>,
    /// The monitor has been asked, and has not yet answered.
    pub(crate) asked: bool,
}

/// A stop under way, and who waits for its end.
pub(crate) struct Stopping {
    pub(crate) stop: Stop,
    pub(crate) waiters: Vec<Reply<()>>,
}

pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) plan: Arc<ContainerPlan>,
    pub(crate) created_at: SystemTime,
    pub(crate) making: Making,
    /// Tells the job that makes it that its pod is to end, so that it waits for no monitor and no other runtime.
    pub(crate) give_up: Arc<Notify>,
    pub(crate) starting: Option<Starting>,
    /// An exit that overtook the news of its making or its start.
    pub(crate) early_exit: Option<ExitRecord>,
    pub(crate) stopping: Option<Stopping>,
    /// Those who wait for the removal; a removal is wanted as soon as this is `Some`.
    pub(crate) removing: Option<Vec<Reply<()>>>,
    /// A job works on its removal.
    pub(crate) removal_runs: bool,
    /// Why it has not ended though it was to, for people.
    pub(crate) trouble: Option<String>,
}

impl Container {
    /// A container whose making begins now.
    pub(crate) fn new(id: ContainerId, plan: Arc<ContainerPlan>, created_at: SystemTime, making: Making) -> Self {
        Self {
            id,
            plan,
            created_at,
            making,
            give_up: Arc::default(),
            starting: None,
            early_exit: None,
            stopping: None,
            removing: None,
            removal_runs: false,
            trouble: None,
        }
    }

    pub(crate) fn phase(&self) -> Option<&Phase> {
        match &self.making {
            Making::Done { phase, .. } => Some(phase),
            _ => None,
        }
    }

    /// The name of where it is, for refusals.
    pub(crate) fn phase_name(&self) -> &'static str {
        match &self.making {
            Making::Going(_) => "being created",
            Making::Failed => "broken",
            Making::Done { .. } if self.removing.is_some() => "being removed",
            Making::Done { phase, .. } => phase.name(),
        }
    }

    /// Whether a process of it may exist.
    pub(crate) fn is_alive(&self) -> bool {
        match &self.making {
            Making::Going(_) => true,
            Making::Failed => false,
            Making::Done { phase, .. } => !matches!(phase, Phase::Exited { .. }),
        }
    }

    /// Whether a job is about to say of it what comes before its end.
    pub(crate) fn is_awaited(&self) -> bool {
        matches!(self.making, Making::Going(_)) || self.starting.as_ref().is_some_and(|starting| starting.asked)
    }

    /// The process that is its first one, while it has one.
    pub(crate) fn pid(&self) -> Option<i32> {
        match &self.making {
            Making::Done { phase: Phase::Running { pid, .. }, .. } => Some(*pid),
            Making::Done { phase: Phase::Created, waiting_pid, .. } => Some(*waiting_pid),
            _ => None,
        }
    }

    /// Moves along one arrow of the life cycle.
    pub(crate) fn take(&mut self, event: Event) -> Result<(), Refused> {
        if let Making::Done { phase, .. } = &mut self.making {
            *phase = phase.clone().after(event)?;
        }
        Ok(())
    }

    /// Wants a stop within `grace`; joins one under way.
    pub(crate) fn stop_within(&mut self, grace: Duration, now: Instant, waiter: Option<Reply<()>>) {
        let stopping =
            self.stopping.get_or_insert_with(|| Stopping { stop: Stop::within(grace, now), waiters: Vec::new() });
        stopping.stop.hasten(grace, now);
        stopping.waiters.extend(waiter);
    }

    /// The stop under way, while there is a process to stop.
    pub(crate) fn stop(&mut self) -> Option<&mut Stop> {
        let alive = self.is_alive() && matches!(self.making, Making::Done { .. });
        self.stopping.as_mut().filter(|_| alive).map(|stopping| &mut stopping.stop)
    }

    /// What readers see; `None` while it is being made.
    pub(crate) fn view(&self, pod: &PodId) -> Option<Arc<ContainerView>> {
        let Making::Done { made, phase, .. } = &self.making else { return None };
        Some(Arc::new(ContainerView {
            id: self.id.clone(),
            pod: pod.clone(),
            plan: self.plan.clone(),
            image: made.image.clone(),
            created_at: self.created_at,
            phase: phase.clone(),
            log_path: made.log_path.clone(),
            launch: made.launch.clone(),
            trouble: self.trouble.clone(),
            listed: Encoded::default(),
        }))
    }
}
