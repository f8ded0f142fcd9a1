//! Runs a pod sandbox: the steps from an accepted plan to a pod that is ready.
//!
//! Steps, in order: record the intent; side by side network namespace and addresses, and files, cgroup and monitor;
//! then the pod's other namespaces, record. Each hands its undo to [`Undo`]; a crash at any point is finished by
//! `recover`, which takes the same things back.
//! Owns: the order. Does not own: how a namespace is made (`network`), what the kubelet meant (`cri`).

use std::sync::Arc;

use link::{Monitor, News, PodSetUp};
use model::{Class, IpcMode, NetworkMode, PidMode, PodId, PodPlan};
use tokio::sync::mpsc;

use crate::{
    error::Error,
    home::Home,
    log_file, pod_files,
    record::{PodRecord, PodStage},
    step::Step,
    stop_pod,
    undo::Undo,
};

/// Size of a pod's `/dev/shm`, bytes: what every runtime of the field gives.
const SHM_BYTES: u64 = 64 << 20;

/// A pod that stands: what containers are made in.
pub(crate) struct Sandbox {
    pub(crate) id: PodId,
    pub(crate) plan: Arc<PodPlan>,
    pub(crate) record: PodRecord,
    pub(crate) monitor: Monitor,
    /// Taken by the keeper.
    pub(crate) news: Option<mpsc::UnboundedReceiver<News>>,
    pub(crate) files: engine::PodFiles,
}

/// A pod that could not be made.
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// What could not be taken back, as a record to stop and remove; `None` when nothing is left.
    pub(crate) remains: Option<Box<PodRecord>>,
}

/// Makes the pod that `record` describes. On failure everything is taken back, or named.
pub(crate) async fn run(home: Arc<Home>, record: PodRecord) -> Result<Sandbox, Failed> {
    if let Err(error) = home.room_for_more() {
        return Err(Failed { error, remains: None });
    }
    let mut undo = Undo::new();
    let mut record = record;
    match steps(&home, &mut record, &mut undo).await {
        Ok(sandbox) => {
            undo.keep();
            Ok(sandbox)
        }
        Err(error) => {
            let remains = undo.take_back().await;
            let Some((step, why)) = remains.first() else { return Err(Failed { error, remains: None }) };
            tracing::warn!(pod = %record.id, %step, %why, "a pod that could not be made could not be taken back whole");
            record.stage = PodStage::Stopping;
            record.trouble = Some(format!("{error}; taking it back: {why}"));
            Err(Failed { error, remains: Some(Box::new(record)) })
        }
    }
}

async fn steps(home: &Arc<Home>, record: &mut PodRecord, undo: &mut Undo) -> Result<Sandbox, Error> {
    let steps = &home.steps;
    let id = record.id.clone();
    let plan = record.plan.clone();

    undo.push(Step::RunIntent, {
        let (home, id) = (home.clone(), id.clone());
        async move { home.steps.pass(Step::RemovePodRecord, home.forget_pod(&id)).await }
    });
    // Named before it exists, so that a crash right after making it leaves a trace to it.
    let has_network = plan.namespaces.network == NetworkMode::Pod;
    record.netns = has_network.then(|| home.network.netns_path(&id));
    if has_network {
        let chosen = home.network.choose(&id, &network::Request::from(&*plan));
        record.choice = chosen.map_err(|error| Error::at(Step::RunIntent, error.class(), error))?;
    }
    let cgroup = {
        let (own, record) = (home.clone(), record.clone());
        home.blocking(move || intend(&own, record)).await?
    };
    record.cgroup = Some(cgroup.clone());

    if has_network {
        undo.push(Step::RunNetns, {
            let (home, id) = (home.clone(), id.clone());
            async move { home.steps.pass(Step::StopPodNetns, stop_pod::drop_netns(&home, &id)).await }
        });
        undo.push(Step::RunAttach, {
            let (home, record) = (home.clone(), record.clone());
            async move { home.steps.pass(Step::StopPodDetach, stop_pod::detach(&home, &record)).await }
        });
    }
    undo.push(Step::RunFiles, {
        let (home, id) = (home.clone(), id.clone());
        async move { home.steps.pass(Step::RemovePodFiles, home.remove_pod_dir(&id)).await }
    });
    undo.push(Step::RunCgroup, {
        let (home, id, cgroup) = (home.clone(), id.clone(), cgroup.clone());
        async move { home.steps.pass(Step::StopPodCgroup, stop_pod::remove_cgroup(&home, &id, cgroup)).await }
    });
    // Side by side, since neither needs the other.
    let choice = &record.choice;
    let wired = async { if has_network { wire(home, &id, &plan, choice).await.map(Some) } else { Ok(None) } };
    let watched = async {
        let files = {
            let (own, id, plan, cgroup) = (home.clone(), id.clone(), plan.clone(), cgroup.clone());
            home.blocking(move || make_files(&own, &id, &plan, &cgroup)).await?
        };
        Ok::<_, Error>((files, steps.pass(Step::RunMonitor, home.spawn_monitor(&id)).await?))
    };
    let (wired, watched) = tokio::join!(wired, watched);
    let watched = watched.map(|(files, (monitor, process, news))| {
        record.monitor = process;
        undo.push(Step::RunMonitor, {
            let (home, id, monitor) = (home.clone(), id.clone(), monitor.clone());
            async move {
                let ended = stop_pod::end_monitor(&home, &id, Some(&monitor), process);
                home.steps.pass(Step::StopPodMonitor, ended).await
            }
        });
        (files, monitor, news)
    });
    let netns = wired?.map(|(netns, attachment)| {
        record.attachment = Some(attachment.into());
        netns
    });
    let (files, monitor, news) = watched?;

    let ready = steps.pass(Step::RunSetUp, async {
        let order = set_up(home, &id, &plan, netns.as_ref(), &cgroup).await?;
        monitor.set_up_pod(order).await.map_err(|e| Error::at(Step::RunSetUp, e.class(), e))
    });
    record.init_pid = ready.await?.init_pid;

    record.stage = PodStage::Ready;
    steps.pass(Step::RunReady, home.save_pod(record)).await?;
    Ok(Sandbox { id, plan, record: record.clone(), monitor, news: Some(news), files })
}

/// Writes down that the pod is being made, and where its cgroup will be. Blocks.
fn intend(home: &Home, mut record: PodRecord) -> Result<engine::PodCgroup, Error> {
    // Named before it exists, too. Only now can it be told whether the kubelet had made its parent cgroup.
    let placed = home.engine.pod_cgroup(&record.plan, &record.id);
    let cgroup = placed.map_err(|e| Error::at(Step::RunIntent, e.class(), e))?;
    record.cgroup = Some(cgroup.clone());
    home.steps.pass_now(Step::RunIntent, || home.put_pod(&record))?;
    Ok(cgroup)
}

/// The pod's directory with its files, and its cgroup. Blocks.
fn make_files(home: &Home, id: &PodId, plan: &PodPlan, cgroup: &engine::PodCgroup) -> Result<engine::PodFiles, Error> {
    let files = home.steps.pass_now(Step::RunFiles, || {
        if let Some(directory) = &plan.log_directory {
            log_file::make_directory(directory)?;
        }
        pod_files::write(home, id, plan)
    })?;
    home.steps.pass_now(Step::RunCgroup, || {
        let made = home.engine.make_pod_cgroup(cgroup, &home.root);
        made.map_err(|e| Error::at(Step::RunCgroup, e.class(), e))
    })?;
    Ok(files)
}

/// A network namespace with an interface and addresses in it.
async fn wire(
    home: &Arc<Home>,
    id: &PodId,
    plan: &PodPlan,
    choice: &network::Choice,
) -> Result<(network::Netns, network::Attachment), Error> {
    let made = home.steps.pass(Step::RunNetns, async {
        home.network.make_netns(id).await.map_err(|e| Error::at(Step::RunNetns, e.class(), e))
    });
    let netns = made.await.inspect_err(|_| home.network.never_attached(id))?;
    let attached = home.steps.pass(Step::RunAttach, async {
        let request = network::Request::from(plan);
        home.network.attach(id, &netns, choice, &request).await.map_err(|e| Error::at(Step::RunAttach, e.class(), e))
    });
    let attachment = attached.await?;
    Ok((netns, attachment))
}

/// What the monitor needs to make the pod's namespaces.
async fn set_up(
    home: &Arc<Home>,
    id: &PodId,
    plan: &Arc<PodPlan>,
    netns: Option<&network::Netns>,
    cgroup: &engine::PodCgroup,
) -> Result<PodSetUp, Error> {
    let at = |class: Class, error: Box<dyn std::error::Error + Send + Sync>| Error::at(Step::RunSetUp, class, error);
    let shared_pid = plan.namespaces.pid == PidMode::Pod;
    let init = if shared_pid {
        let (engine, plan, cgroup, id) = (home.engine.clone(), plan.clone(), cgroup.clone(), id.clone());
        Some(home.blocking(move || engine.pod_init(&plan, &cgroup, &id)).await.map_err(|e| at(e.class(), e.into()))?)
    } else {
        None
    };
    let records = home.pod_dir(id);
    let records = std::fs::File::open(&records).map_err(|e| Error::file("open", records, e))?;
    let netns = match netns {
        Some(netns) => Some(netns.fd.try_clone().map_err(|e| Error::file("duplicate", &netns.path, e))?),
        None => None,
    };
    let (init_cgroup_tasks, init_cgroup_dir, init_seccomp) =
        init.map_or_else(Default::default, |init| (init.cgroup_tasks, init.cgroup_dir, init.seccomp));
    Ok(PodSetUp {
        hostname: pod_files::hostname(plan, id),
        // A pod on the host's network has the host's name too, as with every runtime of the field.
        host_uts: plan.namespaces.network == NetworkMode::Host,
        host_ipc: plan.namespaces.ipc == IpcMode::Host,
        shared_pid,
        netns,
        sysctls: home.engine.pod_sysctls(plan).map_err(|e| at(e.class(), e.into()))?,
        shm_bytes: SHM_BYTES,
        records: records.into(),
        init_cgroup_tasks,
        init_cgroup_dir,
        init_seccomp,
    })
}
