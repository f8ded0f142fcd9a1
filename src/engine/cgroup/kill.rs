//! Ending every process of a cgroup, those it starts meanwhile included.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::{
    dir::{Dir, Type},
    fcntl::OFlag,
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::Pid,
};

use super::{
    Cgroups, Layout, failed,
    make::{open_dir, open_file, read, write},
};
use crate::Result;

/// How often a version 1 cgroup is gone through: the freezer holds all still, so the second time finds what was being
/// forked when the first began.
const ROUNDS: usize = 5;

impl Cgroups {
    /// Kills every process in a cgroup and below it. One that is gone is fine. Does not wait for their ends.
    pub fn kill(&self, path: &str) -> Result<()> {
        let root = match &self.layout {
            Layout::V2(v2) => v2.root.as_fd(),
            Layout::V1(v1) => match v1.of("freezer").or(v1.hierarchies.first()) {
                Some(hierarchy) => hierarchy.root.as_fd(),
                None => return Ok(()),
            },
        };
        let dir = match open_dir(root, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed("open", path))?,
        };
        match &self.layout {
            Layout::V2(_) => write(dir.as_fd(), "cgroup.kill", "1").map_err(failed("kill", path)),
            Layout::V1(_) => kill_v1(dir.as_fd()).map_err(failed("kill", path)),
        }
    }
}

fn kill_v1(dir: BorrowedFd<'_>) -> io::Result<()> {
    for _ in 0..ROUNDS {
        // Not there without the freezer, and not needed to be right: only to be sure in one round.
        let _ = write(dir, "freezer.state", "FROZEN");
        let found = processes(dir);
        if let Ok(pids) = &found {
            for pid in pids {
                // ESRCH: it ended by itself.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
        let _ = write(dir, "freezer.state", "THAWED");
        if found?.is_empty() {
            return Ok(());
        }
    }
    Ok(())
}

/// Every process in a cgroup and below it.
fn processes(dir: BorrowedFd<'_>) -> io::Result<Vec<i32>> {
    let mut pids: Vec<i32> = read(dir, "cgroup.procs")?.lines().filter_map(|line| line.parse().ok()).collect();
    // 0 stands for a process outside our pid namespace: not ours to signal, and kill(0) would be ourselves.
    pids.retain(|pid| *pid > 1);
    for name in children(dir)? {
        match open_file(dir, &name, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(child) => pids.extend(processes(child.as_fd())?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pids)
}

/// Names of the cgroups right below one.
pub(super) fn children(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut listing = Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type() == Some(Type::Directory) && name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}
