//! What the store holds, in memory: images by id and name, and who needs which layer and blob. Pure: no I/O.
//!
//! A layer or blob is needed by the images whose record names it, and by claims: work under way that has found or made
//! it and has no image yet. What nobody needs any more is handed back as [`Garbage`] and forgotten in the same step.

mod holdings;

use std::{collections::HashMap, sync::Arc, time::Instant};

use model::{Digest, ImageRef};

use crate::{
    Error, Image, Result,
    left_over::LeftOver,
    record::{ImageRecord, LayerRecord, LayerSize},
};

pub use holdings::{Held, Holdings, ImageHeld};

/// The fewest hex digits of an id that are taken for one. Fewer are nearly always a mistake.
const SHORTEST_ID: usize = 4;
/// A file takes whole blocks of this many bytes, on every file system that matters here.
const BLOCK: u64 = 4096;

/// Something on disk that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Garbage {
    /// The layer of this chain id.
    Layer(Digest),
    /// The blob of this digest.
    Blob(Digest),
}

/// How long a blob stays that no image comes to need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    /// As what a pull has left.
    ForTheNextAttempt,
    /// No longer than its claims, unless it was here before.
    WhileClaimed,
}

/// The whole of it.
#[derive(Debug, Default)]
pub(crate) struct Index {
    images: HashMap<Digest, Shelved>,
    /// Tags and digest references of listed images.
    names: HashMap<String, Digest>,
    /// From what a registry gave for a reference to the id it leads to on this machine.
    roots: HashMap<Digest, Digest>,
    layers: HashMap<Digest, Needed<LayerSize>>,
    blobs: HashMap<Digest, Needed<Blob>>,
    bytes: u64,
    inodes: u64,
}

#[derive(Debug)]
struct Shelved {
    image: Arc<Image>,
    leases: usize,
}

#[derive(Debug)]
struct Needed<T> {
    images: usize,
    claims: usize,
    /// Writes were lost since it was made, perhaps its own: nobody else builds on it.
    doubtful: bool,
    what: T,
}

#[derive(Debug)]
struct Blob {
    bytes: u64,
    /// Its digest was verified since the file was last known to be on the medium.
    verified: bool,
    /// An image that named it was removed: it goes with its last claim. Other blobs without an image are left by a pull
    /// that was cut short, and are kept for the next attempt.
    doomed: bool,
    /// When the last claim ended, or it was found: since then, if no image needs it, it is left over.
    idle_since: Instant,
}

impl Index {
    /// Takes an image in, or takes its new record instead of the old one. Its layers must be in the index or they are
    /// taken in with the sizes that the record has; blobs that are not in the index are not on disk and stay out.
    pub(crate) fn put_image(&mut self, image: Arc<Image>) -> Vec<Garbage> {
        let id = image.id.clone();
        for layer in &image.record.layers {
            self.add_layer(&layer.chain_id, layer.size).images += 1;
        }
        for (digest, _) in image.record.blobs() {
            if let Some(blob) = self.blobs.get_mut(digest) {
                blob.images += 1;
                // What a record names was synced before the record was written.
                blob.what.verified = true;
                blob.what.doomed = false;
            }
        }
        let (leases, garbage) = match self.images.remove(&id) {
            Some(old) => (old.leases, self.release(&old.image)),
            None => (0, Vec::new()),
        };
        if !image.record.removed {
            for name in image.tags.iter().chain(&image.digests) {
                self.names.insert(name.clone(), id.clone());
            }
        }
        for root in &image.record.roots {
            self.roots.insert(root.clone(), id.clone());
        }
        self.images.insert(id, Shelved { image, leases });
        garbage
    }

    /// Forgets an image.
    pub(crate) fn drop_image(&mut self, id: &Digest) -> Vec<Garbage> {
        match self.images.remove(id) {
            Some(held) => self.release(&held.image),
            None => Vec::new(),
        }
    }

    /// The listed images, in the order of their ids.
    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        let mut images: Vec<_> =
            self.images.values().filter(|held| !held.image.record.removed).map(|held| held.image.clone()).collect();
        images.sort_by(|a, b| a.id.cmp(&b.id));
        images
    }

    /// The listed image of this id.
    pub(crate) fn by_id(&self, id: &Digest) -> Option<Arc<Image>> {
        self.with_removed(id).filter(|image| !image.record.removed)
    }

    /// The image of this id, even one that was removed while containers used it.
    pub(crate) fn with_removed(&self, id: &Digest) -> Option<Arc<Image>> {
        self.images.get(id).map(|held| held.image.clone())
    }

    /// The listed image that this manifest or index leads to.
    pub(crate) fn by_root(&self, root: &Digest) -> Option<Arc<Image>> {
        self.roots.get(root).and_then(|id| self.by_id(id))
    }

    /// The listed image of this whole name.
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Image>> {
        self.names.get(name).and_then(|id| self.by_id(id))
    }

    /// The listed image that a person or a kubelet means: id, name or the beginning of an id, in this order.
    pub(crate) fn find(&self, what: &str) -> Result<Option<Arc<Image>>> {
        let bare = what.strip_prefix(Digest::PREFIX).unwrap_or(what);
        let is_hex = !bare.is_empty() && bare.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex && let Ok(id) = format!("{}{bare}", Digest::PREFIX).parse() {
            return Ok(self.by_id(&id));
        }
        if let Ok(reference) = what.parse::<ImageRef>()
            && let Some(image) = self.by_name(&reference.to_string())
        {
            return Ok(Some(image));
        }
        if !is_hex || bare.len() < SHORTEST_ID {
            return Ok(None);
        }
        let mut found =
            self.images.values().filter(|held| !held.image.record.removed && held.image.id.hex().starts_with(bare));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(Error::Ambiguous { what: what.to_owned() }),
            (found, _) => Ok(found.map(|held| held.image.clone())),
        }
    }

    /// Counts one user more.
    pub(crate) fn lease(&mut self, id: &Digest) {
        if let Some(held) = self.images.get_mut(id) {
            held.leases += 1;
        }
    }

    /// Counts one user less; whether this was the last of an image that was removed meanwhile.
    pub(crate) fn end_lease(&mut self, id: &Digest) -> bool {
        let Some(held) = self.images.get_mut(id) else { return false };
        held.leases = held.leases.saturating_sub(1);
        held.leases == 0 && held.image.record.removed
    }

    /// Whether anybody uses the image.
    pub(crate) fn is_leased(&self, id: &Digest) -> bool {
        self.images.get(id).is_some_and(|held| held.leases > 0)
    }

    /// Ids of removed images that nobody uses.
    pub(crate) fn left_over(&self) -> Vec<Digest> {
        let idle = |held: &&Shelved| held.image.record.removed && held.leases == 0;
        self.images.values().filter(idle).map(|held| held.image.id.clone()).collect()
    }

    /// Claims a layer, if it is there.
    pub(crate) fn claim_layer(&mut self, chain_id: &Digest) -> Option<LayerSize> {
        self.layers.get_mut(chain_id).filter(|layer| !layer.doubtful).map(|layer| {
            layer.claims += 1;
            layer.what
        })
    }

    /// Takes in a layer that was just made, claimed by its maker. One that was made before has the same size: the same
    /// content was unpacked the same way.
    pub(crate) fn made_layer(&mut self, chain_id: &Digest, size: LayerSize) {
        let layer = self.add_layer(chain_id, size);
        layer.claims += 1;
        layer.doubtful = false;
    }

    /// Claims a blob, if it is there; says whether its content is known to be right.
    pub(crate) fn claim_blob(&mut self, digest: &Digest) -> Option<bool> {
        self.blobs.get_mut(digest).filter(|blob| !blob.doubtful).map(|blob| {
            blob.claims += 1;
            blob.what.verified
        })
    }

    /// Whether a blob is there whose content is known to be right.
    pub(crate) fn is_verified(&self, digest: &Digest) -> bool {
        self.blobs.get(digest).is_some_and(|blob| blob.what.verified)
    }

    /// Takes in a blob that was just made and verified, claimed by its maker.
    pub(crate) fn made_blob(&mut self, digest: &Digest, bytes: u64, stay: Stay) {
        let is_new = !self.blobs.contains_key(digest);
        let blob = self.add_blob(digest, bytes, Instant::now());
        blob.claims += 1;
        blob.doubtful = false;
        blob.what.verified = true;
        blob.what.doomed = match stay {
            Stay::ForTheNextAttempt => false,
            Stay::WhileClaimed => blob.what.doomed || is_new,
        };
    }

    /// Writes were lost, and nobody knows whose: what no image's record vouches for is made anew by whoever wants it,
    /// and goes when those who have claimed it let it go.
    pub(crate) fn doubt(&mut self) -> Vec<Garbage> {
        for layer in self.layers.values_mut().filter(|layer| layer.images == 0) {
            layer.doubtful = true;
        }
        for blob in self.blobs.values_mut().filter(|blob| blob.images == 0) {
            blob.doubtful = true;
            blob.what.verified = false;
            blob.what.doomed = true;
        }
        let layers: Vec<Digest> = self.layers.keys().cloned().collect();
        let blobs: Vec<Digest> = self.blobs.keys().cloned().collect();
        self.sweep(layers.iter(), blobs.iter())
    }

    /// Takes in a blob that was found on disk. Nothing is known of its content.
    pub(crate) fn found_blob(&mut self, digest: &Digest, bytes: u64, idle_since: Instant) {
        self.add_blob(digest, bytes, idle_since);
    }

    /// Blobs here that unpack to what this layer does, with their bytes: its own first, then those that other images
    /// have it in, perhaps compressed otherwise.
    pub(crate) fn blobs_of_layer(&self, layer: &LayerRecord) -> Vec<(Digest, u64)> {
        let same = |other: &&LayerRecord| other.diff_id == layer.diff_id;
        let others = self.images.values().flat_map(|held| held.image.record.layers.iter().filter(same));
        let candidates = std::iter::once(layer).chain(others).map(|layer| &layer.blob);
        let mut found: Vec<(Digest, u64)> = Vec::new();
        for digest in candidates {
            if let Some(blob) = self.blobs.get(digest)
                && found.iter().all(|(known, _)| known != digest)
            {
                found.push((digest.clone(), blob.what.bytes));
            }
        }
        found
    }

    /// The claimed blob has been verified.
    pub(crate) fn verified_blob(&mut self, digest: &Digest) {
        if let Some(blob) = self.blobs.get_mut(digest) {
            blob.what.verified = true;
        }
    }

    /// The claimed blob is not what its name says: it goes with its last claim.
    pub(crate) fn doom_blob(&mut self, digest: &Digest) {
        if let Some(blob) = self.blobs.get_mut(digest) {
            blob.what.doomed = true;
        }
    }

    /// Ends claims.
    pub(crate) fn unclaim(&mut self, layers: &[Digest], blobs: &[Digest], now: Instant) -> Vec<Garbage> {
        for layer in layers {
            if let Some(layer) = self.layers.get_mut(layer) {
                layer.claims = layer.claims.saturating_sub(1);
            }
        }
        for blob in blobs {
            if let Some(blob) = self.blobs.get_mut(blob) {
                blob.claims = blob.claims.saturating_sub(1);
                blob.what.idle_since = now;
            }
        }
        self.sweep(layers.iter(), blobs.iter())
    }

    /// Chain ids of every layer.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Digest> {
        self.layers.keys()
    }

    /// Blobs that nothing needs: what pulls that were cut short or refused have left.
    pub(crate) fn left_over_blobs(&self, now: Instant) -> Vec<LeftOver> {
        let idle = self.blobs.iter().filter(|(_, blob)| blob.images == 0 && blob.claims == 0);
        idle.map(|(digest, blob)| LeftOver {
            digest: digest.clone(),
            bytes: blob.what.bytes.next_multiple_of(BLOCK),
            age: now.saturating_duration_since(blob.what.idle_since),
        })
        .collect()
    }

    /// Forgets a blob that nothing needs.
    pub(crate) fn drop_blob(&mut self, digest: &Digest) -> Vec<Garbage> {
        self.doom_blob(digest);
        self.sweep([].iter(), [digest].into_iter())
    }

    /// Bytes and inodes of everything here.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.bytes, self.inodes)
    }

    fn add_layer(&mut self, chain_id: &Digest, size: LayerSize) -> &mut Needed<LayerSize> {
        self.layers.entry(chain_id.clone()).or_insert_with(|| {
            self.bytes += size.bytes;
            self.inodes += size.inodes;
            Needed { images: 0, claims: 0, doubtful: false, what: size }
        })
    }

    fn add_blob(&mut self, digest: &Digest, bytes: u64, idle_since: Instant) -> &mut Needed<Blob> {
        self.blobs.entry(digest.clone()).or_insert_with(|| {
            self.bytes += bytes.next_multiple_of(BLOCK);
            self.inodes += 1;
            // It may be one that images here have done without so far.
            let blobs = self.images.values().flat_map(|held| held.image.record.blobs());
            let images = blobs.filter(|(needed, _)| *needed == digest).count();
            let what = Blob { bytes, verified: false, doomed: false, idle_since };
            Needed { images, claims: 0, doubtful: false, what }
        })
    }

    /// Takes back what an image's record held.
    fn release(&mut self, image: &Image) -> Vec<Garbage> {
        let record: &ImageRecord = &image.record;
        for name in image.tags.iter().chain(&image.digests) {
            if self.names.get(name) == Some(&record.id) {
                self.names.remove(name);
            }
        }
        for root in &record.roots {
            if self.roots.get(root) == Some(&record.id) {
                self.roots.remove(root);
            }
        }
        for layer in &record.layers {
            if let Some(layer) = self.layers.get_mut(&layer.chain_id) {
                layer.images = layer.images.saturating_sub(1);
            }
        }
        for (digest, _) in record.blobs() {
            if let Some(blob) = self.blobs.get_mut(digest) {
                blob.images = blob.images.saturating_sub(1);
                blob.what.doomed |= blob.images == 0;
            }
        }
        self.sweep(record.layers.iter().map(|layer| &layer.chain_id), record.blobs().map(|(digest, _)| digest))
    }

    fn sweep<'a>(
        &mut self,
        layers: impl Iterator<Item = &'a Digest>,
        blobs: impl Iterator<Item = &'a Digest>,
    ) -> Vec<Garbage> {
        let mut garbage = Vec::new();
        for chain_id in layers {
            if let Some(layer) = self.layers.get(chain_id)
                && layer.images + layer.claims == 0
            {
                self.bytes -= layer.what.bytes;
                self.inodes -= layer.what.inodes;
                self.layers.remove(chain_id);
                garbage.push(Garbage::Layer(chain_id.clone()));
            }
        }
        for digest in blobs {
            if let Some(blob) = self.blobs.get(digest)
                && blob.images + blob.claims == 0
                && blob.what.doomed
            {
                self.bytes -= blob.what.bytes.next_multiple_of(BLOCK);
                self.inodes -= 1;
                self.blobs.remove(digest);
                garbage.push(Garbage::Blob(digest.clone()));
            }
        }
        garbage
    }
}

#[cfg(test)]
mod tests;
