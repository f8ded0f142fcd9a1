//! Processes: made, held by pidfd, signalled, reaped, replaced.
//!
//! Reaping never goes by number alone: a pidfd names one process for ever, a pid is reused.

use std::{
    convert::Infallible,
    ffi::{CStr, CString, NulError, c_char},
    fs, io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use crate::{
    namespace::Namespaces,
    sys::{check, done, take, uninterrupted},
};

/// What a child's closure returns: nothing, ever. It ends with [`exit_now`] or [`exec`].
pub type Never = Infallible;

/// A process number as seen from this process's PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub i32);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// It called exit with this code.
    Code(u8),
    /// This signal ended it.
    Signal(i32),
}

/// What a new process gets of its own. Everything else is a copy of the parent's.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneArgs<'fd> {
    /// New namespaces.
    pub namespaces: Namespaces,
    /// The v2 cgroup (a directory descriptor) to be born in; the parent's otherwise. Linux 5.7.
    pub cgroup: Option<BorrowedFd<'fd>>,
}

/// Texts for [`exec`], with the table of pointers that the kernel reads. Made before the clone: the child only reads.
#[derive(Debug)]
pub struct CStringArray {
    /// Ends with null. Points into `texts`, whose buffers never move or change.
    pointers: Vec<*const c_char>,
    texts: Vec<CString>,
}

// SAFETY: the pointers lead only into `texts`, which this value owns and nobody changes.
unsafe impl Send for CStringArray {}
// SAFETY: as above: shared readers read immutable memory.
unsafe impl Sync for CStringArray {}

impl CStringArray {
    /// Fails when a text holds a zero byte.
    pub fn new<T: Into<Vec<u8>>>(texts: impl IntoIterator<Item = T>) -> Result<Self, NulError> {
        let texts = texts.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Self { pointers, texts })
    }

    /// The texts, in order.
    pub fn texts(&self) -> &[CString] {
        &self.texts
    }
}

/// Makes a child that runs `child` and never returns from it; answers its number and a pidfd for it.
///
/// `clone3(2)` as a fork: the child has a copy of all memory. The law of the caller:
/// * This process has one thread. Of several, only the calling one exists in the child, and a lock that another held
///   (the allocator's too) stays held for ever. Only the launcher and the monitors call this; `coracled` never does.
/// * The child leaves by [`exec`] or [`exit_now`]; a panic in it ends it (SIGABRT, or code 101 where panics unwind).
/// * The C library is not told: its fork handlers do not run and its cached thread id stays the parent's. A child that
///   is to live on without exec is made by [`fork`].
///
/// The parent's signal to reap is SIGCHLD. `EBUSY`, `EOPNOTSUPP`: the cgroup cannot hold processes.
pub fn clone3(args: CloneArgs<'_>, child: impl FnOnce() -> Never) -> io::Result<(Pid, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain numbers, for which all zeroes is the documented "nothing asked".
    let mut request: libc::clone_args = unsafe { std::mem::zeroed() };
    request.flags = args.namespaces.bits() as u32 as u64 | libc::CLONE_PIDFD as u64;
    request.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    request.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = args.cgroup {
        request.flags |= CLONE_INTO_CGROUP;
        request.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM and no stack given, so the child runs on a copy of this one; the kernel writes `pidfd`, which
    // lives to the end of this function, in the parent only. The child's side of the law is on this function's page.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&request), size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        run_child(child);
    }
    // SAFETY: CLONE_PIDFD made this descriptor for us before clone3 returned to the parent; `pidfd` is its only record.
    Ok((Pid(pid as i32), unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// As [`clone3`] with nothing new, but told to the C library: for a child that lives on without exec (a monitor).
pub fn fork(child: impl FnOnce() -> Never) -> io::Result<(Pid, OwnedFd)> {
    // SAFETY: fork copies this process; the law of one thread (see `clone3`) makes every lock free in the child.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        run_child(child);
    }
    let pid = Pid(pid as i32);
    // It cannot have been reaped, so the number is still its own.
    Ok((pid, pidfd_open(pid)?))
}

/// Opens a handle that stays tied to this very process even if its number is reused.
///
/// `pidfd_open(2)`, Linux 5.3. `ESRCH` means the process is already gone *and reaped*; `EINVAL`, no thread leader.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.0, 0) };
    // SAFETY: pidfd_open makes a new descriptor, and `fd` is its only record.
    unsafe { take(fd) }
}

/// Sends a signal to exactly the process of the pidfd; 0 only asks. `ESRCH`: it has ended and been reaped.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and means "as kill(2)"; the rest are numbers.
    done(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) })
}

/// Reaps a child of ours by its pidfd if it has ended; `None` while it runs. `ECHILD`: not ours, or already reaped.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    Ok(reap(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, libc::WNOHANG)?.map(|(_, ended)| ended))
}

/// Waits until a child of ours ends and reaps it.
pub fn wait_blocking(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    match reap(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, 0)? {
        Some((_, ended)) => Ok(ended),
        None => Err(io::Error::from_raw_os_error(libc::ECHILD)),
    }
}

/// Reaps any one child that has ended, adopted orphans too; `None` when none has, or there are none at all.
pub fn reap_any() -> io::Result<Option<(Pid, Ended)>> {
    match reap(libc::P_ALL, 0, libc::WNOHANG) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        other => other,
    }
}

/// When a process began, in clock ticks since boot: with the boot id and the pid, a name for it that is never reused.
pub fn start_time(pid: Pid) -> io::Result<u64> {
    start_time_in(&fs::read(format!("/proc/{}/stat", pid.0))?).ok_or(io::Error::from(io::ErrorKind::InvalidData))
}

/// A process's short name (`comm`), which it may have chosen itself.
pub fn name(pid: Pid) -> io::Result<String> {
    Ok(fs::read_to_string(format!("/proc/{}/comm", pid.0))?.trim_end().to_owned())
}

/// This process.
pub fn own_pid() -> Pid {
    Pid(nix::unistd::getpid().as_raw())
}

/// The parent, or 0 when it is in another PID namespace.
pub fn parent_pid() -> Pid {
    Pid(nix::unistd::getppid().as_raw())
}

/// Begins a session without a terminal, and leads it. `EPERM`: already the leader of a process group.
pub fn new_session() -> io::Result<()> {
    nix::unistd::setsid()?;
    Ok(())
}

/// Ends this process at once: no destructor, no exit handler, no buffer of a parent's copy flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes a number and never returns.
    unsafe { libc::_exit(code) }
}

/// Replaces this program. Returns only when that failed. Does not allocate.
///
/// `program` is taken as it is, no search. `ENOENT` may also mean that its interpreter is missing; `ENOEXEC`, that it
/// is no program at all.
pub fn exec(program: &CStr, argv: &CStringArray, env: &CStringArray) -> io::Error {
    // SAFETY: `program` is a C string; both tables end with null and point to C strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// As [`exec`], of an opened program (a sealed memfd). A script is `ENOENT`: its interpreter would find the descriptor
/// closed.
pub fn exec_fd(program: BorrowedFd<'_>, argv: &CStringArray, env: &CStringArray) -> io::Error {
    // SAFETY: the path is a static C string; both tables end with null and point to C strings that outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// `CLONE_INTO_CGROUP`; libc's constant has a type that cannot hold it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Runs the child's closure so that no way of leaving it leads back into the parent's code.
fn run_child(child: impl FnOnce() -> Never) -> ! {
    /// Where unwinding would pass: drops only when the closure panics.
    struct NoReturn;
    impl Drop for NoReturn {
        fn drop(&mut self) {
            exit_now(101);
        }
    }
    let _no_return = NoReturn;
    match child() {}
}

fn reap(which: libc::idtype_t, id: libc::id_t, options: i32) -> io::Result<Option<(Pid, Ended)>> {
    // SAFETY: siginfo_t is plain numbers; zeroes are how waitid(2) says "nobody has ended".
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    uninterrupted(|| {
        // SAFETY: the kernel writes one siginfo_t to `info`, which outlives the call.
        done(unsafe { libc::waitid(which, id, &raw mut info, options | libc::WEXITED) })
    })?;
    // SAFETY: waitid succeeded, so the SIGCHLD part of the union is what was written (or all zeroes).
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let ended = if info.si_code == libc::CLD_EXITED { Ended::Code(status as u8) } else { Ended::Signal(status) };
    Ok(Some((Pid(pid), ended)))
}

/// Field 22 of `/proc/<pid>/stat`, counted after the last `)`: the name before it may hold anything.
fn start_time_in(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after_name..]).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_start_time_is_read_past_a_hostile_name() {
        let stat = b"7 (a) R (1 2) S 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4242 1 1\n";
        assert_eq!(start_time_in(stat), Some(4242));
        assert_eq!(start_time_in(b"7 no name"), None);
        assert_eq!(start_time_in(b"7 (short) S 1"), None);
        assert!(start_time(own_pid()).unwrap() > 0);
    }

    #[test]
    fn an_array_refuses_a_zero_inside_a_text() {
        assert!(CStringArray::new(["a\0b"]).is_err());
        let array = CStringArray::new(["a", "b"]).unwrap();
        assert_eq!((array.texts().len(), array.pointers.len()), (2, 3));
    }

    #[test]
    fn a_child_ends_with_its_code_and_is_reaped_once() {
        let (_, pidfd) = clone3(CloneArgs::default(), || exit_now(7)).unwrap();
        assert_eq!(wait_blocking(pidfd.as_fd()).unwrap(), Ended::Code(7));
        assert_eq!(wait(pidfd.as_fd()).unwrap_err().raw_os_error(), Some(libc::ECHILD));
        assert_eq!(pidfd_send_signal(pidfd.as_fd(), 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_killed_child_ends_by_its_signal() {
        let (_, pidfd) = fork(|| {
            loop {
                nix::unistd::pause();
            }
        })
        .unwrap();
        assert_eq!(wait(pidfd.as_fd()).unwrap(), None);
        pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        assert_eq!(wait_blocking(pidfd.as_fd()).unwrap(), Ended::Signal(libc::SIGKILL));
    }

    #[test]
    fn exec_passes_arguments_and_environment() {
        let argv = CStringArray::new(["sh", "-c", "exit $CODE"]).unwrap();
        let env = CStringArray::new(["CODE=23"]).unwrap();
        let (_, pidfd) = clone3(CloneArgs::default(), || {
            exec(c"/bin/sh", &argv, &env);
            exit_now(1)
        })
        .unwrap();
        assert_eq!(wait_blocking(pidfd.as_fd()).unwrap(), Ended::Code(23));
    }

    #[test]
    fn exec_of_what_is_not_there_returns_the_errno() {
        let none = CStringArray::new(Vec::<Vec<u8>>::new()).unwrap();
        assert_eq!(exec(c"/nowhere/at/all", &none, &none).raw_os_error(), Some(libc::ENOENT));
    }
}
