//! Commands in running containers: what they are, what comes back, how they end.

use std::time::{Duration, Instant};

use api::cri::v1::{ExecSyncRequest, Int64Value, NamespaceMode};
use testkit::{Cri, eventually_async};
use tonic::Code;

use crate::scene::{SOON, Scene, in_pod_pids, namespaces, probe, security, sleeper};

/// Most that is kept of each output: also the largest answer that a kubelet takes, so a little less is right.
const KEPT: usize = 16 << 20;
const LITTLE: usize = 4 << 10;

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn exit_codes_and_both_outputs_come_back() {
    let mut scene = Scene::with(|pod| namespaces(pod).pid = NamespaceMode::Pod.into()).await;
    let id = scene.start(&in_pod_pids(sleeper("one"))).await;
    for code in [0, 1, 3, 126, 127, 128, 255] {
        let done = scene.exec(&id, &["/probe", "exit", &code.to_string()], 10).await.unwrap();
        assert_eq!((done.exit_code, done.stdout.len(), done.stderr.len()), (code, 0, 0));
    }
    for signal in [6, 8, 9, 15] {
        let done = scene.exec(&id, &["/probe", "signal", &signal.to_string()], 10).await.unwrap();
        assert_eq!(done.exit_code, 128 + signal);
    }
    let done = scene.exec(&id, &["/probe", "print", "to out"], 0).await.unwrap();
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"to out\n"[..], &b""[..]));
    let done = scene.exec(&id, &["/probe", "print-err", "to err"], 0).await.unwrap();
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b""[..], &b"to err\n"[..]));
    let done = scene.exec(&id, &["/probe", "print-n", ""], 0).await.unwrap();
    assert_eq!(done.stdout, b"");
    // Nobody writes to a command: it reads an end at once.
    let done = scene.exec(&id, &["/probe", "copy"], 10).await.unwrap();
    assert_eq!(done.stdout, b"eof\n");
    // The container's log is the container's.
    assert!(scene.log(&sleeper("one")).is_empty());
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn sixteen_mebibytes_are_kept_and_the_command_goes_on() {
    let mut scene = Scene::new().await;
    let id = scene.start(&sleeper("one")).await;
    let request = |count: usize| ExecSyncRequest {
        container_id: id.clone(),
        cmd: ["/probe", "write-bytes", &count.to_string(), "z"].map(str::to_owned).to_vec(),
        timeout: 60,
    };
    let more = scene.runtime.exec_sync(request(KEPT + (5 << 20))).await.unwrap().into_inner();
    assert_eq!((more.exit_code, more.stderr.len()), (0, 0));
    assert!((KEPT - LITTLE..=KEPT).contains(&more.stdout.len()), "{}", more.stdout.len());
    assert!(more.stdout.iter().all(|byte| *byte == b'z'));
    let less = scene.runtime.exec_sync(request(3 << 20)).await.unwrap().into_inner();
    assert_eq!((less.exit_code, less.stdout.len()), (0, 3 << 20));
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_time_out_kills_all_that_the_command_has_started() {
    // Shared pids: children do not go with their parent by themselves.
    let mut scene = Scene::with(|pod| namespaces(pod).pid = NamespaceMode::Pod.into()).await;
    let id = scene.start(&in_pod_pids(sleeper("one"))).await;
    let before = scene.look(&id, &["/probe", "processes"]).await.lines().count();
    for command in [["/probe", "sleep", "forever"], ["/probe", "children", "4"], ["/probe", "stubborn", ""]] {
        let begin = Instant::now();
        let late = scene.exec(&id, &command, 1).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
        let took = begin.elapsed();
        assert!((Duration::from_millis(950)..Duration::from_secs(8)).contains(&took), "{command:?}: {took:?}");
        let after = scene.look(&id, &["/probe", "processes"]).await;
        assert_eq!(after.lines().count(), before, "{command:?} left: {after}");
    }
    scene.finish().await;
}

/// Commands carry passwords, and errors are logged.
#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn no_word_of_a_command_that_timed_out_is_told_or_logged() {
    let mut scene = Scene::new().await;
    let id = scene.start(&sleeper("one")).await;
    let late = scene.exec(&id, &["/probe", "sleep", "forever", "hunter2"], 1).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    let log = scene.node.log();
    assert!(late.message().contains(&id) && log.contains(late.message()), "{late}");
    assert!(!late.message().contains("hunter2") && !log.contains("hunter2"), "{late}");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_client_that_goes_away_takes_all_that_its_command_has_started_along() {
    // Shared pids: children do not go with their parent by themselves.
    let mut scene = Scene::with(|pod| namespaces(pod).pid = NamespaceMode::Pod.into()).await;
    let id = scene.start(&in_pod_pids(sleeper("one"))).await;
    let count = async |mut cri: Cri| {
        let seen = cri.exec(&id, &["/probe", "processes"], 10).await.unwrap().stdout;
        String::from_utf8_lossy(&seen).lines().count()
    };
    let before = count(Cri::clone(&scene)).await;
    let (mut cri, inside) = (Cri::clone(&scene), id.clone());
    let command = tokio::spawn(async move { cri.exec(&inside, &["/probe", "children", "4"], 0).await });
    let becomes = async |what: &str, wanted: usize| {
        eventually_async(SOON, what, || async {
            let now = count(Cri::clone(&scene)).await;
            if now == wanted { Ok(()) } else { Err(now) }
        })
        .await;
    };
    becomes("the command and its children run", before + 5).await;
    command.abort();
    becomes("nothing of the command is left", before).await;
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_child_that_keeps_the_output_open_holds_nobody() {
    let mut scene = Scene::new().await;
    let id = scene.start(&sleeper("one")).await;
    let begin = Instant::now();
    let done = scene.exec(&id, &["/probe", "spawn-child-holding-stdout", "600"], 0).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(done.exit_code, 0);
    assert!(done.stdout.starts_with(b"left "), "{}", String::from_utf8_lossy(&done.stdout));
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn what_cannot_be_run_is_an_error_in_known_words() {
    let mut scene = Scene::new().await;
    let id = scene.start(&sleeper("one")).await;
    for (command, words) in [
        ("no-such-program", "executable file not found in $PATH"),
        ("/no/such/program", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/tmp", "permission denied"),
    ] {
        let refused = scene.exec(&id, &[command], 10).await.expect_err(command);
        assert!(refused.message().to_lowercase().contains(&words.to_lowercase()), "{command}: {}", refused.message());
        assert_ne!(refused.code(), Code::DeadlineExceeded, "{command}");
    }
    assert_eq!(scene.exec(&id, &[], 10).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(scene.exec(&id, &["/probe"], -1).await.unwrap_err().code(), Code::InvalidArgument);
    let created = scene.create(&sleeper("created")).await;
    assert_eq!(scene.exec(&created, &["/probe"], 10).await.unwrap_err().code(), Code::FailedPrecondition);
    let ended = scene.outcome(&probe("ended", &["exit", "0"])).await.id;
    assert_eq!(scene.exec(&ended, &["/probe"], 10).await.unwrap_err().code(), Code::FailedPrecondition);
    // After all that the container is as it was.
    assert_eq!(scene.look(&id[..13], &["/probe", "print", "fine"]).await, "fine\n");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_command_is_what_the_container_is() {
    let mut scene = Scene::new().await;
    let mut config = probe("one", &["sleep", "forever"]);
    config.working_dir = "/home/user".into();
    config.envs = vec![api::cri::v1::KeyValue { key: "COLOUR".into(), value: b"blue".to_vec() }];
    let context = security(&mut config);
    context.run_as_user = Some(Int64Value { value: 1000 });
    context.supplemental_groups = vec![1234];
    context.no_new_privs = true;
    context.capabilities.get_or_insert_default().drop_capabilities = vec!["NET_RAW".into()];
    context.seccomp = Some(api::cri::v1::SecurityProfile::default());
    let mut witness = config.clone();
    witness.metadata.as_mut().unwrap().name = "witness".into();
    witness.log_path = "witness.log".into();
    witness.args = vec!["report".into()];

    let id = scene.start(&config).await;
    let (mut first, mut command) = (scene.report(&witness).await, scene.report_in(&id).await);
    for report in [&mut first, &mut command] {
        // A command has a cgroup of its own below the container's, which on cgroup v2 is one entry more.
        report["guarded"]["/sys/fs/cgroup"].as_object_mut().unwrap().remove("entries");
    }
    for fact in [
        "env",
        "cwd",
        "hostname",
        "uids",
        "gids",
        "groups",
        "umask",
        "capabilities",
        "no_new_privs",
        "seccomp",
        "seccomp_filters",
        "oom_score_adj",
        "limits",
        "cpus_allowed",
        "guarded",
        "blocked_signals",
        "ignored_signals",
    ] {
        assert_eq!(command[fact], first[fact], "{fact}");
    }
    assert_eq!(first["seccomp"], 2);
    assert_eq!(command["descriptors"].as_object().unwrap().len(), 3, "{}", command["descriptors"]);
    let init = std::fs::read_link(format!("/proc/{}/ns/mnt", scene.pid(&id).await)).unwrap();
    assert_eq!(command["namespaces"]["mnt"], init.display().to_string());
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: runs a node"]
async fn fifty_commands_at_once_each_have_their_own_answer_and_leave_nothing() {
    let mut scene = Scene::new().await;
    let id = scene.start(&sleeper("one")).await;
    let commands: Vec<_> = (0..50)
        .map(|number| {
            let (mut cri, id) = (Cri::clone(&scene), id.clone());
            tokio::spawn(async move {
                let text = format!("answer {number}");
                let done = cri.exec(&id, &["/probe", "print", &text], 60).await.expect("a command");
                assert_eq!((done.exit_code, done.stdout), (0, format!("{text}\n").into_bytes()));
            })
        })
        .collect();
    for command in commands {
        command.await.unwrap();
    }
    let left = scene.look(&id, &["/probe", "processes"]).await;
    assert_eq!(left.lines().count(), 2, "the container and the command that looks: {left}");
    // The cgroups that they had are gone.
    let pid = scene.pid(&id).await;
    eventually_async(SOON, "no command has left a cgroup", || async {
        let left = cgroups_below(pid);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn what_commands_leave_running_for_a_while_leaves_no_cgroup_for_the_containers_life() {
    let mut scene = Scene::new().await;
    let id = scene.start(&sleeper("one")).await;
    let pid = scene.pid(&id).await;
    for _ in 0..50 {
        let left = scene.exec(&id, &["/probe", "spawn-child-holding-stdout", "0.1"], 60).await.unwrap();
        assert_eq!(left.exit_code, 0);
    }
    // Each later command clears a few away: no more are left than what still runs.
    eventually_async(SOON, "the cgroups of earlier commands are gone", || {
        let (mut cri, id) = (Cri::clone(&scene), id.clone());
        async move {
            assert_eq!(cri.exec(&id, &["/probe", "exit", "0"], 60).await.unwrap().exit_code, 0);
            let left = cgroups_below(pid);
            if left.is_empty() { Ok(()) } else { Err(left.len()) }
        }
    })
    .await;
    scene.finish().await;
}

/// Directories below the cgroups of a process, in every hierarchy.
fn cgroups_below(pid: i32) -> Vec<String> {
    let mut found = Vec::new();
    for line in std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().lines() {
        let fields: Vec<_> = line.splitn(3, ':').collect();
        let dirs = match fields[1] {
            "" => [format!("/sys/fs/cgroup{}", fields[2]), format!("/sys/fs/cgroup/unified{}", fields[2])].to_vec(),
            controller => [format!("/sys/fs/cgroup/{}{}", controller.trim_start_matches("name="), fields[2])].to_vec(),
        };
        // The root of a hierarchy is not the container's.
        for dir in dirs.iter().filter(|_| fields[2].contains("coracle-test")) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_command_ends_with_its_container() {
    let mut scene = Scene::with(|pod| namespaces(pod).pid = NamespaceMode::Pod.into()).await;
    let id = scene.start(&in_pod_pids(sleeper("one"))).await;
    let (mut cri, inside) = (Cri::clone(&scene), id.clone());
    let command = tokio::spawn(async move { cri.exec(&inside, &["/probe", "stubborn"], 0).await });
    let scene_ref = &scene;
    let id_ref = id.as_str();
    eventually_async(SOON, "the command runs", || async move {
        let mut cri = Cri::clone(scene_ref);
        let seen = cri.exec(id_ref, &["/probe", "processes"], 10).await.unwrap().stdout;
        // Init, container, the stubborn one, the one that looks.
        if String::from_utf8_lossy(&seen).lines().count() == 4 { Ok(()) } else { Err("not yet") }
    })
    .await;
    scene.stop(&id, 10).await;
    let begin = Instant::now();
    match command.await.unwrap() {
        Ok(done) => assert_eq!(done.exit_code, 137),
        Err(status) => assert_ne!(status.code(), Code::DeadlineExceeded, "{status}"),
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    scene.finish().await;
}
