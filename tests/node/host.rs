//! A daemon on hosts whose cgroups are not all there, or not all its own: what can be kept is kept, and what cannot is
//! said at the start and refused by name.
//!
//! Each test holds for both versions of cgroups, and is about the one that the host has; `tests/vm/run --host` boots
//! others.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use api::cri::v1::{ContainerConfig, LinuxContainerResources};
use testkit::{NodeOptions, TempNode, eventually};

use crate::{
    container::limits::{limited, of_cgroup},
    scene::{SOON, Scene, probe, sleeper},
    support,
};

/// What version 2 can hand down, and hierarchies of version 1, as far as limits of these tests go.
const CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// Keeps what follows in a mount namespace of its own.
const ALONE: &str = "mount --make-rprivate /sys\n";

/// A hierarchy of cgroups of the host: where it is mounted, and its controllers; none for version 2.
struct Hierarchy {
    mount: PathBuf,
    controllers: Vec<String>,
}

fn hierarchies() -> Vec<Hierarchy> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let found = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mount = left.split(' ').nth(4)?.into();
        let (kind, options) = (right.split(' ').next()?, right.rsplit(' ').next()?);
        let controllers = match kind {
            "cgroup" => options.split(',').map(str::to_owned).collect(),
            "cgroup2" => Vec::new(),
            _ => return None,
        };
        Some(Hierarchy { mount, controllers })
    });
    found.collect()
}

/// The host has version 2 alone.
fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A part of the host's cgroup trees, of which a daemon sees nothing else: a host in a host. [`Part::remove`] is its
/// end.
struct Part {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

/// Where in its part the daemon is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seat {
    /// In the cgroup at the top, as a container's only program is.
    Top,
    /// In one below it, as a service is.
    Below,
}

impl Part {
    /// A part to which version 2 hands these controllers down. Version 1 hands nothing down: a hierarchy is there or
    /// not.
    fn new(controllers: &[&str]) -> Part {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let part =
            Part { name: format!("coracle-test-host-{}-{number}", std::process::id()), hierarchies: hierarchies() };
        for hierarchy in &part.hierarchies {
            let outer = hierarchy.mount.join(&part.name);
            for dir in [outer.clone(), outer.join("top"), outer.join("top/daemon")] {
                fs::create_dir(&dir).unwrap();
                // An empty set of version 1 takes nobody in.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if hierarchy.controllers.iter().any(|name| name == "cpuset") {
                        let all = fs::read_to_string(hierarchy.mount.join(file)).unwrap();
                        fs::write(dir.join(file), all).unwrap();
                    }
                }
            }
            if is_v2() {
                for name in controllers {
                    for dir in [&hierarchy.mount, &outer] {
                        fs::write(dir.join("cgroup.subtree_control"), format!("+{name}")).unwrap();
                    }
                }
            }
        }
        part
    }

    /// Lines by which the daemon goes there and sees its part as the whole: version 2 as in a cgroup namespace, version
    /// 1 as in a container without one.
    fn lines(&self, seat: Seat) -> String {
        let seat = if seat == Seat::Top { "." } else { "daemon" };
        let mut lines = ALONE.to_owned();
        for Hierarchy { mount, .. } in &self.hierarchies {
            let (mount, top) = (mount.display(), mount.join(&self.name).join("top"));
            let top = top.display();
            if is_v2() {
                let inside =
                    format!("mount -t cgroup2 cgroup2 {mount}; echo $$ > {mount}/{seat}/cgroup.procs; exec \"$@\"");
                writeln!(lines, "echo $$ > {top}/cgroup.procs; umount {mount}").unwrap();
                writeln!(lines, "exec unshare --cgroup sh -ec '{inside}' host \"$@\"").unwrap();
            } else {
                // By way of a place that only this namespace has: what lies under the part is not to be seen either.
                let aside = "/sys/kernel";
                writeln!(lines, "echo $$ > {top}/{seat}/cgroup.procs; mount --bind {top} {aside}").unwrap();
                writeln!(lines, "umount {mount}; mount --move {aside} {mount}").unwrap();
            }
        }
        lines
    }

    /// Removes it. A pod has left nothing in it.
    fn remove(self) {
        for hierarchy in &self.hierarchies {
            let outer = hierarchy.mount.join(&self.name);
            for dir in ["top/daemon", "top", ""] {
                eventually(SOON, "nobody is left in the part", || fs::remove_dir(outer.join(dir)));
            }
        }
    }
}

/// Lines by which the daemon does not see the hierarchies of version 1 that have these controllers.
fn hidden(controllers: &[&str]) -> String {
    let has_one = |it: &Hierarchy| it.controllers.iter().any(|name| controllers.contains(&name.as_str()));
    let found = hierarchies().into_iter().filter(has_one);
    found.fold(ALONE.to_owned(), |lines, hierarchy| format!("{lines}umount {}\n", hierarchy.mount.display()))
}

async fn scene(lines: String) -> Scene {
    let options = NodeOptions { host: Some(lines), ..NodeOptions::default() };
    Scene::on(support::node_with(options).await, |_| ()).await
}

/// The daemon has said at its start that something about `what` will be missing.
fn has_warned(node: &TempNode, what: &str) -> bool {
    node.log().lines().any(|line| line.contains("WARN") && line.contains(what))
}

fn with_memory(config: ContainerConfig, memory_limit_in_bytes: i64) -> ContainerConfig {
    limited(config, LinuxContainerResources { memory_limit_in_bytes, ..Default::default() })
}

/// All that a container without limits does.
async fn lives(scene: &mut Scene) {
    let id = scene.start(&sleeper("free")).await;
    assert_eq!(scene.look(&id, &["/probe", "print", "here"]).await, "here\n");
    scene.stop(&id, 0).await;
    assert_eq!(scene.status(&id).await.exit_code, 137);
    scene.discard(&id).await;
}

async fn is_refused(scene: &mut Scene, name: &str, resources: LinuxContainerResources, word: &str) {
    let refused = scene.try_create(&limited(sleeper(name), resources)).await.unwrap_err();
    let message = refused.message();
    assert!(message.contains(word) && message.contains("controller"), "{name}: {message}");
}

#[tokio::test]
#[ignore = "needs root: runs a node in a part of the cgroup tree"]
async fn in_a_part_of_the_tree_pods_are_limited_as_in_the_whole() {
    let part = Part::new(&CONTROLLERS);
    let mut scene = scene(part.lines(Seat::Below)).await;
    assert!(!has_warned(&scene.node, "memory"), "{}", scene.node.log());
    lives(&mut scene).await;
    let id = scene.start(&with_memory(sleeper("limited"), 64 << 20)).await;
    let pid = scene.pid(&id).await;
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroups.lines().all(|line| line.contains(&part.name)), "all of it is in the part:\n{cgroups}");
    let (have, want) = of_cgroup(pid, ("memory", "memory.limit_in_bytes", "67108864"), ("memory.max", "67108864"));
    assert_eq!(have, want);
    let ended = scene.outcome(&with_memory(probe("greedy", &["alloc", "256"]), 20 << 20)).await;
    assert_eq!((ended.status.exit_code, ended.status.reason.as_str()), (137, "OOMKilled"), "{:?}", ended.status);
    scene.finish().await;
    part.remove();
}

#[tokio::test]
#[ignore = "needs root: runs a node in a part of the cgroup tree"]
async fn a_daemon_at_the_top_of_its_part_is_in_the_way_of_version_2_and_says_so() {
    let part = Part::new(&CONTROLLERS);
    let mut scene = scene(part.lines(Seat::Top)).await;
    lives(&mut scene).await;
    if is_v2() {
        assert!(has_warned(&scene.node, "memory"), "{}", scene.node.log());
        let resources = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
        is_refused(&mut scene, "limited", resources, "memory").await;
    } else {
        scene.start(&with_memory(sleeper("limited"), 64 << 20)).await;
    }
    scene.finish().await;
    part.remove();
}

#[tokio::test]
#[ignore = "needs root: runs a node without a controller"]
async fn without_a_controller_of_memory_pods_run_and_its_limit_is_refused_by_name() {
    let others: Vec<_> = CONTROLLERS.into_iter().filter(|name| *name != "memory").collect();
    let part = is_v2().then(|| Part::new(&others));
    let lines = part.as_ref().map_or_else(|| hidden(&["memory"]), |part| part.lines(Seat::Below));
    let mut scene = scene(lines).await;
    assert!(has_warned(&scene.node, "memory"), "{}", scene.node.log());
    lives(&mut scene).await;
    let resources = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    is_refused(&mut scene, "limited", resources, "memory").await;
    // What is there is used.
    let resources = LinuxContainerResources { cpu_shares: 512, ..Default::default() };
    let id = scene.start(&limited(sleeper("slow"), resources)).await;
    let pid = scene.pid(&id).await;
    let (have, want) = of_cgroup(pid, ("cpu", "cpu.shares", "512"), ("cpu.weight", "59"));
    assert_eq!(have, want);
    scene.finish().await;
    if let Some(part) = part {
        part.remove();
    }
}

#[tokio::test]
#[ignore = "needs root: runs a node without controllers"]
async fn without_any_controller_pods_run_and_every_limit_is_refused_by_name() {
    let part = is_v2().then(|| Part::new(&[]));
    let lines = part.as_ref().map_or_else(|| hidden(&CONTROLLERS), |part| part.lines(Seat::Below));
    let mut scene = scene(lines).await;
    for name in ["cpu", "memory", "pids"] {
        assert!(has_warned(&scene.node, name), "{name}: {}", scene.node.log());
    }
    lives(&mut scene).await;
    let nothing = LinuxContainerResources::default;
    for (word, resources) in [
        ("memory", LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..nothing() }),
        ("cpu", LinuxContainerResources { cpu_shares: 512, ..nothing() }),
        ("cpuset", LinuxContainerResources { cpuset_cpus: "0".into(), ..nothing() }),
    ] {
        is_refused(&mut scene, word, resources, word).await;
    }
    scene.finish().await;
    if let Some(part) = part {
        part.remove();
    }
}

#[test]
#[ignore = "needs root: runs the daemon"]
fn without_cgroups_the_daemon_ends_and_says_what_is_to_be_mounted() {
    let host = Some(format!("{ALONE}umount -R /sys/fs/cgroup"));
    let mut node = TempNode::prepare(NodeOptions { host, ..NodeOptions::default() });
    node.launch_daemon();
    node.await_death();
    assert!(node.log().contains("mount cgroup2 on /sys/fs/cgroup"), "{}", node.log());
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn where_cgroups_cannot_be_made_a_pod_is_refused_with_the_reason() {
    let closed = |hierarchy: Hierarchy| format!("mount -o remount,bind,ro {}\n", hierarchy.mount.display());
    let host = Some(ALONE.to_owned() + &hierarchies().into_iter().map(closed).collect::<String>());
    let node = support::node_with(NodeOptions { host, ..NodeOptions::default() }).await;
    let refused = node.client().await.run(&testkit::pod("refused", node.dir())).await.unwrap_err();
    assert!(refused.message().contains("cgroup") && refused.message().contains("Read-only"), "{}", refused.message());
    node.finish().await;
}
