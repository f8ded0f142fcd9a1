//! The launcher's own cgroup, beside the daemon's: what it uses is not counted as a pod's, and a limit or kill meant
//! for the daemon's group alone does not reach it.
//!
//! Below the cgroup in which the daemon started it, in every hierarchy that can be written; where none can, it stays.

use std::{
    fs,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use kernel::{
    mount_table::{self, MountEntry},
    path_in_root::{OpenFlags, open_beneath},
};

/// One name for all launchers of a node: what a killed one leaves is used again and never piles up.
const NAME: &str = "coracle-launcher";

/// The directories above ours, to go back to.
#[derive(Debug)]
pub(crate) struct OwnCgroup {
    parents: Vec<OwnedFd>,
}

impl OwnCgroup {
    /// Moves this process, which has one thread, into its own cgroups. Done while the host's mounts are still in sight.
    pub(crate) fn enter() -> OwnCgroup {
        let mut parents = Vec::new();
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let table = mount_table::read().unwrap_or_default();
        for line in membership.lines() {
            let Some(path) = directory(line, &table) else { continue };
            if let Ok(parent) = enter_below(&path) {
                parents.push(parent);
            }
        }
        OwnCgroup { parents }
    }

    /// Goes back and removes what nobody else uses.
    pub(crate) fn leave(self) {
        for parent in self.parents {
            // Each hierarchy by itself: another launcher may be in one, and then its directory stays.
            let _ = join(parent.as_fd());
            let _ = nix::unistd::unlinkat(&parent, NAME, nix::unistd::UnlinkatFlags::RemoveDir);
        }
    }
}

/// The directory that a line of `/proc/self/cgroup` (`4:memory:/a/b`) stands for.
fn directory(line: &str, table: &[MountEntry]) -> Option<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let mount = table.iter().find(|mount| match controllers {
        "" => mount.fstype == "cgroup2",
        _ => {
            let has = |option: &str| mount.options.split(',').any(|known| known == option);
            mount.fstype == "cgroup" && controllers.split(',').all(has)
        }
    })?;
    // A bind of a part of the hierarchy shows paths from there.
    let below = Path::new(path).strip_prefix(&mount.root).ok()?;
    Some(mount.mount_point.join(below))
}

fn enter_below(parent: &Path) -> io::Result<OwnedFd> {
    let flags = OpenFlags::O_RDONLY | OpenFlags::O_DIRECTORY | OpenFlags::O_CLOEXEC;
    let parent = nix::fcntl::open(parent, flags, nix::sys::stat::Mode::empty())?;
    match nix::sys::stat::mkdirat(&parent, NAME, nix::sys::stat::Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let own = open_beneath(parent.as_fd(), Path::new(NAME), flags, 0)?;
    // v1's cpuset takes nobody in before it is told where they may run.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit(parent.as_fd(), own.as_fd(), file)?;
    }
    join(own.as_fd())?;
    Ok(parent)
}

/// Copies a setting from the directory above where ours is empty; a hierarchy without the file needs none.
fn inherit(parent: BorrowedFd<'_>, own: BorrowedFd<'_>, file: &str) -> io::Result<()> {
    let read = |dir| {
        let fd = open_beneath(dir, Path::new(file), OpenFlags::O_RDONLY, 0)?;
        kernel::path_in_root::read_limited(fd, 64 * 1024)
    };
    match read(own) {
        Ok(setting) if setting.iter().all(u8::is_ascii_whitespace) => write(own, file, &read(parent)?),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// v1: a thread that moves itself through `tasks` waits for nobody. v2 has only `cgroup.procs`, and waits; once.
fn join(dir: BorrowedFd<'_>) -> io::Result<()> {
    write(dir, "tasks", b"0").or_else(|_| write(dir, "cgroup.procs", b"0"))
}

fn write(dir: BorrowedFd<'_>, file: &str, value: &[u8]) -> io::Result<()> {
    fs::File::from(open_beneath(dir, Path::new(file), OpenFlags::O_WRONLY, 0)?).write_all(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fstype: &str, root: &str, mount_point: &str, options: &str) -> MountEntry {
        MountEntry {
            id: 1,
            parent: 0,
            device: (0, 1),
            root: root.into(),
            mount_point: mount_point.into(),
            attributes: String::new(),
            shared: None,
            master: None,
            fstype: fstype.into(),
            source: String::new(),
            options: options.into(),
        }
    }

    #[test]
    fn a_membership_is_found_in_the_mount_that_shows_it() {
        let table = [
            mount("cgroup", "/", "/cg/cpu", "rw,cpu,cpuacct"),
            mount("cgroup", "/docker/x", "/cg/pids", "rw,pids"),
            mount("cgroup2", "/", "/cg/unified", "rw"),
        ];
        assert_eq!(directory("3:cpu,cpuacct:/a/b", &table), Some("/cg/cpu/a/b".into()));
        assert_eq!(directory("4:pids:/docker/x/y", &table), Some("/cg/pids/y".into()));
        assert_eq!(directory("0::/", &table), Some("/cg/unified/".into()));
        assert_eq!(directory("4:pids:/elsewhere", &table), None);
        assert_eq!(directory("9:name=systemd:/", &table), None);
        assert_eq!(directory("nonsense", &table), None);
    }
}
