//! Takes in archives: an OCI image layout, or what `docker save` writes. By the same way as a pull, from blobs to
//! record.
//!
//! Every file of the archive becomes a blob under its own digest, so nothing in it is believed; then the documents say
//! which of them are images, and the rest is deleted.

use std::{collections::HashMap, io::Read, sync::Arc};

use model::{Digest, ImageRef};
use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;
use serde_json::json;

use crate::{
    Error, Image, Result,
    assemble::{Root, Source, assemble},
    claim::Claim,
    index::Garbage,
    inflate::inflate,
    manifest::{LARGEST_DOCUMENT, OCI_MANIFEST, digest_of},
    platform::Platforms,
    shelf::{Names, Shelf},
    tar_stream::{Entry, Kind, TarStream},
};

/// The annotation that names an image in a layout, as containerd and docker write it; a whole name.
const WHOLE_NAME: &str = "io.containerd.image.name";
/// The standard annotation; often a tag alone, which names nothing.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Files of an archive. An image has a few hundred at most.
const MOST_FILES: u64 = 100_000;

/// What an archive brought.
struct Brought {
    /// Digest and size of each file, by its path.
    files: HashMap<String, (Digest, u64)>,
    /// Symbolic links: older archives share layers by them.
    links: HashMap<String, String>,
    claims: Vec<Claim>,
}

/// One image of an archive.
struct Found {
    root: Root,
    names: Names,
}

/// One entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// See [`crate::Images::import`].
pub(crate) async fn import(shelf: &Arc<Shelf>, archive: impl Read + Send + 'static) -> Result<Vec<Arc<Image>>> {
    let read = |shelf: &Arc<Shelf>| {
        let mut brought = bring(shelf, archive)?;
        let found = images(shelf, &mut brought)?;
        Ok((found, brought))
    };
    // Holds the claims on all that was brought until every image has its record.
    let (found, _brought) = shelf.blocking(read).await?;
    let source = Arc::new(Source::Archive);
    let mut images = Vec::with_capacity(found.len());
    for Found { root, names } in found {
        let made = assemble(shelf.clone(), source.clone(), root).await?;
        images.push(shelf.blocking(move |shelf| shelf.commit(&made, &names)).await?);
    }
    Ok(images)
}

/// Reads the archive to its end; every file becomes a blob.
fn bring(shelf: &Arc<Shelf>, archive: impl Read) -> Result<Brought> {
    let refuse = |fault: crate::Fault| Error::Archive { why: text(&fault) };
    let stream = inflate(archive).map_err(|error| Error::Archive { why: error.to_string() })?;
    let mut stream = TarStream::new(stream, MOST_FILES);
    let mut brought = Brought { files: HashMap::new(), links: HashMap::new(), claims: Vec::new() };
    let mut buffer = vec![0; 256 << 10];
    while let Some(entry) = stream.next().map_err(refuse)? {
        let Entry { path, target, kind, size, .. } = entry;
        let Ok(path) = String::from_utf8(path) else { continue };
        let path = resolved("", &path);
        match kind {
            Kind::File => {}
            Kind::Symlink | Kind::HardLink => {
                let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                let directory = if kind == Kind::Symlink { directory } else { "" };
                let target = resolved(directory, &String::from_utf8_lossy(&target));
                brought.links.insert(path, target);
                continue;
            }
            _ => continue,
        }
        let mut incoming = shelf.blobs.begin()?;
        let mut read = 0;
        while let Some((at, bytes)) = stream.read_content(&mut buffer).map_err(refuse)? {
            if at != read {
                break;
            }
            incoming.write(&buffer[..bytes])?;
            read += bytes as u64;
        }
        if read != size {
            return Err(Error::Archive { why: format!("{path} is a sparse file: no document and no layer is one") });
        }
        let finished = incoming.finish();
        let file = (finished.digest.clone(), finished.bytes);
        brought.claims.push(shelf.keep_blob(finished)?);
        // Unless an image comes to need it, it goes when this is over.
        shelf.index().doom_blob(&file.0);
        brought.files.insert(path, file);
    }
    Ok(brought)
}

impl Brought {
    fn file(&self, path: &str) -> Option<&(Digest, u64)> {
        let mut path = resolved("", path);
        for _ in 0..8 {
            match self.links.get(&path) {
                Some(target) => path = target.clone(),
                None => break,
            }
        }
        self.files.get(&path)
    }

    fn document(&self, shelf: &Shelf, path: &str) -> Result<Option<Vec<u8>>> {
        self.file(path).map(|(digest, _)| shelf.blobs.read(digest, LARGEST_DOCUMENT)).transpose()
    }
}

/// The images of the archive. Where it is both (as newer `docker save` writes), the layout is the better description.
fn images(shelf: &Arc<Shelf>, brought: &mut Brought) -> Result<Vec<Found>> {
    let wrong = |file: &str, error: serde_json::Error| Error::Archive { why: format!("{file}: {error}") };
    let found = if let Some(index) = brought.document(shelf, "index.json")? {
        let index: ImageIndex = serde_json::from_slice(&index).map_err(|error| wrong("index.json", error))?;
        of_layout(&index)?
    } else if let Some(manifest) = brought.document(shelf, "manifest.json")? {
        let saved: Vec<Saved> = serde_json::from_slice(&manifest).map_err(|error| wrong("manifest.json", error))?;
        saved.into_iter().map(|saved| of_saved(shelf, brought, saved)).collect::<Result<_>>()?
    } else {
        let why = "it has neither index.json (OCI image layout) nor manifest.json (docker save)";
        return Err(Error::Archive { why: why.to_owned() });
    };
    if found.is_empty() {
        return Err(Error::Archive { why: "it has no image for this machine".to_owned() });
    }
    Ok(found)
}

fn of_layout(index: &ImageIndex) -> Result<Vec<Found>> {
    let platforms = Platforms::of_this_machine();
    let mut found = Vec::new();
    for descriptor in index.manifests().iter().filter(|descriptor| platforms.run(descriptor)) {
        let root =
            Root { digest: digest_of(descriptor)?, media_type: Some(descriptor.media_type().to_string()), bytes: None };
        let mut names = Names { root: Some(root.digest.clone()), ..Names::default() };
        if let Some(reference) = name_of(descriptor)? {
            if reference.tag().is_some() { names.tags.push(reference) } else { names.digests.push(reference) }
        }
        found.push(Found { root, names });
    }
    Ok(found)
}

fn name_of(descriptor: &Descriptor) -> Result<Option<ImageRef>> {
    let Some(annotations) = descriptor.annotations() else { return Ok(None) };
    if let Some(name) = annotations.get(WHOLE_NAME) {
        return Ok(Some(name.parse()?));
    }
    // `latest` alone would be taken for a name.
    match annotations.get(REF_NAME) {
        Some(name) if name.contains(['/', ':']) => Ok(Some(name.parse()?)),
        _ => Ok(None),
    }
}

fn of_saved(shelf: &Arc<Shelf>, brought: &mut Brought, saved: Saved) -> Result<Found> {
    let file =
        |path: &str| brought.file(path).cloned().ok_or_else(|| Error::Archive { why: format!("{path} is missing") });
    let mut layers = Vec::new();
    for layer in &saved.layers {
        layers.push(descriptor("application/vnd.oci.image.layer.v1.tar", file(layer)?));
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", file(&saved.config)?),
        "layers": layers,
    });
    let claim = shelf.keep_bytes(manifest.to_string().as_bytes())?;
    let digest = match &claim.what {
        Garbage::Blob(digest) | Garbage::Layer(digest) => digest.clone(),
    };
    shelf.index().doom_blob(&digest);
    brought.claims.push(claim);
    let tags = saved.repo_tags.unwrap_or_default();
    let tags = tags.iter().map(|tag| tag.parse().map_err(Error::from)).collect::<Result<_>>()?;
    let names = Names { tags, digests: Vec::new(), root: Some(digest.clone()) };
    Ok(Found { root: Root { digest, media_type: Some(OCI_MANIFEST.to_owned()), bytes: None }, names })
}

fn descriptor(media_type: &str, (digest, bytes): (Digest, u64)) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest, "size": bytes })
}

/// A path of the archive, `.` and `..` resolved as text.
fn resolved(directory: &str, path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in directory.split('/').chain(path.split('/')) {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join("/")
}

fn text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", text(source)),
        None => error.to_string(),
    }
}
