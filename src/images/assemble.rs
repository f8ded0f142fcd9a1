//! Makes an image present: documents, then layers, each only if it is not here already.
//!
//! Claims keep everything until a record does.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use model::Digest;
use oci_spec::image::{ImageConfiguration, ImageManifest};

use crate::{
    Error, Result,
    arrival::Arrival,
    claim::Claim,
    early::Writing,
    facts::facts,
    fetch::{Source, Wanted, fetch, missing},
    index::{Garbage, Stay},
    manifest::{
        Document, LARGEST_DOCUMENT, LayerPlan, check_configuration_type, digest_of, plan_layers, read_configuration,
        read_document,
    },
    platform::Platforms,
    progress::{Meter, Progress},
    record::{ImageRecord, LayerRecord, LayerSize},
    shelf::{Made, Shelf},
    stack,
};

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
    progress: Arc<Progress>,
    claims: Vec<Arc<Claim>>,
    documents: BTreeMap<Digest, u64>,
}

/// Makes the image of `root` that is for this machine, and says how far it is.
pub(crate) async fn assemble(
    shelf: Arc<Shelf>,
    source: Arc<Source>,
    root: Root,
    progress: Arc<Progress>,
    writing: Arc<Writing>,
) -> Result<Made> {
    let mut assembly = Assembly { shelf, source, progress, claims: Vec::new(), documents: BTreeMap::new() };
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
    let plans = plan_layers(&id, &manifest, &config, &assembly.shelf.config.limits)?;
    let layers = assembly.layers(plans, writing.clone()).await?;
    let losses = writing.losses;
    assembly.shelf.blocking(move |shelf| shelf.sync(&writing)).await?;
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
    Ok(Made { record, config, losses, _claims: assembly.claims })
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
                    Source::Archive(_) => return Err(missing(&digest)),
                },
            },
        };
        let document = read_document(&digest, told.as_deref(), &bytes)?;
        self.documents.insert(digest.clone(), bytes.len() as u64);
        if self.claim(&digest).await?.is_none() {
            let claim = self.shelf.blocking(move |shelf| shelf.keep_bytes(&bytes, Stay::ForTheNextAttempt)).await?;
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
        let (meter, arrival) = (Meter::of(&id, descriptor.size()), Arrival::new());
        let wanted = Wanted { digest: &id, bytes: descriptor.size(), meter: &meter, arrival: &arrival };
        let claim = fetch(&self.shelf, &self.source, &wanted).await?;
        self.claims.push(Arc::new(claim));
        let bytes = self.read(&id).await?;
        self.documents.insert(id.clone(), bytes.len() as u64);
        let config = read_configuration(&id, &bytes)?;
        // Refused here rather than when a container is made of it.
        facts(&id, &config)?;
        Ok((id, config))
    }

    async fn layers(&mut self, plans: Vec<LayerPlan>, writing: Arc<Writing>) -> Result<Vec<LayerRecord>> {
        let meters = self.progress.plan(&plans);
        let layers = plans.iter().cloned().zip(meters).collect();
        // Apart: futures within futures are one type to the compiler, which goes only so deep into one.
        let (sizes, claims) = Box::pin(stack::make(&self.shelf, &self.source, layers, writing)).await?;
        let is_blob = |claim: &Claim| match &claim.what {
            Garbage::Blob(digest) => Some(digest.clone()),
            Garbage::Layer(_) => None,
        };
        let here: HashSet<Digest> = claims.iter().filter_map(is_blob).collect();
        self.claims.extend(claims.into_iter().map(Arc::new));
        let record = |(plan, size): (LayerPlan, LayerSize)| LayerRecord {
            has_blob: here.contains(&plan.blob),
            blob: plan.blob,
            blob_bytes: plan.bytes,
            media_type: plan.media_type,
            diff_id: plan.diff_id,
            chain_id: plan.chain_id,
            size,
        };
        Ok(plans.into_iter().zip(sizes).map(record).collect())
    }

    /// Claims a blob for this image, if it is here.
    async fn claim(&mut self, digest: &Digest) -> Result<Option<()>> {
        let digest = digest.clone();
        let claim = self.shelf.working(move |shelf| shelf.claim_blob(&digest)).await?;
        Ok(claim.map(|claim| self.claims.push(Arc::new(claim))))
    }

    async fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let digest = digest.clone();
        self.shelf.blocking(move |shelf| shelf.blobs.read(&digest, LARGEST_DOCUMENT)).await
    }
}
