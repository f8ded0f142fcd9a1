//! Descriptors across exec and onto the three standard numbers.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::{
    limit::{Resource, limit},
    sys::done,
};

/// The first number that is not one of the three standard ones.
const FIRST: u32 = 3;

/// Every descriptor but the three standard ones will be closed by the next exec. `close_range(2)`, Linux 5.11.
///
/// The last word before a container's program runs: nothing of ours can leak into it by a forgotten flag.
pub fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: takes numbers only; nothing is closed now, so no owner is betrayed.
    done(unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// Closes every descriptor but the standard ones and `keep`. For a child between clone and exec, where the copies of
/// its parent's owners (`OwnedFd`) stand in its memory, name nothing any more, and must never be used or dropped; and
/// for a program that has just begun and owns nothing but `keep`.
///
/// A waiting child that held copies of other containers' pipes and sockets would keep their ends of file from coming.
/// Does not allocate.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut from = FIRST;
    loop {
        // The next number to be kept, looked for each time instead of sorted: a few descriptors, and no allocation.
        let kept = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).filter(|number| *number >= from).min();
        let end = kept.unwrap_or(u32::MAX);
        if end > from {
            // SAFETY: takes numbers only. What is closed has owners in memory that this process, by the law above,
            // never touches again.
            done(unsafe { libc::syscall(libc::SYS_close_range, from, end - 1, 0) })?;
        }
        match kept {
            Some(number) => from = number + 1,
            None => return Ok(()),
        }
    }
}

/// Lets a descriptor pass the next exec under its number. For the number itself see `AsRawFd`.
pub fn keep_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// What the program before this one, in the same process, kept for us under `number`: another descriptor for the same
/// open file, close-on-exec. The number itself stays open until [`close_all_but`].
pub fn inherited(number: u32) -> io::Result<OwnedFd> {
    duplicate(number as i32, FIRST)
}

/// Another descriptor for the same open file, with a number of at least `least`, close-on-exec.
///
/// A descriptor that sits on 0, 1 or 2 is lifted away with it before these are filled.
pub fn duplicate_from(fd: BorrowedFd<'_>, least: u32) -> io::Result<OwnedFd> {
    duplicate(fd.as_raw_fd(), least)
}

fn duplicate(number: i32, least: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let number = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, least) };
    // SAFETY: F_DUPFD_CLOEXEC makes a new descriptor, and `number` is its only record.
    unsafe { crate::sys::take(number) }
}

/// How many more descriptors this process may open, at most: the lowest number that is free, and all above it up to the
/// limit, as if none of those were taken. Where descriptors run out they are.
pub fn left() -> io::Result<u64> {
    let limit = limit(Resource::OPEN_FILES)?.soft;
    match duplicate_from(io::stderr().as_fd(), 0) {
        Ok(lowest) => Ok(limit.saturating_sub(u64::from(lowest.as_raw_fd().unsigned_abs()))),
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Puts the three on standard input, output and error, where they pass exec. Does not allocate.
///
/// Whatever was there is closed. The three may be the same, or already sit on standard numbers in any order.
pub fn place_stdio(input: BorrowedFd<'_>, output: BorrowedFd<'_>, error: BorrowedFd<'_>) -> io::Result<()> {
    // Lifted first: placing one could overwrite another that still waits.
    let lifted = [duplicate_from(input, FIRST)?, duplicate_from(output, FIRST)?, duplicate_from(error, FIRST)?];
    for (number, fd) in lifted.iter().enumerate() {
        // SAFETY: takes numbers only. The standard numbers are nobody's property in Rust's model: std uses them
        // without owning them and never closes them.
        done(unsafe { libc::dup2(fd.as_raw_fd(), number as i32) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::fd::AsFd};

    use super::*;
    use crate::process::{CStringArray, CloneArgs, Ended, clone3, exec, exit_now, wait_blocking};

    #[test]
    fn a_child_closes_all_but_what_it_keeps() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let files = [(); 3].map(|()| File::open("/").unwrap());
        let (_, child) = clone3(CloneArgs::default(), || {
            // Not in order, and one twice.
            if close_all_but(&[write.as_fd(), files[1].as_fd(), write.as_fd()]).is_err() {
                exit_now(1);
            }
            let open = |fd: BorrowedFd<'_>| fcntl(fd, FcntlArg::F_GETFD).is_ok();
            let kept = open(write.as_fd()) && open(files[1].as_fd());
            let closed = !open(read.as_fd()) && !open(files[0].as_fd()) && !open(files[2].as_fd());
            exit_now(if kept && closed { 0 } else { 2 })
        })
        .unwrap();
        assert_eq!(wait_blocking(child.as_fd()).unwrap(), Ended::Code(0));
        assert!(fcntl(&read, FcntlArg::F_GETFD).is_ok());
    }

    #[test]
    fn stdio_is_placed_and_nothing_else_passes_exec() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        let leak = File::open("/").unwrap();
        keep_on_exec(leak.as_fd()).unwrap();
        let argv = CStringArray::new(["sh", "-c", "echo out; echo err >&2; ls /proc/self/fd"]).unwrap();
        let env = CStringArray::new(["PATH=/bin:/usr/bin"]).unwrap();
        let (_, child) = clone3(CloneArgs::default(), || {
            let placed = place_stdio(null.as_fd(), write.as_fd(), write.as_fd());
            if placed.and_then(|()| close_others_on_exec()).is_ok() {
                exec(c"/bin/sh", &argv, &env);
            }
            exit_now(1)
        })
        .unwrap();
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(wait_blocking(child.as_fd()).unwrap(), Ended::Code(0));
        // 3 is the directory that ls itself reads.
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["out", "err", "0", "1", "2", "3"]);
    }
}
