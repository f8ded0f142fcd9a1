//! What the store holds at one moment, and for whom. From the account alone: nothing is walked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use model::Digest;

use super::{BLOCK, Blob, Index, Needed, Shelved};
use crate::{Image, check::LayerPlace, record::LayerSize};

/// Everything in the store.
#[derive(Debug, Clone, Default)]
pub struct Holdings {
    /// Images, in the order of their ids; also those that are removed and still in use.
    pub images: Vec<ImageHeld>,
    /// Unpacked layers, in the order of their chain ids.
    pub layers: Vec<Held>,
    /// Blobs, in the order of their digests.
    pub blobs: Vec<Held>,
}

/// One image.
#[derive(Debug, Clone)]
pub struct ImageHeld {
    /// The image.
    pub image: Arc<Image>,
    /// Containers that use it.
    pub containers: usize,
    /// It was removed, and goes with the last container that uses it.
    pub removed: bool,
    /// Bytes on disk of its layers and blobs.
    pub bytes: u64,
    /// Those of them that no other image needs.
    pub own_bytes: u64,
}

/// A layer or a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Chain id of the layer, digest of the blob.
    pub digest: Digest,
    /// Bytes on disk.
    pub bytes: u64,
    /// Inodes on disk.
    pub inodes: u64,
    /// Ids of the images that need it. Nobody's are blobs that a pull which was cut short has left for the next one,
    /// and whatever is being made.
    pub owners: Vec<Digest>,
    /// A container uses it, or work that is under way.
    pub in_use: bool,
}

impl Index {
    /// Everything here.
    pub(crate) fn holdings(&self) -> Holdings {
        let used: HashSet<&Digest> = self.images.iter().filter(|(_, held)| held.leases > 0).map(|(id, _)| id).collect();
        let (mut of_layer, mut of_blob) = (HashMap::new(), HashMap::new());
        for (id, held) in &self.images {
            for layer in &held.image.record.layers {
                own(&mut of_layer, &layer.chain_id, id);
            }
            for (digest, _) in held.image.record.blobs() {
                own(&mut of_blob, digest, id);
            }
        }
        let held = |digest: &Digest, owners: &HashMap<&Digest, Vec<&Digest>>, claims, bytes, inodes| {
            let mut owners: Vec<Digest> = owners.get(digest).into_iter().flatten().copied().cloned().collect();
            owners.sort_unstable();
            let in_use = claims > 0 || owners.iter().any(|owner| used.contains(owner));
            Held { digest: digest.clone(), bytes, inodes, owners, in_use }
        };
        let layer = |(digest, Needed { claims, what, .. }): (_, &Needed<LayerSize>)| {
            held(digest, &of_layer, *claims, what.bytes, what.inodes)
        };
        let blob = |(digest, Needed { claims, what, .. }): (_, &Needed<Blob>)| {
            held(digest, &of_blob, *claims, what.bytes.next_multiple_of(BLOCK), 1)
        };
        let mut layers: Vec<Held> = self.layers.iter().map(layer).collect();
        let mut blobs: Vec<Held> = self.blobs.iter().map(blob).collect();
        layers.sort_by(|a, b| a.digest.cmp(&b.digest));
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        let mut bytes: HashMap<&Digest, (u64, u64)> = HashMap::new();
        for held in layers.iter().chain(&blobs) {
            for owner in &held.owners {
                let (all, own) = bytes.entry(owner).or_default();
                *all += held.bytes;
                *own += if held.owners.len() == 1 { held.bytes } else { 0 };
            }
        }
        let image = |(id, held): (&Digest, &Shelved)| {
            let (bytes, own_bytes) = bytes.get(id).copied().unwrap_or_default();
            let (image, removed) = (held.image.clone(), held.image.record.removed);
            ImageHeld { image, containers: held.leases, removed, bytes, own_bytes }
        };
        let mut images: Vec<ImageHeld> = self.images.iter().map(image).collect();
        images.sort_by(|a, b| a.image.id.cmp(&b.image.id));
        Holdings { images, layers, blobs }
    }

    /// Every image, in the order of their ids; also those that are removed and still in use.
    pub(crate) fn all(&self) -> Vec<Arc<Image>> {
        self.those(|_| true)
    }

    /// The images that a layer belongs to.
    pub(crate) fn owners_of_layer(&self, chain_id: &Digest) -> Vec<Arc<Image>> {
        self.those(|image| image.record.layers.iter().any(|layer| layer.chain_id == *chain_id))
    }

    /// The images that need a blob.
    pub(crate) fn owners_of_blob(&self, digest: &Digest) -> Vec<Arc<Image>> {
        self.those(|image| image.record.blobs().any(|(own, _)| own == digest))
    }

    /// Digests of every blob, in their order.
    pub(crate) fn blobs(&self) -> Vec<Digest> {
        let mut blobs: Vec<Digest> = self.blobs.keys().cloned().collect();
        blobs.sort();
        blobs
    }

    /// Whether a blob is here.
    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(digest)
    }

    /// Blobs of layers that were here when their images were listed, and are not now.
    pub(crate) fn lost_blobs(&self) -> Vec<Digest> {
        let layers = self.images.values().flat_map(|held| &held.image.record.layers);
        let lost = layers.filter(|layer| layer.has_blob && !self.has_blob(&layer.blob));
        lost.map(|layer| layer.blob.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// A blob is not on disk any more.
    pub(crate) fn forget_blob(&mut self, digest: &Digest) {
        if let Some(blob) = self.blobs.remove(digest) {
            self.bytes -= blob.what.bytes.next_multiple_of(BLOCK);
            self.inodes -= 1;
        }
    }

    /// Every layer of an image with what it lies on, those below before those on top of them.
    pub(crate) fn layer_places(&self) -> Vec<LayerPlace> {
        let mut places = BTreeMap::new();
        for held in self.images.values() {
            let layers = &held.image.record.layers;
            for (at, layer) in layers.iter().enumerate() {
                let place = || LayerPlace {
                    record: layer.clone(),
                    below: layers[..at].iter().rev().map(|layer| layer.chain_id.clone()).collect(),
                };
                places.entry((at, layer.chain_id.clone())).or_insert_with(place);
            }
        }
        places.into_values().collect()
    }

    fn those(&self, wanted: impl Fn(&Image) -> bool) -> Vec<Arc<Image>> {
        let mut images: Vec<_> = self.images.values().map(|held| held.image.clone()).filter(|i| wanted(i)).collect();
        images.sort_by(|a, b| a.id.cmp(&b.id));
        images
    }
}

/// Adds an owner, once: one image may have the same layer several times. It is added to all that it has before the next
/// one is, so looking at the last one is enough, however many share a layer.
fn own<'a>(owners: &mut HashMap<&'a Digest, Vec<&'a Digest>>, what: &'a Digest, owner: &'a Digest) {
    let owners = owners.entry(what).or_default();
    if owners.last() != Some(&owner) {
        owners.push(owner);
    }
}
