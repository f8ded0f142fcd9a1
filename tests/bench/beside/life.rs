//! One pod's life, each call timed.

use std::time::{Duration, Instant};

use api::cri::v1::{
    CreateContainerRequest, ExecSyncRequest, PodSandboxStatusRequest, RemoveContainerRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
};
use testkit::{container, pod};

use super::{Engine, support::PROBE};

/// What is measured, in the order of a pod's life.
pub(super) const CALLS: [&str; 9] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "Create + Start",
    "ExecSync `true`",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];

/// The time of each of [`CALLS`].
pub(super) struct Life(pub(super) [Duration; CALLS.len()]);

/// Runs a pod through its life. Every call has to succeed, and what it promises has to be true after it.
pub(super) async fn live(engine: &mut Engine, name: &str, pause: Duration) -> Life {
    let runtime = &mut engine.cri.runtime;
    let config = pod(name, &engine.logs);
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let (ran, run) = timed(runtime.run_pod_sandbox(request), pause).await;
    let pod_sandbox_id = ran.pod_sandbox_id;
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod_sandbox_id.clone(), verbose: false };
    let status = runtime.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    let ip = status.network.unwrap().ip;
    // Nobody listens: a refusal says that the address answers.
    let reached = tokio::net::TcpStream::connect((ip.as_str(), 9)).await.unwrap_err();
    assert_eq!(reached.kind(), std::io::ErrorKind::ConnectionRefused, "{ip} answers");

    let request = CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        config: Some(container("main", PROBE, &["sleep", "forever"])),
        sandbox_config: Some(config),
    };
    let (created, create) = timed(runtime.create_container(request), pause).await;
    let container_id = created.container_id;
    let request = StartContainerRequest { container_id: container_id.clone() };
    let (_, start) = timed(runtime.start_container(request), pause).await;
    let request = ExecSyncRequest {
        container_id: container_id.clone(),
        cmd: vec!["/probe".into(), "exit".into(), "0".into()],
        timeout: 10,
    };
    let (done, exec) = timed(runtime.exec_sync(request), pause).await;
    assert_eq!(done.exit_code, 0);
    let request = StopContainerRequest { container_id: container_id.clone(), timeout: 10 };
    let (_, stop) = timed(runtime.stop_container(request), pause).await;
    let request = RemoveContainerRequest { container_id };
    let (_, remove) = timed(runtime.remove_container(request), pause).await;
    let request = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
    let (_, stop_pod) = timed(runtime.stop_pod_sandbox(request), pause).await;
    let (_, remove_pod) = timed(runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }), pause).await;
    Life([run, create, start, create + start, exec, stop, remove, stop_pod, remove_pod])
}

/// The answer of a call that must succeed, and the time until it came; then the pause.
async fn timed<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    pause: Duration,
) -> (T, Duration) {
    let begun = Instant::now();
    let answer = call.await.unwrap_or_else(|status| panic!("{status}"));
    let took = begun.elapsed();
    tokio::time::sleep(pause).await;
    (answer.into_inner(), took)
}
