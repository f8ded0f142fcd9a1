//! One pod's life, each call timed, and its effect looked at afterwards.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use api::cri::v1::{
    ContainerState, ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest, PodSandboxConfig, PodSandboxState,
    PodSandboxStatusRequest, RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use testkit::container;
use tonic::Code;

use super::{
    belongings::Belongings,
    engine::Engine,
    options::{Options, Part},
    report::{Row, Spread, Unit},
    support::PROBE,
};

/// What is measured, in the order of a pod's life.
const CALLS: [&str; 9] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "CreateContainer + StartContainer",
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];

/// The time of each of [`CALLS`].
type Life = [Duration; CALLS.len()];

/// Rounds that are not counted: an engine's first pods find caches cold and files not yet made.
const WARM_UP: usize = 3;

/// The calls on one engine.
pub(super) async fn of_one(engine: &mut Engine, options: &Options) -> Vec<Row> {
    let (mut lives, mut lived) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + options.rounds {
        let (life, belongings) = live(engine, &format!("alone-{round}"), options.pause()).await;
        lives.push(life);
        lived.push(belongings);
    }
    Belongings::await_end(&lived);
    rows(|call| Row {
        part: Part::Alone,
        what: CALLS[call].into(),
        unit: Unit::Ms,
        coracle: spread(&lives, call),
        containerd: None,
    })
}

/// The calls on both, alternating.
pub(super) async fn of_both(engines: &mut [Engine; 2], options: &Options) -> Vec<Row> {
    let (mut lives, mut lived) = ([Vec::new(), Vec::new()], Vec::new());
    for round in 0..WARM_UP + options.rounds {
        for (engine, lives) in engines.iter_mut().zip(&mut lives) {
            let (life, belongings) = live(engine, &format!("bench-{round}"), options.pause()).await;
            lives.push(life);
            lived.push(belongings);
        }
    }
    // Not after each: what goes by itself goes while the next pod is made, as on a node.
    Belongings::await_end(&lived);
    rows(|call| {
        let [ours, theirs] = [&lives[0], &lives[1]].map(|lives| spread(lives, call));
        Row { part: Part::Calls, what: CALLS[call].into(), unit: Unit::Ms, coracle: ours, containerd: Some(theirs) }
    })
}

fn rows(row: impl Fn(usize) -> Row) -> Vec<Row> {
    (0..CALLS.len()).map(row).collect()
}

fn spread(lives: &[Life], call: usize) -> Spread {
    Spread::of_times(lives[WARM_UP..].iter().map(|life| life[call]))
}

/// Runs a pod through its life. Every call has to succeed, and what it promises has to be true after it. What the pod
/// had is answered too: some of it goes by itself.
async fn live(engine: &mut Engine, name: &str, pause: Duration) -> (Life, Belongings) {
    let config = engine.pod(name);
    let (pod_id, run) = run(engine, &config, pause).await;
    let status = engine.cri.runtime.pod_sandbox_status(request_of(&pod_id)).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    let ip = status.network.unwrap().ip;
    // Nobody listens: a refusal says that the address answers.
    let reached = tokio::net::TcpStream::connect((ip.as_str(), 9)).await.unwrap_err();
    assert_eq!(reached.kind(), ErrorKind::ConnectionRefused, "{ip} answers");

    let (container_id, create) = create(engine, &pod_id, &config, "main", pause).await;
    let start = start(engine, &container_id, pause).await;
    let (state, process) = look(engine, &container_id).await;
    assert_eq!(state, ContainerState::ContainerRunning);
    assert_eq!(kill(process, None), Ok(()), "it runs");
    let belongings = Belongings::of(engine, &pod_id, &container_id).await;

    let runtime = &mut engine.cri.runtime;
    let request = ExecSyncRequest {
        container_id: container_id.clone(),
        cmd: vec!["/probe".into(), "exit".into(), "0".into()],
        timeout: 10,
    };
    let (done, exec) = timed(runtime.exec_sync(request), pause).await;
    assert_eq!(done.exit_code, 0);

    let request = StopContainerRequest { container_id: container_id.clone(), timeout: 10 };
    let (_, stop) = timed(runtime.stop_container(request), pause).await;
    assert_eq!(look(engine, &container_id).await.0, ContainerState::ContainerExited);
    assert_eq!(kill(process, None), Err(Errno::ESRCH), "it is gone");

    let runtime = &mut engine.cri.runtime;
    let request = RemoveContainerRequest { container_id: container_id.clone() };
    let (_, remove) = timed(runtime.remove_container(request), pause).await;
    let gone = runtime.container_status(ContainerStatusRequest { container_id, verbose: false }).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);

    let stop_pod = stop_pod(engine, &pod_id, pause).await;
    assert!(!engine.leases_to(&pod_id), "its address is given back");
    let remove_pod = remove_pod(engine, &pod_id, pause).await;
    let gone = engine.cri.runtime.pod_sandbox_status(request_of(&pod_id)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    assert_eq!(belongings.kept(engine), [""; 0], "all that it had is given back");
    ([run, create, start, create + start, exec, stop, remove, stop_pod, remove_pod], belongings)
}

/// A container's state, and its process as the host numbers it.
pub(super) async fn look(engine: &mut Engine, container_id: &str) -> (ContainerState, Pid) {
    let request = ContainerStatusRequest { container_id: container_id.to_owned(), verbose: true };
    let told = engine.cri.runtime.container_status(request).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&told.info["info"]).unwrap();
    (told.status.unwrap().state(), Pid::from_raw(info["pid"].as_i64().unwrap_or_default() as i32))
}

/// Runs a pod: its id, and the time.
pub(super) async fn run(engine: &mut Engine, config: &PodSandboxConfig, pause: Duration) -> (String, Duration) {
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let (ran, took) = timed(engine.cri.runtime.run_pod_sandbox(request), pause).await;
    (ran.pod_sandbox_id, took)
}

/// Creates a container that sleeps: its id, and the time.
pub(super) async fn create(
    engine: &mut Engine,
    pod_id: &str,
    pod: &PodSandboxConfig,
    name: &str,
    pause: Duration,
) -> (String, Duration) {
    let request = CreateContainerRequest {
        pod_sandbox_id: pod_id.to_owned(),
        config: Some(container(name, PROBE, &["sleep", "forever"])),
        sandbox_config: Some(pod.clone()),
    };
    let (created, took) = timed(engine.cri.runtime.create_container(request), pause).await;
    (created.container_id, took)
}

pub(super) async fn start(engine: &mut Engine, container_id: &str, pause: Duration) -> Duration {
    let request = StartContainerRequest { container_id: container_id.to_owned() };
    timed(engine.cri.runtime.start_container(request), pause).await.1
}

pub(super) async fn stop_pod(engine: &mut Engine, pod_id: &str, pause: Duration) -> Duration {
    let request = StopPodSandboxRequest { pod_sandbox_id: pod_id.to_owned() };
    timed(engine.cri.runtime.stop_pod_sandbox(request), pause).await.1
}

pub(super) async fn remove_pod(engine: &mut Engine, pod_id: &str, pause: Duration) -> Duration {
    let request = RemovePodSandboxRequest { pod_sandbox_id: pod_id.to_owned() };
    timed(engine.cri.runtime.remove_pod_sandbox(request), pause).await.1
}

fn request_of(pod_id: &str) -> PodSandboxStatusRequest {
    PodSandboxStatusRequest { pod_sandbox_id: pod_id.to_owned(), verbose: false }
}

/// The answer of a call that must succeed, and the time until it came; then the rest of [`Options::pause`].
pub(super) async fn timed<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    pause: Duration,
) -> (T, Duration) {
    let begun = Instant::now();
    let answer = call.await.unwrap_or_else(|status| panic!("{status}"));
    let took = begun.elapsed();
    tokio::time::sleep(pause).await;
    (answer.into_inner(), took)
}
