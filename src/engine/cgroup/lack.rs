//! What the cgroups of this host cannot do: told once when the engine starts, and to whoever asks for just that.
//!
//! The hosts that this is for: of version 1 without some controllers; of version 2 whose root has none, or may not hand
//! them down; hybrid, with controllers on both versions; and a node inside a container, whose hierarchies may be
//! read-only, or whose topmost cgroup holds processes. None of them keeps the daemon from starting, since what runs has
//! to be stopped and removed all the same.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::{
    errno::Errno,
    fcntl::AtFlags,
    unistd::{AccessFlags, faccessat},
};

use super::{
    Cgroups, Layout, V2, failed,
    make::{hand_down_from, open_dir, read},
};
use crate::{Error, Result};

/// Controllers, and what is so without them.
const WITHOUT: [(&str, &str); 5] = [
    ("cpu", "cpu_shares, cpu_period and cpu_quota are refused"),
    ("cpuset", "cpuset_cpus and cpuset_mems are refused"),
    ("memory", "memory_limit_in_bytes is refused, and nobody hears of kills for want of memory"),
    ("pids", "container_pids and pod_pids are refused"),
    ("hugetlb", "hugepage_limits are passed over"),
];

/// The same, where only version 1 has them as controllers.
const WITHOUT_ON_V1: [(&str, &str); 2] = [
    ("devices", "only privileged containers can be made"),
    ("freezer", "what forks while it is killed is hunted down in rounds"),
];

impl Cgroups {
    /// What is missing, in one sentence for each kind of trouble; none on a host that has all. On version 2 it hands
    /// down from the root what can be, as the first pod would.
    pub(crate) fn notes(&self) -> Vec<String> {
        let read_only: Vec<_> = match &self.layout {
            Layout::V1(v1) => v1.hierarchies.iter().map(|one| (one.root.as_fd(), one.mount.as_path())).collect(),
            Layout::V2(v2) => vec![(v2.root.as_fd(), v2.mount.as_path())],
        };
        let read_only = read_only.into_iter().filter(|(root, _)| is_read_only(*root));
        let read_only: Vec<_> = read_only.map(|(_, mount)| mount.display().to_string()).collect();
        if !read_only.is_empty() {
            // Whatever else they lack, nothing will ask for it.
            return vec![format!("no pod can be made: cgroups are mounted read-only on {}", read_only.join(", "))];
        }
        let lack = match &self.layout {
            Layout::V1(v1) => {
                let beside = v1.beside.as_ref().map(|root| controllers(root.as_fd())).unwrap_or_default();
                lack_of_v1(|name| v1.of(name).is_some(), &beside)
            }
            Layout::V2(v2) => {
                // Where even that cannot be asked, it has no controllers either.
                let refused = hand_down_from(v2.root.as_fd()).unwrap_or_default();
                lack_of_v2(v2, &controllers(v2.root.as_fd()), &refused)
            }
        };
        lack.into_iter().collect()
    }

    /// Refuses what needs a controller that the cgroup does not have.
    pub(super) fn check_controller(&self, path: &str, controller: &str, asked: impl FnOnce() -> String) -> Result<()> {
        let is_there = match &self.layout {
            Layout::V1(v1) => v1.of(controller).is_some(),
            Layout::V2(v2) => {
                let dir = open_dir(v2.root.as_fd(), path).map_err(failed("open", path))?;
                has_controller(dir.as_fd(), controller)
            }
        };
        if is_there { Ok(()) } else { Err(no_controller(path, controller, asked())) }
    }
}

/// The error of whoever asked for it.
pub(super) fn no_controller(path: &str, controller: &str, asked: String) -> Error {
    Error::NoController { asked, controller: controller.to_owned(), path: path.to_owned() }
}

/// Whether a cgroup of version 2 has a controller.
pub(super) fn has_controller(dir: BorrowedFd<'_>, controller: &str) -> bool {
    controllers(dir).iter().any(|known| known == controller)
}

fn lack_of_v1(has: impl Fn(&str) -> bool, beside: &[String]) -> Option<String> {
    let missing = WITHOUT.iter().chain(&WITHOUT_ON_V1).filter(|(name, _)| !has(name));
    let missing = missing.map(|(name, outcome)| match beside.iter().any(|known| known == name) {
        true => format!("{name} (it is on version 2, and only one version is used): {outcome}"),
        false => format!("{name}: {outcome}"),
    });
    sentence("cgroup version 1 of this host lacks", missing.collect())
}

fn lack_of_v2(v2: &V2, there: &[String], refused: &[(&str, io::Error)]) -> Option<String> {
    let missing = WITHOUT.iter().filter_map(|(name, outcome)| {
        if v2.on_v1.iter().any(|known| known == name) {
            return Some(format!("{name} (it is on version 1, and only one version is used): {outcome}"));
        }
        if !there.iter().any(|known| known == name) {
            return Some(format!("{name}: {outcome}"));
        }
        let (_, error) = refused.iter().find(|(refused, _)| refused == name)?;
        let why = match error.raw_os_error() {
            // A rule of version 2 for every cgroup but the machine's topmost one.
            Some(libc::EBUSY) => "processes are in it: move them to a cgroup below".to_owned(),
            _ => error.to_string(),
        };
        Some(format!("{name} (it cannot be handed down: {why}): {outcome}"))
    });
    sentence(&format!("cgroup version 2 on {} lacks", v2.mount.display()), missing.collect())
}

fn sentence(beginning: &str, missing: Vec<String>) -> Option<String> {
    if missing.is_empty() { None } else { Some(format!("{beginning} controllers: {}", missing.join("; "))) }
}

/// Controllers that a cgroup of version 2 has. One that cannot be asked has none.
fn controllers(dir: BorrowedFd<'_>) -> Vec<String> {
    let text = read(dir, "cgroup.controllers").unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Root may write anywhere, but for what is mounted read-only.
fn is_read_only(root: BorrowedFd<'_>) -> bool {
    faccessat(root, ".", AccessFlags::W_OK, AtFlags::empty()) == Err(Errno::EROFS)
}

#[cfg(test)]
mod tests;
