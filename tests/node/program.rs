//! The daemon as a program: its exit codes, and what it says of its own state.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use api::cri::v1::{RuntimeCondition, StatusRequest};
use testkit::{Cri, eventually, eventually_async, pod, programs};

use crate::support::node;

const SOON: Duration = Duration::from_secs(20);

/// Runs the daemon, on directories of its own unless others are named, to an end that comes by itself.
fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(programs().join("coracled"));
    for (option, name) in [("--root", "root"), ("--state", "state")] {
        if !arguments.contains(&option) {
            command.arg(option).arg(dir.join(name));
        }
    }
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn written(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[ignore = "needs root: runs the daemon"]
#[test]
fn wrong_arguments_and_settings_end_with_2_and_make_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let unknown_key = written(dir.path(), "unknown.toml", "[images]\nnonsense = 1\n");
    let no_toml = written(dir.path(), "no.toml", "= =\n");
    let no_capability = written(dir.path(), "capability.toml", "[engine]\ncapabilities = ['FLY']\n");
    let no_pids = written(dir.path(), "pids.toml", "[engine]\npod_pids = 0\n");
    let no_subnet = written(dir.path(), "subnet.toml", "[network]\nsubnet_v4 = '224.0.0.0/8'\n");
    let no_bridge = written(dir.path(), "bridge.toml", "[network]\nbridge = 'lo'\n");
    for (arguments, named) in [
        (vec!["--nonsense"], "--nonsense"),
        (vec!["--log", "info,images=loud"], "--log"),
        (vec!["--log-format", "yaml"], "yaml"),
        (vec!["--listen", "tcp://0.0.0.0:1"], "listen"),
        (vec!["--root", "not/absolute"], "--root \"not/absolute\": want"),
        (vec!["--state", "not/absolute"], "--state \"not/absolute\": want"),
        (vec!["--config", "/nowhere/config.toml"], "/nowhere/config.toml"),
        (vec!["--config", &unknown_key], "nonsense"),
        (vec!["--config", &no_toml], "no.toml"),
        (vec!["--config", &no_capability], "capabilities \"FLY\""),
        (vec!["--config", &no_pids], "pod_pids \"0\""),
        (vec!["--config", &no_subnet], "subnet_v4: 224.0.0.0/8"),
        (vec!["--config", &no_bridge], "bridge: \"lo\""),
    ] {
        let output = run(dir.path(), &arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(named), "{arguments:?}: {text}");
        assert!(!dir.path().join("root").exists() && !dir.path().join("state").exists(), "{arguments:?}");
    }
}

#[ignore = "needs root: runs the daemon"]
#[test]
fn a_daemon_that_cannot_start_ends_with_1_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("root"), "a file in the place of a directory").unwrap();
    let output = run(dir.path(), &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&dir.path().join("root").display().to_string()), "{text}");
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_directories_ends_with_1_and_a_stopped_one_with_0() {
    let mut node = node().await;
    let output = run(node.dir(), &["--config", &node.dir().join("config.toml").display().to_string()]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    node.client().await.run(&pod("first", node.dir())).await.unwrap();
    assert_eq!(node.stop_daemon().code(), Some(0));
    node.start_daemon();
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_would_listen_where_another_answers_or_a_file_lies_ends_with_1_and_takes_nothing() {
    let node = node().await;
    let (config, elsewhere) = (node.dir().join("config.toml").display().to_string(), tempfile::tempdir().unwrap());
    let file = written(elsewhere.path(), "file", "somebody's");
    let socket = node.socket().display().to_string();
    for (path, why) in [(&socket, format!("another daemon answers on {socket}")), (&file, file.clone())] {
        let output = run(elsewhere.path(), &["--config", &config, "--listen", &format!("unix://{path}")]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&why), "{text}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "somebody's");
    // Over a new connection: the socket still leads to the first one.
    node.client().await.run(&pod("served", node.dir())).await.unwrap();
    node.finish().await;
}

async fn runtime_ready(cri: &mut Cri) -> RuntimeCondition {
    let status = cri.runtime.status(StatusRequest { verbose: false }).await.unwrap().into_inner().status.unwrap();
    status.conditions.into_iter().find(|condition| condition.r#type == "RuntimeReady").unwrap()
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_start_no_monitor_is_not_ready_and_is_again_when_it_can() {
    let node = node().await;
    let mut cri = node.client().await;
    assert!(runtime_ready(&mut cri).await.status);
    // In the way of the next launcher's socket, which is made under this name.
    let in_the_way = node.dir().join("state/.launcher.sock.new");
    fs::create_dir(&in_the_way).unwrap();
    let launcher = testkit::descendants(&[node.daemon_pid()])
        .into_iter()
        .find(|process| process.parent == node.daemon_pid())
        .expect("the launcher is the daemon's child");
    launcher.kill();
    eventually(SOON, "the launcher is gone", || if launcher.alive() { Err("it runs") } else { Ok(()) });

    // Without anybody asking for a pod.
    let condition = eventually_async(SOON, "the node says that it is not ready", || {
        let mut cri = cri.clone();
        async move {
            let condition = runtime_ready(&mut cri).await;
            if condition.status { Err(condition) } else { Ok(condition) }
        }
    })
    .await;
    assert_eq!(condition.reason, "LauncherNotReady");
    assert!(condition.message.contains("launcher"), "{}", condition.message);
    let config = pod("refused", node.dir());
    cri.run(&config).await.unwrap_err();

    fs::remove_dir(&in_the_way).unwrap();
    eventually_async(SOON, "the node says that it is ready", || {
        let mut cri = cri.clone();
        async move {
            let condition = runtime_ready(&mut cri).await;
            if condition.status { Ok(()) } else { Err(condition) }
        }
    })
    .await;
    cri.run(&config).await.unwrap();
    node.finish().await;
}
