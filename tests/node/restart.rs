//! What survives what: the daemon, the launcher, a monitor killed; a reboot; records that cannot be read.

mod bundles;
mod damage;
mod leftover;
mod reboot;
mod record;
mod upgrade;

use std::{fs, path::Path, process::Command, time::Duration};

use api::cri::v1::{
    ContainerState, ContainerStatus, ContainerStatusRequest, PodSandboxConfig, PodSandboxState, PodSandboxStatus,
    PodSandboxStatusRequest, StopContainerRequest, StopPodSandboxRequest,
};
use nix::sys::signal::Signal;
use testkit::{Cri, NodeOptions, Process, container, eventually, eventually_async, pod};
use tonic::Code;

use crate::support::{PROBE, node, node_with, prepared};

/// Patience with what takes milliseconds.
const SOON: Duration = Duration::from_secs(10);

async fn status(cri: &mut Cri, id: &str) -> ContainerStatus {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    cri.runtime.container_status(request).await.unwrap().into_inner().status.unwrap()
}

async fn pod_status(cri: &mut Cri, id: &str) -> PodSandboxStatus {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap()
}

async fn exited(cri: &mut Cri, id: &str) -> ContainerStatus {
    eventually_async(SOON, "the container has exited", || {
        let (mut cri, id) = (cri.clone(), id.to_owned());
        async move {
            let status = status(&mut cri, &id).await;
            if status.state() == ContainerState::ContainerExited { Ok(status) } else { Err(status.state()) }
        }
    })
    .await
}

fn lines(log: &Path) -> Vec<String> {
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn containers_outlive_a_killed_daemon_and_no_line_or_exit_code_is_lost() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let config = pod("survivor", node.dir());
    let pod_id = cri.run(&config).await.unwrap();
    let address = pod_status(&mut cri, &pod_id).await.network.unwrap().ip;
    let runs = cri.start(&pod_id, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    let writes =
        cri.start(&pod_id, &config, &container("writes", PROBE, &["write-lines", "200", "200"])).await.unwrap();
    let fails = cri.start(&pod_id, &config, &container("fails", PROBE, &["sleep", "1"])).await.unwrap();
    let waits = cri.create(&pod_id, &config, &container("waits", PROBE, &["exit", "7"])).await.unwrap();
    let before = status(&mut cri, &runs).await;
    let log = status(&mut cri, &writes).await.log_path;

    node.kill_daemon();
    eventually(SOON, "all lines are written without a daemon", || {
        let count = lines(Path::new(&log)).len();
        if count == 200 { Ok(()) } else { Err(count) }
    });
    node.start_daemon();

    let mut cri = node.client().await;
    let after = status(&mut cri, &runs).await;
    assert_eq!(after.state(), ContainerState::ContainerRunning);
    assert_eq!(after, before, "nothing about a running container changes");
    let pod_after = pod_status(&mut cri, &pod_id).await;
    assert_eq!(pod_after.state(), PodSandboxState::SandboxReady);
    assert_eq!(pod_after.network.unwrap().ip, address);
    assert_eq!(exited(&mut cri, &writes).await.exit_code, 0);
    assert_eq!(exited(&mut cri, &fails).await.exit_code, 0);
    // The waiting one waits still, and can be started; exec and log go on as before.
    cri.runtime.start_container(api::cri::v1::StartContainerRequest { container_id: waits.clone() }).await.unwrap();
    assert_eq!(exited(&mut cri, &waits).await.exit_code, 7);
    assert_eq!(cri.exec(&runs, &["/probe", "print", "here"], 10).await.unwrap().stdout, b"here\n");
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_killed_launcher_touches_no_pod_and_is_replaced() {
    let node = node().await;
    let mut cri = node.client().await;
    let config = pod("first", node.dir());
    let pod_id = cri.run(&config).await.unwrap();
    let id = cri.start(&pod_id, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    let launcher = testkit::descendants(&[node.daemon_pid()])
        .into_iter()
        .find(|process| process.parent == node.daemon_pid())
        .expect("the launcher is the daemon's child");
    launcher.kill();
    eventually(SOON, "the launcher is gone", || if launcher.alive() { Err("it runs") } else { Ok(()) });

    assert_eq!(status(&mut cri, &id).await.state(), ContainerState::ContainerRunning);
    assert_eq!(cri.exec(&id, &["/probe", "print", "here"], 10).await.unwrap().exit_code, 0);
    let second = pod("second", node.dir());
    let second_id = cri.run(&second).await.unwrap();
    cri.start(&second_id, &second, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_launcher_that_stands_still_is_replaced_and_touches_no_pod() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let launcher = testkit::descendants(&[node.daemon_pid()])
        .into_iter()
        .find(|process| process.parent == node.daemon_pid())
        .expect("the launcher is the daemon's child");
    let (_, id) = running(&mut cri, &pod("first", node.dir())).await;
    signal(&launcher, Signal::SIGSTOP);
    running(&mut cri, &pod("second", node.dir())).await;
    assert!(!launcher.alive());
    assert_eq!(status(&mut cri, &id).await.state(), ContainerState::ContainerRunning);
    node.restart_daemon();
    running(&mut node.client().await, &pod("third", node.dir())).await;
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_killed_monitor_ends_its_pod_alone_and_the_pod_says_so() {
    let node = node().await;
    let mut cri = node.client().await;
    let (config, other) = (pod("unlucky", node.dir()), pod("other", node.dir()));
    let pod_id = cri.run(&config).await.unwrap();
    let id = cri.start(&pod_id, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    let other_id = cri.run(&other).await.unwrap();
    let lives = cri.start(&other_id, &other, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();

    monitor(&mut cri, &pod_id).await.kill();

    let ended = exited(&mut cri, &id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (255, "Unknown"));
    assert_eq!(pod_status(&mut cri, &pod_id).await.state(), PodSandboxState::SandboxNotready);
    assert_eq!(status(&mut cri, &lives).await.state(), ContainerState::ContainerRunning);
    node.finish().await;
}

/// A fact of the verbose status.
fn fact(info: &std::collections::BTreeMap<String, String>, name: &str) -> i32 {
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    info[name].as_i64().unwrap_or_else(|| panic!("{name} is told: {info}")) as i32
}

/// The monitor of a pod.
async fn monitor(cri: &mut Cri, pod: &str) -> Process {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    let info = cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    Process::of(fact(&info, "monitorPid")).expect("the monitor runs")
}

/// The first process of a container.
async fn first_process(cri: &mut Cri, container: &str) -> Process {
    let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: true };
    let info = cri.runtime.container_status(request).await.unwrap().into_inner().info;
    Process::of(fact(&info, "pid")).expect("the container runs")
}

fn signal(process: &Process, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), signal).unwrap();
}

/// A pod with a container that runs: both ids.
async fn running(cri: &mut Cri, config: &PodSandboxConfig) -> (String, String) {
    let pod = cri.run(config).await.unwrap();
    let id = cri.start(&pod, config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    (pod, id)
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_monitor_that_stands_still_is_ended_at_the_next_start_and_its_pod_alone_with_it() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let (stuck, stuck_container) = running(&mut cri, &pod("stuck", node.dir())).await;
    let (other, other_container) = running(&mut cri, &pod("other", node.dir())).await;
    let lives = first_process(&mut cri, &other_container).await;
    let silent = monitor(&mut cri, &stuck).await;
    let orphan = first_process(&mut cri, &stuck_container).await;
    signal(&silent, Signal::SIGSTOP);
    node.restart_daemon();

    let mut cri = node.client().await;
    assert!(!silent.alive() && !orphan.alive(), "nothing of the pod runs on unseen");
    assert_eq!(pod_status(&mut cri, &stuck).await.state(), PodSandboxState::SandboxNotready);
    let ended = status(&mut cri, &stuck_container).await;
    assert_eq!((ended.state(), ended.reason.as_str()), (ContainerState::ContainerExited, "Unknown"));
    assert_eq!(pod_status(&mut cri, &other).await.state(), PodSandboxState::SandboxReady);
    assert_eq!(first_process(&mut cri, &other_container).await, lives);
    cri.remove(&stuck).await.unwrap();
    assert_eq!(cri.exec(&other_container, &["/probe", "print", "here"], 10).await.unwrap().exit_code, 0);
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_monitor_that_stands_still_before_any_record_names_it_is_found_by_its_socket() {
    let environment = vec![("CORACLED_FAULTS".to_owned(), "run.set-up=kill-before".to_owned())];
    let mut node = node_with(NodeOptions { environment, ..NodeOptions::default() }).await;
    let launcher = testkit::descendants(&[node.daemon_pid()]);
    node.client().await.run(&pod("cut-short", node.dir())).await.unwrap_err();
    node.await_death();
    let monitors = testkit::descendants(&launcher.iter().map(|process| process.pid).collect::<Vec<_>>());
    let [silent] = monitors.as_slice() else { panic!("one monitor: {monitors:?}") };
    signal(silent, Signal::SIGSTOP);
    node.set_environment(Vec::new());
    node.start_daemon();

    assert!(!silent.alive());
    node.assert_no_leaks();
    running(&mut node.client().await, &pod("cut-short", node.dir())).await;
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_monitor_that_stands_still_holds_no_call_for_ever_and_no_pod_from_stopping() {
    let node = node().await;
    let mut cri = node.client().await;
    let (stops, stops_container) = running(&mut cri, &pod("stops", node.dir())).await;
    let (wakes, wakes_container) = running(&mut cri, &pod("wakes", node.dir())).await;
    let (gone, sleeps) = (monitor(&mut cri, &stops).await, monitor(&mut cri, &wakes).await);
    for silent in [&gone, &sleeps] {
        signal(silent, Signal::SIGSTOP);
    }
    let stop_pod = async |mut cri: Cri| {
        cri.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: stops.clone() }).await
    };
    let stop_container = async |mut cri: Cri| {
        let request = StopContainerRequest { container_id: wakes_container.clone(), timeout: 0 };
        cri.runtime.stop_container(request).await
    };
    let exec = async |mut cri: Cri| cri.exec(&wakes_container, &["/probe", "print", "here"], 1).await;
    let (stopped, kept, late) = tokio::join!(stop_pod(cri.clone()), stop_container(cri.clone()), exec(cri.clone()));
    stopped.unwrap();
    assert_eq!(kept.unwrap_err().code(), Code::Unavailable, "one container is not worth the others of its pod");
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(!gone.alive());
    assert_eq!(status(&mut cri, &stops_container).await.reason, "Unknown");
    // What was ordered meanwhile is served when it wakes: the container is killed, and the command never seen.
    assert_eq!(pod_status(&mut cri, &wakes).await.state(), PodSandboxState::SandboxReady);
    signal(&sleeps, Signal::SIGCONT);
    assert_eq!(exited(&mut cri, &wakes_container).await.exit_code, 137);
    node.finish().await;
}

/// What the README promises of a daemon that is stopped, or removed from a node.
#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_daemon_leaves_containers_monitors_bridge_rules_and_forwarding() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let (pod_id, id) = running(&mut cri, &pod("stays", node.dir())).await;
    let (monitor, first) = (monitor(&mut cri, &pod_id).await, first_process(&mut cri, &id).await);
    drop(cri);
    assert_eq!(node.stop_daemon().code(), Some(0));
    assert!(monitor.alive() && first.alive());
    let bridge = node.bridge();
    assert!(Path::new("/sys/class/net").join(&bridge).exists());
    let rules = Command::new("nft").args(["list", "table", "inet", "coracle"]).output().unwrap();
    let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
    assert!(rules.contains(&bridge), "{bridge} is not in {rules}");
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap().trim(), "1");
    // The next one finds them.
    node.start_daemon();
    assert_eq!(status(&mut node.client().await, &id).await.state(), ContainerState::ContainerRunning);
    node.finish().await;
}

#[ignore = "needs root: runs two nodes"]
#[tokio::test]
async fn an_instance_that_starts_takes_no_pod_of_another_in_the_same_cgroup_for_its_own() {
    let first = node().await;
    let mut cri = first.client().await;
    let config = pod("neighbour", first.dir());
    let pod_id = cri.run(&config).await.unwrap();
    let id = cri.start(&pod_id, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();

    let mut second = prepared(NodeOptions::default()).await;
    fs::create_dir(second.dir().join("conf.d")).unwrap();
    let shared = format!("[engine]\ncgroup_root = \"{}\"\n", first.cgroup_root());
    fs::write(second.dir().join("conf.d/10-shared.toml"), shared).unwrap();
    second.start_daemon();
    let config = pod("newcomer", second.dir());
    let newcomer = second.client().await.run(&config).await.unwrap();
    second.restart_daemon();

    assert_eq!(pod_status(&mut cri, &pod_id).await.state(), PodSandboxState::SandboxReady);
    assert_eq!(status(&mut cri, &id).await.state(), ContainerState::ContainerRunning);
    let kept = pod_status(&mut second.client().await, &newcomer).await;
    assert_eq!(kept.state(), PodSandboxState::SandboxReady);
    second.finish().await;
    first.finish().await;
}
