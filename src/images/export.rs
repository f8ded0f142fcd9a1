//! Writes images as one archive that is both an OCI image layout and what `docker save` writes, so that every tool
//! finds its own form in it.
//!
//! ```text
//! oci-layout, index.json       the layout: each name with its manifest
//! manifest.json                the same for docker: configuration, tags, layers by path
//! blobs/sha256/<hex>           manifests, configurations, layers; each once, in the order of their digests
//! ```
//!
//! The same images make the same bytes: no time, no owner, no order by chance. All that is described in OCI's media
//! types, since strict readers of layouts take no others: a manifest in Docker's is written anew, and the image's id
//! stays what it is. Nobody is waited for while holding a thread: whoever takes the archive asks for each part.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::Read,
    sync::Arc,
};

use model::{Digest, ImageRef};
use serde_json::{Value, json};

use crate::{
    Error, Image, Result,
    claim::Claim,
    hash::{Hasher, digest_of, digest_of_stream},
    import::{REF_NAME, WHOLE_NAME},
    inflate::inflate,
    manifest::{LARGEST_DOCUMENT, OCI_INDEX, OCI_MANIFEST},
    media_type,
    shelf::Shelf,
};

/// What a tar is made of, bytes.
const BLOCK: u64 = 512;
/// Bytes of a blob that are handed over at a time.
const CHUNK: u64 = 256 << 10;
/// Where blobs lie in a layout.
const BLOBS: &str = "blobs/sha256/";

/// An archive on its way out. What is in it stays as long as this does, whoever removes the images meanwhile.
#[derive(Debug)]
pub struct Export {
    shelf: Arc<Shelf>,
    parts: VecDeque<Part>,
    reading: Option<Reading>,
    bytes: u64,
    _claims: Vec<Claim>,
}

/// A stretch of the archive.
#[derive(Debug)]
enum Part {
    /// At hand: headers, documents, padding.
    Bytes(Vec<u8>),
    /// A blob's content.
    Blob(Digest, u64),
}

/// A blob under way, hashed as it goes.
#[derive(Debug)]
struct Reading {
    digest: Digest,
    file: File,
    hasher: Hasher,
    left: u64,
}

/// Where the content of a file in the archive is.
#[derive(Debug)]
enum Content {
    /// Written for this archive.
    Here(Vec<u8>),
    /// In the store, with so many bytes.
    Stored(u64),
}

/// What the archive is to hold.
struct Gathering<'a> {
    shelf: &'a Arc<Shelf>,
    blobs: BTreeMap<Digest, Content>,
    claims: Vec<Claim>,
}

/// One image, as the archive describes it.
struct Described {
    id: Digest,
    /// Digest of the manifest in the archive.
    manifest: Digest,
    manifest_bytes: u64,
    layers: Vec<Digest>,
    /// The tags it is saved by.
    tags: Vec<ImageRef>,
}

/// Makes ready to write these images, each by id or name; a name brings its tag along. Blocks for the documents.
pub(crate) fn begin(shelf: &Arc<Shelf>, names: &[String]) -> Result<Export> {
    let mut gathering = Gathering { shelf, blobs: BTreeMap::new(), claims: Vec::new() };
    let mut images: Vec<Described> = Vec::new();
    for name in names {
        let image = shelf.index().find(name)?.ok_or_else(|| Error::NotFound { what: name.clone() })?;
        let at = match images.iter().position(|known| known.id == image.id) {
            Some(at) => at,
            None => {
                images.push(gathering.describe(&image)?);
                images.len() - 1
            }
        };
        let tags = &mut images[at].tags;
        if let Some(tag) = saved_tag(&image, name).filter(|tag| !tags.contains(tag)) {
            tags.push(tag);
        }
    }
    let Gathering { blobs, claims, .. } = gathering;
    let mut archive = Archive::default();
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    archive.file("index.json", index(&images).to_string().as_bytes());
    archive.file("manifest.json", saved(&images).to_string().as_bytes());
    archive.directory("blobs/");
    archive.directory(BLOBS);
    for (digest, content) in blobs {
        let path = path_of(&digest);
        match content {
            Content::Here(bytes) => archive.file(&path, &bytes),
            Content::Stored(bytes) => archive.blob(&path, digest, bytes),
        }
    }
    let (parts, bytes) = archive.finish();
    Ok(Export { shelf: shelf.clone(), parts, reading: None, bytes, _claims: claims })
}

impl Export {
    /// Bytes of the whole archive.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next bytes of it, some hundred KiB at most; `None` after the last. A blob that is not what its name says
    /// ends it with an error before its last bytes are handed over.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        if let Some(reading) = self.reading.take() {
            return self.read(reading).await.map(Some);
        }
        match self.parts.pop_front() {
            None => Ok(None),
            Some(Part::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Part::Blob(digest, bytes)) => {
                let opened = digest.clone();
                let file = self.shelf.blocking(move |shelf| shelf.blobs.open(&opened)).await?;
                self.read(Reading { digest, file, hasher: Hasher::new(), left: bytes }).await.map(Some)
            }
        }
    }

    async fn read(&mut self, mut reading: Reading) -> Result<Vec<u8>> {
        let read = move |shelf: &Arc<Shelf>| {
            let mut bytes = Vec::new();
            let wanted = reading.left.min(CHUNK);
            let path = || shelf.blobs.path(&reading.digest);
            (&reading.file).take(wanted).read_to_end(&mut bytes).map_err(|e| Error::disk("read", path())(e))?;
            reading.hasher.update(&bytes);
            reading.left -= wanted;
            let spoiled = |found: String| Error::Mismatch { expected: reading.digest.clone(), found };
            if bytes.len() as u64 != wanted {
                return Err(spoiled(format!("a file that ends early, {}", path().display())));
            }
            if reading.left > 0 {
                return Ok((bytes, Some(reading)));
            }
            let found = reading.hasher.clone().finish();
            if found != reading.digest {
                return Err(spoiled(format!("{found} from {}", path().display())));
            }
            Ok((bytes, None))
        };
        let (bytes, reading) = self.shelf.working(read).await?;
        self.reading = reading;
        Ok(bytes)
    }
}

impl Gathering<'_> {
    /// Finds the blobs of an image, holds them, and says how the archive describes it.
    fn describe(&mut self, image: &Image) -> Result<Described> {
        let record = &image.record;
        let missing = |blob: &Digest| Error::BlobMissing { image: record.id.clone(), blob: blob.clone() };
        let mut layers = Vec::with_capacity(record.layers.len());
        for layer in &record.layers {
            let candidates = self.shelf.index().blobs_of_layer(layer);
            let mut held = None;
            for (blob, bytes) in candidates {
                let Some(claim) = self.shelf.claim_blob(&blob)? else { continue };
                if blob == layer.blob || self.unpacks_to(&blob, &layer.diff_id)? {
                    self.keep(claim, &blob, bytes);
                    held = Some((blob, bytes));
                    break;
                }
            }
            layers.push(held.ok_or_else(|| missing(&layer.blob))?);
        }
        let documents = [&record.id, &record.manifest];
        for document in documents {
            let bytes = record.documents.get(document).copied().unwrap_or_default();
            if !self.hold(document, bytes)? {
                return Err(missing(document));
            }
        }
        let moved = record.layers.iter().zip(&layers).any(|(layer, (blob, _))| layer.blob != *blob);
        let original = self.shelf.blobs.read(&record.manifest, LARGEST_DOCUMENT)?;
        let mut described = Described {
            id: record.id.clone(),
            manifest: record.manifest.clone(),
            manifest_bytes: original.len() as u64,
            layers: layers.iter().map(|(blob, _)| blob.clone()).collect(),
            tags: Vec::new(),
        };
        if let Some(written) = as_oci(self.shelf, &record.manifest, &original, &layers, moved)? {
            (described.manifest, described.manifest_bytes) = (digest_of(&written), written.len() as u64);
            self.blobs.remove(&record.manifest);
            self.blobs.insert(described.manifest.clone(), Content::Here(written));
        }
        Ok(described)
    }

    /// Whether a blob is what a layer was unpacked from. That another image says so proves nothing: what its layers
    /// claim to be is looked at only when they are unpacked, and a layer that is here already is not.
    fn unpacks_to(&self, blob: &Digest, diff_id: &Digest) -> Result<bool> {
        let inflated = inflate(self.shelf.blobs.open(blob)?);
        let limit = self.shelf.config.limits.layer_bytes;
        let found = inflated.and_then(|stream| digest_of_stream(stream.take(limit)));
        Ok(found.is_ok_and(|(found, _)| found == *diff_id))
    }

    /// Claims a blob for as long as the archive takes; whether it is here.
    fn hold(&mut self, blob: &Digest, bytes: u64) -> Result<bool> {
        let Some(claim) = self.shelf.claim_blob(blob)? else { return Ok(false) };
        self.keep(claim, blob, bytes);
        Ok(true)
    }

    fn keep(&mut self, claim: Claim, blob: &Digest, bytes: u64) {
        self.claims.push(claim);
        self.blobs.entry(blob.clone()).or_insert(Content::Stored(bytes));
    }
}

/// The tag that an image is saved by: an id and a digest bring none.
fn saved_tag(image: &Image, name: &str) -> Option<ImageRef> {
    let reference: ImageRef = name.parse().ok()?;
    image.tags.contains(&reference.to_string()).then_some(reference).filter(|name| name.tag().is_some())
}

/// The manifest in OCI's words and with the blobs that are here; `None` if it is so already.
fn as_oci(
    shelf: &Shelf,
    digest: &Digest,
    original: &[u8],
    layers: &[(Digest, u64)],
    moved: bool,
) -> Result<Option<Vec<u8>>> {
    let refuse = |why: &str| Error::Content { what: "manifest", digest: digest.clone(), why: why.to_owned() };
    let mut manifest: Value = serde_json::from_slice(original).map_err(|error| refuse(&error.to_string()))?;
    let said = manifest.get("mediaType").and_then(Value::as_str);
    let configuration = manifest.pointer("/config/mediaType").and_then(Value::as_str);
    if !moved && !media_type::is_dockers(said) && configuration == Some(media_type::CONFIGURATION) {
        return Ok(None);
    }
    let mut written = Vec::with_capacity(layers.len());
    for (layer, bytes) in layers {
        let media_type = media_type::of_layer(&shelf.blobs.head(layer, media_type::HEAD)?);
        written.push(json!({ "mediaType": media_type, "digest": layer, "size": bytes }));
    }
    let fields = manifest.as_object_mut().ok_or_else(|| refuse("it is no object"))?;
    fields.insert("mediaType".to_owned(), OCI_MANIFEST.into());
    fields.insert("layers".to_owned(), written.into());
    let config = fields.get_mut("config").and_then(Value::as_object_mut).ok_or_else(|| refuse("it has no config"))?;
    config.insert("mediaType".to_owned(), media_type::CONFIGURATION.into());
    Ok(Some(manifest.to_string().into_bytes()))
}

/// `index.json`: every name with its manifest. A tag alone is what most tools want to find an image by; where two
/// images have the same one, the whole name tells them apart.
fn index(images: &[Described]) -> Value {
    let mut manifests = Vec::new();
    let tags = || images.iter().flat_map(|image| &image.tags);
    for image in images {
        let descriptor = json!({ "mediaType": OCI_MANIFEST, "digest": image.manifest, "size": image.manifest_bytes });
        if image.tags.is_empty() {
            manifests.push(descriptor.clone());
        }
        for name in &image.tags {
            let whole = name.to_string();
            let alone = tags().filter(|other| other.tag() == name.tag()).count() == 1;
            let short = name.tag().filter(|_| alone).unwrap_or(&whole);
            let mut named = descriptor.clone();
            named["annotations"] = json!({ WHOLE_NAME: whole, REF_NAME: short });
            manifests.push(named);
        }
    }
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests })
}

/// `manifest.json`, as docker has it.
fn saved(images: &[Described]) -> Value {
    let described = |image: &Described| {
        json!({
            "Config": path_of(&image.id),
            "RepoTags": image.tags.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "Layers": image.layers.iter().map(path_of).collect::<Vec<_>>(),
        })
    };
    images.iter().map(described).collect()
}

fn path_of(digest: &Digest) -> String {
    format!("{BLOBS}{}", digest.hex())
}

/// A tar in the making: what lies at hand is gathered, blobs stand for themselves.
#[derive(Default)]
struct Archive {
    parts: VecDeque<Part>,
    open: Vec<u8>,
    bytes: u64,
}

impl Archive {
    fn directory(&mut self, path: &str) {
        self.header(path, tar::EntryType::Directory, 0o755, 0);
    }

    fn file(&mut self, path: &str, content: &[u8]) {
        let bytes = content.len() as u64;
        self.header(path, tar::EntryType::Regular, 0o644, bytes);
        self.open.extend_from_slice(content);
        self.fill(bytes);
    }

    fn blob(&mut self, path: &str, digest: Digest, bytes: u64) {
        self.header(path, tar::EntryType::Regular, 0o644, bytes);
        self.close();
        if bytes > 0 {
            self.parts.push_back(Part::Blob(digest, bytes));
            self.bytes += bytes;
        }
        self.fill(bytes);
    }

    fn header(&mut self, path: &str, kind: tar::EntryType, mode: u32, size: u64) {
        // GNU's numbers go beyond the 8 GiB that others end at.
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        // All paths here are ours, and shorter than the field.
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.open.extend_from_slice(header.as_bytes());
    }

    /// Fills up the last block of a content of so many bytes.
    fn fill(&mut self, content: u64) {
        let rest = content.next_multiple_of(BLOCK) - content;
        self.open.resize(self.open.len() + rest as usize, 0);
        if self.open.len() as u64 >= CHUNK {
            self.close();
        }
    }

    fn close(&mut self) {
        let bytes = std::mem::take(&mut self.open);
        if !bytes.is_empty() {
            self.bytes += bytes.len() as u64;
            self.parts.push_back(Part::Bytes(bytes));
        }
    }

    fn finish(mut self) -> (VecDeque<Part>, u64) {
        // Two empty blocks end a tar.
        self.open.resize(self.open.len() + 2 * BLOCK as usize, 0);
        self.close();
        (self.parts, self.bytes)
    }
}
