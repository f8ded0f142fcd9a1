//! Finding pods: by the beginning of an id, by filters, in a list or as a stream.

use api::cri::v1::{
    ListPodSandboxRequest, NamespaceMode, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
    StopPodSandboxRequest, StreamPodSandboxesRequest,
};
use testkit::{Cri, pod};
use tonic::Code;

use super::life::status;
use crate::{scene::namespaces, support};

/// The ids that a filter leaves, sorted: as a list, and the same as a stream.
async fn found(cri: &mut Cri, filter: PodSandboxFilter) -> Vec<String> {
    let request = ListPodSandboxRequest { filter: Some(filter.clone()) };
    let listed = cri.runtime.list_pod_sandbox(request).await.unwrap().into_inner().items;
    let request = StreamPodSandboxesRequest { filter: Some(filter) };
    let mut stream = cri.runtime.stream_pod_sandboxes(request).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(part) = stream.message().await.unwrap() {
        assert!(!part.pod_sandboxes.is_empty(), "a message without an item");
        streamed.extend(part.pod_sandboxes);
    }
    assert_eq!(listed, streamed);
    let mut ids: Vec<_> = listed.into_iter().map(|pod| pod.id).collect();
    ids.sort();
    ids
}

fn ready(state: PodSandboxState) -> Option<PodSandboxStateValue> {
    Some(PodSandboxStateValue { state: state.into() })
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn pods_are_found_by_prefix_state_and_labels() {
    let node = support::node().await;
    let mut cri = node.client().await;
    // Cheap ones, until two of them begin with the same character: after seventeen at the latest.
    let mut pods: Vec<String> = Vec::new();
    let shared = loop {
        let mut config = pod(&format!("pod-{}", pods.len()), node.dir());
        namespaces(&mut config).network = NamespaceMode::Node.into();
        config.hostname = String::new();
        config.labels.insert("parity".into(), ["even", "odd"][pods.len() % 2].into());
        let id = cri.run(&config).await.unwrap();
        let twin = pods.iter().any(|other| other[..1] == id[..1]);
        pods.push(id.clone());
        if twin && pods.len() >= 3 {
            break id[..1].to_owned();
        }
    };
    let mut all = pods.clone();
    all.sort();
    let twins: Vec<_> = all.iter().filter(|id| id.starts_with(&shared)).cloned().collect();

    assert_eq!(status(&mut cri, &pods[0][..13]).await.unwrap().status.unwrap().id, pods[0]);
    assert_eq!(status(&mut cri, &shared).await.unwrap_err().code(), Code::InvalidArgument, "ambiguous");
    assert_ne!(status(&mut cri, "").await.unwrap_err().code(), Code::Ok);
    let request = StopPodSandboxRequest { pod_sandbox_id: pods[1][..13].to_owned() };
    cri.runtime.stop_pod_sandbox(request).await.expect("a beginning is enough to stop one");

    let any = PodSandboxFilter::default();
    assert_eq!(found(&mut cri, any.clone()).await, all);
    assert_eq!(found(&mut cri, PodSandboxFilter { id: shared, ..any.clone() }).await, twins);
    assert_eq!(found(&mut cri, PodSandboxFilter { id: "no-such-pod".into(), ..any.clone() }).await, [""; 0]);
    let stopped = PodSandboxFilter { state: ready(PodSandboxState::SandboxNotready), ..any.clone() };
    assert_eq!(found(&mut cri, stopped.clone()).await, [pods[1].clone()]);
    let running = PodSandboxFilter { state: ready(PodSandboxState::SandboxReady), ..any.clone() };
    assert_eq!(found(&mut cri, running.clone()).await.len(), pods.len() - 1);

    let label = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into_iter().collect();
    let odd = PodSandboxFilter { label_selector: label("parity", "odd"), ..any.clone() };
    assert_eq!(found(&mut cri, odd.clone()).await.len(), pods.len() / 2);
    assert_eq!(
        found(&mut cri, PodSandboxFilter { label_selector: label("parity", "od"), ..any.clone() }).await,
        [""; 0]
    );
    // All of a filter has to be true at once.
    assert_eq!(found(&mut cri, PodSandboxFilter { state: stopped.state, ..odd.clone() }).await, [pods[1].clone()]);
    assert_eq!(found(&mut cri, PodSandboxFilter { id: pods[0].clone(), ..odd.clone() }).await, [""; 0]);
    let mut both = odd;
    both.label_selector.insert("io.kubernetes.pod.name".into(), "pod-1".into());
    assert_eq!(found(&mut cri, both).await, [pods[1].clone()]);
    node.finish().await;
}
