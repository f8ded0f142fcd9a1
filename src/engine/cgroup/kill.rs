//! Every process of a cgroup and of those below it: found, signalled, ended with those they start meanwhile.
//!
//! For the daemon, by a path below the hierarchies' roots, and for the monitor, by a descriptor of the one directory
//! that it was given. Paths below it were made by containers: they are opened one name at a time and never through a
//! link.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use kernel::process::{Pid, pidfd_open, pidfd_send_signal};
use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::OFlag,
    sys::stat::Mode,
    unistd::{UnlinkatFlags, unlinkat},
};

use super::{
    Cgroups, Layout, failed,
    make::{open_dir, open_file, read, write},
};
use crate::Result;

/// How deep directories are looked through: a container may run containers.
const DEPTH: usize = 8;

/// How often a version 1 tree is looked through again for processes born meanwhile. Frozen, none should be.
const ROUNDS: usize = 16;

/// The cgroup directory through which processes are found.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    /// Version 1: of the freezer hierarchy.
    pub dir: BorrowedFd<'a>,
    /// It is of version 2.
    pub is_v2: bool,
}

impl Cgroups {
    /// Kills every process in a cgroup and below it. One that is gone is fine. Does not wait for their ends.
    pub fn kill(&self, path: &str) -> Result<()> {
        let (root, is_v2) = match &self.layout {
            Layout::V2(v2) => (v2.root.as_fd(), true),
            Layout::V1(v1) => match v1.of("freezer").or(v1.hierarchies.first()) {
                Some(hierarchy) => (hierarchy.root.as_fd(), false),
                None => return Ok(()),
            },
        };
        let dir = match open_dir(root, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed("open", path))?,
        };
        Tree { dir: dir.as_fd(), is_v2 }.signal(libc::SIGKILL).map_err(failed("kill", path))
    }
}

impl Tree<'_> {
    /// Sends a signal to every process. SIGKILL leaves no way out: not by forking (version 1: they are frozen while it
    /// is sent; version 2: the kernel does it in one step).
    pub fn signal(self, number: i32) -> io::Result<()> {
        if number != libc::SIGKILL {
            self.processes()?.into_iter().for_each(|pid| send(pid, number));
            return Ok(());
        }
        if self.is_v2 {
            return write(self.dir, "cgroup.kill", "1");
        }
        // Where it cannot be frozen, the rounds alone must do.
        let frozen = write(self.dir, "freezer.state", "FROZEN").is_ok();
        let killed = self.kill_in_rounds();
        if frozen {
            // A frozen process dies only when it thaws, and nobody may be left frozen.
            write(self.dir, "freezer.state", "THAWED")?;
        }
        killed
    }

    fn kill_in_rounds(self) -> io::Result<()> {
        let mut known = HashSet::new();
        for _ in 0..ROUNDS {
            let mut found = self.processes()?;
            found.retain(|pid| known.insert(pid.0));
            if found.is_empty() {
                break;
            }
            found.into_iter().for_each(|pid| send(pid, libc::SIGKILL));
        }
        Ok(())
    }

    /// Handles on every process that is there now; those that end meanwhile are left out.
    pub fn handles(self) -> io::Result<Vec<OwnedFd>> {
        Ok(self.processes()?.into_iter().filter_map(|pid| pidfd_open(pid).ok()).collect())
    }

    /// Removes the directories below. One with a process in it stays, and goes with its parent.
    pub fn remove_children(self) {
        for child in children(self.dir).unwrap_or_default() {
            let _ = remove_tree(self.dir, &child);
        }
    }

    /// The processes that are there now, but for those in directories right below whose names are left out.
    pub fn processes_beside(self, is_left_out: fn(&str) -> bool) -> io::Result<Vec<Pid>> {
        let mut found = Vec::new();
        collect(self.dir, DEPTH, is_left_out, &mut found)?;
        Ok(found)
    }

    fn processes(self) -> io::Result<Vec<Pid>> {
        self.processes_beside(|_| false)
    }
}

/// Removes a directory of a hierarchy and those below it. `EBUSY`: a process is in it.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        // Directories below it, or processes: the former are removed first, the latter make the second try fail.
        Err(Errno::EBUSY | Errno::ENOTEMPTY) => {
            let dir = match open_file(parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                opened => opened?,
            };
            for child in children(dir.as_fd())? {
                remove_tree(dir.as_fd(), &child)?;
            }
            match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => Ok(()),
                Err(errno) => Err(errno.into()),
            }
        }
        Err(errno) => Err(errno.into()),
    }
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

fn collect(dir: BorrowedFd<'_>, depth: usize, is_left_out: fn(&str) -> bool, found: &mut Vec<Pid>) -> io::Result<()> {
    let text = read(dir, "cgroup.procs")?;
    // 0 stands for a process of a pid namespace that is not below ours: not ours to signal, and kill(0) would be
    // ourselves.
    found.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1).map(Pid));
    if depth == 0 {
        return Ok(());
    }
    for name in children(dir)?.into_iter().filter(|name| !is_left_out(name)) {
        match open_file(dir, &name, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            // Removed meanwhile: nobody was in it.
            Ok(child) => match collect(child.as_fd(), depth - 1, |_| false, found) {
                Err(error) if error.raw_os_error() != Some(libc::ENODEV) => return Err(error),
                _ => {}
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send(pid: Pid, number: i32) {
    // Whoever ended since the list was made is gone, which is what we want.
    if let Ok(process) = pidfd_open(pid) {
        let _ = pidfd_send_signal(process.as_fd(), number);
    }
}
