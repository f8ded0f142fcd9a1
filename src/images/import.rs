//! Takes in archives: an OCI image layout, or what `docker save` writes; plain, by gzip or by zstd. By the same way as
//! a pull, from blobs to record.
//!
//! Every file of the archive becomes a blob under its own digest, so nothing in it is believed; then the documents say
//! which of them are images, and the rest is deleted. Memory is bounded whatever the archive holds: contents pass
//! through one buffer, and of the names only so many bytes are kept.

use std::{
    collections::HashMap,
    io::{BufReader, Read},
    sync::Arc,
    vec,
};

use model::{Digest, ImageRef, with_causes};
use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;
use serde_json::json;

use crate::{
    Error, Image, Result,
    assemble::{Root, assemble},
    claim::Claim,
    early::Writing,
    fetch::{Checked, Source},
    index::{Garbage, Stay},
    inflate::inflate,
    manifest::{LARGEST_DOCUMENT, OCI_MANIFEST, digest_of},
    media_type,
    platform::Platforms,
    policy::{DOCKER_ARCHIVE, OCI_ARCHIVE, Policy},
    progress::{Progress, Watch},
    shelf::{Names, Shelf},
    tar_stream::{Entry, Kind, TarStream},
};

/// The annotation that names an image in a layout, as containerd and docker write it; a whole name.
pub(crate) const WHOLE_NAME: &str = "io.containerd.image.name";
/// The standard annotation; often a tag alone, which names nothing.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Files of an archive. An image has a few hundred at most.
const MOST_FILES: u64 = 100_000;
/// Bytes of all their names together: a hundred of each of so many files, and more of fewer.
const MOST_NAMES: usize = 16 << 20;
/// Images of an archive.
const MOST_IMAGES: usize = 1000;
/// Links that are followed one after the other.
const MOST_LINKS: usize = 8;
/// Bytes behind the archive's end that are read and not looked at: tools fill up their last record, and a writer whose
/// last bytes nobody takes would fail.
const TRAILING: u64 = 16 << 20;
/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;

/// An archive that was read to its end; its images are still to be made, one by one.
pub struct Import {
    shelf: Arc<Shelf>,
    source: Arc<Source>,
    found: vec::IntoIter<Found>,
    writing: Arc<Writing>,
    /// Keeps all that was brought until every image has its record.
    _brought: Brought,
}

/// One image of an archive, in the store.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image.
    pub image: Arc<Image>,
    /// The names that the archive gave it; it may have others.
    pub names: Vec<String>,
}

/// What an archive brought.
#[derive(Default)]
struct Brought {
    /// Digest and size of each file, by its path.
    files: HashMap<String, (Digest, u64)>,
    /// Links: older archives share layers by them.
    links: HashMap<String, String>,
    /// Bytes of all these names.
    names: usize,
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

/// Reads an archive to its end and finds its images. Blocks as long as the archive does.
pub(crate) fn begin(shelf: &Arc<Shelf>, archive: impl Read) -> Result<Import> {
    let writing = Arc::new(Writing::begin(shelf)?);
    let mut brought = bring(shelf, archive)?;
    let found = images(shelf, &mut brought)?.into_iter();
    let source = Arc::new(Source::Archive(Checked::default()));
    Ok(Import { shelf: shelf.clone(), source, found, writing, _brought: brought })
}

impl Import {
    /// Makes the next image, while somebody looks on; `None` after the last. An error ends it, and leaves what was made
    /// before.
    pub async fn next(&mut self, watch: &Watch) -> Result<Option<Loaded>> {
        let Some(Found { root, names }) = self.found.next() else { return Ok(None) };
        let progress = Arc::<Progress>::default();
        watch.follow(&progress);
        let (shelf, source, writing) = (self.shelf.clone(), self.source.clone(), self.writing.clone());
        let made = assemble(shelf, source, root, progress, writing).await?;
        let given = names.tags.iter().chain(&names.digests).map(ToString::to_string).collect();
        let image = self.shelf.blocking(move |shelf| shelf.commit(&made, &names)).await?;
        Ok(Some(Loaded { image, names: given }))
    }
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Import({} images to make)", self.found.len())
    }
}

/// Reads the archive to its end; every file becomes a blob.
fn bring(shelf: &Arc<Shelf>, archive: impl Read) -> Result<Brought> {
    let refuse = |fault: crate::Fault| wrong(with_causes(&fault));
    let stream = inflate(archive).map_err(|error| wrong(error.to_string()))?;
    let mut stream = BufReader::with_capacity(CHUNK, stream);
    let mut tar = TarStream::new(&mut stream, MOST_FILES);
    let mut brought = Brought::default();
    let mut room = shelf.config.limits.archive_bytes;
    while let Some(entry) = tar.next().map_err(refuse)? {
        let Entry { path, target, kind, size, .. } = entry;
        let Ok(path) = String::from_utf8(path) else { continue };
        let path = resolved("", &path);
        match kind {
            Kind::File => {}
            Kind::Symlink | Kind::HardLink => {
                let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                let directory = if kind == Kind::Symlink { directory } else { "" };
                let target = resolved(directory, &String::from_utf8_lossy(&target));
                brought.remember(path.len() + target.len())?;
                // Of entries with one path the last counts.
                brought.files.remove(&path);
                brought.links.insert(path, target);
                continue;
            }
            _ => continue,
        }
        brought.remember(path.len())?;
        room = room.checked_sub(size).ok_or_else(|| {
            let limit = shelf.config.limits.archive_bytes;
            wrong(format!("its files have more than {limit} bytes (images.limits.archive_bytes)"))
        })?;
        let mut incoming = shelf.blobs.begin()?;
        let mut read = 0;
        while let Some((at, bytes)) = tar.content().map_err(refuse)? {
            if at != read {
                break;
            }
            incoming.write(bytes)?;
            let taken = bytes.len();
            tar.take(taken);
            read += taken as u64;
        }
        if read != size {
            return Err(wrong(format!("{path} is a sparse file: no document and no layer is one")));
        }
        let finished = incoming.finish();
        let file = (finished.digest.clone(), finished.bytes);
        brought.claims.push(shelf.keep_blob(finished, Stay::WhileClaimed)?);
        brought.links.remove(&path);
        brought.files.insert(path, file);
    }
    drop(tar);
    std::io::copy(&mut stream.take(TRAILING), &mut std::io::sink()).map_err(|error| wrong(error.to_string()))?;
    Ok(brought)
}

impl Brought {
    fn remember(&mut self, bytes: usize) -> Result<()> {
        self.names += bytes;
        if self.names > MOST_NAMES {
            return Err(wrong(format!("the names of its files have more than {MOST_NAMES} bytes")));
        }
        Ok(())
    }

    fn file(&self, path: &str) -> Option<&(Digest, u64)> {
        let mut path = resolved("", path);
        for _ in 0..MOST_LINKS {
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
    let unreadable = |file: &str, error: serde_json::Error| wrong(format!("{file}: {error}"));
    let most = |images: usize| match images {
        0..=MOST_IMAGES => Ok(()),
        _ => Err(wrong(format!("it has {images} images, at most {MOST_IMAGES} are taken"))),
    };
    let policy = Policy::read(&shelf.config.policy)?;
    let allow = |transport| policy.as_ref().map_or(Ok(()), |policy| policy.check_archive(transport));
    let found = if let Some(index) = brought.document(shelf, "index.json")? {
        allow(OCI_ARCHIVE)?;
        let index: ImageIndex = serde_json::from_slice(&index).map_err(|error| unreadable("index.json", error))?;
        most(index.manifests().len())?;
        of_layout(&index)?
    } else if let Some(manifest) = brought.document(shelf, "manifest.json")? {
        allow(DOCKER_ARCHIVE)?;
        let saved: Vec<Saved> =
            serde_json::from_slice(&manifest).map_err(|error| unreadable("manifest.json", error))?;
        most(saved.len())?;
        saved.into_iter().map(|saved| of_saved(shelf, brought, saved)).collect::<Result<_>>()?
    } else {
        return Err(wrong("it has neither index.json (OCI image layout) nor manifest.json (docker save)"));
    };
    if found.is_empty() {
        return Err(wrong("it has no image for this machine"));
    }
    Ok(found)
}

/// What `index.json` lists: an image with several names stands in it several times.
fn of_layout(index: &ImageIndex) -> Result<Vec<Found>> {
    let platforms = Platforms::of_this_machine();
    let mut found: Vec<Found> = Vec::new();
    for descriptor in index.manifests().iter().filter(|descriptor| platforms.run(descriptor)) {
        let digest = digest_of(descriptor)?;
        let known = found.iter().position(|found| found.root.digest == digest).unwrap_or_else(|| {
            let media_type = Some(descriptor.media_type().to_string());
            let names = Names { root: Some(digest.clone()), ..Names::default() };
            found.push(Found { root: Root { digest: digest.clone(), media_type, bytes: None }, names });
            found.len() - 1
        });
        let names = &mut found[known].names;
        match name_of(descriptor)? {
            None => {}
            Some(reference) => match reference.digest() {
                None => names.tags.push(reference),
                Some(promised) if *promised == digest => names.digests.push(reference),
                // Whoever asks for that digest would get this.
                Some(_) => return Err(wrong(format!("it gives {digest} the name {reference}"))),
            },
        }
    }
    Ok(found)
}

/// The name of an entry: the whole one, but for its tag where the standard annotation has another. Tools that change a
/// layout write the one that they know, and copy the other along.
fn name_of(descriptor: &Descriptor) -> Result<Option<ImageRef>> {
    let Some(annotations) = descriptor.annotations() else { return Ok(None) };
    let short = annotations.get(REF_NAME).map(String::as_str);
    let Some(whole) = annotations.get(WHOLE_NAME) else {
        // `latest` alone would be taken for a name.
        return Ok(short.filter(|name| name.contains(['/', ':'])).map(str::parse).transpose()?);
    };
    let whole: ImageRef = whole.parse()?;
    match short.filter(|tag| !tag.contains(['/', ':', '@'])) {
        Some(tag) if whole.tag().is_some_and(|own| own != tag) => Ok(Some(format!("{}:{tag}", whole.name()).parse()?)),
        _ => Ok(Some(whole)),
    }
}

fn of_saved(shelf: &Arc<Shelf>, brought: &mut Brought, saved: Saved) -> Result<Found> {
    let file = |path: &str| brought.file(path).cloned().ok_or_else(|| wrong(format!("{path} is missing")));
    let mut layers = Vec::new();
    for layer in &saved.layers {
        let layer = file(layer)?;
        layers.push(descriptor(media_type::of_layer(&shelf.blobs.head(&layer.0, media_type::HEAD)?), layer));
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(media_type::CONFIGURATION, file(&saved.config)?),
        "layers": layers,
    });
    let claim = shelf.keep_bytes(manifest.to_string().as_bytes(), Stay::WhileClaimed)?;
    let digest = match &claim.what {
        Garbage::Blob(digest) | Garbage::Layer(digest) => digest.clone(),
    };
    brought.claims.push(claim);
    let mut names = Names { root: Some(digest.clone()), ..Names::default() };
    for tag in saved.repo_tags.unwrap_or_default() {
        let reference: ImageRef = tag.parse()?;
        if reference.tag().is_none() {
            return Err(wrong(format!("it gives an image the name {reference}: want a tag")));
        }
        names.tags.push(reference);
    }
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

fn wrong(why: impl Into<String>) -> Error {
    Error::Archive { why: why.into() }
}
