//! Records that cannot be read: nothing else is kept from starting, and nothing that runs is touched.

use std::{
    fs,
    path::{Path, PathBuf},
};

use api::cri::v1::{ContainerState, ImageSpec, ListPodSandboxRequest, RemoveImageRequest};
use testkit::{Cri, Process, TempNode, pod};
use tonic::Code;

use super::{SOON, first_process, running, status};
use crate::support::{PROBE, node};

/// A node with a pod whose record a test spoils, and one beside it.
struct Spoiled {
    node: TempNode,
    good_pod: String,
    good_container: String,
    bad_pod: String,
    bad_container: String,
    /// The first process of the container in the bad pod.
    lives: Process,
}

/// Where the record of a pod is.
fn record(node: &TempNode, pod: &str) -> PathBuf {
    node.dir().join("root/records/pods").join(pod)
}

impl Spoiled {
    /// Has the record of a running pod changed while the daemon is away.
    async fn by(spoil: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Spoiled {
        let mut node = node().await;
        let mut cri = node.client().await;
        let (good_pod, good_container) = running(&mut cri, &pod("good", node.dir())).await;
        let (bad_pod, bad_container) = running(&mut cri, &pod("bad", node.dir())).await;
        let lives = first_process(&mut cri, &bad_container).await;
        node.kill_daemon();
        let record = record(&node, &bad_pod);
        fs::write(&record, spoil(fs::read(&record).unwrap())).unwrap();
        node.start_daemon();
        Spoiled { node, good_pod, good_container, bad_pod, bad_container, lives }
    }

    /// The good pod is there, the bad one is not listed, and nothing of either is touched.
    async fn assert_left_alone(&self) {
        let mut cri = self.node.client().await;
        assert_eq!(listed(&mut cri).await, [self.good_pod.clone()]);
        assert_eq!(status(&mut cri, &self.good_container).await.state(), ContainerState::ContainerRunning);
        assert!(self.lives.alive(), "what runs, runs on");
        assert!(self.node.dir().join("state/pods").join(&self.bad_pod).is_dir());
        assert!(self.node.dir().join("root/containers").join(&self.bad_container).is_dir());
        assert!(self.node.dir().join("root/records/containers").join(&self.bad_container).is_file());
        // Its address is its own still, and the namespace that has it.
        let next = cri.run(&pod("next", self.node.dir())).await.unwrap();
        assert_eq!(fs::read_dir(self.node.dir().join("netns")).unwrap().count(), 3);
        cri.remove(&next).await.unwrap();
        assert!(self.node.log().contains(&self.bad_pod), "the record is named in the log");
    }
}

async fn listed(cri: &mut Cri) -> Vec<String> {
    let listed = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    listed.into_iter().map(|pod| pod.id).collect()
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_running_pod_whose_record_is_rotten_runs_on_until_its_record_is_taken_out_of_quarantine() {
    let mut spoiled = Spoiled::by(|_| b"garbage".to_vec()).await;
    spoiled.assert_left_alone().await;
    let quarantined = spoiled.node.dir().join("root/records/pods/quarantine").join(&spoiled.bad_pod);
    assert_eq!(fs::read(&quarantined).unwrap(), b"garbage");
    // Nor the next time, when the record is where the first start has put it.
    spoiled.node.restart_daemon();
    spoiled.assert_left_alone().await;

    fs::remove_file(&quarantined).unwrap();
    fs::remove_dir(quarantined.parent().unwrap()).unwrap();
    spoiled.node.restart_daemon();
    testkit::eventually(
        SOON,
        "what it stood for is gone",
        || if spoiled.lives.alive() { Err("it runs") } else { Ok(()) },
    );
    spoiled.node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_running_pod_of_a_newer_release_runs_on_and_is_there_again_after_the_upgrade() {
    let mut original = Vec::new();
    let mut spoiled = Spoiled::by(|record| {
        original = record.clone();
        let body = record.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let value: serde_json::Value = serde_json::from_slice(&record[body..]).unwrap();
        disk::encode("pod", 1000, &value).unwrap()
    })
    .await;
    spoiled.assert_left_alone().await;
    let record = record(&spoiled.node, &spoiled.bad_pod);
    assert_ne!(fs::read(&record).unwrap(), original, "it stays as it is");

    // A release that reads it.
    spoiled.node.kill_daemon();
    fs::write(&record, original).unwrap();
    spoiled.node.start_daemon();
    let mut cri = spoiled.node.client().await;
    assert_eq!(first_process(&mut cri, &spoiled.bad_container).await, spoiled.lives);
    assert_eq!(cri.exec(&spoiled.bad_container, &["/probe", "print", "here"], 10).await.unwrap().stdout, b"here\n");
    spoiled.node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_running_container_whose_record_cannot_be_read_runs_on_and_ends_with_its_pod() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let (pod_id, container) = running(&mut cri, &pod("half", node.dir())).await;
    let lives = first_process(&mut cri, &container).await;
    node.kill_daemon();
    fs::write(node.dir().join("root/records/containers").join(&container), b"garbage").unwrap();
    node.start_daemon();

    let mut cri = node.client().await;
    let unknown = cri.exec(&container, &["/probe", "print", "here"], 10).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(lives.alive());
    // Nobody knows which image it uses: none leaves the disk under it.
    let image = ImageSpec { image: PROBE.to_owned(), ..Default::default() };
    cri.images.remove_image(RemoveImageRequest { image: Some(image) }).await.unwrap();
    assert!(holds(&node.dir().join("root/images"), "probe"));
    cri.remove(&pod_id).await.unwrap();
    assert!(!lives.alive());
    // Its layer is left to whoever looks into the quarantine.
    assert!(node.dir().join("root/containers").join(&container).is_dir());
    fs::remove_dir_all(node.dir().join("root/records/containers/quarantine")).unwrap();
    node.restart_daemon();
    testkit::eventually(SOON, "the image has left the disk", || {
        if holds(&node.dir().join("root/images"), "probe") { Err("it is there") } else { Ok(()) }
    });
    node.finish().await;
}

/// Whether there is a file of this name anywhere below a directory, of which parts may just be going.
fn holds(dir: &Path, name: &str) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        let is_directory = entry.file_type().is_ok_and(|found| found.is_dir());
        if is_directory { holds(&entry.path(), name) } else { entry.file_name() == name }
    })
}
