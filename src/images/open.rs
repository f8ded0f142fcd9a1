//! Opening the store: what the records say, checked against what lies there.
//!
//! Steps, in order: directories; what was being made goes to the trash; records; each image whose layers and
//! configuration are there is listed; blobs that no record names go to the trash, but for those that a pull may go on
//! with. Layers that no record names go there once the containers are known: one of them may use an image whose record
//! is lost.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use disk::Store;
use model::Digest;

use crate::{
    Config, Error, Result,
    blob::Blobs,
    index::Index,
    manifest::{LARGEST_DOCUMENT, read_configuration},
    record::{ImageRecord, KIND, VERSION},
    shelf::{Parts, Shelf, image, pinned_names},
    trash::Trash,
};

/// How long blobs without an image are kept for a pull to go on with.
const KEEP_UNFINISHED: Duration = Duration::from_secs(24 * 3600);

/// Opens the store below `root`, making what is missing.
pub(crate) fn open(config: Config, root: &Path) -> Result<Shelf> {
    let [records, blobs, layers, ingest, trash, empty] =
        ["records", "blobs", "layers", "ingest", "trash", "empty"].map(|name| root.join(name));
    // 0700: a layer may hold a setuid program that only its container's user was meant to reach.
    for dir in [root, &records, &blobs, &layers, &ingest, &trash, &empty] {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(Error::disk("create", dir))?;
    }
    let records_store = Store::open(&records, KIND, VERSION)?;
    let trash = Trash::open(&trash, &records).map_err(Error::disk("open", &trash))?;
    throw_all(&trash, &ingest, |_| true)?;
    let blobs = Blobs::new(blobs, ingest.clone());
    let mut index = Index::default();
    let mut stale = Vec::new();
    for (digest, meta) in blobs.list()? {
        index.found_blob(&digest, meta.len());
        if meta.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > KEEP_UNFINISHED) {
            stale.push(digest);
        }
    }
    let present: HashSet<String> = names(&layers)?.into_iter().filter_map(|name| name.into_string().ok()).collect();
    let pinned = pinned_names(&config);
    // Before the scan, which adds to it.
    let earlier = records_store.quarantined()?;
    for name in &earlier {
        tracing::warn!(name, "an image's record is in quarantine: no layer is thrown away, since it may be its");
    }
    let scan = records_store.scan()?;
    for bad in &scan.quarantined {
        tracing::warn!(record = %bad.path.display(), why = %bad.why, "an image's record cannot be read");
    }
    let unread = !(earlier.is_empty() && scan.quarantined.is_empty());
    for record in settle_tags(scan.good.into_iter().map(|(_, record)| record)) {
        let id = record.id.clone();
        match whole(&blobs, &present, &pinned, record) {
            Ok(image) => drop(index.put_image(Arc::new(image))),
            Err(why) => {
                tracing::warn!(image = %id, %why, "an image is not whole any more and is forgotten; pull it again");
                records_store.remove(id.hex())?;
            }
        }
    }
    // A record that cannot be read may need content that we know nothing of: then nothing is thrown away.
    if !unread {
        let unneeded: HashSet<Digest> = index.unneeded_blobs().into_iter().collect();
        for digest in stale.iter().filter(|digest| unneeded.contains(digest)) {
            index.drop_blob(digest);
            trash.throw(&blobs.path(digest)).map_err(Error::disk("move away", blobs.path(digest)))?;
        }
    }
    Ok(Shelf::new(Parts { config, blobs, layers, ingest, empty, records: records_store, trash, index, unread }))
}

/// Throws away the layers that no image names. Not before it is known that no container uses an image whose record is
/// lost.
pub(crate) fn throw_unknown_layers(shelf: &Shelf) -> Result<()> {
    // Held meanwhile, so that nobody names a layer that has just been found without.
    let index = shelf.index();
    let known: HashSet<String> = index.layers().map(|chain_id| chain_id.hex().to_owned()).collect();
    throw_all(shelf.trash(), shelf.layers(), |name| !known.contains(name))
}

fn whole(
    blobs: &Blobs,
    present: &HashSet<String>,
    pinned: &[String],
    record: ImageRecord,
) -> Result<crate::Image, String> {
    if let Some(layer) = record.layers.iter().find(|layer| !present.contains(layer.chain_id.hex())) {
        return Err(format!("layer {} is missing", layer.chain_id));
    }
    let bytes = blobs.read(&record.id, LARGEST_DOCUMENT).map_err(|error| error.to_string())?;
    let config = read_configuration(&record.id, &bytes).map_err(|error| error.to_string())?;
    image(pinned, record, config).map_err(|error| error.to_string())
}

/// A crash while a tag moved can leave it in two records: it belongs to the one that got it last.
fn settle_tags(records: impl Iterator<Item = ImageRecord>) -> Vec<ImageRecord> {
    let mut records: Vec<ImageRecord> = records.collect();
    let mut latest: HashMap<String, u64> = HashMap::new();
    for (tag, since) in records.iter().flat_map(|record| &record.tags) {
        let known = latest.entry(tag.clone()).or_default();
        *known = (*known).max(*since);
    }
    for record in &mut records {
        record.tags.retain(|tag, since| latest.get(tag) == Some(since));
    }
    records
}

fn names(dir: &Path) -> Result<Vec<std::ffi::OsString>> {
    let failed = || Error::disk("list", dir);
    fs::read_dir(dir).map_err(failed())?.map(|entry| Ok(entry.map_err(failed())?.file_name())).collect()
}

fn throw_all(trash: &Trash, dir: &Path, unneeded: impl Fn(&str) -> bool) -> Result<()> {
    for name in names(dir)? {
        if name.to_str().is_none_or(&unneeded) {
            let path: PathBuf = dir.join(name);
            trash.throw(&path).map_err(Error::disk("move away", path))?;
        }
    }
    Ok(())
}
