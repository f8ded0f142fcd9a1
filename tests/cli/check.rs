//! Whether the node is as it should be, told in words, as JSON and by the exit code.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::Value;
use testkit::{NodeOptions, TempNode, eventually, pod};

use crate::command::{Coracle, SOON};

/// A node with a directory of network configurations of its own.
fn with_directory(more: &str) -> Coracle {
    let node = TempNode::prepare(NodeOptions::default());
    let conf_dir = node.dir().join("net.d");
    fs::create_dir(&conf_dir).unwrap();
    fs::create_dir(node.dir().join("conf.d")).unwrap();
    let settings = format!("[network]\nconf_dir = {conf_dir:?}\n{more}\n");
    fs::write(node.dir().join("conf.d/network.toml"), settings).unwrap();
    let mut coracle = Coracle { node };
    coracle.node.start_daemon();
    coracle
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn a_node_is_well_until_a_file_is_faulty_and_again_when_it_is_mended() {
    let coracle = with_directory("");
    let well = coracle.ok(&["check"]);
    assert!(well.starts_with("All is well.\n\nNETWORK "), "{well}");
    assert!(well.contains("\ncoracle   built-in   1.1.0   bridge (native)"), "{well}");
    let object: Value = serde_json::from_str(&coracle.ok(&["check", "--format", "json"])).unwrap();
    assert_eq!((&object["Well"], &object["Network"]["Ready"]), (&true.into(), &true.into()));
    assert_eq!(object["Network"]["Networks"][0]["Plugins"][0]["Doer"], "native");

    let file = coracle.node.dir().join("net.d/10-pods.conflist");
    fs::write(&file, r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"no":"type"}]}"#).unwrap();
    eventually(SOON, "the file is seen", || {
        let output = coracle.command(&["check"]).output().unwrap();
        if output.status.code() == Some(1) { Ok(()) } else { Err(output.status) }
    });
    let (code, told) = coracle.fails(&["check"]);
    assert_eq!((code, told.as_str()), (1, ""), "each problem was told on standard output");
    let output = coracle.command(&["check"]).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.starts_with("PART "), "wrong things first: {told}");
    assert!(told.contains(&file.display().to_string()) && told.contains("plugins[0].type"), "{told}");
    let output = coracle.command(&["check", "--format", "json"]).output().unwrap();
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &object["Well"]), (Some(1), &false.into()));
    assert_eq!(object["Network"]["FaultyFiles"][0]["File"], file.display().to_string());
    assert!(object["Problems"].as_array().unwrap().iter().all(|problem| problem["Part"] == "network"));

    fs::write(&file, r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"loopback"}]}"#).unwrap();
    let well = eventually(SOON, "the file is mended", || {
        let output = coracle.command(&["check"]).output().unwrap();
        if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(output.status) }
    });
    assert!(well.contains(&file.display().to_string()) && well.contains("loopback (native)"), "{well}");
    coracle.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn a_network_that_is_not_there_yet_is_told_with_its_reason() {
    let coracle = with_directory("builtin = false");
    let output = coracle.command(&["check"]).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("not ready: cni plugin not initialized: no configuration in"), "{told}");
    assert!(!told.contains("NETWORK "), "a table that would be empty is left out: {told}");
    coracle.finish().await;
}

/// A plugin that gives everybody the same address, and takes it back only where nothing is in its way.
const STUBBORN: &str = r#"#!/bin/sh
case "$CNI_COMMAND" in
ADD)
    printf '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"%s"}],' "$CNI_NETNS"
    printf '"ips":[{"address":"10.254.9.9/24","interface":0}]}'
    ;;
DEL)
    if [ -e "$(dirname "$0")/obstacle" ]; then
        printf '{"cniVersion":"1.0.0","code":11,"msg":"there is an obstacle"}'
        exit 1
    fi
    ;;
VERSION) printf '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
esac
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn what_is_still_to_be_given_back_is_told_until_it_is() {
    let bin_dir = tempfile::tempdir().unwrap();
    let (plugin, obstacle) = (bin_dir.path().join("stubborn"), bin_dir.path().join("obstacle"));
    fs::write(&plugin, STUBBORN).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let cache = bin_dir.path().join("cache");
    let mut coracle = with_directory(&format!("bin_dirs = [{:?}]\ncache_dir = {cache:?}", bin_dir.path()));
    let list = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"stubborn"}]}"#;
    fs::write(coracle.node.dir().join("net.d/10-pods.conflist"), list).unwrap();
    let well = eventually(SOON, "the file is seen", || {
        let told = coracle.ok(&["check"]);
        if told.contains("stubborn (binary: this type)") { Ok(told) } else { Err(told) }
    });
    assert!(!well.contains("POD TO DETACH"), "{well}");

    let mut cri = coracle.node.client().await;
    let id = cri.run(&pod("one", coracle.node.dir())).await.unwrap();
    fs::write(&obstacle, "").unwrap();
    cri.remove(&id).await.unwrap();
    let output = coracle.command(&["check"]).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("pod {id}")) && told.contains("there is an obstacle"), "{told}");
    assert!(told.contains("\nPOD TO DETACH "), "{told}");
    let output = coracle.command(&["check", "--format", "json"]).output().unwrap();
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let pending = &object["Network"]["Pending"][0];
    assert_eq!((&pending["PodID"], &pending["Networks"]), (&id.into(), &serde_json::json!(["pods"])));
    assert!(pending["Tries"].as_u64().unwrap() >= 1, "{pending}");

    // The next life of the daemon knows of it, and tries at once.
    fs::remove_file(&obstacle).unwrap();
    coracle.node.restart_daemon();
    eventually(SOON, "it is given back", || {
        let output = coracle.command(&["check"]).output().unwrap();
        if output.status.success() { Ok(()) } else { Err(output) }
    });
    coracle.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn a_daemon_that_is_away_is_told_as_every_verb_does() {
    let mut coracle = Coracle::start();
    coracle.node.stop_daemon();
    let (code, told) = coracle.fails(&["check"]);
    assert_eq!((code, told.clone()), coracle.fails(&["images"]));
    assert!(code == 1 && told.contains("connect to the daemon at"), "{told}");
    coracle.node.start_daemon();
    coracle.finish().await;
}
