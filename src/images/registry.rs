//! Asking registries: which host, with what proof, for a manifest or a blob (the OCI distribution specification).
//!
//! Hosts are tried in the order of the configuration; the error of a failed pull lists each with its answer. What comes
//! is verified against what was asked for, so a host can fail us but not deceive us.
//! Seams: the finer rules of mirrors belong in `hosts`, how often who is asked in `rounds`, going on with half a blob
//! in `download`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use link::Programs;
use model::{Digest, ImageRef};
use reqwest::{Method, Response, StatusCode, header::CONTENT_TYPE};

use crate::{
    Attempt, Config, Credentials, Error, Outcome, Result,
    blob::Finished,
    docker_config::DockerConfig,
    fetch::Wanted,
    hash::digest_of,
    manifest::{DOCKER_INDEX, DOCKER_MANIFEST, LARGEST_DOCUMENT, OCI_INDEX, OCI_MANIFEST},
    registry::{
        answer::body,
        download::{Download, Failed},
        prover::Prover,
        rounds::{Rounds, Thing},
        session::{Ask, Name, Session},
        tls::Clients,
        tokens::Tokens,
    },
    shelf::Shelf,
};

mod answer;
pub(crate) mod challenge;
mod date;
mod download;
mod explain;
mod hosts;
mod pace;
mod prover;
mod proxy;
mod rounds;
mod session;
mod tls;
mod token;
pub(crate) mod tokens;

/// How long a manifest, an index or a token may take from first byte to last, and over how long the pace of a blob is
/// looked at, in units of the time that a connection may stand idle.
const DOCUMENT_PATIENCE: u32 = 5;
/// Bytes of a blob that have to come in a round for it not to count as one that has failed.
const PROGRESS: u64 = 1 << 20;

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
    /// Reads the configuration of the hosts and makes ready to ask them, with the tokens that are left of earlier
    /// pulls. Blocks for the files.
    pub(crate) fn open(config: &Config, caller: &Caller, tokens: &Arc<Tokens>) -> Result<Self> {
        let Caller { reference, credentials, programs } = caller;
        let name = Name { domain: reference.domain(), repository: reference.path() };
        let patience = Duration::from_secs(config.idle_timeout_s) * DOCUMENT_PATIENCE;
        let hosts::Hosts { from, hosts } = hosts::hosts(&config.config_path, name.domain)?;
        let node = DockerConfig::read(&config.docker_config)?;
        let clients = Clients::new(config);
        let mut sessions = Vec::new();
        for host in hosts {
            let own = clients.of(&host)?;
            let prover = Prover::new(&host, name, credentials.as_ref(), node.as_ref(), programs)?;
            let proxy = clients.proxies().before(&host.base);
            sessions.push(Session::new(host, own, name, prover, patience).with(tokens).behind(proxy.as_ref()));
        }
        Ok(Self { reference: reference.clone(), from, sessions })
    }

    /// The registry, as references name it.
    pub(crate) fn domain(&self) -> &str {
        self.reference.domain()
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
        let response = session.ask(Ask { method: &Method::HEAD, what, accept: &accept, from: 0 }).await?;
        if response.status() == StatusCode::OK
            && let Some(digest) = self.reference.digest().cloned().or_else(|| told_digest(&response))
        {
            return Ok(Resolved { digest, media_type: media_type(&response), bytes: None });
        }
        if response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS {
            return Err(session.refusal(response).await);
        }
        // Some servers know no HEAD, some tell no digest, and a refusal has its reasons in the body only.
        let response = session.ask(Ask { method: &Method::GET, what, accept: &accept, from: 0 }).await?;
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

    /// Fetches a blob into the store's workplace, verified.
    pub(crate) async fn blob(&self, shelf: &Arc<Shelf>, blob: &Wanted<'_>) -> Result<Finished> {
        let mut rounds = Rounds::of(Thing::Blob);
        let mut download = Download::new(shelf, blob);
        loop {
            let mut tried = Vec::new();
            let before = download.bytes();
            // Held for a round only: who waits out a pause keeps no place from others.
            let place = shelf.downloads.place(self.reference.domain(), blob.bytes).await?;
            for session in self.sessions.iter().filter(|session| session.host.pull) {
                let host = session.host.name();
                match download.go_on(session).await {
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
            // As often as one likes, as long as it comes nearer to its end.
            if download.bytes() >= before + PROGRESS {
                rounds = Rounds::of(Thing::Blob);
            }
            let what = || format!("{}@{}", self.reference.name(), blob.digest);
            let pause = rounds.pause(&tried).ok_or_else(|| Error::Registry { what: what(), tried })?;
            tokio::time::sleep(pause).await;
        }
    }
}

async fn get_document(session: &Session, digest: &Digest) -> Result<Resolved, Outcome> {
    let (what, accept) = (format!("manifests/{digest}"), accept_documents());
    let response = session.ask(Ask { method: &Method::GET, what: &what, accept: &accept, from: 0 }).await?;
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
