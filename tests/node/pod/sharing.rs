//! What the containers of a pod share with one another, and with the host where they ask for it.

use std::fs;

use api::cri::v1::{ContainerConfig, NamespaceMode, NamespaceOption};
use testkit::eventually_async;

use crate::scene::{SOON, Scene, namespaces, probe, security, sleeper};

/// A container whose processes are counted as this mode says.
fn counted(mut config: ContainerConfig, pid: NamespaceMode) -> ContainerConfig {
    security(&mut config).namespace_options = Some(NamespaceOption { pid: pid.into(), ..Default::default() });
    config
}

/// Pid, parent, state and name of every process that a container sees.
async fn processes(scene: &mut Scene, container: &str) -> Vec<[String; 4]> {
    let text = scene.look(container, &["/probe", "processes"]).await;
    let row = |line: &str| {
        let mut words = line.splitn(4, ' ').map(str::to_owned);
        [(); 4].map(|()| words.next().unwrap_or_default())
    };
    text.lines().map(row).collect()
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_pods_containers_share_network_names_and_messages_and_nothing_else() {
    let mut scene = Scene::new().await;
    let one = scene.start(&counted(sleeper("one"), NamespaceMode::Container)).await;
    let two = scene.start(&counted(sleeper("two"), NamespaceMode::Container)).await;
    let (pod, config) = scene.another("stranger", |_| ()).await;
    let three = scene.sleeper_in(&pod, &config, "three").await;

    let (a, b, c) = (scene.report_in(&one).await, scene.report_in(&two).await, scene.report_in(&three).await);
    for kind in ["net", "ipc", "uts", "mnt", "pid", "user"] {
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        let of = |report: &serde_json::Value| report["namespaces"][kind].as_str().unwrap().to_owned();
        assert_eq!(of(&a) == of(&b), matches!(kind, "net" | "ipc" | "uts" | "user"), "{kind}");
        assert_eq!(of(&a) == of(&c), kind == "user", "{kind}");
        assert_eq!(of(&a) == host, kind == "user", "{kind}");
    }
    // Shared memory is the pod's; the rest of the file system is each container's own.
    scene.look(&one, &["/probe", "write", "/dev/shm/word", "hello"]).await;
    scene.look(&one, &["/probe", "write", "/tmp/word", "hello"]).await;
    assert_eq!(scene.look(&two, &["/probe", "cat", "/dev/shm/word"]).await, "hello");
    assert_eq!(scene.attempt(&two, &["/probe", "cat", "/tmp/word"]).await.0, 1);
    assert_eq!(scene.attempt(&three, &["/probe", "cat", "/dev/shm/word"]).await.0, 1);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn containers_of_a_shared_pid_namespace_see_one_another_and_their_orphans_are_reaped() {
    let mut scene = Scene::with(|pod| namespaces(pod).pid = NamespaceMode::Pod.into()).await;
    let one = scene.start(&counted(sleeper("one"), NamespaceMode::Pod)).await;
    let two = scene.start(&counted(probe("two", &["orphans", "5"]), NamespaceMode::Pod)).await;

    let seen = processes(&mut scene, &one).await;
    let first = seen.iter().find(|process| process[0] == "1").expect("someone is process 1");
    assert!(!first[3].contains("probe"), "process 1 is the pod's, not a container's: {first:?}");
    assert!(seen.iter().filter(|process| process[3].contains("probe")).count() >= 3, "{seen:?}");
    assert_ne!(scene.report_in(&one).await["pid"], 1);

    let scene_ref = &scene;
    let (two_ref, one_ref) = (two.as_str(), one.as_str());
    eventually_async(SOON, "the orphans are reaped, and only they end", || async move {
        let mut cri = testkit::Cri::clone(scene_ref);
        let answer = cri.exec(one_ref, &["/probe", "processes"], 10).await.expect("a command");
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        // Init, two containers, the command itself.
        if text.lines().count() == 4 && !text.contains(" Z ") { Ok(()) } else { Err(format!("{two_ref}: {text}")) }
    })
    .await;

    // Without a namespace of its own a container's end is not everyone's.
    scene.stop(&one, 10).await;
    assert_eq!(scene.status(&one).await.exit_code, 143);
    assert!(processes(&mut scene, &two).await.len() >= 3);

    // One that wants its own has it, also in such a pod.
    let own = scene.report(&counted(probe("own", &["report"]), NamespaceMode::Container)).await;
    assert_eq!(own["pid"], 1);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_container_can_join_the_processes_of_another() {
    let mut scene = Scene::new().await;
    let target = scene.start(&counted(sleeper("target"), NamespaceMode::Container)).await;
    let mut config = probe("guest", &["processes"]);
    security(&mut config).namespace_options =
        Some(NamespaceOption { pid: NamespaceMode::Target.into(), target_id: target.clone(), ..Default::default() });
    let guest = scene.outcome(&config).await;
    assert_eq!(guest.status.exit_code, 0);
    assert_eq!(guest.stdout.lines().count(), 2, "the target and the guest: {}", guest.stdout);

    scene.stop(&target, 0).await;
    config.metadata.as_mut().unwrap().attempt = 1;
    let late = scene.try_create(&config).await;
    assert!(late.is_err(), "nobody can be joined who has ended");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_pod_may_have_the_hosts_processes_and_messages() {
    let mut scene = Scene::with(|pod| {
        let namespaces = namespaces(pod);
        namespaces.pid = NamespaceMode::Node.into();
        namespaces.ipc = NamespaceMode::Node.into();
    })
    .await;
    let mut config = counted(sleeper("one"), NamespaceMode::Node);
    security(&mut config).namespace_options.as_mut().unwrap().ipc = NamespaceMode::Node.into();
    let one = scene.start(&config).await;
    let report = scene.report_in(&one).await;
    for kind in ["pid", "ipc"] {
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        assert_eq!(report["namespaces"][kind], host.as_str(), "{kind}");
    }
    let daemon = scene.node.daemon_pid().to_string();
    assert!(processes(&mut scene, &one).await.iter().any(|process| process[0] == daemon));

    let note = tempfile::Builder::new().prefix("crt-nodetests-").tempfile_in("/dev/shm").unwrap();
    fs::write(note.path(), "from the host").unwrap();
    let seen = scene.look(&one, &["/probe", "cat", &note.path().display().to_string()]).await;
    assert_eq!(seen, "from the host");
    scene.finish().await;
}
