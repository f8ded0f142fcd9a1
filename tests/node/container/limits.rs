//! Limits of a container, as its cgroup and its first process have them.

use std::{fs, path::PathBuf};

use api::cri::v1::{ContainerConfig, HugepageLimit, LinuxContainerResources, StartContainerRequest};
use testkit::{NodeOptions, eventually};
use tonic::Code;

use crate::{
    log_file::{self, Stream},
    scene::{SOON, Scene, probe, security, sleeper},
    support,
};

/// Changes what a container may use.
pub(crate) fn limited(mut config: ContainerConfig, resources: LinuxContainerResources) -> ContainerConfig {
    security(&mut config);
    config.linux.as_mut().unwrap().resources = Some(resources);
    config
}

/// A file of the cgroup that a process is in: of the v1 controller where the host has it, of v2 otherwise. With it,
/// what of the two expectations holds.
pub(crate) fn of_cgroup<'e>(pid: i32, v1: (&str, &str, &'e str), v2: (&str, &'e str)) -> (String, &'e str) {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path_of = |wanted: &str| {
        let mut rows = cgroups.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>());
        rows.find(|row| row[1].split(',').any(|name| name == wanted)).map(|row| row[2].to_owned())
    };
    let (file, expected) = match path_of(v1.0) {
        Some(path) => (PathBuf::from(format!("/sys/fs/cgroup/{}{path}/{}", v1.0, v1.1)), v1.2),
        None => (PathBuf::from(format!("/sys/fs/cgroup{}/{}", path_of("").expect("v2"), v2.0)), v2.1),
    };
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    (text.trim_end().to_owned(), expected)
}

/// Whether the host has a controller, in either version.
fn has_controller(name: &str) -> bool {
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    v2.split_whitespace().any(|found| found == name) || PathBuf::from("/sys/fs/cgroup").join(name).is_dir()
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn words_of_cgroup_v2_are_taken_there_and_refused_by_name_on_v1() {
    let mut scene = Scene::new().await;
    let resources = LinuxContainerResources {
        unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    let made = scene.try_create(&limited(sleeper("unified"), resources)).await;
    if PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists() {
        let request = StartContainerRequest { container_id: made.expect("v2 takes it") };
        scene.runtime.start_container(request.clone()).await.unwrap();
        let pid = scene.pid(&request.container_id).await;
        let (have, want) = of_cgroup(pid, ("memory.oom.group", "", ""), ("memory.oom.group", "1"));
        assert_eq!(have, want);
    } else {
        let refused = made.expect_err("v1 has no such words");
        assert_eq!(refused.code(), Code::Unimplemented, "{}", refused.message());
        assert!(refused.message().contains("unified") && refused.message().contains("memory.oom.group"), "{refused}");
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn limits_hold_from_the_first_instruction_and_are_told_as_they_were_asked_for() {
    let mut scene = Scene::new().await;
    let resources = LinuxContainerResources {
        cpu_period: 50_000,
        cpu_quota: 20_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        oom_score_adj: 500,
        cpuset_cpus: "0".into(),
        cpuset_mems: "0".into(),
        // What the kubelet sends of every size that the node knows, asked for or not.
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }],
        ..Default::default()
    };
    let id = scene.start(&limited(sleeper("limited"), resources.clone())).await;
    let pid = scene.pid(&id).await;
    for (have, want) in [
        of_cgroup(pid, ("memory", "memory.limit_in_bytes", "67108864"), ("memory.max", "67108864")),
        of_cgroup(pid, ("cpu", "cpu.shares", "512"), ("cpu.weight", "59")),
        of_cgroup(pid, ("cpu", "cpu.cfs_quota_us", "20000"), ("cpu.max", "20000 50000")),
        of_cgroup(pid, ("cpu", "cpu.cfs_period_us", "50000"), ("cpu.max", "20000 50000")),
        of_cgroup(pid, ("cpuset", "cpuset.cpus", "0"), ("cpuset.cpus", "0")),
        of_cgroup(pid, ("cpuset", "cpuset.mems", "0"), ("cpuset.mems", "0")),
    ] {
        assert_eq!(have, want);
    }
    // A host without that controller does without; so says the contract.
    if has_controller("hugetlb") {
        let v1 = ("hugetlb", "hugetlb.2MB.limit_in_bytes", "0");
        let (have, want) = of_cgroup(pid, v1, ("hugetlb.2MB.max", "0"));
        assert_eq!(have, want);
    }
    // A command in it lives under the same limits.
    let report = scene.report_in(&id).await;
    assert_eq!(report["cpus_allowed"], "0");
    assert_eq!(report["oom_score_adj"], 500);
    let told = scene.status(&id).await.resources.unwrap().linux.unwrap();
    assert_eq!(told, resources);

    let plain = scene.report(&probe("plain", &["report"])).await;
    assert_eq!(plain["oom_score_adj"], 0);
    // Enough for any server and an end for programs that walk over all numbers; a daemon's own limit may be less.
    let files = &plain["limits"]["Max open files"];
    assert_eq!(files[0], "1024");
    let hard: u64 = files[1].as_str().unwrap().parse().expect("a number");
    assert!((1024..=524_288).contains(&hard), "{hard}");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_container_without_memory_is_told_to_have_been_killed_for_it() {
    let mut scene = Scene::new().await;
    let little = LinuxContainerResources {
        memory_limit_in_bytes: 20 << 20,
        memory_swap_limit_in_bytes: 20 << 20,
        ..Default::default()
    };
    for round in 0..3 {
        let config = limited(probe(&format!("greedy-{round}"), &["alloc", "256"]), little.clone());
        let ended = scene.outcome(&config).await;
        assert_eq!((ended.status.exit_code, ended.status.reason.as_str()), (137, "OOMKilled"), "{:?}", ended.status);
    }
    // A kill by somebody else is not.
    let killed = scene.start(&limited(sleeper("killed"), little)).await;
    scene.stop(&killed, 0).await;
    let status = scene.status(&killed).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_limit_of_memory_that_no_container_can_begin_with_is_named() {
    let mut scene = Scene::new().await;
    // Some end as they are made, some when they are started, and some not before their program runs.
    for limit in [1_i64, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10] {
        let resources = LinuxContainerResources { memory_limit_in_bytes: limit, ..Default::default() };
        let config = limited(sleeper(&format!("little-{limit}")), resources);
        let refused = match scene.try_create(&config).await {
            Ok(container_id) => {
                let request = StartContainerRequest { container_id };
                scene.node.client().await.runtime.start_container(request).await.err()
            }
            Err(status) => Some(status),
        };
        assert!(limit > 1 || refused.is_some(), "nothing can begin with a byte");
        if let Some(status) = refused {
            let named = format!("linux.resources.memory_limit_in_bytes \"{limit}\"");
            let text = status.message();
            assert!(text.contains("for want of memory") && text.contains(&named), "{limit}: {text}");
        }
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_container_and_a_pod_have_no_more_processes_than_their_limits_say() {
    let engine = "container_pids = 12\npod_pids = 20".to_owned();
    let node = support::node_with(NodeOptions { engine, ..NodeOptions::default() }).await;
    let mut scene = Scene::on(node, |_| ()).await;
    // Each tries more children than it may have, and is a process itself; the pod's limit leaves the second less.
    for (name, children) in [("first", 11), ("second", 7)] {
        let config = probe(name, &["children", "30"]);
        let id = scene.start(&config).await;
        let started = eventually(SOON, "the probe has started all it can", || {
            let said = log_file::text(&scene.log(&config), Stream::Stdout);
            said.lines().find_map(|line| line.strip_prefix("started ")?.parse::<u32>().ok()).ok_or(said)
        });
        assert_eq!(started, children, "{name}");
        let pid = scene.pid(&id).await;
        let (limit, want) = of_cgroup(pid, ("pids", "pids.max", "12"), ("pids.max", "12"));
        assert_eq!(limit, want);
    }
    scene.finish().await;
}
