//! The real crictl against a throwaway node: every verb that the node serves, as a person types it.

#![allow(clippy::unwrap_used, reason = "this is a test")]

mod command;
#[path = "../cni/host.rs"]
#[allow(dead_code, reason = "the tests of `cni` need all of it")]
mod host;
mod ports;
#[path = "../cni/reach.rs"]
#[allow(dead_code, reason = "the tests of `cni` need all of it")]
mod reach;
mod registry;
mod session;

use serde_json::{Value, json};

use command::Crictl;

/// The image that every verb is tried on; its host is served by a mirror.
const IMAGE: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn the_node_tells_about_itself() {
    let crictl = Crictl::start();
    let version = crictl.ok(&["version"]);
    assert!(version.contains("RuntimeName:  coracle"), "{version}");
    assert!(version.contains("RuntimeApiVersion:  v1"), "{version}");
    let info = crictl.json(&["info"]);
    let conditions = info["status"]["conditions"].as_array().unwrap();
    for name in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|condition| condition["type"] == name);
        assert_eq!(condition.unwrap_or_else(|| panic!("no {name} in {info}"))["status"], true, "{info}");
    }
    assert_eq!(info["lastCNILoadStatus"], "OK", "{info}");
    assert_eq!(info["cniconfig"]["Networks"][0]["Config"]["Plugins"][0]["Network"]["type"], "bridge", "{info}");
    assert_eq!(info["network"]["networks"][0]["plugins"][0]["doneBy"], "native", "{info}");
    assert!(crictl.ok(&["runtime-config"]).to_uppercase().contains("CGROUPFS"));
    let usage = crictl.json(&["imagefsinfo"]);
    let at = usage["status"]["imageFilesystems"][0]["fsId"]["mountpoint"].as_str().unwrap().to_owned();
    assert!(at.starts_with(&crictl.node.dir().display().to_string()), "{usage}");
    crictl.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn images_are_pulled_listed_inspected_and_removed() {
    let crictl = Crictl::start();
    let pulled = crictl.ok(&["pull", IMAGE]);
    assert!(pulled.starts_with("Image is up to date for sha256:"), "{pulled}");
    assert_eq!(crictl.ok(&["pull", IMAGE]), pulled, "a second pull is as good as the first");

    let images = crictl.json(&["images", "-o", "json"]);
    let image = &images["images"][0];
    assert_eq!(image["repoTags"], json!([IMAGE]));
    assert_eq!(pulled.trim().rsplit(' ').next(), image["id"].as_str());
    assert!(crictl.ok(&["images"]).contains("e2e-test-images/busybox"));
    assert_eq!(crictl.ok(&["images", "-q", IMAGE]).trim(), image["id"].as_str().unwrap());

    for name in [IMAGE, image["id"].as_str().unwrap(), image["repoDigests"][0].as_str().unwrap()] {
        assert_eq!(crictl.json(&["inspecti", name])["status"]["id"], image["id"], "{name}");
    }
    assert!(crictl.fails(&["inspecti", "registry.k8s.io/none:1"]).contains("no such image"));
    assert!(!crictl.fails(&["pull", "registry.k8s.io/e2e-test-images/none:1"]).is_empty());

    crictl.ok(&["rmi", IMAGE]);
    assert_eq!(crictl.json(&["images", "-o", "json"])["images"].as_array().map_or(0, Vec::len), 0);
    crictl.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn a_pod_lives_as_crictl_tells_it() {
    session::pod().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn logs_are_shown_followed_cut_and_dated() {
    session::logs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn run_is_all_in_one() {
    session::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn a_guarded_registry_lets_in_whom_it_knows() {
    registry::guarded().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node in a network namespace"]
async fn host_ports_are_reached_by_curl_from_everywhere() {
    ports::mapped().await;
}

/// A pod's configuration file.
fn pod(crictl: &Crictl, name: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}"), "attempt": 1 },
        "hostname": name,
        "log_directory": crictl.node.dir().join("logs").join(name),
        "labels": { "app": name },
        "dns_config": { "servers": ["10.10.10.10"], "searches": ["example.org"] },
        "linux": {},
    })
}

/// A container's configuration file.
fn container(name: &str, command: &[&str]) -> Value {
    json!({
        "metadata": { "name": name, "attempt": 0 },
        "image": { "image": IMAGE },
        "command": command,
        "log_path": format!("{name}.log"),
        "linux": {},
    })
}
