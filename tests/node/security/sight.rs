//! What a container sees of the host and the host of it: as little as possible.

use std::{collections::BTreeSet, fs};

use serde_json::json;

use crate::{
    scene::{Scene, sleeper},
    support::PROBE,
};

/// Where an ordinary container has mounts.
const MOUNTS: &[&str] = &[
    "/",
    "/proc",
    "/dev",
    "/dev/pts",
    "/dev/mqueue",
    "/dev/shm",
    "/sys",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
];

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn no_mount_of_the_host_is_seen_in_a_container_and_none_of_it_on_the_host() {
    let host_before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut scene = Scene::new().await;
    let id = scene.start(&sleeper("one")).await;
    let report = scene.report_in(&id).await;
    for mount in report["mounts"].as_array().unwrap() {
        let at = mount["at"].as_str().unwrap();
        assert!(MOUNTS.contains(&at) || at.starts_with("/sys/fs/cgroup"), "{mount}");
        assert_eq!(mount["propagation"], json!([]), "private: {mount}");
    }
    let root = report["mounts"].as_array().unwrap().iter().find(|mount| mount["at"] == "/").unwrap();
    assert_eq!(root["root"], "/", "the root is no directory of the host's: {root}");

    let dir = scene.node.dir().display().to_string();
    let netns = format!("{dir}/netns");
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        let at = line.split(' ').nth(4).unwrap();
        assert!(!line.contains(&dir) || at.starts_with(&netns) || host_before.contains(line), "on the host: {line}");
    }
    // The container's end of a mount table has no way back: its parent directory is itself.
    let tree = scene.look(&id, &["/probe", "stat", "/.."]).await;
    assert_eq!(tree, scene.look(&id, &["/probe", "stat", "/"]).await);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_container_sees_its_own_processes_and_devices_and_cannot_make_others() {
    let mut scene = Scene::new().await;
    let id = scene.start(&sleeper("one")).await;
    let seen = scene.look(&id, &["/probe", "processes"]).await;
    assert_eq!(seen.lines().count(), 2, "itself and the command that looks: {seen}");
    let line = scene.look(&id, &["/probe", "cat", "/proc/1/cmdline"]).await;
    assert!(line.starts_with("/probe\0sleep"), "{line:?}");
    // Nothing of the daemon's or the monitor's is to be found through what the process was given.
    assert!(!scene.look(&id, &["/probe", "cat", "/proc/1/environ"]).await.contains("CORACLE"));

    let report = scene.report_in(&id).await;
    let devices = report["devices"].as_object().unwrap();
    let nodes: BTreeSet<_> =
        devices.iter().filter(|(_, about)| about["kind"] != "link").map(|(path, _)| path.as_str()).collect();
    let wanted = ["/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"];
    assert_eq!(nodes, BTreeSet::from(wanted));
    for path in ["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"] {
        assert_eq!(devices[path]["open"], json!({ "read": "ok", "write": "ok" }), "{path}");
        assert_eq!(devices[path]["mode"], "0666", "{path}");
    }
    for (link, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ] {
        assert_eq!(devices[link]["to"], to, "{link}");
    }

    // It may make a node, which is only a name; opening it is another thing.
    for (name, kind, major, minor) in [("kmsg", "c", "1", "11"), ("mem", "c", "1", "1"), ("loop", "b", "7", "0")] {
        let path = format!("/tmp/{name}");
        scene.look(&id, &["/probe", "mknod", &path, kind, major, minor]).await;
        let tried = scene.look(&id, &["/probe", "open", &path]).await;
        assert_eq!(tried.trim(), r#"{"read":"EPERM","write":"EPERM"}"#, "{name}");
    }
    scene.look(&id, &["/probe", "mknod", "/tmp/null", "c", "1", "3"]).await;
    assert_eq!(scene.look(&id, &["/probe", "open", "/tmp/null"]).await.matches("ok").count(), 2);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_pod_without_a_shared_pid_namespace_still_hides_the_host_when_nothing_is_said() {
    // No security context at all: protobuf's zeros ask for a shared pid namespace, which is the pod's and not the
    // host's.
    let mut scene = Scene::with(|pod| pod.linux = None).await;
    let report = scene.report(&testkit::container("zeros", PROBE, &["report"])).await;
    let host = fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    assert_ne!(report["namespaces"]["pid"], host.as_str());
    assert_eq!(report["no_new_privs"], false);
    scene.finish().await;
}
