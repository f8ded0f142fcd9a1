//! A container's cgroup as its monitor uses it, beside what the engine does ([`engine::cgroup::Tree`]).

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use engine::cgroup::{self, Tree};
use kernel::{
    path_in_root::{OpenFlags, open_beneath},
    process::{Pid, pidfd_open, pidfd_send_signal},
};
use nix::libc;

use crate::exec::is_directory_name;

/// How often a tree is looked through for whoever was not found before. None has become deeper than this since it
/// began, and one that goes on growing does so inside the cgroup.
const ROUNDS: usize = 16;

/// How many processes are moved into a cgroup at once, at most. Each may cost 10 ms (version 1), in which no other
/// container of the pod is heard; what has just begun has hardly started as many.
const MOVES: usize = 32;

/// Opens a directory below a cgroup.
pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    open_beneath(parent, name.as_ref(), OpenFlags::O_RDONLY | OpenFlags::O_DIRECTORY, 0)
}

/// Opens a file of a cgroup for writing.
pub(crate) fn open_file(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    open_beneath(dir, name.as_ref(), OpenFlags::O_WRONLY, 0)
}

/// Moves a process of a container, a child of ours that has not been reaped, and all that it has started into a cgroup
/// directory of the container's.
///
/// Whoever has been moved has its children there from then on. So its children are looked at afterwards; and those of
/// all once more when nobody new is found, because the children of a thread that ends become another thread's.
pub(crate) fn move_tree(container: Tree<'_>, dir: BorrowedFd<'_>, first: Pid) -> io::Result<()> {
    let mut known = HashSet::from([first]);
    let mut moved = vec![first];
    let mut looked_at = 0;
    move_one(dir, first)?;
    for _ in 0..ROUNDS {
        let is_last_look = looked_at == moved.len();
        let parents = if is_last_look { &moved[..] } else { &moved[looked_at..] };
        let mut found: Vec<_> = parents.iter().flat_map(|pid| children(*pid)).collect();
        found.retain(|pid| known.insert(*pid));
        looked_at = moved.len();
        // Others reap these, and then the number may be anybody's: so each is held, and then looked for among the
        // container's own, and what one that is gone after its move has moved is not gone on with. Whoever was born in
        // the directory is not among them.
        let held: Vec<_> = found.into_iter().filter_map(|pid| Some((pid, pidfd_open(pid).ok()?))).collect();
        let members = members(container)?;
        for (pid, process) in held.into_iter().filter(|(pid, _)| members.contains(pid)) {
            if moved.len() == MOVES {
                return Err(io::Error::other(format!("it has started more than {MOVES} processes")));
            }
            if !is_unreaped(process.as_fd()) {
                continue;
            }
            move_one(dir, pid)?;
            if is_unreaped(process.as_fd()) {
                moved.push(pid);
            }
        }
        if is_last_look && looked_at == moved.len() {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("it has started processes {ROUNDS} deep")))
}

fn move_one(dir: BorrowedFd<'_>, pid: Pid) -> io::Result<()> {
    match File::from(open_file(dir, "cgroup.procs")?).write_all(pid.0.to_string().as_bytes()) {
        // It has ended since it was found.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        written => written,
    }
}

/// A container's processes that belong to none of its execs.
pub(crate) fn members(container: Tree<'_>) -> io::Result<HashSet<Pid>> {
    Ok(container.processes_beside(is_directory_name)?.into_iter().collect())
}

/// Whether a process has not been reaped: its number is still its own.
pub(crate) fn is_unreaped(process: BorrowedFd<'_>) -> bool {
    pidfd_send_signal(process, 0).is_ok()
}

/// The children of every thread of a process; none of one that has ended.
pub(crate) fn children(Pid(pid): Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let numbers =
        |text: String| text.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid).collect::<Vec<_>>();
    texts.flat_map(numbers).collect()
}

/// The kernel's count of processes killed for want of memory, from `memory.oom_control` or `memory.events`.
pub(crate) fn out_of_memory_kills(counter: BorrowedFd<'_>) -> io::Result<u64> {
    let mut text = [0; 1024];
    // From the start of the same open file: cgroup files are made anew for each reading.
    let length = File::from(counter.try_clone_to_owned()?).read_at(&mut text, 0)?;
    Ok(cgroup::out_of_memory_kills(&String::from_utf8_lossy(&text[..length])))
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        sync::mpsc,
        thread,
    };

    use super::*;

    #[test]
    fn a_child_is_found_whichever_thread_has_started_it() {
        let (tell, told) = mpsc::channel();
        let (let_go, wait) = mpsc::channel::<()>();
        let parent = thread::spawn(move || {
            let mut child = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
            tell.send(Pid(child.id() as i32)).unwrap();
            // The sender goes also when the test fails.
            let _ = wait.recv();
            child.kill().unwrap();
            child.wait().unwrap();
        });
        let child = told.recv().unwrap();
        let found = children(kernel::process::own_pid());
        drop(let_go);
        parent.join().unwrap();
        assert!(found.contains(&child), "{child:?} is not in {found:?}");
    }
}
