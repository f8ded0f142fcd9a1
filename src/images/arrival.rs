//! A blob on its way to the disk: what has come of it can be read while the rest is coming.
//!
//! Whoever reads along reads what nobody has verified yet, and comes to the end only when all of it is there and has
//! the right digest. Anything else is an error, and what was made of it has to be thrown away. The file lies between
//! the two, so that neither waits for the other and nothing has to be kept in memory.
//!
//! Whoever reads along may see that no more of it is wanted, whatever its digest may turn out to be: then it refuses
//! what comes, and whoever fetches it goes to the next host, or gives up.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::Arc,
};

use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::Error;

/// One blob that somebody waits for.
#[derive(Debug)]
pub(crate) struct Arrival(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    /// Where it comes to, once it comes. The first attempt's: what another begins anew is waited for to its end.
    file: Option<Arc<File>>,
    /// Bytes that are written.
    there: u64,
    end: Option<End>,
    /// Why what came so far was refused, until it comes anew.
    refused: Option<Error>,
    /// How often it came anew: what an earlier attempt tells is not about this one.
    attempt: usize,
    /// It has its name in the store.
    stored: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All of it is in the file, and it is what was wanted.
    Whole,
    /// The file comes to nothing.
    Lost,
}

impl Arrival {
    /// Nothing has come.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::default()))
    }

    /// It comes into this file, from its beginning: whoever writes it tells how far it is. Of the first file only, and
    /// of the first after each that was refused.
    pub(crate) fn begin(self: &Arc<Self>, file: &Arc<File>) -> Option<Teller> {
        let mut attempt = 0;
        let is_followed = self.0.send_if_modified(|state| {
            if state.refused.take().is_some() {
                (state.file, state.there, state.end) = (None, 0, None);
                state.attempt += 1;
            }
            attempt = state.attempt;
            let is_first = state.file.is_none();
            state.file.get_or_insert_with(|| file.clone());
            is_first
        });
        is_followed.then(|| Teller { arrival: self.clone(), attempt })
    }

    /// What comes is not wanted, and this is why. It comes back if there is nothing to be refused: all of it is there,
    /// or it has come to nothing by itself.
    pub(crate) fn refuse(&self, why: Error) -> Result<(), Error> {
        let mut why = Some(why);
        self.0.send_if_modified(|state| {
            let is_coming = state.file.is_some() && state.end.is_none() && !state.stored;
            if is_coming {
                state.refused = why.take();
            }
            is_coming
        });
        why.map_or(Ok(()), Err)
    }

    /// Waits until what comes is refused. Without end if it never is.
    pub(crate) async fn refused(&self) {
        self.wait(|state| state.refused.is_some()).await;
    }

    /// Why it was refused, if nothing came anew.
    pub(crate) fn take_refusal(&self) -> Option<Error> {
        let mut refused = None;
        self.0.send_if_modified(|state| {
            refused = state.refused.take();
            false
        });
        refused
    }

    /// It is in the store, verified and claimed.
    pub(crate) fn has_its_name(&self) {
        self.0.send_modify(|state| state.stored = true);
    }

    /// Waits until there is something to read: some of it on its way and not refused, or all of it in the store.
    pub(crate) async fn begun(&self) {
        self.wait(|state| state.file.is_some() && state.refused.is_none() || state.stored).await;
    }

    /// Waits until it is in the store. Without end when it never comes to be.
    pub(crate) async fn stored(&self) {
        self.wait(|state| state.stored).await;
    }

    /// Whether it is in the store.
    pub(crate) fn is_stored(&self) -> bool {
        self.0.borrow().stored
    }

    /// Whether what was to be followed is what was wanted.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.borrow().end == Some(End::Whole)
    }

    /// A reader of it from its beginning, if it is on its way. Waits for what is coming, on a thread that may;
    /// `runtime` is any that is not that thread's own. When `stop` is ended it waits no more.
    pub(crate) fn follow(&self, runtime: &Handle, stop: CancellationToken) -> Option<Follow> {
        let state = self.0.subscribe();
        let file = state.borrow().file.clone()?;
        Some(Follow { file, at: 0, state, stop, runtime: runtime.clone() })
    }

    async fn wait(&self, has_come: impl Fn(&State) -> bool) {
        // The sender is our own: it is there as long as we are.
        let _ = self.0.subscribe().wait_for(|state| has_come(state)).await;
    }
}

/// Tells how far the file is. Dropped, it tells that nothing comes of it.
#[derive(Debug)]
pub(crate) struct Teller {
    arrival: Arc<Arrival>,
    attempt: usize,
}

impl Teller {
    /// More bytes are written.
    pub(crate) fn add(&self, bytes: u64) {
        self.tell(|state| state.there += bytes);
    }

    /// All of it is written, and is what was wanted.
    pub(crate) fn ends_whole(self) {
        self.tell(|state| state.end = Some(End::Whole));
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        self.arrival.0.send_if_modified(|state| {
            let is_this = state.attempt == self.attempt;
            if is_this {
                change(state);
            }
            is_this
        });
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.tell(|state| {
            state.end.get_or_insert(End::Lost);
        });
    }
}

/// Reads what comes.
#[derive(Debug)]
pub(crate) struct Follow {
    file: Arc<File>,
    at: u64,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    runtime: Handle,
}

impl Follow {
    /// Bytes that can be read now; none at the end.
    fn there(&mut self) -> io::Result<u64> {
        loop {
            let (there, end) = {
                let state = self.state.borrow();
                (state.there.saturating_sub(self.at), state.end)
            };
            match end {
                _ if there > 0 => return Ok(there),
                Some(End::Whole) => return Ok(0),
                Some(End::Lost) => return Err(lost()),
                None => {}
            }
            let at = self.at;
            let news = async {
                tokio::select! {
                    news = self.state.wait_for(|state| state.there > at || state.end.is_some()) => news.is_ok(),
                    () = self.stop.cancelled() => false,
                }
            };
            if !self.runtime.block_on(news) {
                return Err(lost());
            }
        }
    }
}

impl Read for Follow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.there()?.min(buffer.len() as u64);
        let bytes = self.file.read_at(&mut buffer[..there as usize], self.at)?;
        self.at += bytes as u64;
        if bytes == 0 && there > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}

fn lost() -> io::Error {
    io::Error::other("the rest of the blob did not come")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file() -> Arc<File> {
        Arc::new(tempfile::tempfile().unwrap())
    }

    async fn read(mut follow: Follow) -> io::Result<Vec<u8>> {
        let read = move || {
            let mut all = Vec::new();
            follow.read_to_end(&mut all).map(|_| all)
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_follower_waits_for_what_comes_and_ends_with_what_is_whole() {
        let (arrival, file) = (Arrival::new(), file());
        assert!(arrival.follow(&Handle::current(), CancellationToken::new()).is_none());
        let teller = arrival.begin(&file).unwrap();
        arrival.begun().await;
        let follow = tokio::spawn(read(arrival.follow(&Handle::current(), CancellationToken::new()).unwrap()));
        for part in ["one ", "two ", "three"] {
            (&*file).write_all(part.as_bytes()).unwrap();
            assert!(!follow.is_finished());
            teller.add(part.len() as u64);
            tokio::task::yield_now().await;
        }
        teller.ends_whole();
        assert_eq!(follow.await.unwrap().unwrap(), b"one two three");
        assert!(arrival.is_whole() && !arrival.is_stored());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_refused_may_come_anew_and_what_the_first_attempt_tells_then_counts_no_more() {
        let (arrival, first, second) = (Arrival::new(), file(), file());
        let refuse = || arrival.refuse(Error::Cancelled);
        assert!(refuse().is_err(), "nothing comes");
        let early = arrival.begin(&first).unwrap();
        early.add(4);
        refuse().unwrap();
        arrival.refused().await;
        let teller = arrival.begin(&second).unwrap();
        arrival.begun().await;
        drop(early);
        (&*second).write_all(b"right").unwrap();
        teller.add(5);
        let follow = arrival.follow(&Handle::current(), CancellationToken::new()).unwrap();
        teller.ends_whole();
        assert_eq!(read(follow).await.unwrap(), b"right");
        assert!(refuse().is_err() && arrival.take_refusal().is_none(), "all of it is there");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_follower_of_what_comes_to_nothing_does_not_take_it_for_the_end() {
        let (arrival, first) = (Arrival::new(), file());
        let teller = arrival.begin(&first).unwrap();
        (&*first).write_all(b"half").unwrap();
        teller.add(4);
        let follow = tokio::spawn(read(arrival.follow(&Handle::current(), CancellationToken::new()).unwrap()));
        drop(teller);
        assert!(follow.await.unwrap().is_err());
        // What is begun anew is not followed, and waited for all the same.
        assert!(arrival.begin(&file()).is_none());
        arrival.has_its_name();
        arrival.stored().await;
        assert!(!arrival.is_whole());
    }
}
