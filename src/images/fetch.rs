//! Sees to it that a blob is in the store, from wherever the image comes.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use model::Digest;

use crate::{
    Error, Result, arrival::Arrival, claim::Claim, index::Stay, progress::Meter, registry::Registry, shelf::Shelf,
    turns::Coming,
};

/// Where what is missing comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A registry that has let the caller in.
    Registry(Registry),
    /// Nowhere: an archive has brought everything into the store.
    Archive(Checked),
}

/// Blobs of an archive that were found to be of a content, by its digest: its images share them.
#[derive(Debug, Default)]
pub(crate) struct Checked(Mutex<HashSet<(Digest, Digest)>>);

impl Checked {
    /// Whether that was found before.
    pub(crate) fn has(&self, blob: &Digest, content: &Digest) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(blob.clone(), content.clone()))
    }

    /// That was found now.
    pub(crate) fn add(&self, blob: Digest, content: Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((blob, content));
    }
}

impl Source {
    /// A blob that comes from here.
    pub(crate) fn of(&self, blob: &Digest) -> Coming {
        let origin = match self {
            Source::Registry(registry) => registry.domain(),
            Source::Archive(_) => "",
        };
        Coming { origin: origin.to_owned(), blob: blob.clone() }
    }
}

/// A blob to fetch.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) digest: &'a Digest,
    /// Its size, as the manifest has it.
    pub(crate) bytes: u64,
    /// Counts what has come of it.
    pub(crate) meter: &'a Meter,
    /// Told of its coming, for those who read along.
    pub(crate) arrival: &'a Arc<Arrival>,
}

/// Fetches what is not in the store yet. The same blob is fetched once from a registry, however many images want it.
pub(crate) async fn fetch(shelf: &Arc<Shelf>, source: &Source, wanted: &Wanted<'_>) -> Result<Claim> {
    let _turn = shelf.fetching.take(source.of(wanted.digest)).await;
    let digest = wanted.digest.clone();
    if let Some(claim) = shelf.working(move |shelf| shelf.claim_blob(&digest)).await? {
        return Ok(claim);
    }
    match source {
        Source::Registry(registry) => {
            let finished = registry.blob(shelf, wanted).await?;
            shelf.blocking(move |shelf| shelf.keep_blob(finished, Stay::ForTheNextAttempt)).await
        }
        Source::Archive(_) => Err(missing(wanted.digest)),
    }
}

/// An archive does not hold what it speaks of.
pub(crate) fn missing(digest: &Digest) -> Error {
    Error::Archive { why: format!("{digest} is not in it") }
}
