//! What an instance has left on the host: mounts, namespaces, links, cgroups, processes, files.
//!
//! Found by looking, not by asking the instance: a leak is what it does not know of.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// Where an instance leaves its marks.
pub(crate) struct Marks<'a> {
    /// Its directories: anything mounted below them, or running from them, is its own.
    pub(crate) directories: &'a [PathBuf],
    /// Its bridge; the pods' links hang on it.
    pub(crate) bridge: &'a str,
    /// Where its network namespaces are named.
    pub(crate) netns_dir: &'a Path,
    /// Ids of its pods, for names made of them.
    pub(crate) pods: &'a [String],
    /// Ids of its containers.
    pub(crate) containers: &'a [String],
}

/// Everything found, by kind.
#[derive(Debug, Default)]
pub(crate) struct Footprint {
    pub(crate) mounts: Vec<String>,
    pub(crate) namespaces: Vec<String>,
    pub(crate) links: Vec<String>,
    pub(crate) cgroups: Vec<String>,
    pub(crate) processes: Vec<String>,
    pub(crate) files: Vec<String>,
}

impl Footprint {
    /// Looks at the host now.
    pub(crate) fn find(marks: &Marks<'_>) -> Self {
        Self {
            mounts: mounts(marks),
            namespaces: namespaces(marks),
            links: links(marks),
            cgroups: cgroups(marks),
            processes: processes(marks),
            files: marks.directories.iter().filter(|dir| dir.exists()).map(|dir| dir.display().to_string()).collect(),
        }
    }

    /// Whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.kinds().iter().all(|(_, found)| found.is_empty())
    }

    /// Each kind with what was found of it.
    pub(crate) fn kinds(&self) -> [(&'static str, &[String]); 6] {
        [
            ("mounts", &self.mounts),
            ("namespaces", &self.namespaces),
            ("links", &self.links),
            ("cgroups", &self.cgroups),
            ("processes", &self.processes),
            ("files", &self.files),
        ]
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (kind, found)) in self.kinds().into_iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} {kind}", found.len())?;
        }
        Ok(())
    }
}

fn mounts(marks: &Marks<'_>) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = |line: &&str| {
        marks.directories.iter().any(|dir| line.contains(&*dir.to_string_lossy()))
            || marks.pods.iter().any(|id| line.contains(&id[..12]))
    };
    table.lines().filter(ours).map(str::to_owned).collect()
}

fn namespaces(marks: &Marks<'_>) -> Vec<String> {
    let names = names_in(marks.netns_dir);
    names.into_iter().filter(|name| marks.pods.iter().any(|id| name.contains(&id[..12]))).collect()
}

/// The bridge and whatever hangs on it.
fn links(marks: &Marks<'_>) -> Vec<String> {
    let of_bridge = |name: &String| {
        let master = fs::read_link(format!("/sys/class/net/{name}/master")).unwrap_or_default();
        name == marks.bridge || master.ends_with(marks.bridge)
    };
    names_in(Path::new("/sys/class/net")).into_iter().filter(of_bridge).collect()
}

fn cgroups(marks: &Marks<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if marks.pods.iter().chain(marks.containers).any(|id| name.contains(id.as_str())) {
                found.push(entry.path().display().to_string());
            }
            waiting.push(entry.path());
        }
    }
    found
}

/// Processes whose command line or cgroup names the instance; except ourselves and those who started us, which may have
/// been told its directory too (`sudo`, a shell).
fn processes(marks: &Marks<'_>) -> Vec<String> {
    let ours = ourselves_and_ancestors();
    let mut found = Vec::new();
    for pid in names_in(Path::new("/proc")) {
        if ours.contains(&pid) || !pid.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let read = |file: &str| {
            String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()).replace('\0', " ")
        };
        let (command, cgroup) = (read("cmdline"), read("cgroup"));
        let by_command = marks.directories.iter().any(|dir| command.contains(&*dir.to_string_lossy()));
        let by_cgroup = marks.pods.iter().chain(marks.containers).any(|id| cgroup.contains(id.as_str()));
        if by_command || by_cgroup {
            found.push(format!("{pid} {}", command.trim()));
        }
    }
    found
}

fn ourselves_and_ancestors() -> Vec<String> {
    let mut found = vec![std::process::id().to_string()];
    while let Some(pid) = found.last().filter(|pid| *pid != "0") {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let Some(parent) = status.lines().find_map(|line| line.strip_prefix("PPid:")) else { break };
        found.push(parent.trim().to_owned());
    }
    found
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
