//! The time of each call in a pod's life: median and ninetieth percentile over many rounds.
//!
//! Between calls there is a pause, as there is on a node: without one the kernel's RCU waits are shared between rounds and
//! hide. Run `tests/bench/life-cycle [ROUNDS [PAUSE_MS]]`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "printing its table is what this program is for")]

#[path = "../node/support.rs"]
mod support;

use std::time::{Duration, Instant};

use api::cri::v1::{
    CreateContainerRequest, ExecSyncRequest, RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
};
use support::PROBE as IMAGE;
use testkit::{container, pod};

const ROUNDS: usize = 50;
const PAUSE: Duration = Duration::from_millis(40);

/// What is measured, in the order of a pod's life.
const CALLS: [&str; 9] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "Create + Start",
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let rounds = arguments.next().map_or(ROUNDS, |text| text.parse().expect("ROUNDS is a number"));
    let pause = arguments
        .next()
        .map_or(PAUSE, |text| Duration::from_millis(text.parse().expect("PAUSE_MS is a number of milliseconds")));

    let node = support::node().await;

    let mut took: Vec<Vec<Duration>> = vec![Vec::new(); CALLS.len()];
    let mut cri = node.client().await;
    for round in 0..rounds {
        let config = pod(&format!("bench-{round}"), node.dir());
        let mut measured = Vec::new();
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let (pod_id, time) = timed(cri.runtime.run_pod_sandbox(request), pause).await;
        let pod_id = pod_id.pod_sandbox_id;
        measured.push(time);
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_id.clone(),
            config: Some(container("main", IMAGE, &["sleep", "forever"])),
            sandbox_config: Some(config),
        };
        let (created, create) = timed(cri.runtime.create_container(request), pause).await;
        let container_id = created.container_id;
        let request = StartContainerRequest { container_id: container_id.clone() };
        let (_, start) = timed(cri.runtime.start_container(request), pause).await;
        measured.extend([create, start, create + start]);
        let request = ExecSyncRequest {
            container_id: container_id.clone(),
            cmd: vec!["/probe".into(), "exit".into(), "0".into()],
            timeout: 10,
        };
        measured.push(timed(cri.runtime.exec_sync(request), pause).await.1);
        let request = StopContainerRequest { container_id: container_id.clone(), timeout: 10 };
        measured.push(timed(cri.runtime.stop_container(request), pause).await.1);
        let request = RemoveContainerRequest { container_id };
        measured.push(timed(cri.runtime.remove_container(request), pause).await.1);
        let request = StopPodSandboxRequest { pod_sandbox_id: pod_id.clone() };
        measured.push(timed(cri.runtime.stop_pod_sandbox(request), pause).await.1);
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod_id };
        measured.push(timed(cri.runtime.remove_pod_sandbox(request), pause).await.1);
        took.iter_mut().zip(measured).for_each(|(all, one)| all.push(one));
    }
    node.finish().await;

    println!("{rounds} rounds, {} ms between calls", pause.as_millis());
    println!("{:<20} {:>10} {:>10}", "call", "median ms", "p90 ms");
    for (call, mut times) in CALLS.into_iter().zip(took) {
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!("{call:<20} {:>10.2} {:>10.2}", at(0.5), at(0.9));
    }
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
