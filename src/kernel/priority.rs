//! How much of the machine a thread may have while others want it too.

use std::io;

/// `ioprio_set(2)`: a single thread is meant. The calling one is number 0.
const THREAD: libc::c_int = 1;
/// The class that gets the disk when nobody else wants it, where the numbers of `ioprio_set(2)` have it.
const IDLE: libc::c_int = 3 << 13;
/// The lowest share of the processor that `setpriority(2)` knows: a seventieth of what an equal would get.
const LAST: libc::c_int = 19;

/// Lets the calling thread, and those that it starts from now on, come after everybody else at the processor and at the
/// disk. What each can do about it depends on the kernel's schedulers; a refusal of one does not keep the other.
///
/// `setpriority(2)` counts among threads of one cgroup, and between cgroups their own weights do. The class for the
/// disk counts where the disk has a scheduler that knows classes (bfq, mq-deadline).
pub fn come_last() -> io::Result<()> {
    // SAFETY: takes three integers; with Linux "process 0" is the calling thread.
    let processor = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LAST) };
    let processor = if processor == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: takes three integers and touches no memory of ours.
    let disk = unsafe { libc::syscall(libc::SYS_ioprio_set, THREAD, 0, IDLE) };
    if disk != 0 {
        return Err(io::Error::last_os_error());
    }
    processor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_comes_last_hands_it_on_and_changes_no_other() {
        fn mine() -> (libc::c_int, libc::c_long) {
            // SAFETY: takes two integers.
            let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            // SAFETY: takes two integers.
            (nice, unsafe { libc::syscall(libc::SYS_ioprio_get, THREAD, 0) } >> 13)
        }
        let before = mine();
        let seen = std::thread::spawn(|| {
            come_last().unwrap();
            (mine(), std::thread::spawn(mine).join().unwrap())
        });
        assert_eq!(seen.join().unwrap(), ((19, 3), (19, 3)));
        assert_eq!(mine(), before);
    }
}
