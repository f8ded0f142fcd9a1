//! The launcher's and monitors' end of a connection: never blocks, needs no runtime.
//!
//! Replies that the daemon does not take at once wait in a short queue; a daemon that stays silent for longer loses the
//! connection and is told everything at its next greeting.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use prost::Message;

use crate::{
    Error, Result,
    ahead::{Ahead, MAX_MESSAGE_FDS},
    frame::{self, MAX_FDS, MAX_PACKET},
};

/// Replies kept for a daemon that does not read: more than it can have asked for, little enough to hold in memory.
const MAX_WAITING: usize = 1024;

/// One connection from the daemon.
#[derive(Debug)]
pub struct Peer {
    socket: OwnedFd,
    waiting: VecDeque<Vec<u8>>,
    ahead: Ahead,
}

impl Peer {
    /// Takes an accepted connection, which must be non-blocking.
    pub fn new(socket: OwnedFd) -> Peer {
        Peer { socket, waiting: VecDeque::new(), ahead: Ahead::with_room(MAX_MESSAGE_FDS) }
    }

    /// The next message and its descriptors; `None` when none is there now. [`Error::Lost`] at the end;
    /// [`Error::Malformed`] leaves the connection usable, since a packet always ends where it ends.
    pub fn receive<M: Message + Default>(&mut self) -> Result<Option<(M, Vec<OwnedFd>)>> {
        let malformed = |why: String| Error::Malformed { who: "daemon", why };
        let mut packet = vec![0; MAX_PACKET];
        loop {
            let (length, fds) = match kernel::socket::receive(self.socket.as_fd(), &mut packet, MAX_FDS) {
                Ok((0, _)) => return Err(Error::Lost { who: "daemon" }),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
                    return Err(malformed(error.to_string()));
                }
                Err(_) => return Err(Error::Lost { who: "daemon" }),
            };
            match self.ahead.open(&packet[..length], fds) {
                // Only descriptors so far: their message follows.
                Ok(None) => {}
                Ok(message) => return Ok(message),
                Err(why) => return Err(malformed(why.to_string())),
            }
        }
    }

    /// Sends a message, or queues it when the daemon is slow. [`Error::Lost`] when the connection is of no use any
    /// more.
    pub fn send<M: Message>(&mut self, message: &M) -> Result<()> {
        // Replies are small; only requests ever need a memfd.
        let sealed = frame::seal(message).map_err(|unsealable| Error::unsealable("daemon", unsealable))?;
        if self.waiting.is_empty() {
            let beside: Vec<BorrowedFd<'_>> = sealed.body.iter().map(AsFd::as_fd).collect();
            match kernel::socket::send(self.socket.as_fd(), &sealed.packet, &beside) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Error::Lost { who: "daemon" }),
            }
        }
        if sealed.body.is_some() || self.waiting.len() >= MAX_WAITING {
            return Err(Error::Lost { who: "daemon" });
        }
        self.waiting.push_back(sealed.packet);
        Ok(())
    }

    /// Sends what waits, as far as the daemon takes it.
    pub fn flush(&mut self) -> Result<()> {
        while let Some(packet) = self.waiting.front() {
            match kernel::socket::send(self.socket.as_fd(), packet, &[]) {
                Ok(_) => drop(self.waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Error::Lost { who: "daemon" }),
            }
        }
        Ok(())
    }

    /// Whether the socket alone is the connection: nothing waits to be sent, and no message has come in part.
    pub fn is_between_messages(&self) -> bool {
        self.waiting.is_empty() && self.ahead.is_empty()
    }

    /// Whether something waits to be sent, so that the caller must watch for room.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
