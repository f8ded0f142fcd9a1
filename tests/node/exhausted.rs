//! Descriptors or memory gone: what needs them is refused with its reason, nothing is said that is not so, everything
//! can be stopped and deleted, and when they are there again all is as before.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
};

use api::cri::v1::{
    ContainerState, ContainerStatus, ContainerStatusRequest, ListContainersRequest, ListPodSandboxRequest,
    PodSandboxConfig, RemoveContainerRequest, RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest,
};
use nix::sys::signal::{Signal, kill};
use testkit::{Cri, NodeOptions, Process, TempNode, container, eventually, eventually_async, pod};
use tonic::Code;

use crate::{
    scene::SOON,
    support::{PROBE, node, node_with},
    witness::Witness,
};

/// Descriptors that the daemon keeps for stopping and deleting, as the error says it.
const KEPT: u64 = 128;

/// How many descriptors the daemon has open.
fn descriptors(node: &TempNode) -> u64 {
    fs::read_dir(format!("/proc/{}/fd", node.daemon_pid())).unwrap().count() as u64
}

/// Lets the daemon open descriptors up to this number, from now on.
fn limit(node: &TempNode, soft: u64) {
    let status = std::process::Command::new("prlimit")
        .arg(format!("--pid={}", node.daemon_pid()))
        .arg(format!("--nofile={soft}:"))
        .status()
        .expect("prlimit runs");
    assert!(status.success());
}

async fn status(cri: &mut Cri, id: &str) -> ContainerStatus {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    cri.runtime.container_status(request).await.unwrap().into_inner().status.unwrap()
}

/// A pod with containers that run.
struct Scene {
    config: PodSandboxConfig,
    pod: String,
    ids: Vec<String>,
}

impl Scene {
    async fn new(node: &TempNode, cri: &mut Cri, name: &str) -> Scene {
        let config = pod(name, node.dir());
        let pod = cri.run(&config).await.unwrap();
        let mut ids = Vec::new();
        for name in ["dies", "stopped", "removed", "left"] {
            ids.push(cri.start(&pod, &config, &container(name, PROBE, &["sleep", "forever"])).await.unwrap());
        }
        Scene { config, pod, ids }
    }

    /// What cannot be made is refused with `reason`, and leaves nothing.
    async fn nothing_can_be_made(&self, node: &TempNode, cri: &mut Cri, reason: &str) {
        let before = node.leaks();
        let run = cri.run(&pod("more", node.dir())).await.unwrap_err();
        let create = cri.create(&self.pod, &self.config, &container("more", PROBE, &["exit", "0"])).await.unwrap_err();
        for refused in [run, create] {
            assert_eq!(refused.code(), Code::ResourceExhausted, "{}", refused.message());
            assert!(refused.message().contains(reason), "{}", refused.message());
        }
        // What was there may be gone by now: records of earlier calls go to the disk by way of a file of another name.
        eventually(SOON, "nothing half-made is left", || {
            let more: Vec<_> = node.leaks().0.into_iter().filter(|leak| !before.0.contains(leak)).collect();
            if more.is_empty() { Ok(()) } else { Err(more) }
        });
    }

    /// Everything can be stopped and removed.
    async fn everything_can_be_ended(&self, node: &TempNode, cri: &mut Cri) {
        let [_, stopped, removed, left] = self.ids.as_slice() else { panic!("four: {:?}", self.ids) };
        cri.runtime.stop_container(StopContainerRequest { container_id: stopped.clone(), timeout: 10 }).await.unwrap();
        assert_eq!(status(cri, stopped).await.exit_code, 143);
        cri.runtime.remove_container(RemoveContainerRequest { container_id: removed.clone() }).await.unwrap();
        assert_eq!(status(cri, left).await.state(), ContainerState::ContainerRunning);
        let pod_sandbox_id = self.pod.clone();
        let stop = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        cri.runtime.stop_pod_sandbox(stop).await.unwrap();
        cri.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
        let pods = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        let listed = cri.runtime.list_containers(ListContainersRequest::default()).await.unwrap().into_inner();
        assert!(pods.is_empty() && listed.containers.is_empty());
        eventually(SOON, "nothing is left", || {
            let left = node.leaks();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }

    /// Kills the first container; how it ended is known soon.
    async fn a_death_is_known(&self, cri: &mut Cri) {
        let request = ContainerStatusRequest { container_id: self.ids[0].clone(), verbose: true };
        let info = cri.runtime.container_status(request).await.unwrap().into_inner().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        let pid = info["pid"].as_i64().unwrap() as i32;
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        eventually_async(SOON, "the end of a container is known", || {
            let (mut cri, id) = (cri.clone(), self.ids[0].clone());
            async move {
                let status = status(&mut cri, &id).await;
                if status.exit_code == 137 { Ok(()) } else { Err(status.state()) }
            }
        })
        .await;
    }
}

/// Connections that are opened until the daemon takes no more.
fn hoard(socket: &Path) -> Vec<UnixStream> {
    let mut kept = Vec::new();
    eventually(SOON, "a connection is refused", || {
        let mut connection = UnixStream::connect(socket).unwrap();
        connection.set_read_timeout(Some(SOON)).unwrap();
        // The server speaks first, or hangs up.
        match connection.read(&mut [0; 64]) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Err(error) => panic!("neither taken nor sent away: {error}"),
            Ok(_) => {
                kept.push(connection);
                Err(kept.len())
            }
        }
    });
    kept
}

/// The log says that it is over, once, when somebody connects again.
fn clients_are_let_in_again(node: &TempNode) {
    eventually(SOON, "clients are let in again", || match node.log().matches("clients are let in again").count() {
        1 => Ok(()),
        count => Err(count),
    });
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn with_few_descriptors_left_nothing_is_begun_and_everything_can_be_ended() {
    let node = node().await;
    let mut cri = node.client().await;
    let scene = Scene::new(&node, &mut cri, "full").await;
    limit(&node, descriptors(&node) + KEPT + 40);
    let hoard = hoard(&node.socket());
    assert!(hoard.len() > 40, "{}", hoard.len());
    // Whoever is sent away comes again, and the log has heard of it.
    for _ in 0..30 {
        let mut connection = UnixStream::connect(node.socket()).unwrap();
        connection.set_read_timeout(Some(SOON)).unwrap();
        let _ = connection.read(&mut [0; 64]);
    }
    assert_eq!(node.log().matches("clients are sent away").count(), 1);

    scene.nothing_can_be_made(&node, &mut cri, "descriptors").await;
    assert_eq!(cri.exec(&scene.ids[3], &["/probe", "print", "here"], 10).await.unwrap().stdout, b"here\n");
    scene.a_death_is_known(&mut cri).await;
    scene.everything_can_be_ended(&node, &mut cri).await;

    drop(hoard);
    let begun = eventually_async(SOON, "a pod can be made again", || async {
        cri.clone().run(&pod("after", node.dir())).await
    });
    let pod_id = begun.await;
    let config = pod("after", node.dir());
    cri.start(&pod_id, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    let _in = node.client().await;
    clients_are_let_in_again(&node);
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn without_any_descriptor_nothing_is_told_that_is_not_so_and_all_goes_on_when_there_are_some() {
    let node = node().await;
    let mut cri = node.client().await;
    let scene = Scene::new(&node, &mut cri, "none").await;
    let before = descriptors(&node);
    limit(&node, before);
    // Nobody new gets in, and whoever tries keeps the daemon from nothing.
    let waiting = UnixStream::connect(node.socket()).unwrap();

    scene.nothing_can_be_made(&node, &mut cri, "").await;
    let refused = cri.exec(&scene.ids[3], &["/probe", "print", "here"], 10).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{}", refused.message());
    scene.a_death_is_known(&mut cri).await;
    assert_eq!(status(&mut cri, &scene.ids[3]).await.state(), ContainerState::ContainerRunning);

    // Told, however late the daemon comes to look, and once, though tried ten times a second.
    let told = || -> usize {
        ["clients wait", "clients are sent away"].map(|line| node.log().matches(line).count()).iter().sum()
    };
    eventually(SOON, "somebody is kept out", || if told() > 0 { Ok(()) } else { Err(node.log()) });

    limit(&node, before + 1000);
    drop(waiting);
    let _in = node.client().await;
    clients_are_let_in_again(&node);
    assert_eq!(told(), 1);
    assert_eq!(status(&mut cri, &scene.ids[0]).await.exit_code, 137);
    assert_eq!(cri.exec(&scene.ids[3], &["/probe", "print", "here"], 10).await.unwrap().stdout, b"here\n");
    scene.everything_can_be_ended(&node, &mut cri).await;
    Scene::new(&node, &mut cri, "after").await;
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_that_cannot_be_reached_for_want_of_descriptors_is_not_given_up() {
    let node = node_with(NodeOptions { log: "info,pods=debug".to_owned(), ..NodeOptions::default() }).await;
    let mut cri = node.client().await;
    let scene = Scene::new(&node, &mut cri, "cut-off").await;
    let before = status(&mut cri, &scene.ids[3]).await;
    limit(&node, 3);
    // The newest connection wins: the monitor drops the daemon's.
    let dir = File::open(node.dir().join("state/pods").join(&scene.pod)).unwrap();
    let rival = kernel::socket::connect_at(dir.as_fd(), "monitor.sock").unwrap();
    // More often than one is tried that does not answer.
    eventually(SOON, "the daemon tries and tries again", || {
        let tries = node.log().matches("the pod's monitor is tried again").count();
        if tries > 6 { Ok(()) } else { Err(tries) }
    });
    assert_eq!(node.log().matches("cannot be reached for now").count(), 1, "and says so once");
    assert_eq!(status(&mut cri, &scene.ids[3]).await, before);
    drop(rival);
    limit(&node, 1000);
    eventually_async(SOON, "it is reached again", || {
        let (mut cri, id) = (cri.clone(), scene.ids[3].clone());
        async move { cri.exec(&id, &["/probe", "print", "here"], 10).await }
    })
    .await;
    assert_eq!(node.log().matches("was lost, and is made again").count(), 1, "and so is the end");
    assert_eq!(status(&mut cri, &scene.ids[3]).await, before);
    scene.everything_can_be_ended(&node, &mut cri).await;
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_starts_with_too_few_descriptors_for_its_pods_does_not_start_and_harms_none() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let mut running = Vec::new();
    for number in 0..20 {
        let config = pod(&format!("one-of-many-{number}"), node.dir());
        let pod = cri.run(&config).await.unwrap();
        let id = cri.start(&pod, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
        running.push(status(&mut cri, &id).await);
    }
    let needed = descriptors(&node);
    let helpers = node.helpers();
    node.kill_daemon();
    node.set_descriptors(Some(needed - 15));
    node.launch_daemon();
    node.await_death();
    assert!(node.log().contains("Too many open files"), "it says why");
    assert!(helpers.iter().all(Process::alive), "nothing of a pod has ended");

    node.set_descriptors(None);
    node.start_daemon();
    let mut cri = node.client().await;
    for before in running {
        assert_eq!(status(&mut cri, &before.id).await, before);
    }
    node.finish().await;
}

/// A memory cgroup of the test's own. Removed when it is dropped, which its last process must have left by then.
struct MemoryGroup {
    dir: PathBuf,
    limit: &'static str,
}

impl MemoryGroup {
    fn new(node: &TempNode) -> MemoryGroup {
        let name = format!("{}-daemon", node.cgroup_root().trim_start_matches('/'));
        let kinds = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (root, limit) in kinds {
            let dir = Path::new(root).join(&name);
            if Path::new(root).join("cgroup.procs").exists() && fs::create_dir(&dir).is_ok() {
                let group = MemoryGroup { dir, limit };
                if group.dir.join(limit).exists() {
                    return group;
                }
            }
        }
        panic!("no memory controller at its usual place");
    }

    /// Takes a process in, with so little more than it needs now.
    fn confine(&self, pid: i32, bytes: u64) {
        fs::write(self.dir.join(self.limit), bytes.to_string()).unwrap();
        fs::write(self.dir.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let removed = fs::remove_dir(&self.dir);
        assert!(removed.is_ok() || std::thread::panicking(), "{}: {removed:?}", self.dir.display());
    }
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_memory_dies_alone_and_the_next_one_knows_everything() {
    let mut node = node().await;
    let mut witness = Witness::begin(&node, "1").await;
    let group = MemoryGroup::new(&node);
    for round in 0..3 {
        let mut cri = node.client().await;
        let helpers = node.helpers();
        group.confine(node.daemon_pid(), (2 + round) << 20);
        // Made, used and removed as on any day, with outputs that take more than there is.
        let mut made = Vec::new();
        for attempt in 0.. {
            let config = pod(&format!("day-{round}-{attempt}"), node.dir());
            let Ok(id) = cri.run(&config).await else { break };
            made.push(id.clone());
            let Ok(runs) = cri.start(&id, &config, &container("runs", PROBE, &["sleep", "forever"])).await else {
                break;
            };
            if cri.exec(&runs, &["/probe", "write-bytes", "8000000"], 20).await.is_err() {
                break;
            }
        }
        node.await_death();
        assert!(helpers.iter().all(Process::alive), "nobody else dies");
        witness.lives_without_a_daemon();
        node.start_daemon();
        let mut cri = node.client().await;
        witness.is_unharmed(&mut cri).await;
        witness.tells_how_it_ended(&mut cri).await;
        for id in made {
            cri.remove(&id).await.unwrap();
        }
        let listed = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        for pod in listed.into_iter().filter(|pod| pod.id != witness.pod()) {
            cri.remove(&pod.id).await.unwrap();
        }
        eventually(SOON, "nothing but the witness is left", || {
            let left = witness.others(&node);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
    witness.end(&mut node.client().await).await;
    node.finish().await;
}
