//! A container's cgroup as its monitor uses it, beside what the engine does ([`engine::cgroup::Tree`]).

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use kernel::{
    path_in_root::{OpenFlags, open_beneath},
    process::Pid,
};

/// Opens a directory below a cgroup.
pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    open_beneath(parent, name.as_ref(), OpenFlags::O_RDONLY | OpenFlags::O_DIRECTORY, 0)
}

/// Opens a file of a cgroup for writing.
pub(crate) fn open_file(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    open_beneath(dir, name.as_ref(), OpenFlags::O_WRONLY, 0)
}

/// Moves a process and its children into a cgroup. A child born meanwhile stays where its parent was.
pub(crate) fn move_tree(dir: BorrowedFd<'_>, pid: Pid) -> io::Result<()> {
    let mut next = vec![pid.0];
    while let Some(pid) = next.pop() {
        File::from(open_file(dir, "cgroup.procs")?).write_all(pid.to_string().as_bytes())?;
        // Looked at after it was moved: what it starts from then on is in its cgroup.
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        next.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
    }
    Ok(())
}

/// The kernel's count of processes killed for want of memory, from `memory.oom_control` or `memory.events`.
pub(crate) fn out_of_memory_kills(counter: BorrowedFd<'_>) -> io::Result<u64> {
    let mut text = [0; 1024];
    // From the start of the same open file: cgroup files are made anew for each reading.
    let length = File::from(counter.try_clone_to_owned()?).read_at(&mut text, 0)?;
    Ok(count_in(&String::from_utf8_lossy(&text[..length])))
}

fn count_in(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
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
