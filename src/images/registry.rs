//! Asking registries: which host, with what proof, for a manifest or a blob (the OCI distribution specification).
//!
//! Hosts are tried in the order of the configuration; the error of a failed pull lists each with its answer. What comes
//! is verified against what was asked for, so a host can fail us but not deceive us.
//! Seams: the finer rules of mirrors belong in `hosts`, how often who is asked in `rounds`, going on with half a blob
//! in [`Registry::blob`].

use std::{path::PathBuf, sync::Arc, time::Duration};

use link::Programs;
use model::{Digest, ImageRef};
use reqwest::{Method, Response, StatusCode, header::CONTENT_TYPE};

use crate::{
    Attempt, Config, Credentials, Error, Outcome, Result,
    blob::{Finished, Incoming},
    docker_config::DockerConfig,
    hash::digest_of,
    manifest::{DOCKER_INDEX, DOCKER_MANIFEST, LARGEST_DOCUMENT, LayerPlan, OCI_INDEX, OCI_MANIFEST},
    registry::{
        answer::{body, broken},
        prover::Prover,
        rounds::{Rounds, Thing},
        session::{Ask, Name, Session},
        tls::Clients,
    },
    shelf::Shelf,
};

mod answer;
pub(crate) mod challenge;
mod date;
mod explain;
mod hosts;
mod prover;
mod proxy;
mod rounds;
mod session;
mod tls;
mod token;

/// How long a manifest, an index or a token may take from first byte to last, in units of the time that a connection
/// may stand idle.
const DOCUMENT_PATIENCE: u32 = 5;
/// Bytes that go to the disk at a time: enough that handing them to a thread costs nothing.
const BATCH: usize = 256 << 10;

/// The hosts for one reference, for the time of one pull.
#[derive(Debug)]
pub(crate) struct Registry {
    reference: ImageRef,
    /// Where it is said whom to ask.
    from: Option<PathBuf>,
    sessions: Vec<Session>,
}

/// Who asks for what.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) reference: ImageRef,
    pub(crate) credentials: Option<Credentials>,
    /// Where credential helpers are run.
    pub(crate) programs: Programs,
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
    pub(crate) fn open(config: &Config, caller: &Caller) -> Result<Self> {
        let Caller { reference, credentials, programs } = caller;
        let name = Name { domain: reference.domain(), repository: reference.path() };
        let patience = Duration::from_secs(config.idle_timeout_s) * DOCUMENT_PATIENCE;
        let hosts::Hosts { from, hosts } = hosts::hosts(&config.config_path, name.domain)?;
        let node = DockerConfig::read(&config.docker_config)?;
        let clients = Clients::new(config);
        let mut sessions = Vec::new();
        for host in hosts {
            let client = clients.client(&host)?;
            let prover = Prover::new(&host, name, credentials.as_ref(), node.as_ref(), programs)?;
            let proxy = clients.proxies().before(&host.base);
            sessions.push(Session::new(host, client, name, prover, patience).behind(proxy.as_ref()));
        }
        Ok(Self { reference: reference.clone(), from, sessions })
    }

    /// Asks what the reference points to. This is also where the caller's right to it is checked.
    pub(crate) async fn resolve(&self) -> Result<Resolved> {
        self.ask_all(self.reference.to_string(), None).await
    }

    /// Fetches a manifest or index, verified.
    pub(crate) async fn manifest(&self, digest: &Digest) -> Result<(Vec<u8>, Option<String>)> {
        let found = self.ask_all(format!("{}@{digest}", self.reference.name()), Some(digest)).await?;
        Ok((found.bytes.unwrap_or_default(), found.media_type))
    }

    /// Asks each host that may be asked, in order, and all again as long as one of them may do better in a moment: for
    /// the document with this digest, or for what the reference points to.
    async fn ask_all(&self, name: String, document: Option<&Digest>) -> Result<Resolved> {
        let mut rounds = Rounds::of(Thing::Document);
        loop {
            let mut tried = Vec::new();
            for session in self.sessions.iter().filter(|session| self.may_tell(session, document)) {
                let told = match document {
                    Some(digest) => get_document(session, digest).await,
                    None => self.resolve_at(session).await,
                };
                match told {
                    Ok(told) => return Ok(told),
                    Err(outcome) => tried.push(Attempt { host: session.host.name(), outcome }),
                }
            }
            match rounds.pause(&tried) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(Error::Registry { what: name, tried }),
            }
        }
    }

    fn may_tell(&self, session: &Session, document: Option<&Digest>) -> bool {
        let is_content = document.is_some() || self.reference.digest().is_some();
        (is_content && session.host.pull) || (document.is_none() && session.host.resolve)
    }

    async fn resolve_at(&self, session: &Session) -> Result<Resolved, Outcome> {
        let what = self.pointer();
        let (what, accept) = (what.as_str(), accept_documents());
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
        let bytes = body(response, LARGEST_DOCUMENT as usize, session.patience).await?;
        // A page for people, as portals and proxies answer whatever they are asked.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            let sent = media_type.as_deref().map_or_else(|| "something".to_owned(), answer::told);
            return Err(Outcome::Spoiled { why: format!("it sent {sent} that is no manifest for {what}") });
        }
        let digest = digest_of(&bytes);
        if told.is_some_and(|told| told != digest) {
            let why = format!("it sent a manifest with digest {digest} for {what}");
            return Err(Outcome::Spoiled { why });
        }
        Ok(Resolved { digest, media_type, bytes: Some(bytes) })
    }

    /// The path, below the repository, of what the reference points to.
    fn pointer(&self) -> String {
        match self.reference.digest() {
            Some(digest) => format!("manifests/{digest}"),
            None => format!("manifests/{}", self.reference.tag().unwrap_or_default()),
        }
    }

    /// Fetches a blob into the store's workplace, verified; `bytes` is its size when that is known.
    pub(crate) async fn blob(&self, shelf: &Arc<Shelf>, blob: &Wanted<'_>) -> Result<Finished> {
        let mut rounds = Rounds::of(Thing::Blob);
        loop {
            let mut tried = Vec::new();
            // Held for a round only: who waits out a pause keeps no place from others.
            let place = shelf.downloads.place(self.reference.domain()).await?;
            for session in self.sessions.iter().filter(|session| session.host.pull) {
                let host = session.host.name();
                match blob_from(shelf, blob, session).await {
                    Ok(finished) => return Ok(finished),
                    // Ours, not the host's: the disk.
                    Err(Failed::Disk(error)) => return Err(error),
                    Err(Failed::Host(outcome)) => {
                        tracing::debug!(blob = %blob.digest, host, ?outcome, "a host did not give a blob");
                        tried.push(Attempt { host, outcome });
                    }
                }
            }
            drop(place);
            let what = || format!("{}@{}", self.reference.name(), blob.digest);
            let pause = rounds.pause(&tried).ok_or_else(|| Error::Registry { what: what(), tried })?;
            tokio::time::sleep(pause).await;
        }
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
        && let Some(chunk) = response.chunk().await.map_err(broken)?
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

async fn get_document(session: &Session, digest: &Digest) -> Result<Resolved, Outcome> {
    let (what, accept) = (format!("manifests/{digest}"), accept_documents());
    let response = session.ask(Ask { method: &Method::GET, what: &what, accept: &accept }).await?;
    if response.status() != StatusCode::OK {
        return Err(session.refusal(response).await);
    }
    let media_type = media_type(&response);
    let bytes = body(response, LARGEST_DOCUMENT as usize, session.patience).await?;
    let found = digest_of(&bytes);
    if found != *digest {
        return Err(Outcome::Spoiled { why: format!("it sent a document with digest {found} for {digest}") });
    }
    Ok(Resolved { digest: found, media_type, bytes: Some(bytes) })
}

/// The documents that we can read, for the header `Accept`.
fn accept_documents() -> String {
    [DOCKER_MANIFEST, DOCKER_INDEX, OCI_MANIFEST, OCI_INDEX, "*/*"].join(", ")
}

fn told_digest(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

fn media_type(response: &Response) -> Option<String> {
    let value = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(|value| value.trim().to_owned())
}
