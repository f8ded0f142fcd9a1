//! The states of a container and the facts that each of them has.

use std::time::SystemTime;

use api::cri::v1::{
    ContainerState, NamespaceMode, RemoveContainerRequest, StartContainerRequest, StopContainerRequest,
};
use testkit::Cri;
use tonic::{Code, Status};

use crate::{
    scene::{Scene, in_pod_pids, namespaces, of_image, probe, sleeper},
    support::PROBE,
};

async fn start(cri: &mut Cri, id: &str) -> Result<(), Status> {
    cri.runtime.start_container(StartContainerRequest { container_id: id.to_owned() }).await.map(|_| ())
}

async fn stop(cri: &mut Cri, id: &str) -> Result<(), Status> {
    cri.runtime.stop_container(StopContainerRequest { container_id: id.to_owned(), timeout: 1 }).await.map(|_| ())
}

async fn remove(cri: &mut Cri, id: &str) -> Result<(), Status> {
    cri.runtime.remove_container(RemoveContainerRequest { container_id: id.to_owned() }).await.map(|_| ())
}

fn nanoseconds_now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn each_state_has_its_facts_and_no_others() {
    let mut scene = Scene::new().await;
    let mut config = sleeper("one");
    config.labels.insert("tier".into(), "back=end ü".into());
    config.annotations.insert("io.kubernetes.container.hash".into(), "{\"a\": 1}\n".into());
    let before = nanoseconds_now();
    let id = scene.create(&config).await;
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");

    let created = scene.status(&id).await;
    assert_eq!(created.id, id);
    assert_eq!(created.metadata, config.metadata);
    assert_eq!(created.state, ContainerState::ContainerCreated as i32);
    assert!((before..=nanoseconds_now()).contains(&created.created_at));
    assert_eq!((created.started_at, created.finished_at, created.exit_code), (0, 0, 0));
    assert_eq!((created.reason.as_str(), created.message.as_str()), ("", ""));
    assert_eq!((&created.labels, &created.annotations), (&config.labels, &config.annotations));
    assert_eq!(created.log_path, scene.log_path(&config).display().to_string());
    assert_eq!(created.image.as_ref().unwrap().image, PROBE);
    assert!(created.image_id.starts_with("sha256:"), "{}", created.image_id);
    assert!(!created.image_ref.is_empty());
    assert!(created.mounts.is_empty(), "only what was asked for is listed: {:?}", created.mounts);

    start(&mut scene, &id).await.unwrap();
    let running = scene.status(&id).await;
    assert_eq!(running.state, ContainerState::ContainerRunning as i32);
    assert!((running.created_at..=nanoseconds_now()).contains(&running.started_at));
    assert_eq!((running.finished_at, running.exit_code, running.reason.as_str()), (0, 0, ""));
    assert!(scene.pid(&id).await > 1);

    scene.attentive(&id).await;
    scene.stop(&id, 10).await;
    let exited = scene.status(&id).await;
    assert_eq!(exited.state, ContainerState::ContainerExited as i32);
    assert_eq!((exited.created_at, exited.started_at), (created.created_at, running.started_at));
    assert!((exited.started_at..=nanoseconds_now()).contains(&exited.finished_at));
    assert_eq!((exited.exit_code, exited.reason.as_str()), (143, "Error"));

    scene.discard(&id).await;
    assert_eq!(scene.try_status(&id).await.unwrap_err().code(), Code::NotFound);
    assert!(scene.log_path(&config).exists(), "the log is the kubelet's to remove");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn exit_codes_and_signals_are_told_as_they_were() {
    // In a shared pid namespace a container's process is an ordinary one: signals end it.
    let mut scene = Scene::with(|pod| namespaces(pod).pid = NamespaceMode::Pod.into()).await;
    for code in [0, 1, 2, 64, 126, 127, 128, 137, 255] {
        let ended = scene.outcome(&in_pod_pids(probe(&format!("exit-{code}"), &["exit", &code.to_string()]))).await;
        let reason = if code == 0 { "Completed" } else { "Error" };
        assert_eq!((ended.status.exit_code, ended.status.reason.as_str()), (code, reason));
        assert!(ended.status.started_at >= ended.status.created_at);
        assert!(ended.status.finished_at >= ended.status.started_at);
    }
    // Not SIGSEGV, which the probe's own runtime handles.
    for signal in [1, 6, 8, 9, 15] {
        let ended =
            scene.outcome(&in_pod_pids(probe(&format!("signal-{signal}"), &["signal", &signal.to_string()]))).await;
        assert_eq!((ended.status.exit_code, ended.status.reason.as_str()), (128 + signal, "Error"));
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_container_starts_once() {
    let mut scene = Scene::new().await;
    let id = scene.start(&sleeper("one")).await;
    assert_eq!(start(&mut scene, &id).await.unwrap_err().code(), Code::FailedPrecondition);
    let again = scene.try_create(&sleeper("one")).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    assert!(again.message().contains("is running"), "{}", again.message());
    scene.attentive(&id).await;
    scene.stop(&id, 10).await;
    assert_eq!(start(&mut scene, &id).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(scene.status(&id).await.exit_code, 143, "the refusal has changed nothing");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn stop_and_remove_may_be_repeated_and_know_no_unknown_container() {
    let mut scene = Scene::new().await;
    for unknown in ["0123456789abcdef", "no-such-container"] {
        stop(&mut scene, unknown).await.unwrap();
        remove(&mut scene, unknown).await.unwrap();
        assert_eq!(start(&mut scene, unknown).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(scene.try_status(unknown).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(scene.exec(unknown, &["/probe"], 1).await.unwrap_err().code(), Code::NotFound);
    }
    // One that was never started, one that runs, one that has ended: each can be removed.
    let (created, running) = (scene.create(&sleeper("created")).await, scene.start(&sleeper("running")).await);
    let ended = scene.outcome(&probe("ended", &["exit", "0"])).await.id;
    for id in [&ended, &ended, &created] {
        stop(&mut scene, id).await.unwrap();
    }
    for id in [&created, &running, &ended] {
        remove(&mut scene, id).await.unwrap();
        remove(&mut scene, id).await.unwrap();
        assert_eq!(scene.try_status(id).await.unwrap_err().code(), Code::NotFound);
        stop(&mut scene, id).await.unwrap();
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_containers_name_belongs_to_one_request_until_its_removal() {
    let mut scene = Scene::new().await;
    let config = sleeper("one");
    let asked: Vec<_> = (0..6)
        .map(|_| {
            let (mut cri, pod, of, config) =
                (Cri::clone(&scene), scene.pod.clone(), scene.config.clone(), config.clone());
            tokio::spawn(async move { cri.create(&pod, &of, &config).await })
        })
        .collect();
    let mut ids = Vec::new();
    for one in asked {
        ids.push(one.await.unwrap().expect("each caller has the container"));
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");

    let refused = scene.try_create(&probe("one", &["exit", "1"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("different request"), "{}", refused.message());

    let mut next = config.clone();
    next.metadata.as_mut().unwrap().attempt = 1;
    assert_ne!(scene.create(&next).await, ids[0], "another attempt is another name");
    let (pod, of) = scene.another("other", |_| ()).await;
    assert_ne!(scene.create_in(&pod, &of, &config).await.unwrap(), ids[0], "each pod has names of its own");

    scene.discard(&ids[0]).await;
    assert_ne!(scene.create(&config).await, ids[0], "free after removal");

    // A failure frees the name as well, and leaves nothing to be seen.
    let absent = of_image("ghost", "localhost/coracle/no-such-image:1", &[]);
    assert_eq!(scene.try_create(&absent).await.unwrap_err().code(), Code::NotFound);
    scene.create(&probe("ghost", &["exit", "0"])).await;
    scene.finish().await;
}
