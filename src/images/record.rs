//! What is on disk about an image: enough to list it, use it, account for it and delete it without walking anything.

use std::collections::BTreeMap;

use model::Digest;
use serde::{Deserialize, Serialize};

/// Kind of the records in their store.
pub(crate) const KIND: &str = "image";
/// Version that this release writes and the newest it reads.
pub(crate) const VERSION: u32 = 1;

/// One image. Named by the hex of its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Digest of the configuration.
    pub(crate) id: Digest,
    /// Tags, each with the time it came to point here (nanoseconds since 1970). A crash while a tag moves can leave it
    /// in two records: the later one holds.
    pub(crate) tags: BTreeMap<String, u64>,
    /// `host/path@digest` references.
    pub(crate) digests: Vec<String>,
    /// What registries or archives gave for those references: indexes and manifests. Seeing one of them again means
    /// that nothing has to be fetched.
    pub(crate) roots: Vec<Digest>,
    /// Digest of the manifest.
    pub(crate) manifest: Digest,
    /// Blobs other than layers: indexes, manifest, configuration; with their bytes.
    pub(crate) documents: BTreeMap<Digest, u64>,
    /// Layers, lowest first.
    pub(crate) layers: Vec<LayerRecord>,
    /// It was removed while containers used it: not listed, and deleted with the last of them.
    #[serde(default)]
    pub(crate) removed: bool,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Digest of the blob, as the manifest has it.
    pub(crate) blob: Digest,
    /// Bytes of the blob.
    pub(crate) blob_bytes: u64,
    /// Media type, as the manifest has it.
    pub(crate) media_type: String,
    /// Digest of the inflated content.
    pub(crate) diff_id: Digest,
    /// Digest that binds it to the layers below: the name of its directory.
    pub(crate) chain_id: Digest,
    /// What it takes on disk.
    pub(crate) size: LayerSize,
    /// The blob came here with the image, or was here. Otherwise the layer was made of another blob, or nobody has
    /// said: earlier releases did not.
    #[serde(default)]
    pub(crate) has_blob: bool,
}

/// What an unpacked layer takes on disk, as counted while it was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerSize {
    /// Bytes, in whole blocks.
    pub(crate) bytes: u64,
    /// Inodes.
    pub(crate) inodes: u64,
}

impl ImageRecord {
    /// Bytes of everything that the manifest refers to, and of the manifest: what a registry would have sent.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.documents.values().sum::<u64>() + self.layers.iter().map(|layer| layer.blob_bytes).sum::<u64>()
    }

    /// Every blob it refers to, with its size.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (&Digest, u64)> {
        let documents = self.documents.iter().map(|(digest, bytes)| (digest, *bytes));
        documents.chain(self.layers.iter().map(|layer| (&layer.blob, layer.blob_bytes)))
    }

    /// Chain id of the topmost layer; the id when there is none.
    pub(crate) fn chain_id(&self) -> &Digest {
        self.layers.last().map_or(&self.id, |layer| &layer.chain_id)
    }
}
