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
    frame::{self, MAX_FDS, MAX_PACKET},
};

/// How long a peer may take to answer a greeting. It does so at once; one that does not is stopped, or stuck in the kernel,
/// and must not keep a starting daemon from all others.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);

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
        // `register` asks its caller to promise, by `unsafe`, that the descriptor never changes; an `OwnedFd`'s never does.
        #[allow(deprecated)]
        let socket = AsyncFd::new(socket).map_err(|source| Error::Connect { who, source })?;
        let shared = Arc::new(Shared {
            who,
            socket,
            pending: Mutex::new(Some(HashMap::new())),
            closed: watch::Sender::new(false),
        });
        let reader = tokio::spawn(shared.clone().read_all(news));
        Ok(Conversation { shared, next: AtomicU64::new(1), reader })
    }

    /// Sends the request that `make` builds around its number and waits for the reply.
    ///
    /// When the caller stops waiting, the request has still been made; its reply is dropped.
    pub(crate) async fn ask<Q: Message>(&self, make: impl FnOnce(u64) -> Q, fds: &[BorrowedFd<'_>]) -> Result<R> {
        let who = self.shared.who;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let sealed = frame::seal(&make(id)).map_err(|source| Error::Send { who, source })?;
        let beside: Vec<BorrowedFd<'_>> = fds.iter().copied().chain(sealed.body.iter().map(AsFd::as_fd)).collect();
        if beside.len() > MAX_FDS {
            return Err(Error::TooLarge { why: format!("{} descriptors, at most {MAX_FDS}", beside.len()) });
        }
        let (sender, reply) = oneshot::channel();
        match self.shared.pending().as_mut() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(Error::Lost { who }),
        };
        let sent = self
            .shared
            .socket
            .async_io(Interest::WRITABLE, |socket| kernel::socket::send(socket.as_fd(), &sealed.packet, &beside))
            .await;
        if let Err(source) = sent {
            if let Some(pending) = self.shared.pending().as_mut() {
                pending.remove(&id);
            }
            return Err(match source.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
                    Error::Lost { who }
                }
                _ => Error::Send { who, source },
            });
        }
        reply.await.map_err(|_| Error::Lost { who })
    }

    /// As [`Conversation::ask`], for the first request: with a deadline.
    pub(crate) async fn greet<Q: Message>(&self, make: impl FnOnce(u64) -> Q) -> Result<R> {
        let reply = tokio::time::timeout(GREETING_PATIENCE, self.ask(make, &[])).await;
        reply.unwrap_or(Err(Error::Silent { who: self.shared.who, seconds: GREETING_PATIENCE.as_secs() }))
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
