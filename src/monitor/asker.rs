//! Who waits for an answer, and how it is sent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use engine::launch::Failure;
use kernel::poll::{Epoll, Interest};
use link::{Peer, wire};
use model::ContainerId;
use wire::monitor_reply::Result as Reply;

use crate::event;

/// A request that is being worked on. Its answer is dropped when the daemon that asked has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    connection: u64,
    request: u64,
}

/// The connection to the daemon, if there is one. The newest wins.
#[derive(Debug, Default)]
pub(crate) struct Daemon {
    peer: Option<Peer>,
    /// Whether it has been greeted. What happens before that is in the greeting, and is news no more.
    greeted: bool,
    /// Counts connections, so that an answer never reaches another daemon than the one that asked.
    connection: u64,
}

impl Asker {
    /// The request's number, for whoever answers it in our place.
    pub(crate) fn request(self) -> u64 {
        self.request
    }
}

impl Daemon {
    /// The connection, while it is no more than its socket: nothing half said on either side.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.peer.as_ref().filter(|peer| peer.is_between_messages()).map(AsFd::as_fd)
    }

    /// Goes on with a connection that another program had, and with its `request`.
    pub(crate) fn resume(&mut self, epoll: &Epoll, socket: OwnedFd, request: u64) -> Asker {
        self.replace(epoll, socket);
        self.greeted = true;
        Asker { connection: self.connection, request }
    }

    /// Takes a new connection in place of the old one.
    pub(crate) fn replace(&mut self, epoll: &Epoll, socket: OwnedFd) {
        self.drop_peer(epoll);
        self.connection += 1;
        self.greeted = false;
        let ready = kernel::socket::set_nonblocking(socket.as_fd())
            .and_then(|()| epoll.add(socket.as_fd(), event::PEER, Interest::READ));
        // A connection that cannot be watched is closed here: the daemon sees its end and tries again.
        if ready.is_ok() {
            self.peer = Some(Peer::new(socket));
        }
    }

    /// The next request, with who asks. `None` when there is none, or no daemon.
    pub(crate) fn next(&mut self, epoll: &Epoll) -> Option<(Asker, wire::MonitorRequest, Vec<OwnedFd>)> {
        loop {
            let peer = self.peer.as_mut()?;
            match peer.receive::<wire::MonitorRequest>() {
                Ok(Some((request, fds))) => {
                    let asker = Asker { connection: self.connection, request: request.id };
                    return Some((asker, request, fds));
                }
                Ok(None) => return None,
                // One packet was not a message; the next may be.
                Err(link::Error::Malformed { why, .. }) => self.trouble(epoll, None, &why),
                Err(_) => self.drop_peer(epoll),
            }
        }
    }

    /// Whether who asked can still be answered.
    pub(crate) fn hears(&self, asker: Asker) -> bool {
        self.peer.is_some() && asker.connection == self.connection
    }

    /// Answers a request, unless the daemon that made it has gone.
    pub(crate) fn answer(&mut self, epoll: &Epoll, asker: Asker, result: Result<Reply, Failure>) {
        if !self.hears(asker) {
            return;
        }
        let result = result.unwrap_or_else(|Failure { step, errno }| Reply::Failure(wire::Failure { step, errno }));
        self.send(epoll, &wire::MonitorReply { id: asker.request, result: Some(result) });
    }

    /// From now on it hears the news.
    pub(crate) fn has_been_greeted(&mut self) {
        self.greeted = true;
    }

    /// Tells what happened by itself. A daemon that is away, or has only just come, learns it by its greeting.
    pub(crate) fn tell(&mut self, epoll: &Epoll, news: Reply) {
        if self.greeted {
            self.send(epoll, &wire::MonitorReply { id: 0, result: Some(news) });
        }
    }

    /// Tells the daemon's log.
    pub(crate) fn trouble(&mut self, epoll: &Epoll, container: Option<&ContainerId>, text: &str) {
        let container_id = container.map(ContainerId::to_string).unwrap_or_default();
        let trouble = Reply::Trouble(wire::Trouble { container_id, text: text.to_owned() });
        self.send(epoll, &wire::MonitorReply { id: 0, result: Some(trouble) });
    }

    /// Sends what waited for room.
    pub(crate) fn flush(&mut self, epoll: &Epoll) {
        let Some(peer) = &mut self.peer else { return };
        if peer.flush().is_err() {
            self.drop_peer(epoll);
        } else if !peer.is_waiting() {
            let _ = epoll.modify(peer.as_fd(), event::PEER, Interest::READ);
        }
    }

    /// Whether everything said has been taken.
    pub(crate) fn is_flushed(&self) -> bool {
        self.peer.as_ref().is_none_or(|peer| !peer.is_waiting())
    }

    fn send(&mut self, epoll: &Epoll, message: &wire::MonitorReply) {
        let Some(peer) = &mut self.peer else { return };
        if peer.send(message).is_err() {
            self.drop_peer(epoll);
        } else if peer.is_waiting() {
            let _ = epoll.modify(peer.as_fd(), event::PEER, Interest::READ | Interest::WRITE);
        }
    }

    fn drop_peer(&mut self, epoll: &Epoll) {
        if let Some(peer) = self.peer.take() {
            // Fails only for a descriptor that was never added.
            let _ = epoll.remove(peer.as_fd());
        }
    }
}
