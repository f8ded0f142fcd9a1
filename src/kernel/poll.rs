//! Waiting for many descriptors at once (`epoll(7)`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use bitflags::bitflags;
use nix::sys::epoll::{self, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::{memory, sys::check};

bitflags! {
    /// What to wait for. Errors and hang-ups are always told. Level-triggered: told again until it is dealt with.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Interest: u8 {
        /// Something can be read, or the end of file is there. A pidfd is readable when its process has ended.
        const READ = 1;
        /// Something can be written.
        const WRITE = 2;
    }
}

/// A set of descriptors, each with a number of the caller's.
///
/// A closed descriptor leaves the set by itself only with its last copy: remove it first.
#[derive(Debug)]
pub struct Epoll(epoll::Epoll);

/// What a wait has found; kept and filled again, so that waiting does not allocate.
#[derive(Debug)]
pub struct Events {
    room: Vec<EpollEvent>,
    found: usize,
}

/// Something happened to the descriptor that was added with `token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The caller's number for the descriptor.
    pub token: u64,
    /// Reading will not block.
    pub readable: bool,
    /// Writing will not block.
    pub writable: bool,
    /// The other end is gone for good; what it wrote before may still be readable.
    pub closed: bool,
    /// An error is pending, or the read end of a pipe is gone.
    pub error: bool,
}

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Adds a descriptor. `EEXIST`: it is in; `EPERM`: it can never block (a regular file).
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(interest.flags(), token))?)
    }

    /// Changes what is waited for; an empty interest leaves only errors and hang-ups.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = EpollEvent::new(interest.flags(), token);
        Ok(self.0.modify(fd, &mut event)?)
    }

    /// Takes a descriptor out. `ENOENT`: it was not in.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.0.delete(fd)?)
    }

    /// Waits until something happens or the time is over (then nothing is found); `None` waits for ever.
    ///
    /// Rounded up to whole milliseconds, so that a deadline has passed when it returns. A signal reads as "nothing".
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            Some(time) => {
                let ms = time.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
                EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::MAX)
            }
        };
        events.found = match self.0.wait(&mut events.room, timeout) {
            Err(nix::errno::Errno::EINTR) => 0,
            found => found?,
        };
        Ok(())
    }

    /// Waits until something happens, however long that takes, and forgets meanwhile which pages of the program's code
    /// and constants were used so far: they stay in the file's memory, which all processes of the program share, and
    /// are mapped again when they are needed (some microseconds for sixteen pages). A process that sleeps nearly
    /// always, and of which a node has hundreds, otherwise keeps a page table, and a share, of everything it ever ran.
    ///
    /// Forgetting is the last act before the sleep. Between the two no function is called but the one that makes system
    /// calls: each would bring back sixteen pages, and programs without optimisation call many.
    pub fn rest(&self, events: &mut Events) -> io::Result<()> {
        events.found = 0;
        let Some((program, length)) = memory::program() else { return self.wait(events, None) };
        let (epoll, room, count) = (self.0.0.as_raw_fd(), events.room.as_mut_ptr(), events.room.len());
        let (forget, forever, no_mask) = (libc::MADV_DONTNEED, -1, std::ptr::null::<libc::sigset_t>());
        // SAFETY: this range is the program's own read-only mapping of its file: dropping a page of it loses nothing,
        // the next touch, of this very function too, maps the same bytes again.
        let forgotten = unsafe { libc::syscall(libc::SYS_madvise, program, length, forget) };
        // SAFETY: the kernel writes at most `count` events to `room`, which has place for as many (nix promises that
        // its event is the kernel's) and is borrowed by us alone; no signal mask is given.
        let found = unsafe { libc::syscall(libc::SYS_epoll_pwait, epoll, room, count, forever, no_mask, 0_usize) };
        // A range that cannot be forgotten costs memory and nothing else.
        let _ = forgotten;
        match check(found) {
            Ok(found) => events.found = found as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl Interest {
    fn flags(self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, self.contains(Self::READ));
        flags.set(EpollFlags::EPOLLOUT, self.contains(Self::WRITE));
        flags
    }
}

impl Events {
    /// Room for this many at a time; more wait for the next turn.
    pub fn with_room(room: usize) -> Self {
        Self { room: vec![EpollEvent::empty(); room.max(1)], found: 0 }
    }

    /// What the last wait found.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        self.room[..self.found].iter().map(|event| {
            let has = |flag| event.events().contains(flag);
            Event {
                token: event.data(),
                readable: has(EpollFlags::EPOLLIN),
                writable: has(EpollFlags::EPOLLOUT),
                closed: has(EpollFlags::EPOLLHUP),
                error: has(EpollFlags::EPOLLERR),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_and_what_was_closed_are_told_apart() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let poll = Epoll::new().unwrap();
        let mut events = Events::with_room(4);
        poll.add(read.as_fd(), 7, Interest::READ).unwrap();
        poll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.iter().count(), 0);

        nix::unistd::write(&write, b"x").unwrap();
        poll.wait(&mut events, None).unwrap();
        let quiet = Event { token: 7, readable: true, writable: false, closed: false, error: false };
        assert_eq!(events.iter().collect::<Vec<_>>(), [quiet]);

        drop(write);
        poll.modify(read.as_fd(), 8, Interest::READ).unwrap();
        poll.wait(&mut events, None).unwrap();
        assert_eq!(events.iter().collect::<Vec<_>>(), [Event { token: 8, closed: true, ..quiet }]);

        poll.remove(read.as_fd()).unwrap();
        assert_eq!(poll.remove(read.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_program_that_rested_goes_on_with_what_happened() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let poll = Epoll::new().unwrap();
        poll.add(read.as_fd(), 7, Interest::READ).unwrap();
        nix::unistd::write(&write, b"x").unwrap();
        let mut events = Events::with_room(4);
        poll.rest(&mut events).unwrap();
        assert_eq!(events.iter().map(|event| event.token).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn a_short_wait_ends_by_itself() {
        let poll = Epoll::new().unwrap();
        let before = std::time::Instant::now();
        poll.wait(&mut Events::with_room(1), Some(Duration::from_micros(1500))).unwrap();
        assert!(before.elapsed() >= Duration::from_micros(1500));
    }
}
