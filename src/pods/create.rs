//! Creates a container: the steps from an accepted plan to a process that waits just before exec.
//!
//! Steps, in order: image and its lease, intent; side by side writable layer with overlay and volumes, and cgroup with
//! log; then launch plan, limits and descriptors, clone, record. Each hands its undo to [`Undo`]; a crash at any point
//! is finished by `recover`.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use engine::{Accounts, Backend, PlanInput, Surroundings};
use model::{ContainerId, ContainerPlan, ImageFacts};
use tokio::sync::Notify;

use crate::{
    error::Error,
    home::Home,
    log_file, pod_files,
    record::{ContainerRecord, Made},
    remove,
    run::Sandbox,
    start,
    step::Step,
    undo::Undo,
    view::ImageNames,
    volume,
};

/// What is to be made.
pub(crate) struct Request {
    pub(crate) id: ContainerId,
    pub(crate) plan: Arc<ContainerPlan>,
    pub(crate) created_at: SystemTime,
    /// The container whose processes this one joins, where the plan names one.
    pub(crate) target: Option<Target>,
    /// Told when the pod is to end.
    pub(crate) given_up: Arc<Notify>,
}

/// A container whose processes another one joins.
pub(crate) struct Target {
    pub(crate) id: ContainerId,
    pub(crate) pid: Option<i32>,
}

/// A container that was made.
pub(crate) struct Container {
    pub(crate) made: Made,
    pub(crate) waiting_pid: i32,
    pub(crate) lease: images::Lease,
}

/// A container that could not be made.
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// What could not be taken back; `None` when nothing is left.
    pub(crate) remains: Option<String>,
}

/// Makes a container in `sandbox`. On failure everything is taken back, or named.
pub(crate) async fn create(home: Arc<Home>, sandbox: Arc<Sandbox>, request: Request) -> Result<Container, Failed> {
    if let Err(error) = home.room_for_more() {
        return Err(Failed { error, remains: None });
    }
    let mut undo = Undo::new();
    match steps(&home, &sandbox, &request, &mut undo).await {
        Ok(container) => {
            undo.keep();
            Ok(container)
        }
        Err(error) => {
            let remains = undo.take_back().await;
            for (step, why) in &remains {
                tracing::warn!(container = %request.id, %step, %why, "take back a container that could not be made");
            }
            Err(Failed { error, remains: remains.first().map(|(step, why)| format!("{step}: {why}")) })
        }
    }
}

async fn steps(
    home: &Arc<Home>,
    sandbox: &Arc<Sandbox>,
    request: &Request,
    undo: &mut Undo,
) -> Result<Container, Error> {
    let steps = &home.steps;
    let Request { id, plan, created_at, target, given_up } = request;
    let backend = home.handlers.backend(&sandbox.plan.runtime_handler);
    let backend = Arc::new(backend.map_err(|e| Error::at(Step::CreatePlan, e.class(), e))?);

    let leased = steps.pass(Step::CreateImage, async {
        home.images.lease(&plan.image.image).map_err(|e| Error::at(Step::CreateImage, e.class(), e))
    });
    let leased = leased.await?;

    let mut record = ContainerRecord {
        id: id.clone(),
        pod: sandbox.id.clone(),
        plan: plan.clone(),
        created_at: *created_at,
        boot: home.boot.clone(),
        made: None,
    };
    undo.push(Step::CreateIntent, {
        let (home, id) = (home.clone(), id.clone());
        async move { home.steps.pass(Step::RemoveRecord, home.forget_container(&id)).await }
    });
    steps.pass(Step::CreateIntent, home.save_container(&record)).await?;

    undo.push(Step::CreateRootfs, {
        let (home, id) = (home.clone(), id.clone());
        async move { home.steps.pass(Step::RemoveRootfs, remove::container_dir(&home, &id)).await }
    });
    undo.push(Step::CreateCgroup, {
        let (home, sandbox, id) = (home.clone(), sandbox.clone(), id.clone());
        async move {
            let Some(pod) = &sandbox.record.cgroup else { return Ok(()) };
            home.steps.pass(Step::ExitCgroup, remove::unplanned_cgroup(&home, pod, &id)).await
        }
    });
    // Side by side, since neither needs the other.
    let root = {
        let (own, id, plan) = (home.clone(), id.clone(), plan.clone());
        let (layers, facts) = (leased.layers.clone(), leased.facts.clone());
        home.blocking(move || make_root(&own, &id, &plan, &layers, &facts))
    };
    let beside = {
        let (own, sandbox, id, plan) = (home.clone(), sandbox.clone(), id.clone(), plan.clone());
        home.blocking(move || make_beside(&own, &sandbox, &id, &plan))
    };
    let (root, beside) = tokio::join!(root, beside);
    let log_path = log_file::path(&sandbox.plan, plan);
    let log = beside.map(|opened| {
        let log_file::Opened { file, made } = opened?;
        if let Some(made) = made {
            let (home, path) = (home.clone(), log_path.clone().unwrap_or_default());
            undo.push(Step::CreateLog, async move {
                let taken_back = home.blocking(move || made.take_back()).await;
                taken_back.map_err(|error| Error::file("remove the log", path, error))
            });
        }
        Some(file)
    });
    let ((rootfs, volumes), log) = (root?, log?);

    let joined = target.as_ref().and_then(|target| target.pid);
    let (launch, prepared) = {
        let (own, sandbox, id, plan) = (home.clone(), sandbox.clone(), id.clone(), plan.clone());
        let (target, facts) = (target.as_ref().map(|target| target.id.clone()), leased.facts.clone());
        let backend = backend.clone();
        // It reads the image's accounts and the host's devices, and may compile a filter.
        let prepare = move || {
            let launch = own.steps.pass_now(Step::CreatePlan, || {
                let planned = Accounts::read(rootfs.root()).and_then(|accounts| {
                    own.engine.plan(&PlanInput {
                        pod: &sandbox.plan,
                        pod_id: &sandbox.id,
                        pod_cgroup: sandbox.record.cgroup.as_ref().map_or("", |cgroup| &cgroup.path),
                        hostname: &pod_files::hostname(&sandbox.plan, &sandbox.id),
                        pod_files: &sandbox.files,
                        container: &plan,
                        container_id: &id,
                        pid_target: target.as_ref(),
                        image: &facts,
                        accounts: &accounts,
                        volumes: &volumes,
                    })
                });
                planned.map(Arc::new).map_err(|e| Error::at(Step::CreatePlan, e.class(), e))
            })?;
            let prepared = own.steps.pass_now(Step::CreatePrepare, || {
                let prepared = match &*backend {
                    Backend::Native => own.engine.prepare(&launch, rootfs, log),
                    Backend::Oci(program) => {
                        let (record, bundle) = (&sandbox.record, own.bundle_dir(&id));
                        let around = Surroundings {
                            bundle: &bundle,
                            program,
                            netns: record.netns.as_deref(),
                            monitor: record.monitor.map_or(0, |process| process.pid),
                            shared_pid: if target.is_some() { joined } else { record.init_pid },
                        };
                        own.engine.prepare_bundle(&launch, rootfs, log, &around)
                    }
                };
                prepared.map_err(|e| Error::at(Step::CreatePrepare, e.class(), e))
            })?;
            Ok::<_, Error>((launch, prepared))
        };
        home.blocking(prepare).await?
    };

    undo.push(Step::CreateLaunch, {
        let (home, monitor, id) = (home.clone(), sandbox.monitor.clone(), id.clone());
        async move { home.steps.pass(Step::RemoveForget, remove::forget(&monitor, &id)).await }
    });
    let waiting_pid = steps.pass(Step::CreateLaunch, async {
        tokio::select! {
            sent = prepared.send(&sandbox.monitor) => match sent {
                Ok(pid) => Ok(pid),
                Err(error) => {
                    let error = start::lacked_memory(home, &launch).await.unwrap_or(error);
                    Err(Error::at(Step::CreateLaunch, error.class(), error))
                }
            },
            // What is at work by then ends when the monitor is told to forget the container.
            () = given_up.notified() => Err(Error::Gone { id: sandbox.id.to_string() }),
        }
    });
    let waiting_pid = waiting_pid.await?;

    let image = ImageNames {
        id: leased.image.id.clone(),
        tag: leased.image.tags.first().cloned(),
        digest: leased.image.digests.first().cloned(),
    };
    let made = Made { image, launch, backend, log_path };
    record.made = Some(made.clone());
    steps.pass(Step::CreateDone, home.save_container(&record)).await?;
    Ok(Container { made, waiting_pid, lease: leased.lease })
}

/// The writable layer and the overlay, and the image's volumes. Blocks.
fn make_root(
    home: &Home,
    id: &ContainerId,
    plan: &ContainerPlan,
    layers: &[PathBuf],
    image: &ImageFacts,
) -> Result<(engine::Rootfs, Vec<engine::Volume>), Error> {
    let dir = home.container_dir(id);
    let rootfs = home.steps.pass_now(Step::CreateRootfs, || {
        std::fs::create_dir(&dir).map_err(|error| Error::file("make the container's directory", &dir, error))?;
        home.engine.rootfs(&dir, layers, true).map_err(|e| Error::at(Step::CreateRootfs, e.class(), e))
    })?;
    let volumes = home.steps.pass_now(Step::CreateVolumes, || volume::make(home, id, plan, image, &rootfs))?;
    Ok((rootfs, volumes))
}

/// What a container needs that its image has no part in: the log, and its cgroup, still without limits. Blocks.
fn make_beside(
    home: &Home,
    sandbox: &Sandbox,
    id: &ContainerId,
    plan: &ContainerPlan,
) -> Result<Option<log_file::Opened>, Error> {
    home.steps.pass_now(Step::CreateCgroup, || match &sandbox.record.cgroup {
        Some(pod) => home
            .engine
            .make_container_cgroup(pod, id)
            .map_err(|error| Error::at(Step::CreateCgroup, error.class(), error)),
        None => Ok(()),
    })?;
    home.steps.pass_now(Step::CreateLog, || match (&sandbox.plan.log_directory, &plan.log_path) {
        (Some(directory), Some(path)) => log_file::open(&home.fresh_logs, directory, path).map(Some),
        _ => Ok(None),
    })
}
