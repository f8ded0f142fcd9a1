//! The kubelet's own conformance suite, critest, against a throwaway node.
//!
//! Each test runs one group of its specs on a node of its own, so that they run side by side (critest mostly waits: it
//! polls every four seconds), and ends with the leak check of the node. A group runs whole: a spec that critest skips
//! of its own accord fails the test. Specs that are not run are in `skipped.txt`, each with its reason. The images come
//! from Debian's packages (`tests/images/make`), by a mirror for each host name.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "this is a test")]

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use testkit::{DebianRegistry, TempNode};

/// Specs that are not run: their names, each with the reason.
const SKIPPED: &str = include_str!("skipped.txt");

/// The orders of the long run.
const SEEDS: &str = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20";

/// Groups of specs: what the names of each begin with.
const GROUPS: [(&str, &[&str]); 5] = [
    ("pods", &["Runtime info", "Idempotence", "PodSandbox", "Networking", "Multiple Containers"]),
    ("containers", &["Container runtime should"]),
    ("mounts", &["Container Mount", "Container OOM"]),
    ("images", &["Image"]),
    ("security", &["Security Context"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs critest on a whole node"]
async fn runtime_info_idempotence_and_pods() {
    conform("pods", &filters("pods"), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs critest on a whole node"]
async fn container_life_cycle() {
    conform("containers", &filters("containers"), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs critest on a whole node"]
async fn container_mounts_and_memory() {
    conform("mounts", &filters("mounts"), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs critest on a whole node"]
async fn images() {
    conform("images", &filters("images"), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs critest on a whole node"]
async fn security_context() {
    conform("security", &filters("security"), &[]).await;
}

/// Every spec in one run, again and again: each time in another order, eight at a time. A seed that failed is tried
/// again alone with `CORACLE_CONFORMANCE_SEEDS=<seed>`.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root, and minutes: tests/run seeds"]
async fn in_twenty_orders_eight_at_a_time() {
    let seeds = env::var("CORACLE_CONFORMANCE_SEEDS").unwrap_or_else(|_| SEEDS.to_owned());
    for seed in seeds.split_whitespace() {
        let order = [format!("-ginkgo.seed={seed}"), "-parallel=8".to_owned()];
        conform(&format!("seed-{seed}"), &skips(), &order).await;
    }
}

#[test]
fn every_skipped_spec_has_a_reason() {
    assert!(!skipped().is_empty());
    for (name, reason) in skipped() {
        assert!(!name.is_empty() && reason.len() > 10, "{name:?}: {reason:?}");
    }
}

#[test]
#[ignore = "needs critest: asks it for its specs"]
fn every_spec_is_run_once_or_is_skipped_by_its_whole_name() {
    let all = dry_run(&[]);
    assert!(all.len() > 100, "critest lists only {} specs", all.len());
    let mut found: Vec<String> = GROUPS.iter().flat_map(|(group, _)| dry_run(&filters(group))).collect();
    found.extend(skipped().iter().map(|(name, _)| (*name).to_owned()));
    found.sort();
    assert_eq!(found, all.into_iter().collect::<Vec<_>>());
}

/// Runs the specs that the filters leave; panics unless all of them pass and nothing is left.
async fn conform(name: &str, filters: &[String], order: &[String]) {
    let wanted = dry_run(filters);
    let node = TempNode::start();
    let registry = DebianRegistry::start();
    registry.serve(&node);
    let endpoint = format!("unix://{}", node.socket().display());
    let log = log_file(name);
    let mut critest = critest();
    critest.args(["-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint, "-ginkgo.timeout=20m"]);
    critest.args(filters).args(order);
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
    let passed = summary.split(" Passed").next().and_then(|text| text.rsplit(' ').next()?.parse().ok());
    assert_eq!(passed, Some(wanted.len()), "critest skipped specs of its own accord: see {}", log.display());
    // Pulled images stay, which is critest's way; removing the pods must leave nothing else.
    node.finish().await;
}

/// Names of the specs that critest would run, without the mark that it shows behind those that run alone.
fn dry_run(filters: &[String]) -> BTreeSet<String> {
    let output = critest().arg("-ginkgo.dry-run").args(filters).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().map(str::trim).filter(|line| line.starts_with("[k8s.io] "));
    names.map(|name| name.strip_suffix(" [Serial]").unwrap_or(name).to_owned()).collect()
}

fn critest() -> Command {
    let mut critest = Command::new(root().join("tests/tools/bin/critest"));
    // With `-parallel` it has itself run by the ginkgo that it finds.
    let path = env::var("PATH").unwrap_or_default();
    critest.env("PATH", format!("{}:{path}", root().join("tests/tools/bin").display()));
    // No configuration of the machine it runs on: critest would read /etc/crictl.yaml.
    critest.args(["-config", "/dev/null", "-ginkgo.no-color", "-ginkgo.v"]);
    critest
}

/// Arguments that make critest run a group, all but what is skipped.
fn filters(group: &str) -> Vec<String> {
    let (_, beginnings) = GROUPS.iter().find(|(name, _)| *name == group).unwrap();
    let focus = beginnings.iter().map(|words| format!("-ginkgo.focus={} ", pattern(&format!("[k8s.io] {words}"))));
    focus.chain(skips()).collect()
}

/// Arguments that make critest pass over what is skipped.
fn skips() -> Vec<String> {
    skipped().into_iter().map(|(name, _)| format!("-ginkgo.skip={}$", pattern(name))).collect()
}

/// The regular expression that is this text and nothing else.
fn pattern(text: &str) -> String {
    text.chars().flat_map(|c| c.is_ascii_punctuation().then_some('\\').into_iter().chain([c])).collect()
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

fn log_file(name: &str) -> PathBuf {
    let dir = root().join(".cache/logs");
    fs::create_dir_all(&dir).unwrap();
    dir.join(format!("critest-{name}"))
}

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
