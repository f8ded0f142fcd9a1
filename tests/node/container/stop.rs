//! The end that somebody else decides: stop signals, grace, and the kill after it.

use std::time::{Duration, Instant};

use api::cri::v1::{ContainerState, Signal, StopContainerRequest, StopPodSandboxRequest};
use serde_json::json;
use testkit::{Cri, TempNode, eventually_async};

use crate::{
    scene::{SOON, Scene, in_pod_pids, namespaces, of_image, probe, sleeper},
    support::{self, PROBE},
};

/// Waits until a container has written something.
async fn ready(scene: &Scene, config: &api::cri::v1::ContainerConfig) {
    let path = scene.log_path(config);
    eventually_async(SOON, "the container has written", || async {
        let content = std::fs::read(&path).unwrap_or_default();
        if content.is_empty() { Err("nothing") } else { Ok(()) }
    })
    .await;
}

async fn stop(mut cri: Cri, id: String, timeout: i64) -> Duration {
    let begin = Instant::now();
    cri.runtime.stop_container(StopContainerRequest { container_id: id, timeout }).await.expect("it stops");
    begin.elapsed()
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn the_stop_signal_is_the_requests_or_the_images_or_term() {
    const IMAGE: &str = "localhost/coracle/stop:1";
    let mut node = TempNode::prepare(Default::default());
    support::import(node.dir(), support::probe().build().archive(PROBE)).await;
    let image = support::probe().set("StopSignal", json!("SIGINT"));
    support::import(node.dir(), image.build().archive(IMAGE)).await;
    node.start_daemon();
    let mut scene = Scene::on(node, |_| ()).await;
    for (name, image, asked, told, code) in [
        ("default", PROBE, Signal::RuntimeDefault, Signal::Sigterm, 143),
        ("image", IMAGE, Signal::RuntimeDefault, Signal::Sigint, 130),
        ("request", IMAGE, Signal::Sigusr1, Signal::Sigusr1, 138),
        ("kill", PROBE, Signal::Sigkill, Signal::Sigkill, 137),
    ] {
        let mut config = of_image(name, image, &["sleep", "forever"]);
        config.stop_signal = asked.into();
        let id = scene.start(&config).await;
        scene.attentive(&id).await;
        let took = stop(Cri::clone(&scene), id.clone(), 30).await;
        let status = scene.status(&id).await;
        assert_eq!(status.state, ContainerState::ContainerExited as i32, "{name}: ended when the stop returns");
        assert_eq!((status.exit_code, status.stop_signal), (code, told as i32), "{name}");
        assert!(took < Duration::from_secs(20), "{name}: {took:?}");
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn who_ignores_the_signal_has_its_grace_and_no_more() {
    let mut scene = Scene::new().await;
    let (patient, abrupt) = (probe("patient", &["stubborn"]), probe("abrupt", &["stubborn"]));
    let (one, two) = (scene.start(&patient).await, scene.start(&abrupt).await);
    ready(&scene, &patient).await;
    ready(&scene, &abrupt).await;
    let (waited, at_once) =
        tokio::join!(stop(Cri::clone(&scene), one.clone(), 2), stop(Cri::clone(&scene), two.clone(), 0));
    assert!((Duration::from_millis(1900)..Duration::from_secs(10)).contains(&waited), "{waited:?}");
    assert!(at_once < Duration::from_millis(1900), "{at_once:?}");
    for id in [one, two] {
        let status = scene.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_second_stop_with_less_patience_hastens_the_first() {
    let mut scene = Scene::new().await;
    let config = probe("stubborn", &["stubborn"]);
    let id = scene.start(&config).await;
    ready(&scene, &config).await;
    let first = tokio::spawn(stop(Cri::clone(&scene), id.clone(), 600));
    // The stop of the first call is known to have begun only by its effects, and a stubborn process shows none: the
    // second call comes after some answered ones.
    for _ in 0..20 {
        assert_eq!(scene.status(&id).await.state, ContainerState::ContainerRunning as i32);
    }
    let second = stop(Cri::clone(&scene), id.clone(), 1).await;
    let first = first.await.unwrap();
    assert!(second < Duration::from_secs(10) && first < Duration::from_secs(12), "{first:?}, {second:?}");
    assert_eq!(scene.status(&id).await.exit_code, 137);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn nothing_of_a_container_outlives_its_end() {
    let mut scene = Scene::with(|pod| namespaces(pod).pid = api::cri::v1::NamespaceMode::Pod.into()).await;
    let watcher = scene.start(&in_pod_pids(sleeper("watcher"))).await;
    // In a shared pid namespace children do not go with their parent by themselves.
    let config = in_pod_pids(probe("family", &["children", "5"]));
    let id = scene.start(&config).await;
    ready(&scene, &config).await;
    let counted = async |scene: &mut Scene| {
        scene.look(&watcher, &["/probe", "processes"]).await.lines().filter(|line| line.contains("probe")).count()
    };
    assert_eq!(counted(&mut scene).await, 1 + 6 + 1, "watcher, family, the command that counts");
    scene.stop(&id, 10).await;
    assert_eq!(counted(&mut scene).await, 1 + 1);

    // The same when the first process ends by itself.
    let left = scene.outcome(&in_pod_pids(probe("leaver", &["spawn-child-holding-stdout", "600"]))).await;
    assert_eq!(left.status.exit_code, 0);
    assert_eq!(counted(&mut scene).await, 1 + 1);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn the_pods_stop_ends_the_grace_of_a_container() {
    let mut scene = Scene::new().await;
    let config = probe("stubborn", &["stubborn"]);
    let id = scene.start(&config).await;
    ready(&scene, &config).await;
    let first = tokio::spawn(stop(Cri::clone(&scene), id.clone(), 3600));
    // As above: the stop of the container has begun before some later calls are answered.
    for _ in 0..20 {
        assert_eq!(scene.status(&id).await.state, ContainerState::ContainerRunning as i32);
    }
    let request = StopPodSandboxRequest { pod_sandbox_id: scene.pod.clone() };
    tokio::time::timeout(SOON, scene.runtime.stop_pod_sandbox(request)).await.expect("at once").unwrap();
    first.await.unwrap();
    assert_eq!(scene.status(&id).await.exit_code, 137);
    scene.finish().await;
}
