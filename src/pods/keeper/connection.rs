//! The connection to a pod's monitor: when it is lost it is made again, and every container is settled from what the
//! monitor says then.
//!
//! Connections are lost for smaller reasons than a death: the daemon did not read for too long, the kernel had no
//! memory for a message, somebody else connected. None of them is a reason to end a pod. Only a monitor that has ended
//! is given up, or one that stands still, which is ended.

use std::{collections::BTreeMap, fs::File, os::fd::AsFd, sync::Arc, time::Duration};

use link::{Greeting, Monitor, News, Now, NowState};
use model::{Class, ContainerId, Event, Phase, PodId};
use tokio::sync::mpsc;

use super::{Finished, Keeper};
use crate::{container::Making, home::Home, monitor_process::MonitorProcess, run::Sandbox, stop_pod};

/// What is waited for before each try. A monitor that lives needs none of it; later ones are for a machine that is too
/// busy for a while.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// What is waited for at least when descriptors or memory are lacking.
const LACKING: Duration = Duration::from_millis(500);

/// A conversation that has just begun.
pub(crate) struct Connection {
    monitor: Monitor,
    greeting: Greeting,
    news: mpsc::UnboundedReceiver<News>,
}

impl Keeper {
    /// Whether the monitor can be asked now.
    pub(super) fn is_connected(&self) -> bool {
        self.news.is_some()
    }

    /// The connection has ended: another one is made, or the monitor is gone.
    pub(super) fn lose_connection(&mut self) {
        self.news = None;
        let (home, id, process) = (self.home.clone(), self.record.id.clone(), self.record.monitor);
        self.jobs.spawn(async move { Finished::Reconnected(connect_again(&home, &id, process).await.map(Box::new)) });
    }

    pub(super) fn reconnected(&mut self, connection: Option<Box<Connection>>) {
        let Some(connection) = connection else { return self.lose_monitor() };
        // Torn down meanwhile: there is nothing left to keep.
        let Some(sandbox) = &self.sandbox else { return };
        let Connection { monitor, greeting, news } = *connection;
        tracing::warn!(pod = %self.record.id, "the connection to the pod's monitor was lost, and is made again");
        self.sandbox = Some(Arc::new(Sandbox {
            id: sandbox.id.clone(),
            plan: sandbox.plan.clone(),
            record: sandbox.record.clone(),
            monitor,
            news: None,
            files: sandbox.files.clone(),
        }));
        self.news = Some(news);
        if self.record.init_pid.is_some() && greeting.init_pid.is_none() {
            self.lose_init();
        }
        let mut now: BTreeMap<_, _> = greeting.containers.into_iter().map(|Now { id, state }| (id, state)).collect();
        let ours: Vec<_> = self.containers.keys().cloned().collect();
        for id in ours {
            let state = now.remove(&id);
            self.settle(&id, state);
        }
        // What nobody can name and still runs was given up while it was being made, and is killed by whoever gave it
        // up.
        let ended = now.into_iter().filter(|(_, state)| matches!(state, NowState::Exited { .. }));
        ended.for_each(|(id, _)| self.drop_unknown(id));
        self.publish();
    }

    /// What a container has become while nobody told us.
    fn settle(&mut self, id: &ContainerId, now: Option<NowState>) {
        let Some(kept) = self.containers.get_mut(id) else { return };
        if let (Making::Going(_), Some(NowState::Exited { record, .. })) = (&kept.making, &now) {
            kept.early_exit = Some(record.clone());
        }
        let has_begun = match kept.phase() {
            Some(Phase::Created) => false,
            Some(Phase::Running { .. } | Phase::Unsettled { .. }) => true,
            Some(Phase::Exited { .. }) | None => return,
        };
        match now {
            Some(NowState::Waiting { .. }) => {}
            Some(NowState::Running { since, .. }) if !has_begun => self.begin(id, since),
            Some(NowState::Running { .. }) => {}
            Some(NowState::Exited { started, record }) => {
                if let (false, Some(at)) = (has_begun, started) {
                    self.begin(id, at);
                }
                self.happen(id, Event::Ended(record));
            }
            None => self.end_unseen(id, "the pod's monitor does not know it any more"),
        }
    }
}

/// Connects again; `None` when the monitor has ended, if need be by force.
async fn connect_again(home: &Home, id: &PodId, process: Option<MonitorProcess>) -> Option<Connection> {
    let mut pauses = PAUSES.into_iter();
    let mut next = pauses.next();
    let mut is_told = false;
    while let Some(pause) = next {
        if process.is_some_and(MonitorProcess::has_ended) {
            return None;
        }
        tokio::time::sleep(pause).await;
        match connect(home, id).await {
            Ok(connection) => return Some(connection),
            // It is us who lack something, which says nothing about the monitor.
            Err(error) if error.class() == Class::Exhausted => {
                // Once: it may go on for hours, for every pod of the node, and that it is over is told too.
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(pod = %id, %error, "the pod's monitor cannot be reached for now");
                }
                tracing::debug!(pod = %id, %error, "the pod's monitor is tried again");
                next = Some(pause.max(LACKING));
            }
            Err(error) => {
                tracing::debug!(pod = %id, %error, "connect to the monitor again");
                next = pauses.next();
            }
        }
    }
    if let Err(error) = stop_pod::end_by_force(home, id, process).await {
        tracing::error!(pod = %id, %error, "kill a monitor that cannot be talked to");
    }
    None
}

async fn connect(home: &Home, id: &PodId) -> link::Result<Connection> {
    let dir = File::open(home.pod_dir(id)).map_err(|source| link::Error::Connect { who: "monitor", source })?;
    let (monitor, greeting, news) = Monitor::connect(dir.as_fd()).await?;
    Ok(Connection { monitor, greeting, news })
}
