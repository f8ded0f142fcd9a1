//! Every process of a container or an exec, found through a cgroup and signalled.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use kernel::{
    path_in_root::{OpenFlags, open_beneath},
    process::{Pid, pidfd_open},
};
use nix::libc;

/// How deep directories are looked through: a container may run containers.
const DEPTH: usize = 8;

/// How often a v1 tree is looked through again for processes born meanwhile. Frozen, none should be.
const ROUNDS: usize = 16;

/// The cgroup directory through which processes are found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tree<'a> {
    /// v1: of the freezer hierarchy.
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) is_v2: bool,
}

impl Tree<'_> {
    /// Sends a signal to every process. SIGKILL leaves no way out: not by forking (v1: they are frozen while it is sent;
    /// v2: the kernel does it in one step).
    pub(crate) fn signal(self, number: i32) -> io::Result<()> {
        if number != libc::SIGKILL {
            for pid in self.processes()? {
                send(pid, number);
            }
            return Ok(());
        }
        if self.is_v2 {
            return write(self.dir, "cgroup.kill", "1");
        }
        // Where it cannot be frozen, the rounds alone must do.
        let frozen = write(self.dir, "freezer.state", "FROZEN").is_ok();
        let mut known = Vec::new();
        for _ in 0..ROUNDS {
            let new: Vec<Pid> = self.processes()?.into_iter().filter(|pid| !known.contains(pid)).collect();
            if new.is_empty() {
                break;
            }
            new.iter().for_each(|pid| send(*pid, number));
            known.extend(new);
        }
        if frozen {
            // A frozen process dies only when it thaws.
            write(self.dir, "freezer.state", "THAWED")?;
        }
        Ok(())
    }

    /// Handles on every process that is there now; those that end meanwhile are left out.
    pub(crate) fn handles(self) -> io::Result<Vec<OwnedFd>> {
        Ok(self.processes()?.into_iter().filter_map(|pid| pidfd_open(pid).ok()).collect())
    }

    /// Removes the directories below, which must be without processes.
    pub(crate) fn remove_children(self) {
        for child in children(self.dir) {
            remove(self.dir, &child);
        }
    }

    fn processes(self) -> io::Result<Vec<Pid>> {
        let mut found = Vec::new();
        collect(self.dir, DEPTH, &mut found)?;
        Ok(found)
    }
}

/// Removes a directory of processes' and those below it; what is still used stays.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &str) {
    if let Ok(dir) = open_directory(parent, name) {
        for child in children(dir.as_fd()) {
            remove(dir.as_fd(), &child);
        }
    }
    // Busy while a process is in it: then it goes with the container's own directory.
    let _ = nix::unistd::unlinkat(parent, name, nix::unistd::UnlinkatFlags::RemoveDir);
}

/// Opens a directory below a cgroup.
pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    open_beneath(parent, name.as_ref(), OpenFlags::O_RDONLY | OpenFlags::O_DIRECTORY, 0)
}

/// Opens a file of a cgroup for writing.
pub(crate) fn open_file(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    open_beneath(dir, name.as_ref(), OpenFlags::O_WRONLY, 0)
}

/// The kernel's count of processes killed for want of memory, from `memory.oom_control` or `memory.events`.
pub(crate) fn out_of_memory_kills(counter: BorrowedFd<'_>) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let mut text = [0; 1024];
    // From the start of the same open file: cgroup files are made anew for each reading.
    let length = File::from(counter.try_clone_to_owned()?).read_at(&mut text, 0)?;
    Ok(count_in(&String::from_utf8_lossy(&text[..length])))
}

fn count_in(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

fn collect(dir: BorrowedFd<'_>, depth: usize, found: &mut Vec<Pid>) -> io::Result<()> {
    let mut text = String::new();
    File::from(open_beneath(dir, "cgroup.procs".as_ref(), OpenFlags::O_RDONLY, 0)?).read_to_string(&mut text)?;
    // A process of a pid namespace that is not below ours reads as 0.
    found.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).map(Pid));
    if depth > 0 {
        for child in children(dir) {
            if let Ok(child) = open_directory(dir, &child) {
                // Removed meanwhile: nobody was in it.
                let _ = collect(child.as_fd(), depth - 1, found);
            }
        }
    }
    Ok(())
}

/// Names of the directories in a cgroup.
fn children(dir: BorrowedFd<'_>) -> Vec<String> {
    use nix::{
        dir::{Dir, Type},
        fcntl::OFlag,
        sys::stat::Mode,
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(mut dir) = Dir::openat(dir, ".", flags, Mode::empty()) else { return Vec::new() };
    let directories = dir.iter().flatten().filter(|entry| entry.file_type() == Some(Type::Directory));
    let names = directories.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    names.filter(|name| name != "." && name != "..").collect()
}

fn send(pid: Pid, number: i32) {
    // Whoever ended since the list was made is gone, which is what we want.
    if let Ok(process) = pidfd_open(pid) {
        let _ = kernel::process::pidfd_send_signal(process.as_fd(), number);
    }
}

fn write(dir: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    File::from(open_file(dir, name)?).write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_kills_is_found_in_both_forms() {
        assert_eq!(count_in("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(count_in("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(count_in(""), 0);
    }
}
