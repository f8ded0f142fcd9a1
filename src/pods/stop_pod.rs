//! Stops a pod sandbox: what comes after its last process has ended.
//!
//! Steps, in order: addresses given back, monitor ended, network namespace dropped, cgroup removed, record.
//! Every step is safe to repeat, so a stop that failed or was cut short is finished by the next one.

use std::sync::Arc;

use link::Monitor;
use model::{ContainerId, PodId, Signal};

use crate::{error::Error, home::Home, record::PodRecord, run::Sandbox, step::Step};

/// Takes down what holds the pod together. Nothing of it runs any more when this is called.
pub(crate) async fn tear_down(home: &Arc<Home>, record: &PodRecord, sandbox: Option<&Sandbox>) -> Result<(), Error> {
    let steps = &home.steps;
    if let Some(sandbox) = sandbox {
        steps.pass(Step::StopPodMonitor, end_monitor(&sandbox.monitor)).await?;
    }
    if record.plan.namespaces.network == model::NetworkMode::Pod {
        steps.pass(Step::StopPodDetach, detach(home, &record.id, record.attachment.as_ref())).await?;
        steps.pass(Step::StopPodNetns, drop_netns(home, &record.id)).await?;
    }
    if let Some(cgroup) = &record.cgroup {
        steps.pass(Step::StopPodCgroup, remove_cgroup(home, &record.id, cgroup.clone())).await?;
    }
    Ok(())
}

/// Gives the pod's addresses back.
pub(crate) async fn detach(home: &Home, id: &PodId, attachment: Option<&network::Attachment>) -> Result<(), Error> {
    home.network.detach(id, attachment).await.map_err(|error| Error::at(Step::StopPodDetach, error.class(), error))
}

/// Drops the pod's network namespace; the kernel takes its links down in its own time.
pub(crate) async fn drop_netns(home: &Home, id: &PodId) -> Result<(), Error> {
    let path = home.network.netns_path(id);
    home.network.drop_netns(&path).await.map_err(|error| Error::at(Step::StopPodNetns, error.class(), error))
}

/// Ends the monitor; one that is gone already has ended.
pub(crate) async fn end_monitor(monitor: &Monitor) -> Result<(), Error> {
    match monitor.end_pod().await {
        Ok(()) => Ok(()),
        Err(error) if error.is_lost() => Ok(()),
        Err(error) => Err(Error::at(Step::StopPodMonitor, error.class(), error)),
    }
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

/// Sends a container's first process `polite`, or SIGKILL to all of it. A monitor that does not answer tells its keeper
/// so on its own way; a process that is gone needs no signal.
pub(crate) async fn signal(home: &Home, monitor: &Monitor, id: &ContainerId, polite: Option<Signal>) {
    let work = async {
        let sent = match polite {
            Some(signal) => monitor.kill(id, signal, link::Whole::First).await,
            None => monitor.kill(id, Signal::KILL, link::Whole::Every).await,
        };
        sent.map_err(|error| Error::at(Step::StopSignal, error.class(), error))
    };
    if let Err(error) = home.steps.pass(Step::StopSignal, work).await {
        tracing::debug!(container = %id, %error, "signal");
    }
}
