//! A container's life by another runtime, as a kubelet sees it: no different from one of our own.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use api::cri::v1::{
    ContainerConfig, ContainerState, KeyValue, LinuxContainerResources, NamespaceMode, NamespaceOption, Signal,
    StatusRequest,
};
use testkit::{NodeOptions, TempNode, eventually, eventually_async, is_other_release};
use tonic::Code;

use crate::{
    handlers::{self, OTHERS},
    scene::{SOON, Scene, a_while, in_pod_pids, namespaces, probe, security, sleeper},
    support,
};

async fn scene(handler: &str) -> Scene {
    Scene::by(handler, handlers::node().await, |_| ()).await
}

/// One that prints its processes and lives on.
fn stubborn(name: &str) -> ContainerConfig {
    probe(name, &["stubborn"])
}

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn a_container_is_made_runs_is_logged_ends_and_is_removed() {
    for handler in OTHERS {
        let mut scene = scene(handler).await;
        let ended = scene.outcome(&probe("lines", &["write-lines", "0", "1000"])).await;
        assert_eq!(ended.status.exit_code, 0, "{handler}: {}", ended.stderr);
        assert_eq!(ended.stdout.lines().count(), 1000, "{handler}");
        let ended = scene.outcome(&probe("code", &["exit", "7"])).await;
        assert_eq!((ended.status.exit_code, ended.status.reason.as_str()), (7, "Error"), "{handler}");
        assert!(ended.status.started_at > 0 && ended.status.finished_at >= ended.status.started_at, "{handler}");
        scene.discard(&ended.id).await;
        // One that is removed while it waits for its start.
        let waiting = scene.create(&sleeper("waiting")).await;
        scene.discard(&waiting).await;
        let mut config = probe("hungry", &["alloc", "200"]);
        security(&mut config);
        config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: 32 << 20,
            memory_swap_limit_in_bytes: 32 << 20,
            ..Default::default()
        });
        let ended = scene.outcome(&config).await;
        assert_eq!((ended.status.exit_code, ended.status.reason.as_str()), (137, "OOMKilled"), "{handler}");
        scene.finish().await;
    }
}

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn commands_run_end_and_are_killed_with_all_they_started() {
    for handler in OTHERS {
        let mut scene = scene(handler).await;
        let id = scene.start(&sleeper("one")).await;
        for code in [0, 3, 255] {
            let done = scene.exec(&id, &["/probe", "exit", &code.to_string()], a_while()).await.unwrap();
            assert_eq!((done.exit_code, done.stdout.len(), done.stderr.len()), (code, 0, 0), "{handler}");
        }
        let done = scene.exec(&id, &["/probe", "signal", "15"], a_while()).await.unwrap();
        assert_eq!(done.exit_code, 143, "{handler}");
        let done = scene.exec(&id, &["/probe", "print", "to out"], a_while()).await.unwrap();
        assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"to out\n"[..], &b""[..]), "{handler}");
        let done = scene.exec(&id, &["/probe", "print-err", "to err"], a_while()).await.unwrap();
        assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b""[..], &b"to err\n"[..]), "{handler}");
        assert_eq!(scene.exec(&id, &["/probe", "copy"], a_while()).await.unwrap().stdout, b"eof\n", "{handler}");

        let refused = scene.exec(&id, &["/no/such/program"], a_while()).await.unwrap_err();
        assert!(refused.message().to_lowercase().contains("no such file"), "{handler}: {}", refused.message());
        assert!(refused.message().contains(handler), "{handler}: {}", refused.message());

        let refused = scene.exec(&id, &["/probe", "children", "3"], 2).await.unwrap_err();
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{handler}: {}", refused.message());
        let left = scene.look(&id, &["/probe", "processes"]).await;
        // The container's first process is none that reaps.
        let alive = left.lines().filter(|line| !line.contains(" Z ")).count();
        assert_eq!(alive, 2, "{handler}: the sleeper and this command:\n{left}");
        scene.finish().await;
    }
}

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn a_stop_is_polite_first_and_then_is_not() {
    for handler in OTHERS {
        let mut scene = scene(handler).await;
        let mut config = sleeper("polite");
        config.stop_signal = Signal::Sigusr1.into();
        let polite = scene.start(&config).await;
        scene.attentive(&polite).await;
        scene.stop(&polite, 20).await;
        assert_eq!(scene.status(&polite).await.exit_code, 128 + 10, "{handler}");

        let id = scene.start(&stubborn("stubborn")).await;
        let begun = Instant::now();
        scene.stop(&id, 1).await;
        assert_eq!(scene.status(&id).await.exit_code, 137, "{handler}");
        assert!(begun.elapsed() >= Duration::from_secs(1), "{handler}");
        scene.finish().await;
    }
}

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn a_terminal_is_the_containers_and_its_output_is_logged() {
    for handler in OTHERS {
        let mut scene = scene(handler).await;
        let mut config = probe("terminal", &["report"]);
        config.tty = true;
        let report = scene.report(&config).await;
        assert_eq!(report["terminals"], serde_json::json!([true, true, true]), "{handler}");
        let mut config = probe("lines", &["write-lines", "0", "500"]);
        config.tty = true;
        let ended = scene.outcome(&config).await;
        assert_eq!((ended.status.exit_code, ended.stdout.lines().count()), (0, 500), "{handler}");
        scene.finish().await;
    }
}

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn processes_are_shared_as_the_pod_says_and_a_container_joins_anothers() {
    for handler in OTHERS {
        let shared = |pod: &mut api::cri::v1::PodSandboxConfig| namespaces(pod).pid = NamespaceMode::Pod.into();
        let mut scene = Scene::by(handler, handlers::node().await, shared).await;
        let first = scene.start(&in_pod_pids(sleeper("first"))).await;
        let second = scene.start(&in_pod_pids(sleeper("second"))).await;
        let seen = scene.look(&first, &["/probe", "processes"]).await;
        assert_eq!(seen.lines().filter(|line| line.ends_with(" probe")).count(), 3, "{handler}:\n{seen}");
        scene.stop(&second, 0).await;
        assert_eq!(scene.status(&first).await.state, ContainerState::ContainerRunning as i32, "{handler}");

        let alone = scene.start(&sleeper("alone")).await;
        let mut config = sleeper("debugger");
        security(&mut config).namespace_options =
            Some(NamespaceOption { pid: NamespaceMode::Target.into(), target_id: alone.clone(), ..Default::default() });
        let debugger = scene.start(&config).await;
        let seen = scene.look(&debugger, &["/probe", "processes"]).await;
        assert!(seen.starts_with("1 0 "), "{handler}: the target is process 1:\n{seen}");
        assert_eq!(seen.lines().count(), 3, "{handler}: target, debugger, this command:\n{seen}");

        // A target that has ended has no processes to join, and its number may be anybody's.
        scene.stop(&alone, 0).await;
        config.metadata.as_mut().unwrap().name = "late".into();
        let refused = scene.try_create(&config).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{handler}: {}", refused.message());
        assert!(refused.message().contains("namespace_options.target_id"), "{handler}: {}", refused.message());
        scene.finish().await;
    }
}

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn a_daemon_that_was_killed_finds_all_again() {
    for handler in OTHERS {
        let mut scene = scene(handler).await;
        let lives = scene.start(&sleeper("lives")).await;
        let waits = scene.create(&probe("waits", &["exit", "4"])).await;
        let ends = scene.start(&probe("ends", &["sleep", "forever"])).await;
        let pid = scene.pid(&ends).await;
        scene.node.kill_daemon();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        scene.node.start_daemon();
        scene.reconnect().await;
        assert_eq!(scene.ended(&ends).await.exit_code, 137, "{handler}");
        assert_eq!(scene.look(&lives, &["/probe", "print", "here"]).await, "here\n", "{handler}");
        scene.begin(&waits).await.unwrap();
        assert_eq!(scene.ended(&waits).await.exit_code, 4, "{handler}");
        scene.stop(&lives, 0).await;
        scene.discard(&lives).await;
        scene.finish().await;
    }
}

/// The parent of a process.
fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn a_monitor_of_another_release_takes_the_containers_over() {
    for handler in OTHERS {
        let mut scene = scene(handler).await;
        let lives = scene.start(&sleeper("lives")).await;
        let waits = scene.create(&probe("waits", &["exit", "4"])).await;
        let monitor = parent(scene.pid(&lives).await);
        scene.node.upgrade_monitor();
        scene.node.restart_daemon();
        scene.reconnect().await;
        eventually(SOON, "the monitor runs the other program", || {
            if is_other_release(monitor) { Ok(()) } else { Err(()) }
        });
        assert_eq!(scene.look(&lives, &["/probe", "print", "here"]).await, "here\n", "{handler}");
        scene.begin(&waits).await.unwrap();
        assert_eq!(scene.ended(&waits).await.exit_code, 4, "{handler}");
        scene.attentive(&lives).await;
        scene.stop(&lives, 20).await;
        assert_eq!(scene.status(&lives).await.exit_code, 143, "{handler}");
        scene.finish().await;
    }
}

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn a_pod_whose_monitor_was_killed_leaves_nothing() {
    for handler in OTHERS {
        let mut scene = scene(handler).await;
        let id = scene.start(&stubborn("one")).await;
        let pid = scene.pid(&id).await;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent(pid)), nix::sys::signal::Signal::SIGKILL).unwrap();
        let status = scene.ended(&id).await;
        assert_eq!(status.reason, "Unknown", "{handler}");
        eventually_async(SOON, "its process is gone", || async move {
            match fs::read_to_string(format!("/proc/{pid}/stat")) {
                Ok(stat) if !stat.contains(") Z ") => Err(stat),
                _ => Ok(()),
            }
        })
        .await;
        scene.finish().await;
    }
}

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn what_goes_wrong_is_told_in_the_runtimes_words_and_what_cannot_be_is_refused_by_name() {
    for handler in OTHERS {
        let mut scene = scene(handler).await;
        let mut config = sleeper("no-program");
        config.command = vec!["/no/such/program".into()];
        let refused = scene.try_start(&config).await.unwrap_err();
        assert!(refused.message().contains(handler), "{handler}: {}", refused.message());
        assert!(refused.message().to_lowercase().contains("no such file"), "{handler}: {}", refused.message());

        let mut config = sleeper("bytes");
        config.envs = vec![KeyValue { key: "RAW".into(), value: vec![0xff] }];
        let refused = scene.try_create(&config).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{handler}: {}", refused.message());
        assert!(refused.message().contains("envs[].value \"RAW\""), "{handler}: {}", refused.message());

        let status = scene.runtime.status(StatusRequest { verbose: false }).await.unwrap().into_inner();
        let names: Vec<_> = status.runtime_handlers.into_iter().map(|handler| handler.name).collect();
        assert_eq!(names, ["", "coracle", "crun", "runc"]);
        let config = testkit::pod("other", scene.node.dir());
        let refused = scene.run_by("runsc", &config).await.unwrap_err();
        assert!(refused.message().contains("runtime_handler"), "{}", refused.message());
        scene.finish().await;
    }
}

/// A runtime that does what runc does, except that it never ends where it is told to `hang`.
fn hanging(hang: &str) -> PathBuf {
    let dir = tempfile::tempdir().unwrap().keep();
    let path = dir.join("hanging");
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do\n  case \"$word\" in {hang}) exec sleep 1000 ;; esac\ndone\n\
         exec {} \"$@\"\n",
        handlers::program("runc").display()
    );
    handlers::write_program(&path, &script)
}

async fn hanging_node(program: &std::path::Path) -> TempNode {
    let config = handlers::table("hanging", program);
    support::node_with(NodeOptions { config, ..NodeOptions::default() }).await
}

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn a_runtime_that_hangs_keeps_nobody_from_stopping_and_removing() {
    let program = hanging("kill|delete");
    let mut scene = Scene::by("hanging", hanging_node(&program).await, |_| ()).await;
    let id = scene.start(&sleeper("one")).await;
    scene.stop(&id, 1).await;
    assert_eq!(scene.status(&id).await.exit_code, 137);
    scene.discard(&id).await;
    scene.finish().await;
    fs::remove_dir_all(program.parent().unwrap()).unwrap();
}

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn a_runtime_that_hangs_while_it_makes_a_container_is_given_up() {
    let program = hanging("create");
    let mut scene = Scene::by("hanging", hanging_node(&program).await, |_| ()).await;
    let refused = scene.try_create(&sleeper("one")).await.unwrap_err();
    assert!(refused.message().contains("hanging create: no end in time"), "{}", refused.message());
    scene.finish().await;
    fs::remove_dir_all(program.parent().unwrap()).unwrap();
}
