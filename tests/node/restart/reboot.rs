//! A reboot: what ran is listed and no more, and what it had borrowed is given back once.

use std::{fs, path::Path};

use api::cri::v1::{
    ContainerState, ContainerStatusRequest, ListPodSandboxRequest, PodSandboxState, PodSandboxStatusRequest,
    RemovePodSandboxRequest, StopPodSandboxRequest,
};
use serde_json::Value;
use testkit::{Cri, TempNode, container, pod};
use tonic::Code;

use super::{exited, running, status};
use crate::support::{PROBE, node};

/// What the verbose status of a pod says.
async fn pod_info(cri: &mut Cri, pod: &str) -> (PodSandboxState, Value) {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    let answer = cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner();
    (answer.status.unwrap().state(), serde_json::from_str(&answer.info["info"]).unwrap())
}

/// The pid that the verbose status of a container tells.
async fn told_pid(cri: &mut Cri, container: &str) -> Value {
    let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: true };
    let info = cri.runtime.container_status(request).await.unwrap().into_inner().info;
    serde_json::from_str::<Value>(&info["info"]).unwrap()["pid"].clone()
}

/// How many addresses a pod holds, of either family.
fn addresses(node: &TempNode, pod: &str) -> usize {
    fn held(dir: &Path, pod: &str) -> usize {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let count = |path: std::path::PathBuf| {
            if path.is_dir() {
                return held(&path, pod);
            }
            usize::from(fs::read_to_string(path).is_ok_and(|text| text.starts_with(pod)))
        };
        entries.map(count).sum()
    }
    held(&node.dir().join("root/network"), pod)
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn after_a_reboot_every_pod_is_listed_not_ready_and_can_be_removed() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let config = pod("rebooted", node.dir());
    let (old, runs) = running(&mut cri, &config).await;
    let waits = cri.create(&old, &config, &container("waits", PROBE, &["exit", "0"])).await.unwrap();
    let ended = cri.start(&old, &config, &container("ended", PROBE, &["exit", "7"])).await.unwrap();
    exited(&mut cri, &ended).await;
    let held = addresses(&node, &old);
    assert!(held > 0);
    let (_, before) = pod_info(&mut cri, &old).await;
    assert!(before["monitorPid"].is_number() && before["netNamespaceClosed"] == false, "{before}");
    node.lose_power();
    node.start_daemon();

    let mut cri = node.client().await;
    let (state, info) = pod_info(&mut cri, &old).await;
    assert_eq!(state, PodSandboxState::SandboxNotready);
    assert!(info["monitorPid"].is_null() && info["pid"].is_null(), "{info}");
    assert_eq!(info["netNamespaceClosed"], true, "{info}");
    for lost in [&runs, &waits] {
        let status = status(&mut cri, lost).await;
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 255));
        assert_eq!(status.reason, "Unknown");
        assert_eq!(told_pid(&mut cri, lost).await, 0);
    }
    let known = status(&mut cri, &ended).await;
    assert_eq!((known.exit_code, known.reason.as_str()), (7, "Error"), "what was known before stays known");
    let refused = cri.create(&old, &config, &container("more", PROBE, &["exit", "0"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);

    // Its addresses are its own until it is stopped, and from then on whoever's comes next.
    assert_eq!(addresses(&node, &old), held);
    cri.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: old.clone() }).await.unwrap();
    assert_eq!(addresses(&node, &old), 0);
    let (next, _) = running(&mut cri, &pod("next", node.dir())).await;
    assert_eq!(addresses(&node, &next), held);
    cri.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: old.clone() }).await.unwrap();
    assert_eq!(addresses(&node, &next), held);
    let listed = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    assert_eq!(listed.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&next]);
    node.finish().await;
}
