//! The parts of a check that need the store's locks. See [`crate::check`].

use std::{collections::HashSet, fs, path::PathBuf, sync::Arc};

use model::{Digest, with_causes};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tokio_util::sync::CancellationToken;

use super::Shelf;
use crate::{
    Error, Image, Result,
    budget::Budget,
    check::{End, Finding, LayerPlace, Object, Repair, Wrong, difference},
    claim::Claim,
    early::Writing,
    index::{Garbage, Index},
    inflate::Window,
    layer::{self, Job, Unpacked},
    manifest::LayerPlan,
};

/// What is left to do where nothing here can mend it.
const PULL_AGAIN: &str = "remove the image and pull it again";
/// What comes of a layer's blob that is lost: the layer is there, and only to save its image or to make the layer again
/// is the blob needed.
const FORGOTTEN: &str = "forgotten: who needs it fetches it";

impl Shelf {
    /// Every image's record against what the daemon knows of it.
    pub(crate) fn check_records(&self, repair: Repair) -> Result<Vec<Finding>> {
        // Nobody writes one meanwhile.
        let _writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let images = self.index().all();
        let mut findings = Vec::new();
        for image in &images {
            let wrong = match self.records.load(image.id.hex()) {
                Ok(Some(record)) if record == image.record => continue,
                Ok(Some(_)) => Wrong::Damaged { why: "it says something else than the daemon knows".to_owned() },
                Ok(None) => Wrong::Missing,
                Err(error) => Wrong::Damaged { why: with_causes(&error) },
            };
            let write = || Ok(self.records.put_durable(image.id.hex(), &image.record)?);
            let end = repair.mend("written again, as the daemon knows it", write);
            findings.push(Finding { object: Object::Record(image.id.clone()), wrong, owners: vec![name(image)], end });
        }
        for name in self.records.quarantined()? {
            let why = "no layer is thrown away while it is there; take it away when no container needs its image";
            findings.push(Finding {
                object: Object::File(self.records.path("quarantine").join(name)),
                wrong: Wrong::Damaged { why: "an image's record that could not be read".to_owned() },
                owners: Vec::new(),
                end: End::Stays { why: why.to_owned() },
            });
        }
        Ok(findings)
    }

    /// Names on disk that nobody knows, and names that are not there.
    pub(crate) fn check_names(&self, repair: Repair) -> Result<Vec<Finding>> {
        // Listed without the lock, which is not held for as long as a disk takes.
        let (mut there, layers) = (names(self.blobs.dir())?, names(&self.layers)?);
        // Held from here on: no image's record is written by others. What changed since is looked at again.
        let _writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut findings = Vec::new();
        for (digest, owners, is_document) in self.lost_blobs(&there) {
            let end = match is_document {
                true => End::Stays { why: PULL_AGAIN.to_owned() },
                false => {
                    repair.mend(FORGOTTEN, || self.forget_blob(&digest, || Ok(!self.blobs.path(&digest).exists())))
                }
            };
            findings.push(Finding { object: Object::Blob(digest), wrong: Wrong::Missing, owners, end });
        }
        // From here on nothing gets a name, and nothing loses one.
        let index = self.index();
        for digest in index.blobs() {
            there.remove(digest.hex());
        }
        // What an image cannot be without, and is not even known.
        for image in index.all() {
            for digest in image.record.documents.keys().filter(|digest| !index.has_blob(digest)) {
                findings.push(Finding {
                    object: Object::Blob(digest.clone()),
                    wrong: Wrong::Missing,
                    owners: vec![name(&image)],
                    end: End::Stays { why: PULL_AGAIN.to_owned() },
                });
            }
        }
        let known: HashSet<String> = index.layers().map(|chain_id| chain_id.hex().to_owned()).collect();
        let extra_blobs = there.iter().map(|name| self.blobs.dir().join(name));
        let extra_layers = layers.difference(&known).map(|name| self.layers.join(name));
        let unread = self.unread.load(std::sync::atomic::Ordering::Relaxed);
        let mut extra: Vec<(PathBuf, bool)> = extra_blobs.map(|path| (path, false)).collect();
        extra.extend(extra_layers.map(|path| (path, unread)));
        extra.sort();
        for (path, may_be_needed) in extra.into_iter().filter(|(path, _)| path.symlink_metadata().is_ok()) {
            let end = match may_be_needed {
                true => End::Stays { why: "an image whose record cannot be read may need it".to_owned() },
                false => repair.mend("deleted", || self.trash.throw(&path).map_err(Error::disk("move away", &path))),
            };
            findings.push(Finding { object: Object::File(path), wrong: Wrong::Extra, owners: Vec::new(), end });
        }
        Ok(findings)
    }

    /// A blob against its digest.
    pub(crate) fn check_blob(self: &Arc<Self>, digest: &Digest, repair: Repair) -> Result<Vec<Finding>> {
        if self.index().claim_blob(digest).is_none() {
            return Ok(Vec::new());
        }
        let _claim = Claim { shelf: self.clone(), what: Garbage::Blob(digest.clone()) };
        let why = match self.blobs.is_whole(digest) {
            Ok(true) => {
                self.index().verified_blob(digest);
                return Ok(Vec::new());
            }
            Ok(false) => "its content has another digest".to_owned(),
            // Told already, where the names are.
            Err(Error::Disk { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => with_causes(&error),
        };
        let _writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (owners, is_document) = owners_of_blob(&self.index(), digest);
        let end = match is_document {
            true => End::Stays { why: PULL_AGAIN.to_owned() },
            false => repair.mend("deleted: who needs it fetches it", || {
                let path = self.blobs.path(digest);
                let throw = || self.trash.throw(&path).map_err(Error::disk("move away", &path));
                self.forget_blob(digest, || throw().map(|()| true))
            }),
        };
        Ok(vec![Finding { object: Object::Blob(digest.clone()), wrong: Wrong::Damaged { why }, owners, end }])
    }

    /// Blobs that are not there any more, who owns them, and whether they are documents.
    fn lost_blobs(&self, there: &HashSet<String>) -> Vec<(Digest, Vec<String>, bool)> {
        let index = self.index();
        let is_lost = |digest: &Digest| !there.contains(digest.hex()) && !self.blobs.path(digest).exists();
        let lost = index.blobs().into_iter().filter(is_lost).chain(index.lost_blobs());
        lost.map(|digest| {
            let (owners, is_document) = owners_of_blob(&index, &digest);
            (digest, owners, is_document)
        })
        .collect()
    }

    /// Has no image say any more that a layer's blob is here, and forgets it if it `goes`. Under the writer's lock, and
    /// without the index's: records are written.
    fn forget_blob(&self, digest: &Digest, goes: impl FnOnce() -> Result<bool>) -> Result<()> {
        let owners = self.index().owners_of_blob(digest);
        for image in owners {
            let mut record = image.record.clone();
            record.layers.iter_mut().filter(|layer| layer.blob == *digest).for_each(|layer| layer.has_blob = false);
            if record != image.record {
                let without = Arc::new(self.image(record, image.config.clone())?);
                self.records.put(without.id.hex(), &without.record)?;
                let mut index = self.index();
                let garbage = index.put_image(without);
                self.discard(&index, garbage);
            }
        }
        let mut index = self.index();
        // One that was lost may have come again meanwhile.
        if goes()? {
            index.forget_blob(digest);
        }
        Ok(())
    }

    /// A layer against what its blob unpacks to.
    pub(crate) fn check_layer(
        self: &Arc<Self>,
        place: &LayerPlace,
        repair: Repair,
        cancel: &CancellationToken,
    ) -> Result<Vec<Finding>> {
        let chain_id = &place.record.chain_id;
        let Some(_claim) = self.claim_layer(chain_id) else { return Ok(Vec::new()) };
        let path = self.layer(chain_id);
        let is_there = path.is_dir();
        let writing = Writing::begin(self)?;
        let again = self.unpacked_again(place, cancel)?;
        let wrong = match &again {
            _ if !is_there => Wrong::Missing,
            // Without its blob it cannot be told.
            None => return Ok(Vec::new()),
            Some(right) => match difference(&right.path, &path) {
                Ok(None) => return Ok(Vec::new()),
                Ok(Some(why)) => Wrong::Damaged { why },
                Err(error) => Wrong::Damaged { why: error.to_string() },
            },
        };
        // Before the lock: this may take as long as the disk likes.
        let synced = match (&again, repair) {
            (Some(_), Repair::Yes) => self.sync(&writing),
            _ => Ok(()),
        };
        // Held to the end: nobody begins to use what is being replaced.
        let index = self.index();
        let owners = index.owners_of_layer(chain_id);
        let in_use: Vec<String> = owners.iter().filter(|owner| index.is_leased(&owner.id)).map(name).collect();
        let end = match again {
            None => End::Stays { why: format!("its blob is not here: {PULL_AGAIN}") },
            Some(_) if is_there && !in_use.is_empty() => {
                End::Stays { why: format!("containers use {}: stop them and check again", in_use.join(", ")) }
            }
            Some(right) => repair.mend("unpacked again from its blob", || {
                synced?;
                put_in_place(&right, &path, is_there)
            }),
        };
        let owners = names_of(&owners);
        Ok(vec![Finding { object: Object::Layer(chain_id.clone()), wrong, owners, end }])
    }

    /// The layer from a blob that is here; `None` when none is, or none that is right.
    fn unpacked_again(self: &Arc<Self>, place: &LayerPlace, cancel: &CancellationToken) -> Result<Option<Unpacked>> {
        let below: Vec<PathBuf> = place.below.iter().map(|chain_id| self.layer(chain_id)).collect();
        let record = &place.record;
        let candidates = self.index().blobs_of_layer(record);
        for (blob, bytes) in candidates {
            let plan = LayerPlan {
                blob: blob.clone(),
                bytes,
                media_type: record.media_type.clone(),
                diff_id: record.diff_id.clone(),
                chain_id: record.chain_id.clone(),
            };
            let lowers = below.clone();
            let Ok(content) = self.blobs.open(&blob) else { continue };
            // One at a time, and by itself: there is memory for it, and no other layer has a share.
            let share = Budget::of(&self.config.limits).share();
            let job = Job { plan: &plan, share, window: Window::Wide, stop: cancel.child_token() };
            match layer::make(self, job, content, move || Ok(lowers.clone())) {
                Ok(unpacked) => return Ok(Some(unpacked)),
                Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
                Err(error) => {
                    tracing::debug!(%blob, error = with_causes(&error), "a layer cannot be made again from a blob")
                }
            }
        }
        Ok(None)
    }
}

/// Under the index's lock. What was there goes to the trash with `right`, whose place it takes.
fn put_in_place(right: &Unpacked, path: &std::path::Path, is_there: bool) -> Result<()> {
    let flags = if is_there { RenameFlags::RENAME_EXCHANGE } else { RenameFlags::RENAME_NOREPLACE };
    let moved = renameat2(AT_FDCWD, &right.path, AT_FDCWD, path, flags);
    moved.map_err(|errno| Error::disk("put in place", path)(errno.into()))
}

/// How people know an image.
fn name(image: &Arc<Image>) -> String {
    image.tags.first().or(image.digests.first()).cloned().unwrap_or_else(|| image.id.to_string())
}

/// The images that need a blob, and whether one of them cannot be without.
fn owners_of_blob(index: &Index, digest: &Digest) -> (Vec<String>, bool) {
    let images = index.owners_of_blob(digest);
    let is_document = images.iter().any(|image| image.record.documents.contains_key(digest));
    (names_of(&images), is_document)
}

fn names_of(images: &[Arc<Image>]) -> Vec<String> {
    let mut names: Vec<String> = images.iter().map(name).collect();
    names.sort();
    names
}

fn names(directory: &std::path::Path) -> Result<HashSet<String>> {
    let failed = || Error::disk("list", directory);
    let entries = fs::read_dir(directory).map_err(failed())?;
    entries.map(|entry| Ok(entry.map_err(failed())?.file_name().to_string_lossy().into_owned())).collect()
}
