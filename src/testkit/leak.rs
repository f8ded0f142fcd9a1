//! What a node has left behind, found where it could be.

use std::{
    fmt, fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::Process;

/// Every thing that should be gone and is not, in words. Empty is what a test wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaks(pub Vec<String>);

/// Where to look.
pub(crate) struct Places<'a> {
    /// The node's directory: `root`, `state`, `netns` and logs lie in it.
    pub(crate) dir: &'a Path,
    /// cgroup below which the node makes all of its own.
    pub(crate) cgroup_root: &'a str,
    /// The node's bridge.
    pub(crate) bridge: &'a str,
    /// Whether the directory of bundles may be a mount: a daemon with a handler runs, or died.
    pub(crate) bundles_mounted: bool,
    /// Processes that belong to the node and have to be gone.
    pub(crate) processes: &'a [Process],
}

impl Leaks {
    pub(crate) fn find(places: &Places<'_>) -> Leaks {
        let mut found = Vec::new();
        let dir = places.dir.display().to_string();
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
            // The directory of namespaces is a mount of the node, as /run/netns is the host's, and a root or a state of
            // its own is the test's: they stay with it.
            let own = ["netns", "root", "state"].into_iter().chain(places.bundles_mounted.then_some("state/bundles"));
            let stays = own.into_iter().any(|below| line.contains(&format!(" {dir}/{below} rw")));
            if line.contains(&dir) && !stays {
                found.push(format!("mount: {line}"));
            }
        }
        for namespace in entries(&places.dir.join("netns")) {
            found.push(format!("network namespace: {}", namespace.display()));
        }
        for hierarchy in hierarchies() {
            let root = hierarchy.join(places.cgroup_root.trim_start_matches('/'));
            for cgroup in entries(&root).into_iter().filter(|entry| entry.is_dir()) {
                found.push(format!("cgroup: {}", cgroup.display()));
            }
        }
        for link in entries(&Path::new("/sys/class/net").join(places.bridge).join("brif")) {
            found.push(format!("link: {} in {}", file_name(&link), places.bridge));
        }
        for process in places.processes.iter().filter(|process| process.alive()) {
            found.push(format!("process: {} ({})", process.pid, process.name));
        }
        // Records, layers, sockets: whatever the rooms call them, what belongs to a pod lies below such a directory.
        let records = ["root/containers", "root/records/pods", "root/records/containers", "root/records/phases"];
        let owned = records.iter().chain(&["state/pods", "state/bundles"]);
        for file in owned.flat_map(|below| entries(&places.dir.join(below))) {
            found.push(format!("file: {}", file.display()));
        }
        // Leases are named by their addresses; what else lies beside them is the network's.
        for network in entries(&places.dir.join("root/network")) {
            for lease in entries(&network).into_iter().filter(|file| file_name(file).parse::<IpAddr>().is_ok()) {
                let holder = fs::read_to_string(&lease).unwrap_or_default();
                found.push(format!("lease: {} of {}", lease.display(), holder.lines().next().unwrap_or_default()));
            }
        }
        Leaks(found)
    }

    /// Nothing was left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|leak| writeln!(f, "  {leak}"))
    }
}

/// Roots of the cgroup hierarchies: of v2, and of each controller of v1.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let found = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup").then(|| left.split(' ').nth(4).map(PathBuf::from))?
    });
    found.collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
