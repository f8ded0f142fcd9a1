//! A container's cgroup as its monitor uses it, beside what the engine does ([`engine::cgroup::Tree`]).

use std::{
    collections::HashSet,
    fs::{self, File},
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
use nix::libc;

/// How often a tree is looked through for whoever was not found before. None has become deeper than this since it
/// began, and one that goes on growing does so inside the cgroup.
const ROUNDS: usize = 16;

/// Opens a directory below a cgroup.
pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    open_beneath(parent, name.as_ref(), OpenFlags::O_RDONLY | OpenFlags::O_DIRECTORY, 0)
}

/// Opens a file of a cgroup for writing.
pub(crate) fn open_file(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    open_beneath(dir, name.as_ref(), OpenFlags::O_WRONLY, 0)
}

/// Moves a process and all that it has started into a cgroup.
///
/// Whoever has been moved has its children there from then on. So its children are looked at afterwards; and those of
/// all once more until nobody new is found, because the children of a thread that ends become another thread's.
pub(crate) fn move_tree(dir: BorrowedFd<'_>, pid: Pid) -> io::Result<()> {
    let mut moved = HashSet::from([pid]);
    let mut next = vec![pid];
    for _ in 0..ROUNDS {
        for pid in next {
            match File::from(open_file(dir, "cgroup.procs")?).write_all(pid.0.to_string().as_bytes()) {
                // It has ended since it was found.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                written => written?,
            }
        }
        next = moved.iter().flat_map(|pid| children(*pid)).collect();
        next.retain(|pid| moved.insert(*pid));
        if next.is_empty() {
            break;
        }
    }
    Ok(())
}

/// The children of every thread of a process; none of one that has ended.
fn children(Pid(pid): Pid) -> Vec<Pid> {
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
    Ok(count_in(&String::from_utf8_lossy(&text[..length])))
}

fn count_in(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
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

    #[test]
    fn the_count_of_kills_is_found_in_both_forms() {
        assert_eq!(count_in("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(count_in("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(count_in(""), 0);
    }
}
