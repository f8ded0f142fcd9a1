//! Removes containers and pods: what a container borrowed after its exit, then all that is left of it.
//!
//! Every step is safe to repeat; a removal that failed leaves the object listed, and the next one goes on.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use engine::{LaunchPlan, PodCgroup};
use link::Monitor;
use model::ContainerId;

use crate::{
    error::Error,
    home::Home,
    record::{Made, PodRecord},
    run::Sandbox,
    step::Step,
};

/// After an exit has been written down: the monitor forgets the container and its cgroup goes. What fails here is done
/// again by the removal.
pub(crate) async fn clear_away(home: &Arc<Home>, monitor: Option<&Monitor>, id: &ContainerId, launch: Arc<LaunchPlan>) {
    if let Some(monitor) = monitor
        && let Err(error) = home.steps.pass(Step::RemoveForget, forget(monitor, id)).await
    {
        tracing::warn!(container = %id, %error, "the monitor keeps a container that has ended");
    }
    if let Err(error) = home.steps.pass(Step::ExitCgroup, cgroup(home, launch)).await {
        tracing::warn!(container = %id, %error, "remove the cgroup of a container that has ended");
    }
}

/// Removes an ended container.
pub(crate) async fn container(
    home: &Arc<Home>,
    sandbox: Option<&Sandbox>,
    pod_cgroup: Option<&PodCgroup>,
    id: &ContainerId,
    made: Option<Made>,
) -> Result<(), Error> {
    let steps = &home.steps;
    if let Some(sandbox) = sandbox {
        steps.pass(Step::RemoveForget, forget(&sandbox.monitor, id)).await?;
    }
    match (made, pod_cgroup) {
        (Some(made), _) => steps.pass(Step::ExitCgroup, cgroup(home, made.launch)).await?,
        (None, Some(pod)) => steps.pass(Step::ExitCgroup, unplanned_cgroup(home, pod, id)).await?,
        (None, None) => {}
    }
    steps.pass(Step::RemoveRootfs, container_dir(home, id)).await?;
    steps.pass(Step::RemoveRecord, home.forget_container(id)).await
}

/// Removes a stopped pod that has no containers.
pub(crate) async fn pod(home: &Arc<Home>, record: &PodRecord) -> Result<(), Error> {
    home.steps.pass(Step::RemovePodFiles, home.remove_pod_dir(&record.id)).await?;
    home.steps.pass(Step::RemovePodRecord, home.forget_pod(&record.id)).await
}

/// Has the monitor drop a container; one it does not know is dropped already, and so is everything of a dead monitor.
pub(crate) async fn forget(monitor: &Monitor, id: &ContainerId) -> Result<(), Error> {
    match monitor.forget(id).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_lost() => Ok(()),
        Err(error) => Err(Error::at(Step::RemoveForget, error.class(), error)),
    }
}

/// Removes a container's cgroup.
pub(crate) async fn cgroup(home: &Arc<Home>, launch: Arc<LaunchPlan>) -> Result<(), Error> {
    let engine = home.engine.clone();
    home.blocking(move || engine.remove_cgroup(&launch))
        .await
        .map_err(|error| Error::at(Step::ExitCgroup, error.class(), error))
}

/// Removes the cgroup of a container whose launch plan is not known.
pub(crate) async fn unplanned_cgroup(home: &Arc<Home>, pod: &PodCgroup, id: &ContainerId) -> Result<(), Error> {
    let (engine, pod, id) = (home.engine.clone(), pod.clone(), id.clone());
    let removed = home.blocking(move || engine.remove_container_cgroup(&pod, &id)).await;
    removed.map_err(|error| Error::at(Step::ExitCgroup, error.class(), error))
}

/// Deletes a container's writable layer and volumes: out of sight at once, from the disk when nobody else wants it.
/// And its bundle, where another runtime ran it.
pub(crate) async fn container_dir(home: &Arc<Home>, id: &ContainerId) -> Result<(), Error> {
    let (dir, bundle, trash) = (home.container_dir(id), home.bundle_dir(id), home.trash());
    home.blocking(move || {
        match std::fs::remove_dir_all(&bundle) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::file("delete", bundle, error)),
            _ => {}
        }
        discard(&dir, &trash)
    })
    .await?;
    home.trash_bin.wake();
    Ok(())
}

/// Moves `dir` into the trash: a rename takes the same time for one file and for a million.
fn discard(dir: &Path, trash: &Path) -> Result<(), Error> {
    let name = dir.file_name().unwrap_or_default();
    let target: PathBuf = trash.join(name);
    match std::fs::rename(dir, &target) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            // No room for the new name, or one left from before: delete in place, which needs no room at all.
            match std::fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("delete", dir, error)),
                _ => Ok(()),
            }
        }
    }
}
