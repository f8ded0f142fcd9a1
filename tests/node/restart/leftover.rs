//! What no record knows any more: cleared away at the start, and whatever refuses keeps nothing else.

use std::{fs, path::PathBuf};

use nix::mount::{MntFlags, umount2};
use testkit::{Process, eventually, pod};

use super::{SOON, first_process, running};
use crate::support::node;

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn pods_whose_records_are_gone_are_cleared_away_but_for_what_refuses_to_go() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let mut processes: Vec<Process> = Vec::new();
    for name in ["one", "two", "three", "four", "five"] {
        let (_, container) = running(&mut cri, &pod(name, node.dir())).await;
        processes.push(first_process(&mut cri, &container).await);
    }
    node.kill_daemon();
    let namespaces = || -> Vec<PathBuf> {
        let entries = fs::read_dir(node.dir().join("netns")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    // What is mounted there is gone, and the file has become somebody's: it is not ours to remove.
    let refuses = namespaces().remove(0);
    umount2(&refuses, MntFlags::MNT_DETACH).unwrap();
    fs::write(&refuses, "somebody else's").unwrap();
    for record in fs::read_dir(node.dir().join("root/records/pods")).unwrap() {
        fs::remove_file(record.unwrap().path()).unwrap();
    }
    node.start_daemon();

    eventually(SOON, "nothing runs on unseen", || {
        processes.iter().find(|process| process.alive()).map_or(Ok(()), |process| Err(process.clone()))
    });
    let left = fs::read_dir(node.dir().join("netns")).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(left.collect::<Vec<_>>(), [refuses.clone()]);
    let (_, container) = running(&mut node.client().await, &pod("next", node.dir())).await;
    assert!(first_process(&mut node.client().await, &container).await.alive());

    fs::write(&refuses, "").unwrap();
    node.restart_daemon();
    assert!(!refuses.exists(), "the next start tries again");
    node.finish().await;
}
