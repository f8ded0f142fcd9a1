//! Stops a pod sandbox: what comes after its last process has ended.
//!
//! Steps, in order: monitor ended; side by side addresses given back and then the network namespace dropped, and cgroup
//! removed; record. Every step is safe to repeat, so a stop that failed or was cut short is finished by the next one.

use std::sync::Arc;

use link::Monitor;
use model::{ContainerId, PodId, Signal};

use crate::{
    error::Error,
    home::Home,
    monitor_process::{self, Found, MonitorProcess},
    record::PodRecord,
    run::Sandbox,
    step::Step,
};

/// Takes down what holds the pod together. Nothing of it runs any more when this is called.
pub(crate) async fn tear_down(home: &Arc<Home>, record: &PodRecord, sandbox: Option<&Sandbox>) -> Result<(), Error> {
    let steps = &home.steps;
    let monitor = sandbox.map(|sandbox| &sandbox.monitor);
    steps.pass(Step::StopPodMonitor, end_monitor(home, &record.id, monitor, record.monitor)).await?;
    let has_network = record.plan.namespaces.network == model::NetworkMode::Pod;
    let left = async {
        if !has_network {
            return Ok(());
        }
        // Plugins find what they have made by the namespace.
        steps.pass(Step::StopPodDetach, detach(home, record)).await?;
        steps.pass(Step::StopPodNetns, drop_netns(home, &record.id)).await
    };
    let removed = async {
        let Some(cgroup) = &record.cgroup else { return Ok(()) };
        steps.pass(Step::StopPodCgroup, remove_cgroup(home, &record.id, cgroup.clone())).await
    };
    // What one of them leaves for the next stop keeps none of the others.
    let (left, removed) = tokio::join!(left, removed);
    left.and(removed)
}

/// Gives the pod's addresses back.
pub(crate) async fn detach(home: &Home, record: &PodRecord) -> Result<(), Error> {
    let request = network::Request::from(&*record.plan);
    let left = home.network.detach(&record.id, &record.choice, &request, record.attachment.as_deref()).await;
    left.map_err(|error| Error::at(Step::StopPodDetach, error.class(), error))
}

/// The same for a start, which waits for no plugin.
pub(crate) async fn detach_at_start(home: &Home, record: &PodRecord) -> Result<(), Error> {
    let request = network::Request::from(&*record.plan);
    let left = home.network.detach_at_start(&record.id, &record.choice, &request, record.attachment.as_deref()).await;
    left.map_err(|error| Error::at(Step::StopPodDetach, error.class(), error))
}

/// Drops the pod's network namespace; the kernel takes its links down in its own time.
pub(crate) async fn drop_netns(home: &Home, id: &PodId) -> Result<(), Error> {
    let path = home.network.netns_path(id);
    home.network.drop_netns(&path).await.map_err(|error| Error::at(Step::StopPodNetns, error.class(), error))
}

/// Ends the monitor of a pod without containers that live: by asking, where it can be asked; else, and when it does not
/// answer, by force. One that is gone already has ended.
pub(crate) async fn end_monitor(
    home: &Home,
    id: &PodId,
    monitor: Option<&Monitor>,
    process: Option<MonitorProcess>,
) -> Result<(), Error> {
    if let Some(monitor) = monitor {
        match monitor.end_pod().await {
            Ok(()) => return Ok(()),
            // It may be on its way out, with its answer lost: there is nothing to report, and nothing to wait for.
            Err(error) if error.is_lost() => {
                return monitor_process::end(process, &home.pod_dir(id)).await.map(|_| ());
            }
            Err(error) if error.is_silent() => {}
            // It holds a container whose record cannot be read, which nobody else can end.
            Err(error) => tracing::warn!(pod = %id, %error, "a monitor does not end when told to"),
        }
    }
    end_by_force(home, id, process).await.map(|_| ())
}

/// Kills the monitor of a pod, if it lives, and with it every container of the pod.
pub(crate) async fn end_by_force(home: &Home, id: &PodId, process: Option<MonitorProcess>) -> Result<Found, Error> {
    let found = monitor_process::end(process, &home.pod_dir(id)).await?;
    if found == Found::Alive {
        tracing::error!(pod = %id, "the pod's monitor did not answer: it is killed, and its containers with it");
    }
    Ok(found)
}

/// Removes the cgroups of the pod and of its init.
pub(crate) async fn remove_cgroup(home: &Arc<Home>, id: &PodId, cgroup: engine::PodCgroup) -> Result<(), Error> {
    let (engine, id) = (home.engine.clone(), id.clone());
    home.blocking(move || {
        engine.remove_pod_init(&cgroup, &id)?;
        engine.remove_pod_cgroup(&cgroup)
    })
    .await
    .map_err(|error: engine::Error| Error::at(Step::StopPodCgroup, error.class(), error))
}

/// A signal that did not arrive.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Unsent {
    pub(crate) obstacle: Obstacle,
    /// As whoever waits for the stop hears it.
    pub(crate) error: Error,
}

/// What a signal met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The connection has ended; the signal may have been sent.
    Lost,
    /// The monitor lives and does not answer.
    Silence,
    /// The monitor could not send it.
    Refusal,
}

/// Sends a container's first process `polite`, or SIGKILL to all of it. A process that is gone needs no signal.
pub(crate) async fn signal(
    home: &Home,
    monitor: &Monitor,
    id: &ContainerId,
    polite: Option<Signal>,
) -> Result<(), Unsent> {
    let mut obstacle = Obstacle::Refusal;
    let work = async {
        let sent = match polite {
            Some(signal) => monitor.kill(id, signal, link::Whole::First).await,
            None => monitor.kill(id, Signal::KILL, link::Whole::Every).await,
        };
        sent.map_err(|error| {
            obstacle = match &error {
                error if error.is_lost() => Obstacle::Lost,
                error if error.is_silent() => Obstacle::Silence,
                _ => Obstacle::Refusal,
            };
            Error::at(Step::StopSignal, error.class(), error)
        })
    };
    home.steps.pass(Step::StopSignal, work).await.map_err(|error| Unsent { obstacle, error })
}
