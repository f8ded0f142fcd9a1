//! The daemon's end of a connection: many requests at once, replies matched by number, news handed on.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost::Message;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    Error, Result,
    ahead::{self, MAX_MESSAGE_FDS},
    frame::{self, MAX_FDS, MAX_PACKET},
};

/// How long a peer may take over what it answers from memory, or with a signal: it has one thread, waits for nothing
/// and needs microseconds. Seconds pass where the machine starves it; one that needs more than this is stopped, or
/// stuck in the kernel, and a starting daemon must get on with all others.
pub(crate) const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// How long a request may take that a child has to answer for, which mounts, reads a program from a cold disk and
/// execs. Half the time that a kubelet gives a call by default (`runtimeRequestTimeout`, 2 min): the caller still hears
/// why.
pub(crate) const CHILD_PATIENCE: Duration = Duration::from_secs(60);

/// A reply that says which request it answers.
pub(crate) trait Numbered: Message + Default + 'static {
    /// The request's number; 0 is news.
    fn number(&self) -> u64;
}

impl Numbered for crate::wire::LauncherReply {
    fn number(&self) -> u64 {
        self.id
    }
}

impl Numbered for crate::wire::MonitorReply {
    fn number(&self) -> u64 {
        self.id
    }
}

/// A connection. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Conversation<R> {
    shared: Arc<Shared<R>>,
    next: AtomicU64,
    reader: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared<R> {
    who: &'static str,
    socket: AsyncFd<OwnedFd>,
    /// Whose descriptors go ahead of their request.
    turn: tokio::sync::Mutex<()>,
    /// Who waits for which reply; `None` once the connection has ended.
    pending: Mutex<Option<HashMap<u64, oneshot::Sender<R>>>>,
    closed: watch::Sender<bool>,
}

impl<R: Numbered> Conversation<R> {
    /// Starts reading from a connected, non-blocking socket. `news` gets every message that answers no request, and
    /// finally `None`.
    pub(crate) fn new(
        who: &'static str,
        socket: OwnedFd,
        news: impl FnMut(Option<R>) + Send + 'static,
    ) -> Result<Conversation<R>> {
        // The successor of this call wants a promise that the descriptor never changes; an `OwnedFd`'s never does.
        #[allow(deprecated)]
        let socket = AsyncFd::new(socket).map_err(|source| Error::Connect { who, source })?;
        let shared = Arc::new(Shared {
            who,
            socket,
            turn: tokio::sync::Mutex::new(()),
            pending: Mutex::new(Some(HashMap::new())),
            closed: watch::Sender::new(false),
        });
        let reader = tokio::spawn(shared.clone().read_all(news));
        Ok(Conversation { shared, next: AtomicU64::new(1), reader })
    }

    /// Sends the request that `make` builds around its number and waits for the reply, at most for `patience`:
    /// [`Error::Silent`].
    ///
    /// When the wait ends first, or the caller gives it up, the request may still be served; its reply is dropped.
    pub(crate) async fn ask<Q: Message>(
        &self,
        make: impl FnOnce(u64) -> Q,
        fds: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<R> {
        let reply = tokio::time::timeout(patience, self.exchange(make, fds)).await;
        reply.unwrap_or(Err(Error::Silent { who: self.shared.who, seconds: patience.as_secs() }))
    }

    async fn exchange<Q: Message>(&self, make: impl FnOnce(u64) -> Q, fds: &[BorrowedFd<'_>]) -> Result<R> {
        let who = self.shared.who;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if fds.len() > MAX_MESSAGE_FDS {
            return Err(Error::TooLarge { why: format!("{} descriptors, at most {MAX_MESSAGE_FDS}", fds.len()) });
        }
        let (ahead, beside) = fds.split_at(ahead::count(fds.len()));
        let message = make(id);
        let sealed = match ahead.len() {
            0 => frame::seal(&message),
            count => frame::seal_joined(&message, id, count),
        };
        let sealed = sealed.map_err(|unsealable| Error::unsealable(who, unsealable))?;
        let beside: Vec<BorrowedFd<'_>> = beside.iter().copied().chain(sealed.body.iter().map(AsFd::as_fd)).collect();
        let (sender, reply) = oneshot::channel();
        match self.shared.pending().as_mut() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(Error::Lost { who }),
        };
        // A silent peer must not be waited for by ever more that nobody waits for.
        let _waiting = Waiting { shared: &self.shared, id };
        self.send(id, ahead, &sealed.packet, &beside).await?;
        reply.await.map_err(|_| Error::Lost { who })
    }

    /// Sends a request's packets. Of the requests that have descriptors `ahead`, one at a time does, because the other
    /// end keeps one's only.
    async fn send(&self, id: u64, ahead: &[BorrowedFd<'_>], packet: &[u8], beside: &[BorrowedFd<'_>]) -> Result<()> {
        let _turn = match ahead {
            [] => None,
            _ => Some(self.shared.turn.lock().await),
        };
        let bringing = frame::ahead(id);
        let ahead = ahead.chunks(MAX_FDS).map(|some| (bringing.as_slice(), some));
        for (packet, fds) in ahead.chain([(packet, beside)]) {
            let who = self.shared.who;
            let send = |socket: &OwnedFd| kernel::socket::send(socket.as_fd(), packet, fds);
            self.shared.socket.async_io(Interest::WRITABLE, send).await.map_err(|source| match source.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
                    Error::Lost { who }
                }
                _ => Error::Send { who, source },
            })?;
        }
        Ok(())
    }

    /// Resolves when the connection has ended.
    pub(crate) async fn closed(&self) {
        // The sender lives in `shared`, which we hold: the wait can only end with the value.
        let _ = self.shared.closed.subscribe().wait_for(|closed| *closed).await;
    }
}

impl<R> Drop for Conversation<R> {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A place among those who wait for a reply; given up when dropped.
struct Waiting<'c, R: Numbered> {
    shared: &'c Shared<R>,
    id: u64,
}

impl<R: Numbered> Drop for Waiting<'_, R> {
    fn drop(&mut self) {
        if let Some(pending) = self.shared.pending().as_mut() {
            pending.remove(&self.id);
        }
    }
}

impl<R: Numbered> Shared<R> {
    async fn read_all(self: Arc<Self>, mut news: impl FnMut(Option<R>) + Send) {
        let mut packet = vec![0; MAX_PACKET];
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, |socket| kernel::socket::receive(socket.as_fd(), &mut packet, MAX_FDS))
                .await;
            let (length, fds) = match received {
                // Too long for our buffer: lost, but the next packet is sound.
                Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => continue,
                Ok((0, _)) | Err(_) => break,
                Ok(received) => received,
            };
            let reply = match frame::open::<R>(&packet[..length], fds) {
                Ok((reply, _)) => reply,
                Err(why) => {
                    // A packet ends where it ends, so the next one is sound; the request it answered gets no reply.
                    tracing::warn!(from = self.who, %why, "dropped a malformed message");
                    continue;
                }
            };
            if reply.number() == 0 {
                news(Some(reply));
                continue;
            }
            let waiter = self.pending().as_mut().and_then(|pending| pending.remove(&reply.number()));
            if let Some(waiter) = waiter {
                // Nobody waits any more when the caller was cancelled.
                let _ = waiter.send(reply);
            }
        }
        // Dropping the senders tells everyone who waits.
        *self.pending() = None;
        self.closed.send_replace(true);
        news(None);
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<R>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::task::JoinSet;

    use super::*;
    use crate::{Peer, wire};

    /// Patience in these tests, where nobody answers.
    const BRIEF: Duration = Duration::from_millis(20);

    /// A conversation, and the other end of it.
    fn with_peer() -> (Arc<Conversation<wire::MonitorReply>>, Peer) {
        let (ours, theirs) = kernel::socket::pair().unwrap();
        for end in [&ours, &theirs] {
            kernel::socket::set_nonblocking(end.as_fd()).unwrap();
        }
        (Arc::new(Conversation::new("monitor", ours, |_| ()).unwrap()), Peer::new(theirs))
    }

    fn forget(id: u64) -> wire::MonitorRequest {
        let forget = wire::Forget { container_id: "c".repeat(64) };
        wire::MonitorRequest { id, act: Some(wire::monitor_request::Act::Forget(forget)) }
    }

    fn waiting(conversation: &Conversation<wire::MonitorReply>) -> usize {
        conversation.shared.pending().as_ref().expect("a live connection").len()
    }

    #[tokio::test]
    async fn a_silent_peer_is_waited_for_as_long_as_said_and_then_by_nobody() {
        let (conversation, _peer) = with_peer();
        let begun = Instant::now();
        let silent = conversation.ask(forget, &[], BRIEF).await;
        assert!(matches!(silent, Err(Error::Silent { .. })), "{silent:?}");
        assert!(begun.elapsed() >= BRIEF);
        assert_eq!(waiting(&conversation), 0);
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_more_is_silent_too() {
        let (conversation, _peer) = with_peer();
        let mut asking = JoinSet::new();
        // More than the socket holds: the last ones cannot even be sent.
        for _ in 0..1000 {
            let conversation = conversation.clone();
            asking.spawn(async move { conversation.ask(forget, &[], BRIEF).await });
        }
        for answer in asking.join_all().await {
            assert!(matches!(answer, Err(Error::Silent { .. })), "{answer:?}");
        }
        assert_eq!(waiting(&conversation), 0);
    }

    #[tokio::test]
    async fn a_request_that_nobody_could_take_is_refused_at_once() {
        let (conversation, _peer) = with_peer();
        let long = |id| wire::MonitorRequest {
            id,
            act: Some(wire::monitor_request::Act::Forget(wire::Forget { container_id: "c".repeat(frame::MAX_BODY) })),
        };
        let refused = conversation.ask(long, &[], ANSWER_PATIENCE).await.unwrap_err();
        assert!(matches!(refused, Error::TooLarge { .. }), "{refused:?}");
        assert_eq!(refused.class(), model::Class::Invalid);
    }

    #[tokio::test]
    async fn an_answer_that_comes_too_late_reaches_nobody_and_the_next_one_is_heard() {
        let (conversation, mut peer) = with_peer();
        let mut answer = || {
            let (request, _) = peer.receive::<wire::MonitorRequest>().unwrap().expect("a request");
            let done = wire::monitor_reply::Result::Done(wire::Done {});
            peer.send(&wire::MonitorReply { id: request.id, result: Some(done) }).unwrap();
            request.id
        };
        assert!(conversation.ask(forget, &[], BRIEF).await.is_err());
        answer();
        // The first branch is polled first, which sends the request.
        let (heard, number) = tokio::join!(biased; conversation.ask(forget, &[], ANSWER_PATIENCE), async { answer() });
        assert_eq!(heard.unwrap().id, number);
    }
}
