//! From the request to the removal.

use std::{net::IpAddr, time::SystemTime};

use api::cri::v1::{
    ListPodSandboxRequest, PodSandboxState, PodSandboxStatusRequest, PodSandboxStatusResponse, RemovePodSandboxRequest,
    RunPodSandboxRequest, StopPodSandboxRequest,
};
use serde_json::Value;
use testkit::{Cri, pod};
use tonic::{Code, Status};

use crate::{
    scene::{Scene, namespaces, sleeper},
    support,
};

pub(super) async fn status(cri: &mut Cri, id: &str) -> Result<PodSandboxStatusResponse, Status> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
    Ok(cri.runtime.pod_sandbox_status(request).await?.into_inner())
}

async fn listed(cri: &mut Cri) -> Vec<String> {
    let pods = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    pods.into_iter().map(|pod| pod.id).collect()
}

async fn stop(cri: &mut Cri, id: &str) {
    cri.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }).await.expect("stop");
}

async fn remove(cri: &mut Cri, id: &str) {
    cri.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }).await.expect("remove");
}

fn nanoseconds_now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_pod_is_ready_and_says_what_it_was_asked_to_be() {
    let before = nanoseconds_now();
    let mut scene = Scene::with(|pod| {
        pod.labels.insert("tier".into(), "back=end ü".into());
        pod.annotations.insert("example.org/text".into(), "{\"a\": [1, 2]}\n\ttab".into());
    })
    .await;
    let (id, config) = (scene.pod.clone(), scene.config.clone());
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");

    let answer = status(&mut scene, &id).await.unwrap();
    let pod = answer.status.unwrap();
    assert_eq!(pod.id, id);
    assert_eq!(pod.metadata, config.metadata);
    assert_eq!(pod.state, PodSandboxState::SandboxReady as i32);
    assert!((before..=nanoseconds_now()).contains(&pod.created_at));
    assert_eq!((&pod.labels, &pod.annotations), (&config.labels, &config.annotations));
    assert_eq!(pod.runtime_handler, "");
    assert_eq!(pod.linux.unwrap().namespaces.unwrap().options.as_ref(), Some(&*namespaces(&mut config.clone())));
    let network = pod.network.unwrap();
    assert!(network.ip.parse::<IpAddr>().unwrap().is_ipv4(), "{}", network.ip);
    assert!(network.additional_ips.iter().all(|other| other.ip.parse::<IpAddr>().unwrap().is_ipv6()));
    assert!(answer.timestamp >= pod.created_at, "nanoseconds of the answer");
    assert!(answer.containers_statuses.is_empty());
    serde_json::from_str::<Value>(&answer.info["info"]).expect("the verbose information is JSON");

    let container = scene.create(&sleeper("one")).await;
    let answer = status(&mut scene, &id).await.unwrap();
    assert_eq!(answer.containers_statuses.iter().map(|c| &c.id).collect::<Vec<_>>(), [&container]);

    stop(&mut scene, &id).await;
    assert_eq!(status(&mut scene, &id).await.unwrap().status.unwrap().state, PodSandboxState::SandboxNotready as i32);
    assert_eq!(listed(&mut scene).await, [id.as_str()]);
    remove(&mut scene, &id).await;
    assert_eq!(listed(&mut scene).await, [""; 0]);
    assert_eq!(status(&mut scene, &id).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(scene.try_status(&container).await.unwrap_err().code(), Code::NotFound);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn the_same_request_from_many_at_once_makes_one_pod() {
    let node = support::node().await;
    let mut cri = node.client().await;
    let config = pod("joined", node.dir());
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let (mut cri, config) = (cri.clone(), config.clone());
            tokio::spawn(async move { cri.run(&config).await })
        })
        .collect();
    let mut ids = Vec::new();
    for one in asked {
        ids.push(one.await.unwrap().expect("each caller has the pod"));
    }
    ids.push(cri.run(&config).await.expect("so has one who comes later"));
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(listed(&mut cri).await, ids);

    let mut other = config.clone();
    other.labels.insert("another".into(), "request".into());
    let refused = cri.run(&other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("joined") && refused.message().contains(&ids[0]), "{}", refused.message());

    other.metadata.as_mut().unwrap().attempt = 1;
    assert_ne!(cri.run(&other).await.expect("another attempt is another name"), ids[0]);
    node.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_name_is_free_again_after_removal_and_after_failure() {
    let node = support::node().await;
    let mut cri = node.client().await;
    let config = pod("phoenix", node.dir());

    let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: "no-such-handler".to_owned() };
    let refused = cri.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert!(refused.message().contains("no-such-handler"), "{}", refused.message());
    let mut relative = config.clone();
    relative.log_directory = "logs".into();
    assert_eq!(cri.run(&relative).await.unwrap_err().code(), Code::InvalidArgument);
    // This one fails in the kernel, after much has been done for it.
    let mut unheard = config.clone();
    unheard.linux.get_or_insert_default().sysctls.insert("net.ipv4.ip_local_port_range".into(), "nonsense".into());
    assert!(cri.run(&unheard).await.is_err());
    assert_eq!(listed(&mut cri).await, [""; 0], "what has failed is not listed");

    let first = cri.run(&config).await.expect("the name is free after a failure");
    cri.remove(&first).await.unwrap();
    let second = cri.run(&config).await.expect("the name is free after a removal");
    assert_ne!(first, second);
    node.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn stop_and_remove_may_be_repeated_and_know_no_unknown_pod() {
    let mut scene = Scene::new().await;
    let id = scene.pod.clone();
    let unknown = "f".repeat(64);
    for id in [&unknown, &unknown, "no-such-pod"] {
        stop(&mut scene, id).await;
        remove(&mut scene, id).await;
        assert_eq!(status(&mut scene, id).await.unwrap_err().code(), Code::NotFound);
    }
    stop(&mut scene, &id).await;
    stop(&mut scene, &id).await;
    remove(&mut scene, &id).await;
    remove(&mut scene, &id).await;
    stop(&mut scene, &id).await;

    // Without a stop before it, with a container that runs, and by several at once.
    let (id, config) = scene.another("second", |_| ()).await;
    let container = scene.sleeper_in(&id, &config, "busy").await;
    let removals: Vec<_> = (0..4)
        .map(|_| {
            let (mut cri, id) = (Cri::clone(&scene), id.clone());
            tokio::spawn(async move { remove(&mut cri, &id).await })
        })
        .collect();
    for removal in removals {
        removal.await.unwrap();
    }
    assert_eq!(scene.try_status(&container).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(listed(&mut scene).await, [""; 0]);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_stopped_pod_has_no_running_container_and_takes_no_new_one() {
    let mut scene = Scene::new().await;
    let (running, created) = (scene.start(&sleeper("running")).await, scene.create(&sleeper("created")).await);
    let id = scene.pod.clone();
    stop(&mut scene, &id).await;
    let ended = scene.status(&running).await;
    assert_eq!(ended.state, api::cri::v1::ContainerState::ContainerExited as i32);
    assert!(ended.finished_at >= ended.started_at && ended.exit_code > 128, "{ended:?}");
    assert_ne!(scene.status(&created).await.state, api::cri::v1::ContainerState::ContainerRunning as i32);

    assert_eq!(scene.try_create(&sleeper("late")).await.unwrap_err().code(), Code::FailedPrecondition);
    let request = api::cri::v1::StartContainerRequest { container_id: created };
    assert_eq!(scene.runtime.start_container(request).await.unwrap_err().code(), Code::FailedPrecondition);
    let unknown = "0".repeat(64);
    let config = scene.config.clone();
    assert_eq!(scene.create_in(&unknown, &config, &sleeper("lost")).await.unwrap_err().code(), Code::NotFound);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn who_asks_for_a_stop_or_a_removal_under_way_waits_for_the_same_one() {
    let mut scene = Scene::new().await;
    for name in ["one", "two", "three"] {
        scene.start(&sleeper(name)).await;
    }
    let client = || (Cri::clone(&scene), scene.pod.clone());
    let stopped = async |(mut cri, id): (Cri, String)| {
        stop(&mut cri, &id).await;
        status(&mut cri, &id).await.unwrap().status.unwrap().state()
    };
    let (a, b, c) = tokio::join!(stopped(client()), stopped(client()), stopped(client()));
    assert_eq!([a, b, c], [PodSandboxState::SandboxNotready; 3], "it is stopped for everyone");
    let removed = async |(mut cri, id): (Cri, String)| {
        remove(&mut cri, &id).await;
        status(&mut cri, &id).await.unwrap_err().code()
    };
    let (a, b, c) = tokio::join!(removed(client()), removed(client()), removed(client()));
    assert_eq!([a, b, c], [Code::NotFound; 3], "it is gone for everyone");
    scene.finish().await;
}
