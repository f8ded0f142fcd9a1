//! Mounts made after the start, and who sees them: nobody, the container, or both sides.

use std::{
    fs,
    path::{Path, PathBuf},
};

use api::cri::v1::{Mount, MountPropagation};
use nix::mount::{MsFlags, mount, umount};

use super::mount::{bind, data};
use crate::scene::{Scene, pod_security, security, sleeper};

const NONE: Option<&str> = None;

/// A directory of the host in which mounts are shared with whoever has a copy of it.
fn shared(scene: &Scene, name: &str) -> PathBuf {
    let dir = data(scene, name);
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
    mount(NONE, &dir, NONE, MsFlags::MS_SHARED, NONE).unwrap();
    for below in ["from-host", "from-container"] {
        fs::create_dir(dir.join(below)).unwrap();
    }
    dir
}

/// Mounts something on the host after the container's start.
fn mount_late(dir: &Path) {
    let at = dir.join("from-host");
    mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
    fs::write(at.join("word"), "late").unwrap();
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn late_mounts_go_the_ways_that_were_asked_for() {
    let mut scene = Scene::with(|pod| pod_security(pod).privileged = true).await;
    for (name, propagation, host_to_container, container_to_host) in [
        ("private", MountPropagation::PropagationPrivate, false, false),
        ("slave", MountPropagation::PropagationHostToContainer, true, false),
        ("shared", MountPropagation::PropagationBidirectional, true, true),
    ] {
        let dir = shared(&scene, name);
        let mut config = sleeper(name);
        config.mounts = vec![Mount { propagation: propagation.into(), ..bind(&dir, "/data") }];
        security(&mut config).privileged = true;
        let id = scene.start(&config).await;
        assert_eq!(scene.status(&id).await.mounts, config.mounts);

        let mounts = scene.look(&id, &["/probe", "cat", "/proc/self/mountinfo"]).await;
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
        assert_eq!(root.contains(" shared:"), container_to_host, "{name}: {root}");

        mount_late(&dir);
        let seen = scene.attempt(&id, &["/probe", "cat", "/data/from-host/word"]).await.0 == 0;
        assert_eq!(seen, host_to_container, "{name}: the host's mount in the container");
        scene.look(&id, &["/probe", "mount", "tmpfs", "/data/from-container"]).await;
        scene.look(&id, &["/probe", "touch", "/data/from-container/file"]).await;
        let seen = dir.join("from-container/file").exists();
        assert_eq!(seen, container_to_host, "{name}: the container's mount on the host");

        scene.discard(&id).await;
        // What the container has mounted for the host outlives it, and is the host's to unmount.
        if container_to_host {
            umount(&dir.join("from-container")).unwrap();
        }
        umount(&dir.join("from-host")).expect("no container holds it");
        umount(&dir).expect("no container holds it");
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn propagation_needs_a_source_that_can() {
    let mut scene = Scene::with(|pod| pod_security(pod).privileged = true).await;
    let dir = data(&scene, "own");
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
    mount(NONE, &dir, NONE, MsFlags::MS_PRIVATE, NONE).unwrap();
    for propagation in [MountPropagation::PropagationHostToContainer, MountPropagation::PropagationBidirectional] {
        let mut config = sleeper("impossible");
        config.mounts = vec![Mount { propagation: propagation.into(), ..bind(&dir, "/data") }];
        security(&mut config).privileged = true;
        let refused = scene.try_create(&config).await.expect_err("a private mount cannot propagate");
        assert!(refused.message().contains(&dir.display().to_string()), "{}", refused.message());
    }
    umount(&dir).unwrap();
    scene.finish().await;
}
