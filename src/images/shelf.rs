//! The store itself: the index and the disk, kept in step.
//!
//! Two locks. `writer` is held while an image's record changes, across the disk's own time. `index` is held for moments
//! only, so that listing never waits for a disk; what becomes unneeded is renamed away under it, so that nobody can
//! find or make the same thing in between.

mod check;
mod content;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use disk::Store;
use fault::Steps;
use model::{Class, Digest, ImageRef};
use oci_spec::image::ImageConfiguration;
use tokio::sync::Semaphore;

use crate::{
    Config, Error, Image, ImageUser, Leased, Result,
    blob::Blobs,
    claim::{Claim, Lease},
    downloads::Downloads,
    facts::facts,
    index::Index,
    pinned::Pins,
    place::Places,
    record::ImageRecord,
    registry::tokens::Tokens,
    removal::{self, Force, Removal, Removed},
    step::Step,
    threads::{THREADS, Workers},
    trash::Trash,
    turns::{Coming, Making, Turns},
};

/// Everything below the root.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) config: Config,
    pub(crate) blobs: Blobs,
    /// Who fetches a blob.
    pub(crate) fetching: Turns<Coming>,
    /// Who unpacks a layer.
    pub(crate) unpacking: Turns<Making>,
    /// Who downloads blobs.
    pub(crate) downloads: Downloads,
    /// Who unpacks layers.
    pub(crate) places: Places,
    /// Threads that may wait for the disk.
    pub(crate) threads: Arc<Semaphore>,
    /// What registries have let us in with.
    pub(crate) tokens: Arc<Tokens>,
    /// Whoever checks the store.
    pub(crate) checking: Arc<Semaphore>,
    /// Those of bulk work.
    pub(crate) workers: Workers,
    layers: PathBuf,
    ingest: PathBuf,
    empty: PathBuf,
    records: Store<ImageRecord>,
    trash: Trash,
    steps: Steps,
    pinned: Pins,
    index: Mutex<Index>,
    writer: Mutex<()>,
    next: AtomicU64,
    /// How often a sync has failed.
    losses: AtomicU64,
    /// There are, or may be, images that containers use and we know nothing of: no layer is thrown away because no
    /// record names it.
    pub(crate) unread: AtomicBool,
}

/// The parts that `open` made.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) blobs: Blobs,
    pub(crate) layers: PathBuf,
    pub(crate) ingest: PathBuf,
    pub(crate) empty: PathBuf,
    pub(crate) records: Store<ImageRecord>,
    pub(crate) trash: Trash,
    pub(crate) steps: Steps,
    pub(crate) index: Index,
    pub(crate) pinned: Pins,
    /// A record cannot be read.
    pub(crate) unread: bool,
}

/// An image whose content is all in the store and synced, without names yet.
#[derive(Debug)]
pub(crate) struct Made {
    /// Without tags and digests.
    pub(crate) record: ImageRecord,
    pub(crate) config: ImageConfiguration,
    /// How often writes had been lost before the first of it was written.
    pub(crate) losses: u64,
    /// Keep all of it until a record does.
    pub(crate) _claims: Vec<Arc<Claim>>,
}

/// The names that a made image gets.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) tags: Vec<ImageRef>,
    pub(crate) digests: Vec<ImageRef>,
    /// What the registry or archive gave for them.
    pub(crate) root: Option<Digest>,
}

impl Shelf {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, blobs, layers, ingest, empty, records, trash, steps, index, pinned, unread } = parts;
        Self {
            config,
            blobs,
            fetching: Turns::default(),
            unpacking: Turns::default(),
            downloads: Downloads::default(),
            places: Places::default(),
            threads: Arc::new(Semaphore::new(THREADS)),
            tokens: Arc::default(),
            checking: Arc::new(Semaphore::new(1)),
            workers: Workers::new(),
            layers,
            ingest,
            empty,
            records,
            trash,
            steps,
            pinned,
            index: Mutex::new(index),
            writer: Mutex::new(()),
            next: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            unread: AtomicBool::new(unread),
        }
    }

    /// The index. Held for moments, never across the disk's time nor an await.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` as `step`.
    pub(crate) fn pass<T, E: Into<Error>>(&self, step: Step, work: impl FnOnce() -> Result<T, E>) -> Result<T> {
        self.steps.pass_now(step, || work().map_err(Into::into))
    }

    /// The directory of layers.
    pub(crate) fn layers(&self) -> &Path {
        &self.layers
    }

    /// The directory of one layer.
    pub(crate) fn layer(&self, chain_id: &Digest) -> PathBuf {
        self.layers.join(chain_id.hex())
    }

    /// A new name in `ingest`.
    pub(crate) fn workplace(&self) -> PathBuf {
        self.ingest.join(format!("layer-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// The trash.
    pub(crate) fn trash(&self) -> &Trash {
        &self.trash
    }

    /// Lists a made image under these names, besides those it has. Blocks for the disk.
    pub(crate) fn commit(&self, made: &Made, names: &Names) -> Result<Arc<Image>> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if made.losses != self.losses() {
            let why = io::Error::other("the disk lost writes while the image was made; another attempt makes it anew");
            return Err(Error::disk("sync", &self.layers)(why));
        }
        let old = self.index().with_removed(&made.record.id);
        let record = merged(old.as_deref().map(|image| &image.record), &made.record, names);
        if let Some(old) = old.filter(|old| old.record == record) {
            return Ok(old);
        }
        let image = Arc::new(self.image(record, made.config.clone())?);
        self.write(&image, names)?;
        Ok(image)
    }

    /// Gives more names to a listed image; `None` if it is not listed any more. Blocks for the disk.
    pub(crate) fn rename(&self, id: &Digest, names: &Names) -> Result<Option<Arc<Image>>> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(old) = self.index().by_id(id) else { return Ok(None) };
        let record = merged(Some(&old.record), &old.record, names);
        if record == old.record {
            return Ok(Some(old));
        }
        let image = Arc::new(self.image(record, old.config.clone())?);
        self.write(&image, names)?;
        Ok(Some(image))
    }

    /// Makes an image unlisted, at once and for all names. What no container uses leaves the disk.
    pub(crate) fn remove(&self, what: &str) -> Result<()> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // By itself: the index is not held while the image is unlisted.
        let found = self.index().find(what)?;
        found.map_or(Ok(()), |image| self.unlist(image))
    }

    /// Takes a name from an image, or the image from its list: what a person's removal comes to. Blocks for the disk.
    pub(crate) fn untag(&self, what: &str, force: Force) -> Result<Removed> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (image, leased) = {
            let index = self.index();
            let image = index.find(what)?.ok_or_else(|| Error::NotFound { what: what.to_owned() })?;
            let leased = index.is_leased(&image.id);
            (image, leased)
        };
        match removal::decide(&image, what, leased, force)? {
            Removal::Image => {
                let names = image.tags.iter().chain(&image.digests).cloned().collect();
                let id = image.id.clone();
                self.unlist(image)?;
                Ok(Removed { names, image: Some(id) })
            }
            Removal::Names(names) => {
                let mut record = image.record.clone();
                record.tags.retain(|tag, _| !names.contains(tag));
                record.digests.retain(|digest| !names.contains(digest));
                let fewer = Arc::new(self.image(record, image.config.clone())?);
                self.pass(Step::Untagged, || self.records.put(fewer.id.hex(), &fewer.record))?;
                let mut index = self.index();
                let garbage = index.put_image(fewer);
                self.discard(&index, garbage);
                Ok(Removed { names, image: None })
            }
        }
    }

    /// See [`Shelf::remove`]. Under the writer's lock.
    fn unlist(&self, image: Arc<Image>) -> Result<()> {
        let mut record = image.record.clone();
        record.removed = true;
        record.tags.clear();
        record.digests.clear();
        let removed = Arc::new(self.image(record, image.config.clone())?);
        let leased = {
            // From here on nobody finds it, so nobody can begin to use it.
            let mut index = self.index();
            let garbage = index.put_image(removed.clone());
            self.discard(&index, garbage);
            index.is_leased(&image.id)
        };
        let name = image.id.hex();
        let written = self.pass(Step::Unlisted, || match self.records.put(name, &removed.record) {
            // On a full disk: without a record it is not listed either, and what a container names stays.
            Err(error) if error.class() == Class::Exhausted => self.records.remove(name),
            written => written,
        });
        if let Err(error) = written {
            let mut index = self.index();
            let garbage = index.put_image(image);
            self.discard(&index, garbage);
            return Err(error);
        }
        if !leased {
            self.clear(&image.id);
        }
        Ok(())
    }

    /// Deletes a removed image that nobody uses: its record last, so that after a crash it is known what has to go.
    /// Under the writer's lock.
    fn clear(&self, id: &Digest) {
        let mut index = self.index();
        let garbage = index.drop_image(id);
        self.discard(&index, garbage);
        drop(index);
        if let Err(error) = self.pass(Step::Cleared, || self.records.remove(id.hex())) {
            tracing::warn!(image = %id, %error, "the record of a removed image stays; the next start tries again");
        }
    }

    /// Deletes a removed image that nobody uses any more.
    pub(crate) fn collect(&self, id: &Digest) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = self.index().left_over().contains(id);
        if idle {
            self.clear(id);
        }
    }

    /// Takes an image out for use.
    pub(crate) fn lease(self: &Arc<Self>, image: &Arc<Image>) -> Leased {
        let mut layers: Vec<PathBuf> =
            image.record.layers.iter().rev().map(|layer| self.layer(&layer.chain_id)).collect();
        if layers.is_empty() {
            layers.push(self.empty.clone());
        }
        Leased {
            image: image.clone(),
            facts: image.facts.clone(),
            layers,
            lease: Lease { shelf: self.clone(), id: image.id.clone() },
        }
    }

    /// The image that a record and a configuration make.
    pub(crate) fn image(&self, record: ImageRecord, config: ImageConfiguration) -> Result<Image> {
        image(&self.pinned, record, config)
    }

    fn write(&self, image: &Arc<Image>, names: &Names) -> Result<()> {
        let robbed = self.robbed(&image.id, names)?;
        // The new record first: after a crash in between the later of two owners of a tag is right.
        let recorded = self.pass(Step::Record, || self.records.put_durable(image.id.hex(), &image.record));
        // Whoever is told of an error may be wrong about what came of it: the disk may have the record all the same.
        recorded.inspect_err(|_| self.take_back(&image.id))?;
        for (written, owner) in robbed.iter().enumerate() {
            if let Err(error) = self.pass(Step::Robbed, || self.records.put(owner.id.hex(), &owner.record)) {
                // The new one first: on a full disk its going makes the room that the others need for theirs.
                self.take_back(&image.id);
                robbed[..=written].iter().for_each(|owner| self.take_back(&owner.id));
                return Err(error);
            }
        }
        let mut index = self.index();
        for image in robbed.into_iter().chain([image.clone()]) {
            let garbage = index.put_image(image);
            self.discard(&index, garbage);
        }
        Ok(())
    }

    /// The other images that have some of these tags, each once and without any of them.
    fn robbed(&self, new: &Digest, names: &Names) -> Result<Vec<Arc<Image>>> {
        let mut owners: BTreeMap<Digest, Arc<Image>> = BTreeMap::new();
        {
            let index = self.index();
            let listed = names.tags.iter().filter_map(|tag| index.by_name(&tag.to_string()));
            owners.extend(listed.filter(|owner| owner.id != *new).map(|owner| (owner.id.clone(), owner)));
        }
        let without = |owner: Arc<Image>| {
            let mut record = owner.record.clone();
            record.tags.retain(|known, _| names.tags.iter().all(|tag| tag.to_string() != *known));
            Ok(Arc::new(self.image(record, owner.config.clone())?))
        };
        owners.into_values().map(without).collect()
    }

    /// Has on disk again what the index has of an image. As well as it can: where that fails too, the next start finds
    /// the image whole under its new name, or forgets it.
    fn take_back(&self, id: &Digest) {
        let listed = self.index().with_removed(id);
        let taken = match &listed {
            Some(image) => self.records.put(id.hex(), &image.record),
            None => self.records.remove(id.hex()),
        };
        if let Err(error) = taken {
            tracing::warn!(image = %id, %error, "a name that the image did not get is in its record");
        }
    }
}

/// The image that a record and a configuration make.
pub(crate) fn image(pinned: &Pins, record: ImageRecord, config: ImageConfiguration) -> Result<Image> {
    let facts = facts(&record.id, &config)?;
    let tags: Vec<String> = record.tags.keys().cloned().collect();
    let digests = record.digests.clone();
    Ok(Image {
        id: record.id.clone(),
        pinned: pinned.hold(tags.iter().chain(&digests)),
        tags,
        digests,
        size: record.content_bytes(),
        config,
        user: ImageUser::read(&facts.user),
        chain_id: record.chain_id().clone(),
        facts,
        record,
    })
}

fn merged(old: Option<&ImageRecord>, made: &ImageRecord, names: &Names) -> ImageRecord {
    // A listed image keeps its manifest and layers: by its id they are the same content, perhaps compressed otherwise.
    let mut record = match old {
        Some(old) if !old.removed => old.clone(),
        _ => made.clone(),
    };
    record.removed = false;
    // Of its own blobs one may have come that was not here.
    for (layer, made) in record.layers.iter_mut().zip(&made.layers).filter(|(layer, made)| layer.blob == made.blob) {
        layer.has_blob |= made.has_blob;
    }
    record.documents.extend(made.documents.iter().map(|(digest, bytes)| (digest.clone(), *bytes)));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    for tag in &names.tags {
        record.tags.entry(tag.to_string()).or_insert(now);
    }
    record.digests.extend(names.digests.iter().map(ToString::to_string));
    record.digests.sort();
    record.digests.dedup();
    record.roots.extend(made.roots.iter().chain(&names.root).cloned());
    record.roots.sort();
    record.roots.dedup();
    record
}
