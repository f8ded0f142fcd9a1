//! Waiting for many descriptors at once (`epoll(7)`).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use bitflags::bitflags;
use nix::sys::epoll::{self, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

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
    fn a_short_wait_ends_by_itself() {
        let poll = Epoll::new().unwrap();
        let before = std::time::Instant::now();
        poll.wait(&mut Events::with_room(1), Some(Duration::from_micros(1500))).unwrap();
        assert!(before.elapsed() >= Duration::from_micros(1500));
    }
}
