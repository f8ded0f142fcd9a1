//! A daemon of another release: launcher and monitors come to run its program, and no pod notices.

use std::{path::Path, time::Duration};

use api::cri::v1::{ContainerState, RemovePodSandboxRequest};
use testkit::{TempNode, container, eventually, is_other_release, patience, pod};

use super::{SOON, exited, lines, pod_status, status};
use crate::support::{PROBE, node};

/// Lines that the writer has still to write when the daemon changes.
const LINES: usize = 6000;

/// The launcher and the monitors that were forked since the daemon began.
fn monitors(node: &TempNode) -> Vec<testkit::Process> {
    let all = testkit::descendants(&[node.daemon_pid()]).into_iter();
    all.filter(|process| ["coracle-launch", "coracle-monitor"].contains(&process.name.as_str())).collect()
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn an_upgrade_replaces_launcher_and_monitors_while_containers_write() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let config = pod("upgraded", node.dir());
    let pod_id = cri.run(&config).await.unwrap();
    // Three seconds of writing; as much longer as everything is on a slow host.
    let all = LINES * patience(Duration::from_secs(1)).as_secs() as usize;
    let count = all.to_string();
    let writes =
        cri.start(&pod_id, &config, &container("writes", PROBE, &["write-lines", "2000", &count])).await.unwrap();
    let runs = cri.start(&pod_id, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    let waits = cri.create(&pod_id, &config, &container("waits", PROBE, &["exit", "7"])).await.unwrap();
    let log = status(&mut cri, &writes).await.log_path;
    let before = (pod_status(&mut cri, &pod_id).await, status(&mut cri, &runs).await);
    let monitor = monitors(&node).into_iter().find(|process| process.name == "coracle-monitor");
    let monitor = monitor.expect("the pod's monitor");

    node.upgrade_monitor();
    node.restart_daemon();
    let mut cri = node.client().await;
    let renewed = || if is_other_release(monitor.pid) { Ok(()) } else { Err(()) };
    eventually(SOON, "the monitor runs the other program", renewed);
    assert!(monitor.alive(), "the same process");
    assert!(lines(Path::new(&log)).len() < all, "the writer was at it all the time");
    assert_eq!((pod_status(&mut cri, &pod_id).await, status(&mut cri, &runs).await), before, "nothing has changed");
    assert_eq!(cri.exec(&runs, &["/probe", "print", "here"], 10).await.unwrap().stdout, b"here\n");
    cri.runtime.start_container(api::cri::v1::StartContainerRequest { container_id: waits.clone() }).await.unwrap();
    assert_eq!(exited(&mut cri, &waits).await.exit_code, 7);
    assert_eq!(exited(&mut cri, &writes).await.exit_code, 0);
    assert_eq!(lines(Path::new(&log)).len(), all, "no line is lost or doubled");

    // What is made from now on is of the new release from its beginning.
    let second = pod("second", node.dir());
    let second_id = cri.run(&second).await.unwrap();
    let ours = monitors(&node);
    assert_eq!(ours.len(), 2, "a launcher, and the second pod's monitor; the first one's is nobody's child: {ours:?}");
    assert!(ours.iter().all(|process| is_other_release(process.pid)));

    // And once more over a restart with nothing new.
    node.restart_daemon();
    let mut cri = node.client().await;
    assert_eq!(status(&mut cri, &runs).await.state(), ContainerState::ContainerRunning);
    assert_eq!(cri.exec(&runs, &["/probe", "print", "here"], 10).await.unwrap().exit_code, 0);
    cri.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: second_id }).await.unwrap();
    node.finish().await;
}
