//! The mount that other runtimes need: there while one may, and taken back by whoever comes or goes last.

use std::fs;

use testkit::{NodeOptions, TempNode, pod};

use crate::support::{node, node_with};

/// The settings of a handler. What its program does is nothing to its pods.
const HANDLER: &str = "[runtime.handlers.other]\ntype = \"oci\"\npath = \"/bin/true\"\n";

async fn with_handler() -> TempNode {
    node_with(NodeOptions { config: HANDLER.to_owned(), ..NodeOptions::default() }).await
}

fn is_mounted(node: &TempNode) -> bool {
    let at = format!(" {}/state/bundles ", node.dir().display());
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.contains(&at))
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_daemon_that_leaves_takes_the_bundles_mount_back_and_the_next_makes_it_again() {
    let mut node = with_handler().await;
    assert!(is_mounted(&node));
    node.restart_daemon();
    assert!(is_mounted(&node), "once, however often");
    node.stop_daemon();
    assert!(!is_mounted(&node));
    node.start_daemon();
    assert!(is_mounted(&node));
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_daemon_without_a_handler_takes_the_bundles_mount_back_once_no_pod_of_one_is_left() {
    let mut node = with_handler().await;
    let id = node.client().await.run_by("other", &pod("other", node.dir())).await.unwrap();
    node.stop_daemon();
    assert!(is_mounted(&node), "its pod runs on");
    node.set_config(String::new());
    for _ in 0..2 {
        node.start_daemon();
        assert!(is_mounted(&node), "nothing is taken from a pod whose handler is gone");
        node.kill_daemon();
    }
    node.start_daemon();
    node.client().await.remove(&id).await.unwrap();
    node.restart_daemon();
    assert!(!is_mounted(&node));
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn somebody_elses_mount_on_the_bundles_directory_stays() {
    let mut node = node().await;
    node.stop_daemon();
    let dir = node.dir().join("state/bundles");
    nix::mount::mount(Some("tmpfs"), &dir, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    node.start_daemon();
    assert!(is_mounted(&node));
    node.stop_daemon();
    assert!(is_mounted(&node));
    nix::mount::umount(&dir).unwrap();
    node.start_daemon();
    node.finish().await;
}
