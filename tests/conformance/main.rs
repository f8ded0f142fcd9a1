//! The kubelet's own conformance suite, critest, against a throwaway node.
//!
//! Each test runs some groups of its specs on a node of its own, so that they run side by side (critest mostly waits: it
//! polls every four seconds), and ends with the leak check of the node. Specs that are not run are in `skipped.txt`, each
//! with its reason. The images come from Debian's packages (`tests/images/make`), by a mirror for each host name.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "this is a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use testkit::{DebianRegistry, TempNode};

/// Specs that are not run: patterns of their names, each with the reason.
const SKIPPED: &str = include_str!("skipped.txt");

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs critest on a whole node"]
async fn runtime_info_idempotence_and_pods() {
    conform("pods", &["Runtime info", "Idempotence", "PodSandbox", "Networking", "Multiple Containers"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs critest on a whole node"]
async fn container_life_cycle() {
    conform("containers", &["Container runtime should"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs critest on a whole node"]
async fn container_mounts_and_memory() {
    conform("mounts", &["Container Mount", "Container OOM"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs critest on a whole node"]
async fn images() {
    conform("images", &["Image"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs critest on a whole node"]
async fn security_context() {
    conform("security", &["Security Context"]).await;
}

#[test]
fn every_skipped_spec_has_a_reason() {
    assert!(!skipped().is_empty());
    for (pattern, reason) in skipped() {
        assert!(!pattern.is_empty() && reason.len() > 10, "{pattern:?}: {reason:?}");
    }
}

/// Runs the specs whose names hold any of these words; panics unless all pass and nothing is left.
async fn conform(name: &str, groups: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let node = TempNode::start();
    let registry = DebianRegistry::start();
    registry.serve(&node);
    let endpoint = format!("unix://{}", node.socket().display());
    let log = log_file(root, name);
    let mut critest = Command::new(root.join("tests/tools/bin/critest"));
    // No configuration of the machine it runs on: critest would read /etc/crictl.yaml.
    critest.args(["-config", "/dev/null", "-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint]);
    critest.args(["-ginkgo.no-color", "-ginkgo.v", "-ginkgo.timeout=20m"]);
    for group in groups {
        critest.arg(format!("-ginkgo.focus={group}"));
    }
    for (pattern, _) in skipped() {
        critest.arg(format!("-ginkgo.skip={pattern}"));
    }
    let output = fs::File::create(&log).unwrap();
    critest.current_dir(node.dir()).env("TMPDIR", node.dir()).stdout(output.try_clone().unwrap()).stderr(output);
    let segments = shared_memory();
    let status = tokio::task::spawn_blocking(move || critest.status()).await.unwrap().unwrap();
    // Two specs make segments on the host and leave them.
    for segment in shared_memory().difference(&segments) {
        let _ = Command::new("ipcrm").args(["--shmem-id", segment]).status();
    }
    let text = fs::read_to_string(&log).unwrap();
    let summary = text.lines().rev().find(|line| line.contains(" Passed | ")).unwrap_or("critest told no result");
    eprintln!("{name}: {summary}");
    if !status.success() {
        for line in text.lines().filter(|line| line.trim_start().starts_with("[FAIL]")) {
            eprintln!("{line}");
        }
        panic!("critest ended with {status}; its output is in {}", log.display());
    }
    // Pulled images stay, which is critest's way; removing the pods must leave nothing else.
    node.finish().await;
}

/// Ids of the host's System V shared memory segments.
fn shared_memory() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
}

fn skipped() -> Vec<(&'static str, &'static str)> {
    let lines = SKIPPED.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(" # ").unwrap_or((line, ""))).map(|(a, b)| (a.trim(), b.trim())).collect()
}

fn log_file(root: &Path, name: &str) -> PathBuf {
    let dir = root.join(".cache/logs");
    fs::create_dir_all(&dir).unwrap();
    dir.join(format!("critest-{name}"))
}
