//! Making cgroups, limiting them, and opening what a launch needs.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use kernel::bpf;
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{Mode, mkdirat},
};

use super::{
    Cgroups, Hierarchy, IfMissing, Layout, Opened, V2, device_program, failed,
    lack::{has_controller, no_controller},
    relative, v1_limits, v2_limits,
};
use crate::{Error, Result, device::DeviceRule, launch_plan};

/// How often a chain of directories is made again when somebody removes its top meanwhile.
const RACES: usize = 8;

/// Controllers that containers use; version 2 hands each down by name.
const V2_CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

/// What the files are named after that a cgroup of version 2 has without any controller.
const CORE: &str = "cgroup";

/// A container's directories.
pub(crate) enum Made<'a> {
    V1 { path: &'a str, dirs: Vec<(&'a Hierarchy, OwnedFd)> },
    V2 { path: &'a str, dir: OwnedFd },
}

impl Cgroups {
    /// Whether a cgroup is there (v1: in any hierarchy).
    pub(super) fn exists(&self, path: &str) -> bool {
        self.roots().any(|root| open_dir(root, path).is_ok())
    }

    /// Makes a cgroup that holds others, with its parents.
    pub(super) fn make_directories(&self, path: &str) -> Result<()> {
        match &self.layout {
            Layout::V1(v1) => {
                for hierarchy in &v1.hierarchies {
                    let (root, is_cpuset) = (hierarchy.root.as_fd(), hierarchy.has("cpuset"));
                    make_dir(root, path, is_cpuset).map_err(failed("make", path))?;
                    if is_cpuset {
                        hand_on_cpuset(root, path).map_err(failed("hand on the cpuset of", path))?;
                    }
                }
                Ok(())
            }
            Layout::V2(v2) => {
                make_dir(v2.root.as_fd(), path, false).map_err(failed("make", path))?;
                hand_down(v2, path).map_err(failed("enable controllers", path))
            }
        }
    }

    /// Makes a cgroup that holds processes.
    pub(crate) fn make_leaf<'a>(&'a self, path: &'a str) -> Result<Made<'a>> {
        match &self.layout {
            Layout::V1(v1) => {
                let mut dirs = Vec::with_capacity(v1.hierarchies.len());
                for hierarchy in &v1.hierarchies {
                    let dir = make_dir(hierarchy.root.as_fd(), path, hierarchy.has("cpuset"))
                        .and_then(|()| open_dir(hierarchy.root.as_fd(), path))
                        .map_err(failed(format!("make {}", hierarchy.directory()), path))?;
                    dirs.push((hierarchy, dir));
                }
                Ok(Made::V1 { path, dirs })
            }
            Layout::V2(v2) => {
                let made = make_dir(v2.root.as_fd(), path, false).and_then(|()| open_dir(v2.root.as_fd(), path));
                Ok(Made::V2 { path, dir: made.map_err(failed("make", path))? })
            }
        }
    }

    /// Every tree in which something of a container may be.
    pub(super) fn roots(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let (v1, v2) = match &self.layout {
            Layout::V1(v1) => {
                let beside = v1.beside.as_ref().map(AsFd::as_fd);
                (Some(v1.hierarchies.iter().map(|hierarchy| hierarchy.root.as_fd())), beside)
            }
            Layout::V2(v2) => (None, Some(v2.root.as_fd())),
        };
        v1.into_iter().flatten().chain(v2)
    }
}

impl Made<'_> {
    /// Sets limits and device access.
    pub(super) fn limit(&self, plan: &launch_plan::Cgroup) -> Result<()> {
        match self {
            Made::V1 { path, dirs } => {
                for write in v1_limits(&plan.resources, plan.pids_limit)? {
                    let dir = dirs.iter().find(|(hierarchy, _)| hierarchy.has(&write.controller));
                    match dir {
                        Some((_, dir)) => put_v1(dir.as_fd(), path, &write)?,
                        None if write.if_missing == IfMissing::PassOver => {}
                        None => return Err(no_controller(path, &write.controller, write.asked())),
                    }
                }
                if plan.devices == [DeviceRule::ANY] {
                    return Ok(());
                }
                match dirs.iter().find(|(hierarchy, _)| hierarchy.has("devices")) {
                    Some((_, dir)) => {
                        limit_devices_v1(dir.as_fd(), &plan.devices).map_err(failed("limit devices", path))
                    }
                    // It would have every device of the host whose node it makes.
                    None => Err(no_controller(path, "devices", "a container that is not privileged".to_owned())),
                }
            }
            Made::V2 { path, dir } => {
                for write in v2_limits(&plan.resources, plan.pids_limit)? {
                    put_v2(dir.as_fd(), path, &write)?;
                }
                if plan.devices == [DeviceRule::ANY] {
                    return Ok(());
                }
                let program = bpf::load_device_program(&device_program(&plan.devices));
                program
                    .and_then(|program| bpf::attach_device_program(dir.as_fd(), program.as_fd()))
                    .map_err(failed("limit devices", path))
            }
        }
    }

    /// Opens what a launch needs.
    pub(super) fn open(self) -> Result<Opened> {
        match self {
            Made::V1 { path, dirs } => {
                let mut tasks = Vec::with_capacity(dirs.len());
                for (_, dir) in &dirs {
                    tasks.push(open_file(dir.as_fd(), "tasks", OFlag::O_WRONLY).map_err(failed("open tasks", path))?);
                }
                let memory = dirs.iter().find(|(hierarchy, _)| hierarchy.has("memory"));
                let oom = memory
                    .map(|(_, dir)| open_file(dir.as_fd(), "memory.oom_control", OFlag::O_RDONLY))
                    .transpose()
                    .map_err(failed("open memory.oom_control", path))?;
                // Without a freezer any hierarchy finds the processes, though not while they hold still.
                let at = dirs.iter().position(|(hierarchy, _)| hierarchy.has("freezer")).unwrap_or(0);
                let kill_dir = dirs.into_iter().nth(at).map(|(_, dir)| dir).ok_or(Error::NoCgroups)?;
                Ok(Opened { tasks, dir: None, kill_dir, oom })
            }
            Made::V2 { path, dir } => {
                let kill_dir = dir.try_clone().map_err(failed("open", path))?;
                // Absent where the memory controller is not handed down: then no kill is ever counted.
                let oom = open_file(dir.as_fd(), "memory.events", OFlag::O_RDONLY).ok();
                Ok(Opened { tasks: Vec::new(), dir: Some(dir), kill_dir, oom })
            }
        }
    }
}

pub(super) fn open_dir(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    open_file(root, relative(path), OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

pub(super) fn open_file(dir: BorrowedFd<'_>, name: &str, flags: OFlag) -> io::Result<OwnedFd> {
    Ok(openat(dir, name, flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())?)
}

pub(super) fn write(dir: BorrowedFd<'_>, file: &str, value: &str) -> io::Result<()> {
    // One write a value: the kernel takes each write as a whole.
    File::from(open_file(dir, file, OFlag::O_WRONLY)?).write_all(value.as_bytes())
}

pub(super) fn read(dir: BorrowedFd<'_>, file: &str) -> io::Result<String> {
    let mut text = String::new();
    File::from(open_file(dir, file, OFlag::O_RDONLY)?).read_to_string(&mut text)?;
    Ok(text)
}

/// Makes a directory and its parents below a hierarchy's root. The usual case, a parent that is there, is one call.
fn make_dir(root: BorrowedFd<'_>, path: &str, is_cpuset: bool) -> io::Result<()> {
    for _ in 0..RACES {
        match mkdirat(root, relative(path), Mode::from_bits_truncate(0o755)) {
            Ok(()) => return if is_cpuset { fill_cpuset(root, path) } else { Ok(()) },
            // Made by us before a crash, by the kubelet, or by a racing call: an unfilled cpuset may be left behind.
            Err(Errno::EEXIST) => return if is_cpuset { fill_cpuset(root, path) } else { Ok(()) },
            Err(Errno::ENOENT) => match path.trim_end_matches('/').rsplit_once('/') {
                Some((parent, _)) if !parent.is_empty() => {
                    make_dir(root, parent, is_cpuset)?;
                    if is_cpuset {
                        hand_on_cpuset(root, parent)?;
                    }
                }
                _ => return Err(Errno::ENOENT.into()),
            },
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::ENOENT.into())
}

/// Has a v1 cpuset's children begin with its CPUs and memory nodes, which costs nothing, rather than empty. Each write
/// to `cpuset.cpus` or `cpuset.mems` has the kernel go through all cpusets there are (`rebuild_sched_domains`): with
/// 2000 containers that is most of what making one costs.
fn hand_on_cpuset(root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    write(open_dir(root, path)?.as_fd(), "cgroup.clone_children", "1")
}

/// A v1 cpuset starts empty, unless its parent hands on its own, and refuses processes until it has CPUs and memory
/// nodes: take the parent's.
fn fill_cpuset(root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let dir = open_dir(root, path)?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !read(dir.as_fd(), file)?.trim().is_empty() {
            continue;
        }
        let parent = match path.trim_end_matches('/').rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => parent,
            _ => "/",
        };
        let mut value = read(open_dir(root, parent)?.as_fd(), file)?;
        if value.trim().is_empty() && parent != "/" {
            fill_cpuset(root, parent)?;
            value = read(open_dir(root, parent)?.as_fd(), file)?;
        }
        write(dir.as_fd(), file, value.trim())?;
    }
    Ok(())
}

/// Hands the controllers down from the root to the children of `path`.
fn hand_down(v2: &V2, path: &str) -> io::Result<()> {
    let mut at = String::new();
    let parts = path.split('/').filter(|part| !part.is_empty());
    for part in std::iter::once("").chain(parts) {
        if !part.is_empty() {
            at.push('/');
            at.push_str(part);
        }
        for (name, error) in hand_down_from(open_dir(v2.root.as_fd(), &at)?.as_fd())? {
            tracing::debug!(cgroup = at, controller = name, %error, "controller is not handed down");
        }
    }
    Ok(())
}

/// Hands the controllers of one cgroup down to its children. Each by itself: one that the parent lacks, or that is
/// refused, must not take the others with it. Answers those that it has and that were refused.
///
/// None is where processes are in it: the kernel would hand down those that it can divide among threads, and no cgroup
/// below could take a process any more (`domain invalid`). The machine's topmost cgroup, which has no type, is free of
/// that rule.
pub(super) fn hand_down_from(dir: BorrowedFd<'_>) -> io::Result<Vec<(&'static str, io::Error)>> {
    let (available, enabled) = (read(dir, "cgroup.controllers")?, read(dir, "cgroup.subtree_control")?);
    let has = |list: &str, name: &str| list.split_whitespace().any(|known| known == name);
    let wanted: Vec<_> =
        V2_CONTROLLERS.into_iter().filter(|name| has(&available, name) && !has(&enabled, name)).collect();
    let holds_processes = !wanted.is_empty()
        && read(dir, "cgroup.type").is_ok()
        && read(dir, "cgroup.procs").is_ok_and(|pids| !pids.trim().is_empty());
    let refused = wanted.into_iter().filter_map(|name| {
        let handed_down = match holds_processes {
            true => Err(Errno::EBUSY.into()),
            false => write(dir, "cgroup.subtree_control", &format!("+{name}")),
        };
        handed_down.err().map(|error| (name, error))
    });
    Ok(refused.collect())
}

/// Writes a limit into the hierarchy of its controller.
fn put_v1(dir: BorrowedFd<'_>, path: &str, limit: &super::Write) -> Result<()> {
    match write(dir, &limit.file, &limit.value) {
        Err(error) if is_missing(&error) && limit.if_missing == IfMissing::PassOver => Ok(()),
        written => written.map_err(failed(format!("write {} to {}", limit.value, limit.file), path)),
    }
}

/// Writes a limit. Without its controller a cgroup does not have the file.
fn put_v2(dir: BorrowedFd<'_>, path: &str, limit: &super::Write) -> Result<()> {
    match write(dir, &limit.file, &limit.value) {
        Err(error) if is_missing(&error) && limit.if_missing == IfMissing::PassOver => Ok(()),
        Err(error) if is_missing(&error) && limit.controller != CORE && !has_controller(dir, &limit.controller) => {
            Err(no_controller(path, &limit.controller, limit.asked()))
        }
        written => written.map_err(failed(format!("write {} to {}", limit.value, limit.file), path)),
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn limit_devices_v1(dir: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<()> {
    write(dir, "devices.deny", "a")?;
    let mut allow = File::from(open_file(dir, "devices.allow", OFlag::O_WRONLY)?);
    for line in rules.iter().filter_map(DeviceRule::v1_line) {
        allow.write_all(line.as_bytes())?;
    }
    Ok(())
}
