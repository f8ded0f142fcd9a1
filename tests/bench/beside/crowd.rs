//! Many pods: made in a row, idle, listed, stopped and removed. What a node pays for how many pods it has.
//!
//! containerd gets half as many: a shim of 5 MiB and a dozen threads for each of 500 pods, and a second or so for the
//! life of each container, are more than it is sane to ask of a machine of two cores. Rows that cannot be compared have
//! no ratio.

use std::time::Duration;

use super::{
    belongings::Belongings,
    engine::Engine,
    life::{self, timed},
    options::Part,
    report::{Row, Spread, Unit},
};
use api::cri::v1::{ContainerStatusRequest, ListContainersRequest, ListPodSandboxRequest, PodSandboxStatusRequest};
use nix::{time::clock_getcpuclockid, unistd::Pid};

/// Pods of each engine.
const PODS: [usize; 2] = [500, 250];

/// Containers of each pod.
const CONTAINERS: usize = 4;

/// With so many pods the daemon is left alone, and for how long.
const IDLE_AT: usize = 100;
const IDLE: Duration = Duration::from_secs(20);

/// With so many pods, and thus 1000 containers, lists and statuses are asked for.
const LIST_AT: usize = 250;

/// Pods at the beginning and at the end of the row whose calls are compared.
const ENDS: usize = 30;

/// Times that each list is asked for.
const LISTS: usize = 30;

/// What is measured of each list of pods and containers.
const LISTED: [&str; 4] = ["ListContainers", "ListPodSandbox", "ContainerStatus", "PodSandboxStatus"];

/// What is measured of a pod in the row.
const MADE: [&str; 3] = ["RunPodSandbox", "CreateContainer", "StartContainer"];

/// What was found of one engine.
struct Found {
    first: [Spread; MADE.len()],
    last: [Spread; MADE.len()],
    idle: Spread,
    lists: [Spread; LISTED.len()],
    /// Of all pods, where there are more than [`LIST_AT`].
    long_lists: Option<[Spread; LISTED.len()]>,
    stop: Spread,
    remove: Spread,
}

/// Both engines, one after the other: together they would have no room.
pub(super) async fn of_both([ours, theirs]: &mut [Engine; 2], pause: Duration) -> Vec<Row> {
    let ours = of(ours, PODS[0], pause).await;
    let theirs = of(theirs, PODS[1], pause).await;
    let row = |what: String, unit, coracle, containerd| Row { part: Part::Crowd, what, unit, coracle, containerd };
    let mut rows = Vec::new();
    for (call, name) in MADE.iter().enumerate() {
        rows.push(row(
            format!("{name}, of the first {ENDS} pods"),
            Unit::Ms,
            ours.first[call],
            Some(theirs.first[call]),
        ));
        // Of a row half as long, so these two are no pair.
        rows.push(row(format!("{name}, of the last {ENDS} of {} pods", PODS[0]), Unit::Ms, ours.last[call], None));
    }
    rows.push(row(
        format!("the daemon with {IDLE_AT} idle pods, of one core"),
        Unit::Percent,
        ours.idle,
        Some(theirs.idle),
    ));
    for (list, name) in LISTED.iter().enumerate() {
        let (pods, containers) = (LIST_AT, LIST_AT * CONTAINERS);
        let what = format!("{name}, {containers} containers in {pods} pods");
        rows.push(row(what, Unit::Ms, ours.lists[list], Some(theirs.lists[list])));
    }
    for (lists, (list, name)) in
        ours.long_lists.iter().flat_map(|lists| LISTED.iter().enumerate().map(move |named| (lists, named)))
    {
        let what = format!("{name}, {} containers in {} pods", PODS[0] * CONTAINERS, PODS[0]);
        rows.push(row(what, Unit::Ms, lists[list], None));
    }
    rows.push(row(format!("StopPodSandbox, {CONTAINERS} running containers"), Unit::Ms, ours.stop, Some(theirs.stop)));
    rows.push(row(format!("RemovePodSandbox, {CONTAINERS} containers"), Unit::Ms, ours.remove, Some(theirs.remove)));
    rows
}

async fn of(engine: &mut Engine, pods: usize, pause: Duration) -> Found {
    // Of each pod, and of its last container.
    let (mut ids, mut containers) = (Vec::new(), Vec::new());
    let mut made = Vec::new();
    let (mut idle, mut lists) = (None, None);
    for number in 0..pods {
        // The pods between the ends are only made, not measured.
        let pause = if number < ENDS || number >= pods - ENDS { pause } else { Duration::ZERO };
        let config = engine.pod(&format!("crowd-{number}"));
        let (pod_id, run) = life::run(engine, &config, pause).await;
        let (mut calls, mut last) = ([run, Duration::ZERO, Duration::ZERO], String::new());
        for container in 0..CONTAINERS {
            let (id, create) = life::create(engine, &pod_id, &config, &format!("main-{container}"), pause).await;
            let start = life::start(engine, &id, pause).await;
            if container == 0 {
                (calls[1], calls[2]) = (create, start);
            }
            last = id;
        }
        made.push(calls);
        ids.push(pod_id);
        containers.push(last);
        if number + 1 == IDLE_AT {
            idle = Some(idle_share(engine.daemon).await);
        }
        if number + 1 == LIST_AT {
            lists = Some(list(engine, &ids, &containers[number], pause).await);
        }
    }
    let long_lists = if pods > LIST_AT { Some(list(engine, &ids, &containers[pods - 1], pause).await) } else { None };
    let mut belongings = Vec::new();
    for (id, container) in ids.iter().zip(&containers) {
        belongings.push(Belongings::of(engine, id, container).await);
    }
    let (mut stops, mut removes) = (Vec::new(), Vec::new());
    for id in &ids {
        stops.push(life::stop_pod(engine, id, Duration::ZERO).await);
        assert!(!engine.leases_to(id), "its address is given back");
        removes.push(life::remove_pod(engine, id, Duration::ZERO).await);
    }
    // Not after each: it would be a rest between the calls.
    for one in &belongings {
        assert_eq!(one.kept(engine), [""; 0], "all that a pod had is given back");
    }
    Belongings::await_end(&belongings);
    let left = engine.cri.runtime.list_containers(ListContainersRequest::default()).await.unwrap().into_inner();
    assert!(left.containers.is_empty(), "no container is left");
    let ends =
        |pods: &[[Duration; MADE.len()]]| [0, 1, 2].map(|call| Spread::of_times(pods.iter().map(|calls| calls[call])));
    Found {
        first: ends(&made[..ENDS]),
        last: ends(&made[pods - ENDS..]),
        idle: idle.unwrap(),
        lists: lists.unwrap(),
        long_lists,
        stop: Spread::of_times(stops),
        remove: Spread::of_times(removes),
    }
}

/// What the daemon uses of a core while nobody asks it anything, in percent.
async fn idle_share(daemon: i32) -> Spread {
    let clock = clock_getcpuclockid(Pid::from_raw(daemon)).unwrap();
    let used = || Duration::from(clock.now().unwrap());
    // What it does after the last call is not idling.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = used();
    tokio::time::sleep(IDLE).await;
    Spread::of([(used() - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0])
}

/// Asks for each of [`LISTED`]; every answer has to be whole.
async fn list(engine: &mut Engine, pods: &[String], container: &str, pause: Duration) -> [Spread; LISTED.len()] {
    let mut took = [const { Vec::new() }; LISTED.len()];
    let runtime = &mut engine.cri.runtime;
    for _ in 0..LISTS {
        let (all, time) = timed(runtime.list_containers(ListContainersRequest::default()), pause).await;
        assert_eq!(all.containers.len(), pods.len() * CONTAINERS);
        took[0].push(time);
        let (all, time) = timed(runtime.list_pod_sandbox(ListPodSandboxRequest::default()), pause).await;
        assert_eq!(all.items.len(), pods.len());
        took[1].push(time);
        let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        took[2].push(timed(runtime.container_status(request), pause).await.1);
        let request = PodSandboxStatusRequest { pod_sandbox_id: pods[0].clone(), verbose: false };
        took[3].push(timed(runtime.pod_sandbox_status(request), pause).await.1);
    }
    took.map(Spread::of_times)
}
