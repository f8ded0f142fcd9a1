//! Finding containers: by the beginning of an id, by filters, in a list or as a stream.

use api::cri::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest, StreamContainersRequest,
};
use testkit::Cri;
use tonic::Code;

use crate::scene::{Scene, probe, sleeper};

/// What a filter leaves: as a list, and the same as a stream.
async fn found(cri: &mut Cri, filter: ContainerFilter) -> Vec<Container> {
    let request = ListContainersRequest { filter: Some(filter.clone()) };
    let listed = cri.runtime.list_containers(request).await.unwrap().into_inner().containers;
    let mut stream =
        cri.runtime.stream_containers(StreamContainersRequest { filter: Some(filter) }).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(part) = stream.message().await.unwrap() {
        assert!(!part.containers.is_empty(), "a message without an item");
        streamed.extend(part.containers);
    }
    assert_eq!(listed, streamed);
    api::cri::containers(listed).unwrap()
}

/// Their ids, sorted.
async fn ids(cri: &mut Cri, filter: ContainerFilter) -> Vec<String> {
    let mut ids: Vec<_> = found(cri, filter).await.into_iter().map(|container| container.id).collect();
    ids.sort();
    ids
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn containers_are_found_by_prefix_pod_state_and_labels() {
    let mut scene = Scene::new().await;
    // Until two of them begin with the same character: after seventeen at the latest.
    let mut all: Vec<String> = Vec::new();
    let shared = loop {
        let id = scene.create(&sleeper(&format!("c-{}", all.len()))).await;
        let twin = all.iter().any(|other| other[..1] == id[..1]);
        all.push(id.clone());
        if twin {
            break id[..1].to_owned();
        }
    };
    let mut labelled = sleeper("running");
    labelled.labels.insert("tier".into(), "front".into());
    labelled.labels.insert("zone".into(), "a".into());
    let running = scene.start(&labelled).await;
    let ended = scene.outcome(&probe("ended", &["exit", "0"])).await.id;
    let (other_pod, of) = scene.another("other", |_| ()).await;
    let elsewhere = scene.sleeper_in(&other_pod, &of, "running").await;
    all.extend([running.clone(), ended.clone(), elsewhere.clone()]);
    all.sort();

    assert_eq!(scene.status(&running[..20]).await.id, running);
    assert_eq!(scene.try_status(&shared).await.unwrap_err().code(), Code::InvalidArgument, "ambiguous");
    assert!(scene.try_status("").await.is_err());

    let any = ContainerFilter::default();
    let state = |state: ContainerState| Some(ContainerStateValue { state: state.into() });
    let label = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into_iter().collect();
    assert_eq!(ids(&mut scene, any.clone()).await, all);
    let twins: Vec<_> = all.iter().filter(|id| id.starts_with(&shared)).cloned().collect();
    assert_eq!(ids(&mut scene, ContainerFilter { id: shared, ..any.clone() }).await, twins);
    assert_eq!(ids(&mut scene, ContainerFilter { id: "no-such".into(), ..any.clone() }).await, [""; 0]);
    assert_eq!(ids(&mut scene, ContainerFilter { pod_sandbox_id: "no-such".into(), ..any.clone() }).await, [""; 0]);
    let there = ContainerFilter { pod_sandbox_id: other_pod[..13].to_owned(), ..any.clone() };
    assert_eq!(ids(&mut scene, there.clone()).await, [elsewhere.as_str()]);
    let exited = ContainerFilter { state: state(ContainerState::ContainerExited), ..any.clone() };
    assert_eq!(ids(&mut scene, exited.clone()).await, [ended.as_str()]);
    assert_eq!(ids(&mut scene, ContainerFilter { state: exited.state, ..there.clone() }).await, [""; 0]);
    let created = ContainerFilter { state: state(ContainerState::ContainerCreated), ..any.clone() };
    assert_eq!(ids(&mut scene, created).await.len(), all.len() - 3);
    let front = ContainerFilter { label_selector: label("tier", "front"), ..any.clone() };
    assert_eq!(ids(&mut scene, front.clone()).await, [running.as_str()]);
    assert_eq!(ids(&mut scene, ContainerFilter { label_selector: label("tier", "fro"), ..any.clone() }).await, [""; 0]);
    let mut both = front.clone();
    both.label_selector.insert("zone".into(), "b".into());
    assert_eq!(ids(&mut scene, both).await, [""; 0], "all labels have to match");

    let row = found(&mut scene, front).await.remove(0);
    let status = scene.status(&running).await;
    assert_eq!(row.pod_sandbox_id, scene.pod);
    assert_eq!((&row.metadata, &row.labels), (&status.metadata, &status.labels));
    assert_eq!((row.state, row.created_at, &row.image_id), (status.state, status.created_at, &status.image_id));
    assert!(!row.image_ref.is_empty() && !row.image.unwrap().image.is_empty());
    scene.finish().await;
}
