//! What a pod has on the host while it runs, and whether all of it is given back: namespace, address, cgroups, link,
//! and the processes that hold it up.
//!
//! Found while it runs, where the kernel shows it, so that every engine is asked the same.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use api::cri::v1::{ContainerStatusRequest, PodSandboxStatusRequest};
use testkit::{Process, eventually};

use super::engine::Engine;

/// How long link and supporters of a removed pod may stay. With both engines they go by themselves: the kernel takes a
/// link down with its namespace, a shim ends when it was told that its work is done.
const GONE: Duration = Duration::from_secs(10);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Belongings {
    pod: String,
    /// The network namespace, as `net:[4026532281]`: what the mount that keeps it shows.
    netns: String,
    /// The host's end of its link.
    link: PathBuf,
    /// In every hierarchy; of its container, of its supporters, and of itself.
    cgroups: Vec<PathBuf>,
    /// What holds the pod up, and its container.
    processes: Vec<Process>,
}

impl Belongings {
    /// Of a pod, one container of which runs. All of it is there now: what could not be seen could not be missed.
    pub(super) async fn of(engine: &mut Engine, pod: &str, container: &str) -> Belongings {
        let pid = pid_of(engine, container).await;
        let mut processes: Vec<i32> = supporters(engine, pod).await;
        processes.push(pid);
        let namespace = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let mut cgroups: Vec<_> = processes.iter().flat_map(|pid| cgroups(*pid, &[pod, container])).collect();
        cgroups.sort();
        cgroups.dedup();
        let it = Belongings {
            pod: pod.to_owned(),
            netns: namespace.display().to_string(),
            link: link(pid),
            cgroups,
            processes: processes.into_iter().map(|pid| Process::of(pid).unwrap()).collect(),
        };
        // Namespace, lease, link.
        let all = 3 + it.cgroups.len() + it.processes.len();
        let there = [it.kept(engine), it.lingers()].concat();
        assert!(there.len() == all && !it.cgroups.is_empty(), "all of {it:?} is there: {there:?}");
        it
    }

    /// What is left of that which is gone when the pod's removal is answered.
    pub(super) fn kept(&self, engine: &Engine) -> Vec<String> {
        let mut left = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        if mounts.contains(&format!(" {} ", self.netns)) {
            left.push(self.netns.clone());
        }
        if engine.leases_to(&self.pod) {
            left.push(format!("a lease to {}", self.pod));
        }
        left.extend(self.cgroups.iter().filter(|dir| dir.exists()).map(|dir| dir.display().to_string()));
        left
    }

    /// What is left of that which may go a moment later.
    fn lingers(&self) -> Vec<String> {
        let processes = self.processes.iter().filter(|process| process.alive());
        let mut left: Vec<_> = processes.map(|process| format!("{} ({})", process.name, process.pid)).collect();
        if self.link.exists() {
            left.push(self.link.display().to_string());
        }
        left
    }

    /// Waits until nothing is left of pods that were removed.
    pub(super) fn await_end(all: &[Belongings]) {
        eventually(GONE, "links and supporters of removed pods are gone", || {
            let left: Vec<_> = all.iter().flat_map(Belongings::lingers).collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
}

/// The processes that hold a pod up and are not its containers': our monitor; a shim and a pause process.
pub(super) async fn supporters(engine: &mut Engine, pod: &str) -> Vec<i32> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    let told = engine.cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&told.info["info"]).unwrap();
    if let Some(monitor) = info["monitorPid"].as_i64() {
        return vec![monitor as i32];
    }
    let pause = info["pid"].as_i64().unwrap() as i32;
    vec![pause, Process::of(pause).unwrap().parent]
}

/// A container's first process, as the host numbers it.
async fn pid_of(engine: &mut Engine, container: &str) -> i32 {
    let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: true };
    let told = engine.cri.runtime.container_status(request).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&told.info["info"]).unwrap();
    info["pid"].as_i64().unwrap() as i32
}

/// The host's end of the link of a container's process, which says by its own sysfs what the other end's number is.
fn link(pid: i32) -> PathBuf {
    let other = fs::read_to_string(format!("/proc/{pid}/root/sys/class/net/eth0/iflink")).unwrap();
    let links = fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().path());
    let is_other = |link: &PathBuf| fs::read_to_string(link.join("ifindex")).is_ok_and(|index| index == other);
    links.into_iter().find(is_other).unwrap_or_else(|| panic!("no link has the number {other}"))
}

/// The cgroups of a process, and those above them, that are named after one of these.
fn cgroups(pid: i32, names: &[&str]) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let hierarchies = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup").then(|| left.split(' ').nth(4))?
    });
    let of = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let paths: Vec<&str> = of.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    let is_named = |dir: &&Path| dir.file_name().is_some_and(|name| names.iter().any(|one| name == *one));
    let mut found = Vec::new();
    for hierarchy in hierarchies {
        for path in &paths {
            let above = Path::new(path).ancestors().filter(is_named);
            let dirs = above.filter_map(|path| Some(Path::new(hierarchy).join(path.strip_prefix("/").ok()?)));
            found.extend(dirs.filter(|dir| dir.exists()));
        }
    }
    found
}
