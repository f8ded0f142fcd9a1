//! The scripted plugin does what it is told: what other tests are told by it rests on this.

use std::{
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testkit::{Plugin, eventually};

const SOON: Duration = Duration::from_secs(10);

/// A plugin in a directory of its own.
fn plugin() -> (tempfile::TempDir, Plugin) {
    let dir = tempfile::Builder::new().prefix("crt-cni-").tempdir().unwrap();
    let plugin = Plugin::install(dir.path(), "scripted");
    (dir, plugin)
}

fn start(plugin: &Plugin, command: &str, config: &Value) -> Child {
    let mut child = Command::new(&plugin.program)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "one")
        .env("CNI_NETNS", "/run/netns/one")
        .env("CNI_IFNAME", "eth0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    child
}

fn call(plugin: &Plugin, command: &str, config: &Value) -> Output {
    start(plugin, command, config).wait_with_output().unwrap()
}

/// What it does at ADD when told this, and its exit code.
fn act(act: Value) -> (Output, Option<i32>) {
    let (_dir, plugin) = plugin();
    plugin.script(&json!({ "ADD": act }));
    let output = call(&plugin, "ADD", &json!({ "cniVersion": "1.0.0", "name": "net", "type": "scripted" }));
    let code = output.status.code();
    (output, code)
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
#[ignore = "needs the programs of deploy/build"]
fn a_plugin_that_is_told_nothing_succeeds_and_is_remembered() {
    let (_dir, plugin) = plugin();
    let config = json!({ "cniVersion": "0.4.0", "name": "net", "type": "scripted" });
    let added = call(&plugin, "ADD", &config);
    assert!(added.status.success(), "{added:?}");
    let result = said(&added);
    assert_eq!((&result["cniVersion"], &result["interfaces"][0]["name"]), (&json!("0.4.0"), &json!("eth0")));
    let mut with_result = config.clone();
    with_result["prevResult"] = json!({ "ips": [] });
    assert_eq!(said(&call(&plugin, "ADD", &with_result)), json!({ "cniVersion": "0.4.0", "ips": [] }));
    let deleted = call(&plugin, "DEL", &config);
    assert!(deleted.status.success() && deleted.stdout.is_empty(), "{deleted:?}");
    let calls = plugin.calls();
    assert_eq!(calls.iter().map(|call| call.command.as_str()).collect::<Vec<_>>(), ["ADD", "ADD", "DEL"]);
    assert_eq!(calls[0].stdin, config);
    assert_eq!(calls[0].env["CNI_NETNS"], "/run/netns/one");
    assert!(plugin.running().is_empty());
}

#[test]
#[ignore = "needs the programs of deploy/build"]
fn the_file_goes_before_the_configuration_and_a_list_is_taken_one_by_one() {
    let (_dir, plugin) = plugin();
    let config = json!({ "script": { "DEL": { "exit": 3 }, "ADD": [{ "exit": 4 }, { "exit": 5 }] } });
    let code = |command| call(&plugin, command, &config).status.code();
    assert_eq!((code("DEL"), code("ADD"), code("ADD"), code("ADD")), (Some(3), Some(4), Some(5), Some(5)));
    plugin.script(&json!({ "DEL": { "exit": 6 } }));
    assert_eq!((code("DEL"), code("ADD")), (Some(6), Some(5)));
    plugin.script(&Value::Null);
    assert_eq!(code("DEL"), Some(3));
    assert_eq!(plugin.calls_of("DEL").len(), 3);
}

#[test]
#[ignore = "needs the programs of deploy/build"]
fn a_plugin_answers_what_it_is_told_to() {
    let (output, code) = act(json!({ "error": { "code": 11, "msg": "later", "details": "no room" } }));
    assert_eq!((code, said(&output)["msg"].as_str()), (Some(1), Some("later")));
    let (output, code) = act(json!({ "stderr": "only words", "prints": "", "exit": 2 }));
    assert_eq!((code, &output.stdout[..], &output.stderr[..]), (Some(2), &b""[..], &b"only words"[..]));
    let (output, code) = act(json!({ "prints": "{\"ips\": [" }));
    assert_eq!((code, &output.stdout[..]), (Some(0), &b"{\"ips\": ["[..]));
    let (output, _) = act(json!({ "result": { "ips": [], "dns": {} } }));
    assert_eq!(said(&output), json!({ "cniVersion": "1.0.0", "ips": [], "dns": {} }));
    let (output, _) = act(json!({ "pours_mb": 100 }));
    assert!(output.stdout.len() > 100_000_000);
    let (output, _) = act(json!({ "signal": 9 }));
    assert_eq!(output.status.signal(), Some(9));
    let (output, code) = act(json!({ "needs_netns": true }));
    assert_eq!((code, output.stdout.len()), (Some(1), 0), "{output:?}");
    let from = Instant::now();
    act(json!({ "delay_ms": 200 }));
    assert!(from.elapsed() >= Duration::from_millis(200));
    let (_dir, plugin) = plugin();
    plugin.script(&json!({ "VERSION": { "versions": ["0.4.0"] } }));
    let versions = said(&call(&plugin, "VERSION", &json!({ "cniVersion": "1.0.0" })));
    assert_eq!(versions, json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.4.0"] }));
}

#[test]
#[ignore = "needs the programs of deploy/build"]
fn a_plugin_hangs_vanishes_and_leaves_children_as_it_is_told() {
    let (_dir, plugin) = plugin();
    plugin.script(&json!({ "ADD": { "hangs": true, "ignores_term": true } }));
    let mut child = start(&plugin, "ADD", &json!({}));
    plugin.await_calls("ADD", 1, SOON);
    let pid = Pid::from_raw(child.id() as i32);
    // Whether it blocks the signal yet is for the kernel to say.
    eventually(SOON, "SIGTERM is blocked", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
        if u64::from_str_radix(&blocked, 16).unwrap() >> 14 & 1 == 1 { Ok(()) } else { Err(blocked) }
    });
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(plugin.running(), [pid.as_raw()]);
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();

    let file = plugin.program.with_extension("go");
    std::fs::write(&file, "").unwrap();
    plugin.script(&json!({ "ADD": { "waits_while": file } }));
    let mut child = start(&plugin, "ADD", &json!({}));
    plugin.await_calls("ADD", 2, SOON);
    assert!(child.try_wait().unwrap().is_none());
    std::fs::remove_file(&file).unwrap();
    assert!(child.wait().unwrap().success());

    plugin.script(&json!({ "ADD": { "leaves_child_s": 0.5 } }));
    let from = Instant::now();
    let mut child = start(&plugin, "ADD", &json!({}));
    assert!(child.wait().unwrap().success());
    let mut all = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut all).unwrap();
    assert!(from.elapsed() >= Duration::from_millis(450), "its child keeps standard output open");
    assert!(serde_json::from_slice::<Value>(&all).is_ok());

    plugin.script(&json!({ "DEL": { "vanishes": true } }));
    assert!(call(&plugin, "DEL", &json!({})).status.success());
    assert!(!plugin.program.exists());
    plugin.reinstall();
    plugin.script(&Value::Null);
    assert!(call(&plugin, "DEL", &json!({})).status.success());
    plugin.uninstall();
}
