//! Makes an image present: documents, then layers, each only if it is not here already.
//!
//! Blobs are fetched in parallel, a few at a time; layers are unpacked in order, each as soon as its blob is here, so
//! that the network and the disk work at the same time. Claims keep everything until a record does.

use std::{collections::BTreeMap, sync::Arc};

use model::Digest;
use oci_spec::image::{ImageConfiguration, ImageManifest};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    Error, Result,
    claim::Claim,
    facts::facts,
    layer,
    manifest::{
        Document, LARGEST_DOCUMENT, LayerPlan, check_configuration_type, digest_of, plan_layers, read_configuration,
        read_document,
    },
    platform::Platforms,
    record::{ImageRecord, LayerRecord, LayerSize},
    registry::{Registry, Wanted},
    shelf::{Made, Shelf},
};

/// Where what is missing comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A registry that has let the caller in.
    Registry(Registry),
    /// Nowhere: an archive has brought everything into the store.
    Archive,
}

/// What the image is made from: the document that a reference led to.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub(crate) digest: Digest,
    pub(crate) media_type: Option<String>,
    /// Its content, if it is at hand already.
    pub(crate) bytes: Option<Vec<u8>>,
}

/// An image in the making.
struct Assembly {
    shelf: Arc<Shelf>,
    source: Arc<Source>,
    claims: Vec<Arc<Claim>>,
    documents: BTreeMap<Digest, u64>,
}

/// Makes the image of `root` that is for this machine.
pub(crate) async fn assemble(shelf: Arc<Shelf>, source: Arc<Source>, root: Root) -> Result<Made> {
    let mut assembly = Assembly { shelf, source, claims: Vec::new(), documents: BTreeMap::new() };
    let mut roots = vec![root.digest.clone()];
    let (manifest_digest, manifest) = match assembly.document(&root).await? {
        Document::Manifest(manifest) => (root.digest, manifest),
        Document::Index(index) => {
            let platforms = Platforms::of_this_machine();
            let chosen = platforms
                .choose(&index)
                .ok_or_else(|| Error::NoPlatform { digest: root.digest.clone(), wanted: platforms.to_string() })?;
            let digest = digest_of(chosen)?;
            let chosen =
                Root { digest: digest.clone(), media_type: Some(chosen.media_type().to_string()), bytes: None };
            match assembly.document(&chosen).await? {
                Document::Manifest(manifest) => (digest, manifest),
                Document::Index(_) => {
                    let why = "it is an index within an index".to_owned();
                    return Err(Error::Content { what: "manifest", digest, why });
                }
            }
        }
    };
    roots.push(manifest_digest.clone());
    roots.dedup();
    let (id, config) = assembly.configuration(&manifest).await?;
    let plans = plan_layers(&id, &manifest, &config, assembly.shelf.config.limits.layers)?;
    let layers = assembly.layers(plans).await?;
    assembly.shelf.blocking(|shelf| shelf.sync()).await?;
    let record = ImageRecord {
        id,
        tags: BTreeMap::new(),
        digests: Vec::new(),
        roots,
        manifest: manifest_digest,
        documents: assembly.documents,
        layers,
        removed: false,
    };
    Ok(Made { record, config, _claims: assembly.claims })
}

impl Assembly {
    async fn document(&mut self, root: &Root) -> Result<Document> {
        let Root { digest, media_type, bytes } = root.clone();
        let (bytes, told) = match bytes {
            Some(bytes) => (bytes, media_type),
            None => match self.claim(&digest).await? {
                Some(_) => (self.read(&digest).await?, media_type),
                None => match &*self.source {
                    Source::Registry(registry) => {
                        let (bytes, told) = registry.manifest(&digest).await?;
                        (bytes, told.or(media_type))
                    }
                    Source::Archive => return Err(missing(&digest)),
                },
            },
        };
        let document = read_document(&digest, told.as_deref(), &bytes)?;
        self.documents.insert(digest.clone(), bytes.len() as u64);
        if self.claim(&digest).await?.is_none() {
            let claim = self.shelf.blocking(move |shelf| shelf.keep_bytes(&bytes)).await?;
            self.claims.push(Arc::new(claim));
        }
        Ok(document)
    }

    async fn configuration(&mut self, manifest: &ImageManifest) -> Result<(Digest, ImageConfiguration)> {
        check_configuration_type(manifest)?;
        let descriptor = manifest.config();
        let id = digest_of(descriptor)?;
        if descriptor.size() > LARGEST_DOCUMENT {
            let why = format!("it has {} bytes, more than {LARGEST_DOCUMENT}", descriptor.size());
            return Err(Error::Content { what: "configuration", digest: id, why });
        }
        let wanted = LayerPlan {
            blob: id.clone(),
            bytes: descriptor.size(),
            media_type: String::new(),
            diff_id: id.clone(),
            chain_id: id.clone(),
        };
        let claim = fetch(self.shelf.clone(), self.source.clone(), wanted).await?;
        self.claims.push(Arc::new(claim));
        let bytes = self.read(&id).await?;
        self.documents.insert(id.clone(), bytes.len() as u64);
        let config = read_configuration(&id, &bytes)?;
        // Refused here rather than when a container is made of it.
        facts(&id, &config)?;
        Ok((id, config))
    }

    async fn layers(&mut self, plans: Vec<LayerPlan>) -> Result<Vec<LayerRecord>> {
        // Dropped with this future: then threads that unpack for it stop.
        let cancel = CancellationToken::new();
        let _cancel = cancel.clone().drop_guard();
        let lanes = Arc::new(Semaphore::new(self.shelf.config.parallel_fetches.max(1)));
        let mut waiting = Vec::new();
        for plan in plans {
            let present = self.shelf.claim_layer(&plan.chain_id);
            let coming = match present {
                Some((claim, size)) => {
                    self.claims.push(Arc::new(claim));
                    // Kept too, if it is here: who pushes or saves the image needs it.
                    let _ = self.claim(&plan.blob).await?;
                    Coming::Present(size)
                }
                None => Coming::Blob(self.begin_fetch(&lanes, &plan)),
            };
            waiting.push((plan, coming));
        }
        let mut layers: Vec<LayerRecord> = Vec::with_capacity(waiting.len());
        for (plan, coming) in waiting {
            let size = match coming {
                Coming::Present(size) => size,
                Coming::Blob(task) => {
                    let claim = task.await.unwrap_or(Err(Error::Cancelled))?;
                    self.claims.push(Arc::new(claim));
                    let below = layers.iter().map(|layer| layer.chain_id.clone()).collect();
                    self.unpack(&plan, below, &cancel).await?
                }
            };
            layers.push(LayerRecord {
                blob: plan.blob,
                blob_bytes: plan.bytes,
                media_type: plan.media_type,
                diff_id: plan.diff_id,
                chain_id: plan.chain_id,
                size,
            });
        }
        Ok(layers)
    }

    fn begin_fetch(&self, lanes: &Arc<Semaphore>, plan: &LayerPlan) -> AbortOnDropHandle<Result<Claim>> {
        let (shelf, source, plan, lanes) = (self.shelf.clone(), self.source.clone(), plan.clone(), lanes.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            // The semaphore is fair: the lowest layers, which are needed first, come first.
            let _lane = lanes.acquire_owned().await.map_err(|_| Error::Cancelled)?;
            fetch(shelf, source, plan).await
        }))
    }

    async fn unpack(&mut self, plan: &LayerPlan, below: Vec<Digest>, cancel: &CancellationToken) -> Result<LayerSize> {
        let _turn = self.shelf.unpacking.take(&plan.chain_id).await;
        if let Some((claim, size)) = self.shelf.claim_layer(&plan.chain_id) {
            self.claims.push(Arc::new(claim));
            return Ok(size);
        }
        let (plan, cancel) = (plan.clone(), cancel.clone());
        // The thread may outlive this future: what it reads must stay as long as it does.
        let held = self.claims.clone();
        let unpack = move |shelf: &Arc<Shelf>| {
            let unpacked = layer::make(shelf, &plan.blob, &plan.diff_id, &below, &cancel)?;
            let claim = shelf.keep_layer(&unpacked.path, &plan.chain_id, unpacked.size)?;
            drop(held);
            Ok((claim, unpacked.size))
        };
        let (claim, size) = self.shelf.blocking(unpack).await?;
        self.claims.push(Arc::new(claim));
        Ok(size)
    }

    /// Claims a blob for this image, if it is here.
    async fn claim(&mut self, digest: &Digest) -> Result<Option<()>> {
        let digest = digest.clone();
        let claim = self.shelf.blocking(move |shelf| shelf.claim_blob(&digest)).await?;
        Ok(claim.map(|claim| self.claims.push(Arc::new(claim))))
    }

    async fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let digest = digest.clone();
        self.shelf.blocking(move |shelf| shelf.blobs.read(&digest, LARGEST_DOCUMENT)).await
    }
}

/// What a layer waits for.
enum Coming {
    Present(LayerSize),
    Blob(AbortOnDropHandle<Result<Claim>>),
}

/// Sees to it that a blob is in the store. The same blob is fetched once, however many images want it.
async fn fetch(shelf: Arc<Shelf>, source: Arc<Source>, plan: LayerPlan) -> Result<Claim> {
    let _turn = shelf.fetching.take(&plan.blob).await;
    let digest = plan.blob.clone();
    if let Some(claim) = shelf.blocking(move |shelf| shelf.claim_blob(&digest)).await? {
        return Ok(claim);
    }
    match &*source {
        Source::Registry(registry) => {
            let finished = registry.blob(&shelf, &Wanted::from(&plan)).await?;
            shelf.blocking(move |shelf| shelf.keep_blob(finished)).await
        }
        Source::Archive => Err(missing(&plan.blob)),
    }
}

fn missing(digest: &Digest) -> Error {
    Error::Archive { why: format!("{digest} is not in it") }
}
