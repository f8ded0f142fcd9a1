//! A full disk: what needs room is refused with its reason, and everything can be stopped and deleted.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use api::cri::v1::{
    ContainerState, ContainerStatus, ContainerStatusRequest, ListContainersRequest, ListPodSandboxRequest,
    RemoveContainerRequest, RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest,
};
use nix::sys::signal::{Signal, kill};
use testkit::{Cri, NodeOptions, RootSize, TempNode, container, eventually_async, pod};
use tonic::Code;

use crate::{
    scene::SOON,
    support::{PROBE, node_with},
};

/// Room for the probe image twice over.
const SIZE: RootSize = RootSize { mib: 64, files: 4096 };

/// Fills a file system to its last byte. Answers what is to be removed.
fn fill_with_content(dir: &Path) -> PathBuf {
    let ballast = dir.join("ballast");
    let mut file = File::create(&ballast).unwrap();
    for piece in [1 << 20, 4096, 1] {
        let piece = vec![0xa5; piece];
        while file.write(&piece).is_ok_and(|written| written > 0) {}
    }
    ballast
}

/// Fills a file system to its last file.
fn fill_with_files(dir: &Path) -> PathBuf {
    let ballast = dir.join("ballast");
    fs::create_dir(&ballast).unwrap();
    for number in 0..=SIZE.files {
        match File::create(ballast.join(number.to_string())) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                return ballast;
            }
        }
    }
    panic!("{} files are not the last", SIZE.files);
}

/// Everything below the directories of records and layers, but what is on its way out.
fn objects(node: &TempNode) -> Vec<PathBuf> {
    let dirs = ["root/records/pods", "root/records/containers", "root/records/phases", "root/containers", "state/pods"];
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(node.dir().join(dir)).unwrap());
    let is_hidden = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with('.');
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| !is_hidden(path)).collect();
    found.sort();
    found
}

async fn status(cri: &mut Cri, id: &str) -> ContainerStatus {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    cri.runtime.container_status(request).await.unwrap().into_inner().status.unwrap()
}

/// A container's first process, as the host counts.
async fn pid(cri: &mut Cri, id: &str) -> nix::unistd::Pid {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let info = cri.runtime.container_status(request).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    nix::unistd::Pid::from_raw(info["pid"].as_i64().unwrap() as i32)
}

async fn a_node_whose_disk_is_full(fill: fn(&Path) -> PathBuf) {
    let mut node = node_with(NodeOptions { root: Some(SIZE), ..NodeOptions::default() }).await;
    let mut cri = node.client().await;
    let config = pod("full", node.dir());
    let pod_id = cri.run(&config).await.unwrap();
    let mut ids = Vec::new();
    for name in ["dies", "stopped", "removed", "left"] {
        ids.push(cri.start(&pod_id, &config, &container(name, PROBE, &["sleep", "forever"])).await.unwrap());
    }
    let [dies, stopped, removed, left] = ids.try_into().expect("four");
    let ballast = fill(&node.dir().join("root"));

    let before = objects(&node);
    let refused = cri.create(&pod_id, &config, &container("more", PROBE, &["exit", "0"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{}", refused.message());
    let refused = cri.run(&pod("more", node.dir())).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{}", refused.message());
    assert_eq!(objects(&node), before, "nothing half-made is left");
    assert_eq!(cri.exec(&left, &["/probe", "print", "here"], 10).await.unwrap().stdout, b"here\n");

    kill(pid(&mut cri, &dies).await, Signal::SIGKILL).unwrap();
    eventually_async(SOON, "the end of a container is known", || {
        let (mut cri, id) = (cri.clone(), dies.clone());
        async move {
            let status = status(&mut cri, &id).await;
            if status.state() == ContainerState::ContainerExited { Ok(()) } else { Err(status.state()) }
        }
    })
    .await;
    cri.runtime.stop_container(StopContainerRequest { container_id: stopped.clone(), timeout: 10 }).await.unwrap();
    cri.runtime.remove_container(RemoveContainerRequest { container_id: removed.clone() }).await.unwrap();

    // And it stays known, by a daemon that starts on a full disk.
    node.restart_daemon();
    let mut cri = node.client().await;
    assert_eq!(status(&mut cri, &dies).await.exit_code, 137);
    assert_eq!(status(&mut cri, &stopped).await.exit_code, 143);
    assert_eq!(status(&mut cri, &left).await.state(), ContainerState::ContainerRunning);
    cri.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_id.clone() }).await.unwrap();
    cri.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod_id.clone() }).await.unwrap();
    let pods = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    let containers =
        cri.runtime.list_containers(ListContainersRequest::default()).await.unwrap().into_inner().containers;
    assert!(pods.is_empty() && containers.is_empty());
    node.assert_no_leaks();

    if ballast.is_dir() { fs::remove_dir_all(&ballast) } else { fs::remove_file(&ballast) }.unwrap();
    let config = pod("after", node.dir());
    let pod_id = cri.run(&config).await.unwrap();
    let id = cri.start(&pod_id, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    assert_eq!(cri.exec(&id, &["/probe", "print", "here"], 10).await.unwrap().exit_code, 0);
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn with_no_room_for_content_all_that_runs_can_be_stopped_and_deleted() {
    a_node_whose_disk_is_full(fill_with_content).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn with_no_room_for_files_all_that_runs_can_be_stopped_and_deleted() {
    a_node_whose_disk_is_full(fill_with_files).await;
}
