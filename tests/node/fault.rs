//! Every named step of making a pod and a container made to fail, and the daemon killed before and after each.
//!
//! Whatever happens: nothing half-made stays, the same request works afterwards, nothing is leaked.

use pods::Step;
use testkit::{Cri, NodeOptions, TempNode, container, pod};

use crate::support::{PROBE, node_with};

/// The variable that injects faults.
const FAULTS: &str = "CORACLED_FAULTS";

fn steps(act: &str) -> impl Iterator<Item = &'static str> {
    let steps: Vec<_> = Step::ALL.iter().map(|step| step.name()).filter(|name| name.starts_with(act)).collect();
    assert!(steps.len() > 5, "the steps of {act}: {steps:?}");
    steps.into_iter()
}

async fn node_that(step: &str, how: &str) -> TempNode {
    let environment = vec![(FAULTS.to_owned(), format!("{step}={how}"))];
    node_with(NodeOptions { environment, ..NodeOptions::default() }).await
}

/// A pod with a running container, which works.
async fn works(cri: &mut Cri, node: &TempNode) {
    let config = pod("again", node.dir());
    let id = cri.run(&config).await.unwrap();
    let runs = cri.start(&id, &config, &container("main", PROBE, &["sleep", "forever"])).await.unwrap();
    assert_eq!(cri.exec(&runs, &["/probe", "print", "here"], 10).await.unwrap().stdout, b"here\n");
}

async fn nothing_listed(cri: &mut Cri, step: &str) {
    let pods = cri.runtime.list_pod_sandbox(api::cri::v1::ListPodSandboxRequest::default()).await.unwrap();
    assert_eq!(pods.into_inner().items, [], "{step}");
}

#[ignore = "needs root: runs nodes"]
#[tokio::test]
async fn a_pod_that_fails_at_any_step_leaves_nothing() {
    for step in steps("run.") {
        let mut node = node_that(step, "fail").await;
        let mut cri = node.client().await;
        let refused = cri.run(&pod("again", node.dir())).await.unwrap_err();
        assert!(refused.message().contains(step), "{step}: {refused}");
        nothing_listed(&mut cri, step).await;
        node.assert_no_leaks();
        node.set_environment(Vec::new());
        node.restart_daemon();
        works(&mut node.client().await, &node).await;
        node.finish().await;
    }
}

#[ignore = "needs root: runs nodes"]
#[tokio::test]
async fn a_container_that_fails_at_any_step_leaves_nothing() {
    for step in steps("create.") {
        let mut node = node_that(step, "fail").await;
        let mut cri = node.client().await;
        let config = pod("again", node.dir());
        let id = cri.run(&config).await.unwrap();
        let main = container("main", PROBE, &["sleep", "forever"]);
        let refused = cri.create(&id, &config, &main).await.unwrap_err();
        assert!(refused.message().contains(step), "{step}: {refused}");
        let listed = cri.runtime.list_containers(api::cri::v1::ListContainersRequest::default()).await.unwrap();
        assert_eq!(listed.into_inner().containers, [], "{step}");
        // The same daemon, the same name: whatever was taken back is free again.
        assert!(cri.create(&id, &config, &main).await.unwrap_err().message().contains(step));
        node.set_environment(Vec::new());
        node.restart_daemon();
        let mut cri = node.client().await;
        cri.start(&id, &config, &main).await.unwrap_or_else(|status| panic!("after {step}: {status}"));
        node.finish().await;
    }
}

#[ignore = "needs root: runs nodes"]
#[tokio::test]
async fn a_daemon_killed_at_any_step_of_a_pod_is_forgotten_by_the_next() {
    for step in steps("run.") {
        for how in ["kill-before", "kill-after"] {
            let mut node = node_that(step, how).await;
            node.client().await.run(&pod("again", node.dir())).await.unwrap_err();
            node.await_death();
            node.set_environment(Vec::new());
            node.start_daemon();
            works(&mut node.client().await, &node).await;
            node.finish().await;
        }
    }
}

#[ignore = "needs root: runs nodes"]
#[tokio::test]
async fn a_daemon_killed_at_any_step_of_a_container_is_forgotten_by_the_next() {
    for step in steps("create.").chain(["start.exec"]) {
        for how in ["kill-before", "kill-after"] {
            let mut node = node_that(step, how).await;
            let mut cri = node.client().await;
            let config = pod("again", node.dir());
            let id = cri.run(&config).await.unwrap();
            let main = container("main", PROBE, &["sleep", "forever"]);
            cri.start(&id, &config, &main).await.unwrap_err();
            node.await_death();
            node.set_environment(Vec::new());
            node.start_daemon();
            let mut cri = node.client().await;
            // The kubelet asks again: the same request joins what was made, or makes it anew.
            let made = cri.create(&id, &config, &main).await;
            let made = match made {
                Ok(id) => id,
                // It runs already: it was started before the daemon died.
                Err(status) if step == "start.exec" && how == "kill-after" => {
                    assert_eq!(status.code(), tonic::Code::AlreadyExists, "{status}");
                    node.finish().await;
                    continue;
                }
                Err(status) => panic!("{step} {how}: {status}"),
            };
            let start = api::cri::v1::StartContainerRequest { container_id: made };
            cri.runtime.start_container(start).await.unwrap_or_else(|status| panic!("{step} {how}: {status}"));
            node.finish().await;
        }
    }
}
