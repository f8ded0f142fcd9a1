//! One blob, from the hosts that have it to the disk: an attempt goes on where the one before it has ended.
//!
//! Every attempt has a connection of its own, which is given up when nothing comes by it for a while, or all but
//! nothing for a long one; there is no limit on the whole. What has come once is not asked for again, by whichever host
//! it came: the digest of all of it is looked at in the end. Where that is wrong and more than one attempt has had a
//! part in it, nobody knows whose fault it is: then all of it is asked of one host, before that one is believed to lie.

use std::{pin::pin, sync::Arc, time::Instant};

use reqwest::{
    Method, Response, StatusCode,
    header::{CONTENT_RANGE, HeaderMap},
};

use crate::{
    Error, Outcome, Result,
    blob::{Finished, Incoming},
    fetch::Wanted,
    registry::{
        answer::broken,
        pace::Pace,
        session::{Ask, Session},
    },
    shelf::Shelf,
};

/// Bytes that go to the disk at a time: enough that handing them to a thread costs nothing.
const BATCH: usize = 256 << 10;

/// A blob that comes in one attempt or in several.
#[derive(Debug)]
pub(super) struct Download<'a> {
    shelf: &'a Arc<Shelf>,
    blob: &'a Wanted<'a>,
    incoming: Option<Incoming>,
}

/// Whose fault it is that a blob did not come.
#[derive(Debug)]
pub(super) enum Failed {
    Host(Outcome),
    Disk(Error),
}

impl<'a> Download<'a> {
    /// Nothing has come. Dropped, it leaves nothing.
    pub(super) fn new(shelf: &'a Arc<Shelf>, blob: &'a Wanted<'a>) -> Self {
        Self { shelf, blob, incoming: None }
    }

    /// Bytes that have come and need not come again.
    pub(super) fn bytes(&self) -> u64 {
        self.incoming.as_ref().map_or(0, Incoming::bytes)
    }

    /// Gets what is missing from this host.
    pub(super) async fn go_on(&mut self, session: &Session) -> Result<Finished, Failed> {
        let is_pieced = self.bytes() > 0;
        let gone_on = self.attempt(session).await;
        let Err(Failed::Host(Outcome::Spoiled { why })) = &gone_on else { return gone_on };
        self.incoming = None;
        if !is_pieced {
            return gone_on;
        }
        tracing::debug!(blob = %self.blob.digest, host = session.host.name(), why, "a blob is begun anew");
        let gone_on = self.attempt(session).await;
        if matches!(gone_on, Err(Failed::Host(Outcome::Spoiled { .. }))) {
            self.incoming = None;
        }
        gone_on
    }

    async fn attempt(&mut self, session: &Session) -> Result<Finished, Failed> {
        let what = format!("blobs/{}", self.blob.digest);
        let from = self.bytes();
        let ask = Ask { method: &Method::GET, what: &what, accept: "*/*", from };
        let response = session.ask(ask).await.map_err(Failed::Host)?;
        let pace = Pace::over(session.patience);
        let body = match response.status() {
            StatusCode::OK => self.whole(response, from, pace),
            StatusCode::PARTIAL_CONTENT if from > 0 => self.rest(response, from, pace),
            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
                spoiled(format!("its blob ends before byte {from} of {}", self.blob.bytes))
            }
            _ => return Err(Failed::Host(session.refusal(response).await)),
        };
        self.store(body.map_err(Failed::Host)?).await
    }

    /// All of it, of which the first bytes are here already: some servers know no ranges.
    fn whole(&self, response: Response, from: u64, pace: Pace) -> Result<Body, Outcome> {
        match response.content_length() {
            Some(bytes) if bytes != self.blob.bytes => {
                spoiled(format!("its blob has {bytes} bytes, the manifest says {}", self.blob.bytes))
            }
            _ => Ok(Body { response, skip: from, pace }),
        }
    }

    /// What is missing, if that is what it is.
    fn rest(&self, response: Response, from: u64, pace: Pace) -> Result<Body, Outcome> {
        match content_range(response.headers()) {
            Some((first, total)) if first == from && total.is_none_or(|total| total == self.blob.bytes) => {
                Ok(Body { response, skip: 0, pace })
            }
            told => spoiled(format!("it sent another part than from byte {from} of {}: {told:?}", self.blob.bytes)),
        }
    }

    /// Streams a body to the disk. While a batch is written on a thread the next one is gathered; no thread waits for
    /// the network, which may be as slow as a registry likes. What was gathered before a connection broke is kept.
    async fn store(&mut self, mut body: Body) -> Result<Finished, Failed> {
        let mut incoming = match self.incoming.take() {
            Some(incoming) => incoming,
            None => {
                self.blob.meter.begin();
                let arrival = self.blob.arrival.clone();
                let begin = move |shelf: &Arc<Shelf>| shelf.blobs.begin_for(&arrival);
                self.shelf.blocking(begin).await.map_err(Failed::Disk)?
            }
        };
        let mut room = self.blob.bytes - incoming.bytes();
        let arrival = self.blob.arrival.clone();
        let mut refused = pin!(arrival.refused());
        let mut batch = tokio::select! {
            batch = body.gather(room) => batch,
            () = &mut refused => return Err(Failed::Host(unwanted())),
        };
        let end = loop {
            let Batch { bytes, end } = batch;
            room -= bytes.len() as u64;
            self.blob.meter.add(bytes.len() as u64);
            let more = async { if end.is_none() { Some(body.gather(room).await) } else { None } };
            let written = write(self.shelf, incoming, bytes);
            let (written, more) = tokio::select! {
                step = async { tokio::join!(written, more) } => step,
                // What is being written is deleted when it is.
                () = &mut refused => return Err(Failed::Host(unwanted())),
            };
            incoming = written.map_err(Failed::Disk)?;
            match (more, end) {
                (Some(more), _) => batch = more,
                (None, end) => break end,
            }
        };
        match end {
            Some(End::Broken(outcome)) if room > 0 || matches!(outcome, Outcome::Spoiled { .. }) => {
                self.incoming = Some(incoming);
                return Err(Failed::Host(outcome));
            }
            Some(End::Over) if room > 0 => {
                self.incoming = Some(incoming);
                let why = format!("its answer ended {room} bytes before the blob's {}", self.blob.bytes);
                return Err(Failed::Host(Outcome::Broken { why }));
            }
            _ => {}
        }
        let finished = incoming.finish_as(self.blob.digest, Some(self.blob.bytes));
        finished.map_err(|error| Failed::Host(Outcome::Spoiled { why: error.to_string() }))
    }
}

/// Whoever unpacks it has seen that it is more than may be, and will say so. Another host may have another.
fn unwanted() -> Outcome {
    Outcome::Spoiled { why: "what it sends unpacks to more than is allowed".to_owned() }
}

async fn write(shelf: &Arc<Shelf>, mut incoming: Incoming, batch: Vec<u8>) -> Result<Incoming> {
    let write = move |_: &Arc<Shelf>| incoming.write(&batch).map(|()| incoming);
    shelf.working(write).await
}

/// A body, of which the first `skip` bytes are of no use.
struct Body {
    response: Response,
    skip: u64,
    pace: Pace,
}

/// Some of a body: about as much as goes to the disk at a time.
struct Batch {
    bytes: Vec<u8>,
    /// Nothing comes after it.
    end: Option<End>,
}

/// How a body has ended.
#[derive(Debug)]
enum End {
    Over,
    Broken(Outcome),
}

impl Body {
    /// The next bytes. More than `room` in all are not taken.
    async fn gather(&mut self, room: u64) -> Batch {
        let mut bytes = Vec::with_capacity(BATCH);
        while bytes.len() < BATCH {
            let asked = Instant::now();
            let mut chunk = match self.response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Batch { bytes, end: Some(End::Over) },
                Err(error) => return Batch { bytes, end: Some(End::Broken(broken(error))) },
            };
            let pace = self.pace.came(asked.elapsed(), chunk.len());
            let skipped = chunk.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.skip -= skipped as u64;
            let chunk = chunk.split_off(skipped);
            if (bytes.len() + chunk.len()) as u64 > room {
                let why = "it sent more than the manifest says that the blob has".to_owned();
                return Batch { bytes, end: Some(End::Broken(Outcome::Spoiled { why })) };
            }
            bytes.extend_from_slice(&chunk);
            if let Err(outcome) = pace {
                return Batch { bytes, end: Some(End::Broken(outcome)) };
            }
        }
        Batch { bytes, end: None }
    }
}

/// The first byte that an answer holds, and how many there are in all, if it tells.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let told = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (part, total) = told.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

fn spoiled<T>(why: String) -> Result<T, Outcome> {
    Err(Outcome::Spoiled { why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_range_that_makes_sense_is_read() {
        let read = |text: &str| content_range(&HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]));
        assert_eq!(read("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(read("bytes 0-0/*"), Some((0, None)));
        for wrong in ["", "bytes */10", "bytes 5-4/10", "bytes 5-10/10", "bytes 5-9", "items 5-9/10", "bytes -5-9/10"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(content_range(&HeaderMap::new()), None);
    }
}
