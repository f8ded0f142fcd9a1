//! A pod's monitor and what hangs on it: connections that are lost, answers that are lost with them, the pod's init.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::fd::{AsFd, OwnedFd},
};

use api::cri::v1::{
    ContainerState, Int64Value, ListContainersRequest, NamespaceMode, PodSandboxState, PodSandboxStatusRequest,
    PodSandboxStatusResponse, RemovePodSandboxRequest, StartContainerRequest, StopContainerRequest,
};
use kernel::socket;
use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::{Cri, Layer, NodeOptions, Process, TempNode, eventually, eventually_async, programs};
use tonic::Code;

use crate::{
    scene::{SOON, Scene, in_pod_pids, namespaces, of_image, security, sleeper},
    support::{self, PROBE, node_with},
    witness::Witness,
};

/// Somebody else who connects to a monitor: the newest connection wins, so the monitor drops the daemon's.
struct Rival(OwnedFd);

impl Rival {
    fn of(scene: &Scene) -> Rival {
        let dir = File::open(scene.node.dir().join("state/pods").join(&scene.pod)).unwrap();
        let connection = socket::connect_at(dir.as_fd(), "monitor.sock").unwrap();
        socket::set_nonblocking(connection.as_fd()).unwrap();
        Rival(connection)
    }

    /// Waits until the daemon has taken its place.
    fn is_replaced(&self) {
        eventually(SOON, "the daemon connects again", || {
            match socket::receive(self.0.as_fd(), &mut [0; 8192], 0) {
                Ok((0, _)) => Ok(()),
                Ok((length, _)) => Err(format!("{length} bytes of news")),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Err("it is connected".to_owned()),
                // Closed with something of ours unread.
                Err(_) => Ok(()),
            }
        });
    }
}

async fn pod_status(cri: &mut Cri, pod: &str) -> PodSandboxStatusResponse {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner()
}

async fn pod_state(scene: &mut Scene) -> PodSandboxState {
    let pod = scene.pod.clone();
    pod_status(scene, &pod).await.status.unwrap().state()
}

/// A process that the verbose status of the pod names.
async fn process(scene: &mut Scene, name: &str) -> Process {
    let pod = scene.pod.clone();
    let info: Value = serde_json::from_str(&pod_status(scene, &pod).await.info["info"]).unwrap();
    Process::of(info[name].as_i64().expect("it is told") as i32).expect("it runs")
}

fn signal(pid: i32, signal: Signal) {
    assert!(pid > 1, "one process, not a group");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

async fn node_that(faulty: &str) -> TempNode {
    let environment = vec![("CORACLED_FAULTS".to_owned(), faulty.to_owned())];
    node_with(NodeOptions { environment, ..NodeOptions::default() }).await
}

/// Waits until a process stands still.
fn stands(pid: i32) {
    eventually(SOON, "it stands still", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        if status.contains("State:\tT") { Ok(()) } else { Err(status) }
    });
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_pod_whose_connection_is_cut_lives_on() {
    let mut scene = Scene::new().await;
    let (runs, waits) = (scene.start(&sleeper("runs")).await, scene.create(&sleeper("waits")).await);
    let first = scene.pid(&runs).await;
    for _ in 0..3 {
        Rival::of(&scene).is_replaced();
    }
    assert_eq!(pod_state(&mut scene).await, PodSandboxState::SandboxReady);
    assert_eq!(scene.pid(&runs).await, first);
    scene.look(&runs, &["/probe", "print", "here"]).await;
    scene.runtime.start_container(StartContainerRequest { container_id: waits.clone() }).await.unwrap();
    scene.attentive(&waits).await;
    scene.stop(&waits, 20).await;
    assert_eq!(scene.status(&waits).await.exit_code, 143);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn what_happened_while_nobody_listened_is_told_right() {
    let mut scene = Scene::new().await;
    let (ends, waits) = (scene.start(&sleeper("ends")).await, scene.create(&sleeper("waits")).await);
    let lives = scene.start(&sleeper("lives")).await;
    let (pod, daemon) = (scene.pod.clone(), scene.node.daemon_pid());
    let records = scene.node.dir().join("state/pods").join(&pod);
    let monitor = process(&mut scene, "monitorPid").await;
    let (ends_pid, lives_pid) = (scene.pid(&ends).await, scene.pid(&lives).await);
    let doomed = testkit::descendants(&[monitor.pid]).into_iter().filter(|process| process.pid != lives_pid);
    let (of_ends, of_waits): (Vec<_>, Vec<_>) = doomed.partition(|process| process.pid == ends_pid);
    signal(daemon, Signal::SIGSTOP);
    let rival = Rival::of(&scene);
    for (id, processes) in [(&ends, of_ends), (&waits, of_waits)] {
        let [first] = processes.as_slice() else { panic!("one process each: {processes:?}") };
        first.kill();
        let record = records.join(format!("exit-{id}"));
        eventually(SOON, "the exit is on record", || if record.exists() { Ok(()) } else { Err("it is not") });
    }
    signal(daemon, Signal::SIGCONT);
    rival.is_replaced();
    for id in [&ends, &waits] {
        let ended = scene.ended(id).await;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "Error"));
    }
    assert_eq!(scene.status(&lives).await.state(), ContainerState::ContainerRunning);
    assert_eq!(pod_state(&mut scene).await, PodSandboxState::SandboxReady);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_request_whose_answer_is_lost_can_be_repeated() {
    let mut scene = Scene::new().await;
    let monitor = process(&mut scene, "monitorPid").await;
    let config = sleeper("one");
    signal(monitor.pid, Signal::SIGSTOP);
    let (mut cri, pod, of, asked) = (Cri::clone(&scene), scene.pod.clone(), scene.config.clone(), config.clone());
    let create = tokio::spawn(async move { cri.create(&pod, &of, &asked).await });
    let containers = scene.node.dir().join("root/containers");
    eventually_async(SOON, "the container is being made", || async {
        fs::read_dir(&containers).unwrap().next().map(|_| ()).ok_or("nothing of it")
    })
    .await;
    let rival = Rival::of(&scene);
    signal(monitor.pid, Signal::SIGCONT);
    rival.is_replaced();
    // Whether it was made before the connection was lost or after, the same request has one answer.
    let made = create.await.unwrap();
    let id = scene.create(&config).await;
    assert!(made.is_err() || made.is_ok_and(|made| made == id));

    signal(monitor.pid, Signal::SIGSTOP);
    let (mut cri, container_id) = (Cri::clone(&scene), id.clone());
    let start = tokio::spawn(async move { cri.runtime.start_container(StartContainerRequest { container_id }).await });
    // That it was sent on shows nowhere; it was before some later ones are answered.
    for _ in 0..20 {
        assert_eq!(scene.status(&id).await.state(), ContainerState::ContainerCreated);
    }
    let rival = Rival::of(&scene);
    signal(monitor.pid, Signal::SIGCONT);
    rival.is_replaced();
    start.await.unwrap().expect("it is started, whoever heard of it");
    assert_eq!(scene.status(&id).await.state(), ContainerState::ContainerRunning);
    let listed = scene.runtime.list_containers(ListContainersRequest::default()).await.unwrap().into_inner();
    let listed = api::cri::containers(listed.containers).unwrap();
    assert_eq!(listed.iter().map(|one| &one.id).collect::<Vec<_>>(), [&id]);
    scene.finish().await;
}

/// The machine may starve a monitor of its processor for longer than the daemon waits.
#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_log_whose_swap_was_not_answered_loses_no_line_when_the_monitor_swaps_it_later() {
    let node = support::node().await;
    let mut cri = node.client().await;
    let mut witness = Witness::begin(&node, "1").await;
    let monitor = witness.monitor(&mut cri).await;
    signal(monitor, Signal::SIGSTOP);
    let unheard = witness.rotate(&mut cri).await.expect_err("nobody answers");
    assert_eq!(unheard.code(), Code::Unavailable, "{unheard}");
    signal(monitor, Signal::SIGCONT);
    witness.writes_on();
    witness.rotate(&mut cri).await.unwrap();
    witness.writes_on();
    witness.end(&mut cri).await;
    node.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_container_that_dies_before_it_is_written_down_has_ended() {
    let mut scene = Scene::on(node_that("create.done=stand-before").await, |_| ()).await;
    let (daemon, monitor) = (scene.node.daemon_pid(), process(&mut scene, "monitorPid").await);
    let (mut cri, pod, of) = (Cri::clone(&scene), scene.pod.clone(), scene.config.clone());
    let create = tokio::spawn(async move { cri.create(&pod, &of, &sleeper("early")).await });
    eventually_async(SOON, "the container waits for its start", || async {
        testkit::descendants(&[monitor.pid]).first().map(|_| ()).ok_or("there is none")
    })
    .await;
    stands(daemon);
    let [waiting] = <[Process; 1]>::try_from(testkit::descendants(&[monitor.pid])).expect("one process");
    waiting.kill();
    eventually(SOON, "it is reaped", || if Process::of(waiting.pid).is_none() { Ok(()) } else { Err("it is there") });
    signal(daemon, Signal::SIGCONT);
    let id = create.await.unwrap().unwrap();
    assert_eq!(scene.ended(&id).await.exit_code, 137);
    scene.discard(&id).await;
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_pod_whose_init_dies_is_not_ready_and_its_containers_are_told_as_they_ended() {
    for daemon_sees_it in [true, false] {
        let mut scene = Scene::with(|pod| namespaces(pod).pid = NamespaceMode::Pod.into()).await;
        let shares = scene.start(&in_pod_pids(sleeper("shares"))).await;
        let own = scene.start(&sleeper("own")).await;
        let (pod, init) = (scene.pod.clone(), process(&mut scene, "pid").await);
        if !daemon_sees_it {
            scene.node.kill_daemon();
        }
        init.kill();
        eventually(
            SOON,
            "the init is gone",
            || if Process::of(init.pid).is_none() { Ok(()) } else { Err("it is there") },
        );
        if !daemon_sees_it {
            scene.node.start_daemon();
        }
        let node = &scene.node;
        eventually_async(SOON, "the pod is not ready", || async {
            match pod_status(&mut node.client().await, &pod).await.status.unwrap().state() {
                PodSandboxState::SandboxNotready => Ok(()),
                state => Err(state),
            }
        })
        .await;
        let mut cri = scene.node.client().await;
        let refused = cri.create(&scene.pod, &scene.config, &sleeper("late")).await;
        assert!(refused.is_err(), "{refused:?}");
        *scene = cri;
        let ended = scene.ended(&shares).await;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "Error"));
        assert_eq!(scene.status(&own).await.state(), ContainerState::ContainerRunning);
        scene.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }).await.unwrap();
        scene.finish().await;
    }
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_container_that_cannot_be_signalled_says_so() {
    let mut scene = Scene::on(node_that("stop.signal=fail").await, |_| ()).await;
    let id = scene.start(&sleeper("one")).await;
    assert_eq!(scene.status(&id).await.message, "");
    let request = StopContainerRequest { container_id: id.clone(), timeout: 0 };
    let mut cri = Cri::clone(&scene);
    let stop = tokio::spawn(async move { cri.runtime.stop_container(request).await });
    let (cri, container) = (Cri::clone(&scene), id.as_str());
    eventually_async(SOON, "its status names the step", || {
        let mut cri = cri.clone();
        async move {
            let request = api::cri::v1::ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
            let message = cri.runtime.container_status(request).await.unwrap().into_inner().status.unwrap().message;
            if message.contains("stop.signal") { Ok(()) } else { Err(message) }
        }
    })
    .await;
    assert_eq!(scene.status(&id).await.state(), ContainerState::ContainerRunning);
    stop.abort();
    scene.node.set_environment(Vec::new());
    scene.node.restart_daemon();
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn nothing_outlives_a_monitor_that_dies_while_the_daemon_is_away() {
    const IMAGE: &str = "localhost/coracle/set-id:1";
    let mut node = TempNode::prepare(NodeOptions::default());
    support::import(node.dir(), support::probe().build().archive(PROBE)).await;
    let program = fs::read(programs().join("coracle-probe")).unwrap();
    let image = support::probe().layer(Layer::new().file("set-id", 0o4755, &program));
    support::import(node.dir(), image.build().archive(IMAGE)).await;
    node.start_daemon();
    // In the pod's pid namespace no first process takes the others along.
    let mut scene = Scene::on(node, |pod| namespaces(pod).pid = NamespaceMode::Node.into()).await;
    let mut config = of_image("gains", IMAGE, &["children", "3"]);
    config.command = vec!["/set-id".into()];
    let context = security(&mut config);
    context.namespace_options.as_mut().unwrap().pid = NamespaceMode::Node.into();
    // The kernel forgets who was to die with its parent when such a program is executed.
    context.run_as_user = Some(Int64Value { value: 1000 });
    let id = scene.start(&config).await;
    let (monitor, first) = (process(&mut scene, "monitorPid").await, scene.pid(&id).await);
    let family = eventually(SOON, "it has its children", || {
        let children = testkit::descendants(&[first]);
        if children.len() == 3 { Ok(children) } else { Err(children) }
    });
    let first = Process::of(first).expect("it runs");
    scene.node.kill_daemon();
    monitor.kill();
    eventually(SOON, "the monitor is gone", || if monitor.alive() { Err("it lives") } else { Ok(()) });
    scene.node.start_daemon();
    let left: Vec<_> = family.iter().chain([&first]).filter(|process| process.alive()).collect();
    assert!(left.is_empty(), "{left:?}");
    let (mut cri, pod) = (scene.node.client().await, scene.pod.clone());
    assert_eq!(pod_status(&mut cri, &pod).await.status.unwrap().state(), PodSandboxState::SandboxNotready);
    scene.finish().await;
}
