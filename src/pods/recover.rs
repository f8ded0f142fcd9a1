//! At start: finds every pod and container again, and finishes what a crash cut short.
//!
//! Truth is the kernel plus the records. For each pod record of this boot its monitor is asked what is true; of an
//! earlier boot nothing runs any more. What was being made is taken back. One bad record, one dead monitor, one stuck
//! removal never keeps the daemon from starting.

mod scan;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::fd::AsFd,
    path::Path,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, future::join_all, stream};
use link::{Monitor, News, Now, NowState, RecordedExit, Whole};
use model::{Class, ContainerId, Event, Exit, ExitRecord, Phase, PodId, Signal};
use network::{Choice, Living, Request};
use tokio::sync::mpsc;

use crate::{
    Pods,
    container::{Container, Making},
    error::Error,
    home::Home,
    index::Reserved,
    keeper::{Keeper, MAILBOX},
    monitor_process::{Found, MonitorProcess},
    pod_files, program,
    record::{ContainerRecord, Made, PhaseRecord, PodRecord, PodStage},
    remove,
    run::Sandbox,
    step::Step,
    stop_pod,
};
use scan::scan;

/// How long processes that nobody knows may take to die before the start goes on without them.
const EVICTION: Duration = Duration::from_secs(5);

/// How many objects that nobody knows are cleared away at a time.
const CLEARED_AT_ONCE: usize = 16;

/// How long clearing away may hold up the start. What is not gone by then goes on in the background, or is found by the
/// next start.
const CLEARING: Duration = Duration::from_secs(10);

/// Brings every pod back under a keeper.
///
/// A pod or container whose record cannot be read is known all the same, and nothing of it is touched: its record may
/// be a newer release's, the disk may have failed to give it this once, and even a damaged one is no reason to end what
/// runs, which could not be undone. The log names it at each start. Whoever takes the record away (out of
/// `quarantine/`) gives up what it stood for: the next start clears that away.
pub(crate) async fn recover(pods: &Pods) -> Result<(), Error> {
    let home = &pods.home;
    let mut found_containers = scan(&home.records.containers, "container")?;
    let found_pods = scan(&home.records.pods, "pod")?;
    let found_phases = scan(&home.records.phases, "phase")?;
    let mut phases: BTreeMap<String, PhaseRecord> = found_phases.good.into_iter().collect();
    let images_known = !found_containers.unread.iter().any(|name| name.parse::<ContainerId>().is_ok());
    // What a damaged phase said, the other witnesses may still know. One that still lies in its place, as a newer
    // release's does, would be lost with the next that is written.
    for record in found_containers.give_up(&found_phases.in_place) {
        if let Some(made) = &record.made {
            home.keep_image(&made.image.id);
        }
    }
    // Set once: there is one start.
    let _ = home.unread_containers.set(found_containers.unread.clone());
    if !images_known {
        // Nobody can say which image it uses.
        home.images.list().iter().for_each(|image| home.keep_image(&image.id));
    }
    let known_containers = found_containers.known();
    let known_pods = found_pods.known();

    let mut containers: BTreeMap<PodId, Vec<ContainerRecord>> = BTreeMap::new();
    let mut orphans = Vec::new();
    for (_, record) in found_containers.good {
        if found_pods.unread.contains(record.pod.as_str()) {
            phases.remove(record.id.as_str());
            if let Some(made) = &record.made {
                home.keep_image(&made.image.id);
            }
        } else if known_pods.contains(record.pod.as_str()) {
            containers.entry(record.pod.clone()).or_default().push(record);
        } else {
            phases.remove(record.id.as_str());
            orphans.push(record);
        }
    }
    let mut found = Vec::new();
    for (_, record) in found_pods.good {
        let of_pod = containers.remove(&record.id).unwrap_or_default();
        let with_phase = of_pod.into_iter().map(|container| {
            let phase = phases.remove(container.id.as_str());
            (container, phase)
        });
        found.push((record, with_phase.collect::<Vec<_>>()));
    }
    for orphan in phases.into_keys().filter(|name| !found_containers.unread.contains(name)) {
        if let Err(error) = home.records.phases.remove(&orphan) {
            tracing::warn!(container = orphan, %error, "remove the phase of a container that is gone");
        }
    }

    let unread = &found_containers.unread;
    let kept = join_all(found.into_iter().map(|(record, containers)| one(pods, record, containers, unread))).await;
    let kept = kept.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut live: Vec<_> = kept.into_iter().flatten().collect();
    let found_again = live.len();
    let unread_pods = found_pods.unread.iter().filter_map(|name| {
        // Of a record that cannot be read nothing is known but whose it is: nothing of it is touched.
        Some(Living {
            pod: name.parse().ok()?,
            choice: Choice::default(),
            request: Request::default(),
            attachment: None,
        })
    });
    live.extend(unread_pods);
    if let Err(error) = home.network.reconcile(live).await {
        tracing::warn!(%error, "give back what dead pods left in the network");
    }
    let clearing = clear(home, orphans, &known_pods, &known_containers);
    if tokio::time::timeout(CLEARING, clearing).await.is_err() {
        tracing::warn!("what has no record is not all cleared away: the next start goes on");
    }
    home.images.recovered().await;
    tracing::info!(pods = found_again, "pods found again");
    Ok(())
}

/// Settles one pod. Answers it with its addresses when it is to live on in the network. Fails where it cannot be told
/// whether its monitor lives, for want of descriptors or memory: then nothing of it is touched, and there is no start.
async fn one(
    pods: &Pods,
    mut record: PodRecord,
    containers: Vec<(ContainerRecord, Option<PhaseRecord>)>,
    unread: &BTreeSet<String>,
) -> Result<Option<Living>, Error> {
    let home = &pods.home;
    let this_boot = record.boot == home.boot;
    if record.stage == PodStage::Making {
        match take_back(home, &record).await {
            Ok(()) => return Ok(None),
            Err(error) => {
                tracing::warn!(pod = %record.id, %error, "take back a pod whose making was cut short");
                record.stage = PodStage::Stopping;
                record.trouble = Some(error.to_string());
            }
        }
    }
    let may_live = this_boot && record.stage != PodStage::Stopped;
    let mut why = "the machine restarted";
    if !this_boot {
        // What they named has gone, and somebody else may have the names by now.
        (record.monitor, record.init_pid, record.netns) = (None, None, None);
    }
    let link = if may_live { connect(home, &record.id).await? } else { None };
    if may_live && link.is_none() {
        why = match stop_pod::end_by_force(home, &record.id, record.monitor).await {
            Ok(found) => {
                (record.monitor, record.init_pid) = (None, None);
                match found {
                    Found::Dead => "its monitor died while the daemon was away",
                    Found::Alive => "its monitor did not answer and was killed",
                }
            }
            Err(error) => {
                // The next stop tries again.
                tracing::error!(pod = %record.id, %error, "kill a monitor that does not answer");
                "its monitor does not answer and could not be killed"
            }
        };
    }
    let (sandbox, now) = match link {
        Some((monitor, greeting, news)) => {
            let now: BTreeMap<ContainerId, NowState> =
                greeting.containers.into_iter().map(|Now { id, state }| (id, state)).collect();
            // The record of an earlier release does not name it.
            record.monitor = record.monitor.or_else(|| MonitorProcess::of(greeting.pid));
            if record.init_pid.is_some() && greeting.init_pid.is_none() {
                tracing::error!(pod = %record.id, "the pod's init has ended");
                record.lose_init();
            }
            if greeting.program != home.launcher.program().name {
                pods.keepers.spawn(program::renew(home.clone(), record.id.clone(), monitor.clone()));
            }
            let files = pod_files::paths(&home.pod_dir(&record.id));
            let sandbox = Sandbox {
                id: record.id.clone(),
                plan: record.plan.clone(),
                record: record.clone(),
                monitor,
                news: Some(news),
                files,
            };
            (Some(sandbox), now)
        }
        None => (None, BTreeMap::new()),
    };
    if sandbox.is_none() && record.stage == PodStage::Ready {
        record.stage = PodStage::Stopping;
        record.trouble = Some(why.to_owned());
    }

    if let Some(sandbox) = &sandbox {
        let known: BTreeSet<_> = containers.iter().map(|(container, _)| &container.id).collect();
        for id in now.keys().filter(|id| !known.contains(id) && !unread.contains(id.as_str())) {
            // Nobody can name it any more. The keeper forgets it when it has died.
            tracing::error!(container = %id, pod = %record.id, "a container without a record is killed");
            if let Err(error) = stop_pod::signal(home, &sandbox.monitor, id, None).await {
                tracing::error!(container = %id, pod = %record.id, %error, "kill a container without a record");
            }
        }
    }

    let settled = containers.into_iter().map(async |(container, phase)| match container.made.clone() {
        Some(made) => Some(settle(home, container, made, phase, &now, this_boot).await),
        None => take_back_container(home, sandbox.as_ref(), &record, container).await,
    });
    let kept: Vec<Container> = join_all(settled).await.into_iter().flatten().collect();
    let id = record.id.clone();
    // One that is stopping may have given its addresses back already, and they may be another's by now.
    let attachment = record.attachment.as_deref().cloned().filter(|_| record.stage == PodStage::Ready);
    let in_network = (record.stage != PodStage::Stopped).then(|| Living {
        pod: id.clone(),
        choice: record.choice.clone(),
        request: Request::from(&*record.plan),
        attachment,
    });
    let (mailbox, inbox) = mpsc::channel(MAILBOX);
    if let Reserved::Taken(other) = home.index.reserve(&record.plan.metadata, &id, mailbox.clone()) {
        // Two records of one name: a bug or a restored backup. Both are kept, so that both can be removed.
        tracing::error!(pod = %id, %other, name = %record.plan.metadata, "two pods have one name");
        home.index.insert_unnamed(&id, mailbox);
    }
    pods.keep(Keeper::for_found(home.clone(), record, sandbox, kept), inbox);
    Ok(in_network)
}

/// What a pod's monitor has to say.
type Talk = (Monitor, link::Greeting, mpsc::UnboundedReceiver<News>);

/// The monitor of a pod that was set up; `None` when it is dead or does not answer.
async fn connect(home: &Arc<Home>, id: &PodId) -> Result<Option<Talk>, Error> {
    match connect_any(home, id).await {
        Ok((_, greeting, _)) if !greeting.set_up => Ok(None),
        Ok(found) => Ok(Some(found)),
        Err(error) if error.class() == Class::Exhausted => Err(Error::at(Step::RunMonitor, Class::Exhausted, error)),
        Err(error) => {
            tracing::warn!(pod = %id, %error, "the pod's monitor does not answer");
            Ok(None)
        }
    }
}

/// What a container is now, from three witnesses: its monitor, the exit record it may have left, our own phase record.
async fn settle(
    home: &Arc<Home>,
    record: ContainerRecord,
    made: Made,
    phase: Option<PhaseRecord>,
    now: &BTreeMap<ContainerId, NowState>,
    this_boot: bool,
) -> Container {
    let recorded = phase.map_or(Phase::Created, |record| record.phase);
    let mut waiting_pid = 0;
    let (phase, changed) = if let Phase::Exited { .. } = recorded {
        (recorded, false)
    } else {
        let started = match &recorded {
            Phase::Running { since, .. } => Some(*since),
            _ => None,
        };
        let (started, event) = match now.get(&record.id) {
            Some(NowState::Waiting { pid }) => {
                waiting_pid = *pid;
                (None, Event::FoundCreated)
            }
            Some(NowState::Running { pid, since }) => (started, Event::FoundRunning { pid: *pid, since: *since }),
            Some(NowState::Exited { started: seen, record }) => (seen.or(started), Event::Ended(record.clone())),
            None => {
                let (seen, exit) = left_behind(home, &record, this_boot);
                (seen.or(started), Event::Ended(exit))
            }
        };
        let settled = Phase::Unsettled { started }.after(event).unwrap_or(Phase::Unsettled { started });
        let changed = settled != recorded;
        (settled, changed)
    };
    if let Phase::Exited { .. } = &phase {
        // Whatever of it is left is nobody's any more.
        let (engine, launch) = (home.engine.clone(), made.launch.clone());
        let id = record.id.clone();
        let cleared = home.blocking(move || engine.remove_cgroup(&launch));
        if let Err(error) = cleared.await {
            tracing::warn!(container = %id, %error, "remove the cgroup of a container that has ended");
        }
    }
    if changed && let Err(error) = home.records.phases.put(record.id.as_str(), &PhaseRecord { phase: phase.clone() }) {
        tracing::warn!(container = %record.id, %error, "write the container's phase");
    }
    let lease = match home.images.lease_by_id(&made.image.id) {
        Ok(leased) => Some(leased.lease),
        Err(error) => {
            tracing::warn!(container = %record.id, image = %made.image.id, %error, "the container's image is gone");
            None
        }
    };
    let making = Making::Done { made, phase, waiting_pid, _lease: lease };
    Container::new(record.id, record.plan, record.created_at, making)
}

/// How a container ended that no monitor speaks for.
fn left_behind(home: &Home, record: &ContainerRecord, this_boot: bool) -> (Option<SystemTime>, ExitRecord) {
    let unknown =
        |why: &str| ExitRecord { how: Exit::Unknown { why: why.to_owned() }, at: SystemTime::now(), oom_killed: false };
    if !this_boot {
        return (None, unknown("the machine restarted"));
    }
    match home.recorded_exit(&record.pod, &record.id) {
        Some(RecordedExit { started, record, .. }) => (started, record),
        None => (None, unknown("the pod's monitor died while the daemon was away")),
    }
}

/// Takes back a pod whose making was cut short.
async fn take_back(home: &Arc<Home>, record: &PodRecord) -> Result<(), Error> {
    let steps = &home.steps;
    if record.boot == home.boot {
        let ended = async {
            match connect_any(home, &record.id).await {
                Ok((monitor, ..)) => stop_pod::end_monitor(home, &record.id, Some(&monitor), record.monitor).await,
                Err(_) => stop_pod::end_by_force(home, &record.id, record.monitor).await.map(|_| ()),
            }
        };
        steps.pass(Step::StopPodMonitor, ended).await?;
    }
    if record.plan.namespaces.network == model::NetworkMode::Pod {
        steps.pass(Step::StopPodDetach, stop_pod::detach_at_start(home, record)).await?;
        steps.pass(Step::StopPodNetns, stop_pod::drop_netns(home, &record.id)).await?;
    }
    if let Some(cgroup) = &record.cgroup {
        steps.pass(Step::StopPodCgroup, stop_pod::remove_cgroup(home, &record.id, cgroup.clone())).await?;
    }
    remove::pod(home, record).await
}

/// Takes back a container whose making was cut short. Answers what is left of it where that fails.
async fn take_back_container(
    home: &Arc<Home>,
    sandbox: Option<&Sandbox>,
    pod: &PodRecord,
    container: ContainerRecord,
) -> Option<Container> {
    let error = remove::container(home, sandbox, pod.cgroup.as_ref(), &container.id, None).await.err()?;
    tracing::warn!(container = %container.id, %error, "take back a container whose making was cut short");
    let mut broken = Container::new(container.id, container.plan, container.created_at, Making::Failed);
    broken.removing = Some(Vec::new());
    Some(broken)
}

/// A monitor in any state, even one that was never set up.
async fn connect_any(home: &Arc<Home>, id: &PodId) -> link::Result<Talk> {
    let dir = File::open(home.pod_dir(id)).map_err(|source| link::Error::Connect { who: "monitor", source })?;
    Monitor::connect(dir.as_fd()).await
}

/// Clears away what no record knows: containers of pods that are gone, directories and cgroups of neither.
async fn clear(
    home: &Arc<Home>,
    orphans: Vec<ContainerRecord>,
    pods: &BTreeSet<String>,
    containers: &BTreeSet<String>,
) {
    // Found before any is waited for: what is made from now on has a record.
    let directories = unknown_ids::<PodId>(&home.state.join("pods"), pods);
    stream::iter(directories).for_each_concurrent(CLEARED_AT_ONCE, async |id| sweep_pod(home, &id).await).await;
    stream::iter(orphans).for_each_concurrent(CLEARED_AT_ONCE, async |orphan| clear_orphan(home, &orphan).await).await;
    let of_containers = [home.root.join("containers"), home.bundles()];
    for id in of_containers.iter().flat_map(|dir| unknown_ids::<ContainerId>(dir, containers)) {
        if let Err(error) = remove::container_dir(home, &id).await {
            tracing::warn!(container = %id, %error, "remove a directory without a container");
        }
    }
    sweep_cgroups(home, pods).await;
}

/// A container whose pod is not known any more.
async fn clear_orphan(home: &Arc<Home>, record: &ContainerRecord) {
    tracing::warn!(container = %record.id, pod = %record.pod, "a container without its pod is removed");
    let cleared = async {
        if let Some(made) = &record.made {
            remove::cgroup(home, made.launch.clone()).await?;
        }
        remove::container_dir(home, &record.id).await?;
        home.forget_container(&record.id).await
    };
    if let Err(error) = cleared.await {
        tracing::error!(container = %record.id, %error, "remove a container without its pod");
    }
}

/// The directory of a pod that no record knows, with the monitor that may live in it.
async fn sweep_pod(home: &Arc<Home>, id: &PodId) {
    let ended = match connect_any(home, id).await {
        Ok((monitor, greeting, news)) => {
            tracing::warn!(pod = %id, "a monitor without a pod is ended");
            match evict(home, id, &monitor, greeting, news).await {
                Ok(()) => Ok(()),
                Err(error) => {
                    tracing::warn!(pod = %id, %error, "a monitor without a pod does not end when told to");
                    stop_pod::end_by_force(home, id, None).await.map(|_| ())
                }
            }
        }
        Err(_) => stop_pod::end_by_force(home, id, None).await.map(|_| ()),
    };
    if let Err(error) = ended {
        // Its directory stays, so that the next start finds it again.
        tracing::error!(pod = %id, %error, "end a monitor without a pod");
    } else if let Err(error) = home.remove_pod_dir(id).await {
        tracing::warn!(pod = %id, %error, "remove a directory without a pod");
    }
}

/// Ends a monitor and all it holds.
async fn evict(
    home: &Home,
    id: &PodId,
    monitor: &Monitor,
    greeting: link::Greeting,
    mut news: mpsc::UnboundedReceiver<News>,
) -> Result<(), Error> {
    let lives = |now: &Now| !matches!(now.state, NowState::Exited { .. });
    let mut alive: BTreeSet<_> = greeting.containers.into_iter().filter(lives).map(|now| now.id).collect();
    for container in &alive {
        let killed = monitor.kill(container, Signal::KILL, Whole::Every).await;
        killed.map_err(|error| Error::at(Step::StopSignal, error.class(), error))?;
    }
    let ended = async {
        while !alive.is_empty() {
            match news.recv().await {
                Some(News::Exited { container, .. }) => {
                    alive.remove(&container);
                }
                Some(News::Lost) | None => return,
                Some(_) => {}
            }
        }
    };
    // One that does not die now is stuck in the kernel; the next start tries again.
    let _ = tokio::time::timeout(EVICTION, ended).await;
    stop_pod::end_monitor(home, id, Some(monitor), None).await
}

/// cgroups of this instance that no record knows, with whatever lives in them.
async fn sweep_cgroups(home: &Arc<Home>, known: &BTreeSet<String>) {
    let pods = match home.engine.pods(&home.root) {
        Ok(pods) => pods,
        Err(error) => return tracing::warn!(%error, "list the cgroups of pods"),
    };
    let unknown = pods.into_iter().filter(|id| !known.contains(id.as_str()));
    let remove = async |id: PodId| {
        let (engine, pod) = (home.engine.clone(), id.clone());
        match home.blocking(move || engine.remove_unknown_pod(&pod)).await {
            Ok(()) => tracing::warn!(pod = %id, "the cgroup of a pod without a record is removed"),
            Err(error) => tracing::warn!(pod = %id, %error, "remove the cgroup of a pod without a record"),
        }
    };
    stream::iter(unknown).for_each_concurrent(CLEARED_AT_ONCE, remove).await;
}

/// The entries of `dir` that are ids and not among the `known`.
fn unknown_ids<Id: FromStr>(dir: &Path, known: &BTreeSet<String>) -> Vec<Id> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !known.contains(name)).filter_map(|name| name.parse().ok()).collect()
}
