//! Asking registries: which host, with what proof, for a manifest or a blob (the OCI distribution specification).
//!
//! Hosts are tried in the order of the configuration; the error of a failed pull lists each with its answer. What comes
//! is verified against what was asked for, so a host can fail us but not deceive us.
//! Seams: the finer rules of mirrors belong in `hosts`, going on with half a blob in [`Registry::blob`].

use std::{sync::Arc, time::Duration};

use model::{Digest, ImageRef};
use reqwest::{Method, Response, StatusCode, header::CONTENT_TYPE};

use crate::{
    Attempt, Credentials, Error, Outcome, Result,
    blob::{Finished, Incoming},
    hash::digest_of,
    manifest::{DOCKER_INDEX, DOCKER_MANIFEST, LARGEST_DOCUMENT, LayerPlan, OCI_INDEX, OCI_MANIFEST},
    registry::session::{Ask, Session},
    shelf::Shelf,
};

mod challenge;
mod hosts;
mod session;
mod tls;
mod token;

/// How often a blob is asked for when hosts are busy or connections break.
const ROUNDS: u32 = 4;
/// Pause before the second round; doubled with each.
const PAUSE: Duration = Duration::from_millis(250);
/// Bytes that go to the disk at a time: enough that handing them to a thread costs nothing.
const BATCH: usize = 256 << 10;
/// Bytes of a refusal's body that are read, and characters of it that are told.
const REFUSAL: usize = 64 << 10;
const REFUSAL_TOLD: usize = 300;

/// The hosts for one reference, for the time of one pull.
#[derive(Debug)]
pub(crate) struct Registry {
    reference: ImageRef,
    sessions: Vec<Session>,
}

/// What a reference points to now.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) digest: Digest,
    pub(crate) media_type: Option<String>,
    /// The document itself, when it had to be fetched to know its digest.
    pub(crate) bytes: Option<Vec<u8>>,
}

impl Registry {
    /// Reads the configuration of the hosts and makes ready to ask them. Blocks for the files.
    pub(crate) fn open(shelf: &Shelf, reference: &ImageRef, credentials: Option<&Credentials>) -> Result<Self> {
        let domain = reference.domain();
        let mut sessions = Vec::new();
        for host in hosts::hosts(&shelf.config.config_path, domain)? {
            let client = tls::client(&shelf.config, &host)?;
            let shown = credentials.filter(|credentials| credentials.are_for(&host.name(), domain));
            let proof = shown.map(|credentials| credentials.proof.clone());
            sessions.push(Session::new(host, client, reference.path(), domain, proof));
        }
        Ok(Self { reference: reference.clone(), sessions })
    }

    /// Asks what the reference points to. This is also where the caller's right to it is checked.
    pub(crate) async fn resolve(&self) -> Result<Resolved> {
        let what = match self.reference.digest() {
            Some(digest) => format!("manifests/{digest}"),
            None => format!("manifests/{}", self.reference.tag().unwrap_or_default()),
        };
        let by_digest = self.reference.digest().is_some();
        let mut tried = Vec::new();
        for session in self.sessions.iter().filter(|session| session.host.resolve || (by_digest && session.host.pull)) {
            match self.resolve_at(session, &what).await {
                Ok(resolved) => return Ok(resolved),
                Err(outcome) => tried.push(Attempt { host: session.host.name(), outcome }),
            }
        }
        Err(Error::Registry { what: self.reference.to_string(), tried })
    }

    async fn resolve_at(&self, session: &Session, what: &str) -> Result<Resolved, Outcome> {
        let accept = [DOCKER_MANIFEST, DOCKER_INDEX, OCI_MANIFEST, OCI_INDEX, "*/*"].join(", ");
        let response = session.ask(Ask { method: &Method::HEAD, what, accept: &accept }).await?;
        if response.status() == StatusCode::OK
            && let Some(digest) = self.reference.digest().cloned().or_else(|| told_digest(&response))
        {
            return Ok(Resolved { digest, media_type: media_type(&response), bytes: None });
        }
        if response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS {
            return Err(session.refusal(response).await);
        }
        // Some servers know no HEAD, some tell no digest, and a refusal has its reasons in the body only.
        let response = session.ask(Ask { method: &Method::GET, what, accept: &accept }).await?;
        if response.status() != StatusCode::OK {
            return Err(session.refusal(response).await);
        }
        let told = self.reference.digest().cloned().or_else(|| told_digest(&response));
        let media_type = media_type(&response);
        let bytes = body(response, LARGEST_DOCUMENT as usize).await?;
        let digest = digest_of(&bytes);
        if told.is_some_and(|told| told != digest) {
            let why = format!("it sent a manifest with digest {digest} for {what}");
            return Err(Outcome::Spoiled { why });
        }
        Ok(Resolved { digest, media_type, bytes: Some(bytes) })
    }

    /// Fetches a manifest or index, verified.
    pub(crate) async fn manifest(&self, digest: &Digest) -> Result<(Vec<u8>, Option<String>)> {
        let accept = [DOCKER_MANIFEST, DOCKER_INDEX, OCI_MANIFEST, OCI_INDEX, "*/*"].join(", ");
        let what = format!("manifests/{digest}");
        let mut tried = Vec::new();
        for session in self.sessions.iter().filter(|session| session.host.pull) {
            match get_document(session, &what, &accept, digest).await {
                Ok(document) => return Ok(document),
                Err(outcome) => tried.push(Attempt { host: session.host.name(), outcome }),
            }
        }
        Err(Error::Registry { what: format!("{}@{digest}", self.reference.name()), tried })
    }

    /// Fetches a blob into the store's workplace, verified; `bytes` is its size when that is known.
    pub(crate) async fn blob(&self, shelf: &Arc<Shelf>, blob: &Wanted<'_>) -> Result<Finished> {
        let mut pause = PAUSE;
        let mut tried = Vec::new();
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            tried.clear();
            let mut again = false;
            // Held for a round only: who waits out a pause keeps no place from others.
            let _place = shelf.downloads.place(self.reference.domain()).await?;
            for session in self.sessions.iter().filter(|session| session.host.pull) {
                let host = session.host.name();
                match blob_from(shelf, blob, session).await {
                    Ok(finished) => return Ok(finished),
                    // Ours, not the host's: the disk.
                    Err(Failed::Disk(error)) => return Err(error),
                    Err(Failed::Host(outcome)) => {
                        again |= is_passing(&outcome);
                        tracing::debug!(blob = %blob.digest, host, ?outcome, round, "a host did not give a blob");
                        tried.push(Attempt { host, outcome });
                    }
                }
            }
            if !again {
                break;
            }
        }
        Err(Error::Registry { what: format!("{}@{}", self.reference.name(), blob.digest), tried })
    }
}

/// A blob to fetch.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) digest: &'a Digest,
    /// Its size, as the manifest has it.
    pub(crate) bytes: u64,
}

impl<'a> From<&'a LayerPlan> for Wanted<'a> {
    fn from(layer: &'a LayerPlan) -> Self {
        Wanted { digest: &layer.blob, bytes: layer.bytes }
    }
}

/// Whose fault it is that a blob did not come.
enum Failed {
    Host(Outcome),
    Disk(Error),
}

async fn blob_from(shelf: &Arc<Shelf>, blob: &Wanted<'_>, session: &Session) -> Result<Finished, Failed> {
    let what = format!("blobs/{}", blob.digest);
    let response = session.ask(Ask { method: &Method::GET, what: &what, accept: "*/*" }).await.map_err(Failed::Host)?;
    if response.status() != StatusCode::OK {
        return Err(Failed::Host(session.refusal(response).await));
    }
    store(shelf, blob, response).await
}

/// Streams a body to the disk. While a batch is written on a thread the next one is gathered; no thread waits for the
/// network, which may be as slow as a registry likes. When this future is dropped nothing is left.
async fn store(shelf: &Arc<Shelf>, blob: &Wanted<'_>, mut response: Response) -> Result<Finished, Failed> {
    let mut incoming = shelf.blocking(|shelf| shelf.blobs.begin()).await.map_err(Failed::Disk)?;
    let mut batch = gather(&mut response, blob.bytes).await.map_err(Failed::Host)?;
    let mut room = blob.bytes;
    while !batch.is_empty() {
        room -= batch.len() as u64;
        let written = async { write(shelf, incoming, batch).await.map_err(Failed::Disk) };
        let gathered = async { gather(&mut response, room).await.map_err(Failed::Host) };
        (incoming, batch) = tokio::try_join!(written, gathered)?;
    }
    let spoiled = |error: Error| Failed::Host(Outcome::Spoiled { why: error.to_string() });
    incoming.finish_as(blob.digest, Some(blob.bytes)).map_err(spoiled)
}

/// The next bytes of a body: a batch or somewhat more, fewer at its end, none after it. More than `room` in all are not
/// taken.
async fn gather(response: &mut Response, room: u64) -> Result<Vec<u8>, Outcome> {
    let mut batch = Vec::new();
    while batch.len() < BATCH
        && let Some(chunk) = response.chunk().await.map_err(unreachable)?
    {
        batch.extend_from_slice(&chunk);
        if batch.len() as u64 > room {
            return Err(Outcome::Spoiled { why: "it sent more than the manifest says that the blob has".to_owned() });
        }
    }
    Ok(batch)
}

async fn write(shelf: &Arc<Shelf>, mut incoming: Incoming, batch: Vec<u8>) -> Result<Incoming> {
    let write = move |_: &Arc<Shelf>| incoming.write(&batch).map(|()| incoming);
    shelf.blocking(write).await
}

async fn get_document(
    session: &Session,
    what: &str,
    accept: &str,
    digest: &Digest,
) -> Result<(Vec<u8>, Option<String>), Outcome> {
    let response = session.ask(Ask { method: &Method::GET, what, accept }).await?;
    if response.status() != StatusCode::OK {
        return Err(session.refusal(response).await);
    }
    let media_type = media_type(&response);
    let bytes = body(response, LARGEST_DOCUMENT as usize).await?;
    let found = digest_of(&bytes);
    if found != *digest {
        return Err(Outcome::Spoiled { why: format!("it sent a document with digest {found} for {digest}") });
    }
    Ok((bytes, media_type))
}

/// Whether the same request may succeed in a moment.
fn is_passing(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Refused { status, .. } => *status >= 500 || matches!(status, 408 | 429),
        Outcome::Unreachable { .. } => true,
        Outcome::Spoiled { .. } => false,
    }
}

fn told_digest(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

fn media_type(response: &Response) -> Option<String> {
    let value = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(|value| value.trim().to_owned())
}

/// A whole body of at most `limit` bytes.
pub(crate) async fn body(mut response: Response, limit: usize) -> Result<Vec<u8>, Outcome> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if bytes.len() + chunk.len() > limit {
            return Err(Outcome::Spoiled { why: format!("its answer is larger than {limit} bytes") });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What a refusal says: the status, and the codes and messages of its body.
pub(crate) async fn outcome(response: Response) -> Outcome {
    let status = response.status().as_u16();
    let bytes = body(response, REFUSAL).await.unwrap_or_default();
    Outcome::Refused { status, detail: detail(&bytes) }
}

fn detail(bytes: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let texts = parsed.as_ref().map(|value| {
        let errors = value.get("errors").and_then(|errors| errors.as_array()).map(Vec::as_slice).unwrap_or_default();
        let listed = errors.iter().flat_map(|error| ["code", "message"].map(|key| error.get(key)));
        // Token servers have their own forms.
        let others = ["details", "message", "error", "error_description"].map(|key| value.get(key));
        let texts = listed.chain(others).flatten().filter_map(|text| text.as_str()).filter(|text| !text.is_empty());
        texts.collect::<Vec<_>>().join(": ")
    });
    let text = texts.unwrap_or_else(|| match std::str::from_utf8(bytes) {
        Ok(text) if !text.trim_start().starts_with('<') => text.trim().to_owned(),
        _ => String::new(),
    });
    text.chars().filter(|c| !c.is_control()).take(REFUSAL_TOLD).collect()
}

/// A transport error in words, without the URL: its query may hold a signature.
pub(crate) fn unreachable(error: reqwest::Error) -> Outcome {
    Outcome::Unreachable { why: reason(error) }
}

pub(crate) fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_registrys_own_words_and_little_else() {
        let listed = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        assert_eq!(detail(listed), "MANIFEST_UNKNOWN: manifest unknown");
        assert_eq!(detail(br#"{"details":"incorrect username or password"}"#), "incorrect username or password");
        assert_eq!(detail(b"<html>no</html>"), "");
        assert_eq!(detail(b"busy\n\x1b[31m"), "busy[31m");
        assert_eq!(detail(&[0xff; 10]), "");
        assert_eq!(detail("x".repeat(1000).as_bytes()).len(), REFUSAL_TOLD);
    }
}
