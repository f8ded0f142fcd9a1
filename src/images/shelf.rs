//! The store itself: the index and the disk, kept in step.
//!
//! Two locks. `writer` is held while an image's record changes, across the disk's own time. `index` is held for moments
//! only, so that listing never waits for a disk; what becomes unneeded is renamed away under it, so that nobody can
//! find or make the same thing in between.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use disk::Store;
use model::{Digest, ImageRef};
use oci_spec::image::ImageConfiguration;
use tokio::sync::Semaphore;

use crate::{
    Config, Error, Image, ImageUser, Leased, Result,
    blob::{Blobs, Finished},
    claim::{Claim, Lease},
    downloads::Downloads,
    facts::facts,
    index::{Garbage, Index},
    record::{ImageRecord, LayerSize},
    threads::THREADS,
    trash::Trash,
    turns::Turns,
};

/// Everything below the root.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) config: Config,
    pub(crate) blobs: Blobs,
    /// Who fetches a blob, by its digest.
    pub(crate) fetching: Turns,
    /// Who unpacks a layer, by its chain id.
    pub(crate) unpacking: Turns,
    /// Who downloads blobs.
    pub(crate) downloads: Downloads,
    /// Threads that may wait for the disk.
    pub(crate) threads: Arc<Semaphore>,
    layers: PathBuf,
    ingest: PathBuf,
    empty: PathBuf,
    records: Store<ImageRecord>,
    trash: Trash,
    pinned: Vec<String>,
    index: Mutex<Index>,
    writer: Mutex<()>,
    next: AtomicU64,
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
    pub(crate) index: Index,
    /// A record cannot be read.
    pub(crate) unread: bool,
}

/// An image whose content is all in the store and synced, without names yet.
#[derive(Debug)]
pub(crate) struct Made {
    /// Without tags and digests.
    pub(crate) record: ImageRecord,
    pub(crate) config: ImageConfiguration,
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
        let Parts { config, blobs, layers, ingest, empty, records, trash, index, unread } = parts;
        let pinned = pinned_names(&config);
        Self {
            config,
            blobs,
            fetching: Turns::default(),
            unpacking: Turns::default(),
            downloads: Downloads::default(),
            threads: Arc::new(Semaphore::new(THREADS)),
            layers,
            ingest,
            empty,
            records,
            trash,
            pinned,
            index: Mutex::new(index),
            writer: Mutex::new(()),
            next: AtomicU64::new(0),
            unread: AtomicBool::new(unread),
        }
    }

    /// The index. Held for moments, never across the disk's time nor an await.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Renames away what the index has just forgotten. Takes the index's guard as proof that nobody can be making the
    /// same thing anew.
    pub(crate) fn discard(&self, _index: &MutexGuard<'_, Index>, garbage: Vec<Garbage>) {
        for garbage in garbage {
            let path = match &garbage {
                Garbage::Layer(chain_id) => self.layer(chain_id),
                Garbage::Blob(digest) => self.blobs.path(digest),
            };
            if let Err(error) = self.trash.throw(&path) {
                // Unreferenced, so nothing believes it; the next start sees it and tries again.
                tracing::warn!(path = %path.display(), %error, "unneeded content stays");
            }
        }
    }

    /// Claims a layer, if it is there.
    pub(crate) fn claim_layer(self: &Arc<Self>, chain_id: &Digest) -> Option<(Claim, LayerSize)> {
        let size = self.index().claim_layer(chain_id)?;
        Some((Claim { shelf: self.clone(), what: Garbage::Layer(chain_id.clone()) }, size))
    }

    /// Gives a layer that was made and verified in `workplace` its name.
    pub(crate) fn keep_layer(self: &Arc<Self>, workplace: &Path, chain_id: &Digest, size: LayerSize) -> Result<Claim> {
        let path = self.layer(chain_id);
        let mut index = self.index();
        match fs::rename(workplace, &path) {
            Ok(()) => {}
            // A layer that the index does not know has this name: nobody can vouch for it.
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                self.trash.throw(&path).map_err(Error::disk("move away", &path))?;
                fs::rename(workplace, &path).map_err(Error::disk("rename to", &path))?;
            }
            Err(error) => return Err(Error::disk("rename to", &path)(error)),
        }
        index.made_layer(chain_id, size);
        drop(index);
        Ok(Claim { shelf: self.clone(), what: Garbage::Layer(chain_id.clone()) })
    }

    /// Claims a blob, if it is there and is what its name says. Blocks while a blob of unknown state is read.
    pub(crate) fn claim_blob(self: &Arc<Self>, digest: &Digest) -> Result<Option<Claim>> {
        let Some(verified) = self.index().claim_blob(digest) else { return Ok(None) };
        let claim = Claim { shelf: self.clone(), what: Garbage::Blob(digest.clone()) };
        if verified {
            return Ok(Some(claim));
        }
        if self.blobs.is_whole(digest)? {
            self.index().verified_blob(digest);
            Ok(Some(claim))
        } else {
            tracing::warn!(%digest, "a blob rotted on disk; it is fetched again");
            self.index().doom_blob(digest);
            Ok(None)
        }
    }

    /// Gives a blob that was written and verified its name.
    pub(crate) fn keep_blob(self: &Arc<Self>, finished: Finished) -> Result<Claim> {
        let (digest, bytes) = (finished.digest.clone(), finished.bytes);
        let mut index = self.index();
        self.blobs.keep(finished)?;
        index.made_blob(&digest, bytes);
        drop(index);
        Ok(Claim { shelf: self.clone(), what: Garbage::Blob(digest) })
    }

    /// Keeps bytes at hand as a blob.
    pub(crate) fn keep_bytes(self: &Arc<Self>, bytes: &[u8]) -> Result<Claim> {
        let mut incoming = self.blobs.begin()?;
        incoming.write(bytes)?;
        self.keep_blob(incoming.finish())
    }

    /// Puts everything that was written so far on the medium: once an image, before its record.
    pub(crate) fn sync(&self) -> Result<()> {
        fs::File::open(&self.layers)
            .and_then(|dir| nix::unistd::syncfs(&dir).map_err(Into::into))
            .map_err(Error::disk("sync", &self.layers))
    }

    /// Lists a made image under these names, besides those it has. Blocks for the disk.
    pub(crate) fn commit(&self, made: &Made, names: &Names) -> Result<Arc<Image>> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
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
        let Some(image) = self.index().find(what)? else { return Ok(()) };
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
        let written = if leased { self.records.put(name, &removed.record) } else { self.records.remove(name) };
        let mut index = self.index();
        if let Err(error) = written {
            let garbage = index.put_image(image);
            self.discard(&index, garbage);
            return Err(error.into());
        }
        if !leased {
            let garbage = index.drop_image(&image.id);
            self.discard(&index, garbage);
        }
        Ok(())
    }

    /// Deletes a removed image that nobody uses any more.
    pub(crate) fn collect(&self, id: &Digest) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = self.index().left_over().contains(id);
        if !idle {
            return;
        }
        if let Err(error) = self.records.remove(id.hex()) {
            tracing::warn!(image = %id, %error, "a removed image stays on disk; the next start tries again");
            return;
        }
        let mut index = self.index();
        let garbage = index.drop_image(id);
        self.discard(&index, garbage);
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
        // The new record first: after a crash in between the later of two owners of a tag is right.
        self.records.put_durable(image.id.hex(), &image.record)?;
        let mut robbed = Vec::new();
        for tag in &names.tags {
            let name = tag.to_string();
            let owner = self.index().by_name(&name).filter(|owner| owner.id != image.id);
            if let Some(owner) = owner {
                let mut record = owner.record.clone();
                record.tags.remove(&name);
                self.records.put(owner.id.hex(), &record)?;
                robbed.push(Arc::new(self.image(record, owner.config.clone())?));
            }
        }
        let mut index = self.index();
        for image in robbed.into_iter().chain([image.clone()]) {
            let garbage = index.put_image(image);
            self.discard(&index, garbage);
        }
        Ok(())
    }
}

/// The image that a record and a configuration make.
pub(crate) fn image(pinned: &[String], record: ImageRecord, config: ImageConfiguration) -> Result<Image> {
    let facts = facts(&record.id, &config)?;
    let tags: Vec<String> = record.tags.keys().cloned().collect();
    let digests = record.digests.clone();
    Ok(Image {
        id: record.id.clone(),
        pinned: tags.iter().chain(&digests).any(|name| pinned.contains(name)),
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

/// The whole names of the images that the configuration pins.
pub(crate) fn pinned_names(config: &Config) -> Vec<String> {
    let read = |name: &String| match name.parse::<ImageRef>() {
        Ok(reference) => Some(reference.to_string()),
        Err(error) => {
            tracing::warn!(%error, "images.pinned: ignored");
            None
        }
    };
    config.pinned.iter().filter_map(read).collect()
}

fn merged(old: Option<&ImageRecord>, made: &ImageRecord, names: &Names) -> ImageRecord {
    // A listed image keeps its manifest and layers: by its id they are the same content, perhaps compressed otherwise.
    let mut record = match old {
        Some(old) if !old.removed => old.clone(),
        _ => made.clone(),
    };
    record.removed = false;
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
