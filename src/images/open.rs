//! Opening the store: what the records say, checked against what lies there.
//!
//! Steps, in order: directories; what was being made goes to the trash; records; each image whose layers and
//! configuration are there is listed, and one of which something cannot be read now is left for another start; blobs
//! that no record names go to the trash, but for those that a pull may go on with. Layers that no record names go there
//! once the containers are known: one of them may use an image whose record is lost.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use disk::Store;
use fault::Steps;
use model::{Digest, with_causes};

use crate::{
    Config, Error, Result,
    blob::Blobs,
    index::Index,
    left_over,
    manifest::{LARGEST_DOCUMENT, read_configuration},
    pinned::Pins,
    record::{ImageRecord, KIND, VERSION},
    shelf::{Parts, Shelf, image},
    trash::Trash,
};

/// Opens the store below `root`, making what is missing.
pub(crate) fn open(config: Config, root: &Path, steps: Steps) -> Result<Shelf> {
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
    let now = Instant::now();
    for (digest, meta) in blobs.list()? {
        let age = meta.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
        index.found_blob(&digest, meta.len(), left_over::found(age, now));
    }
    let present: HashSet<String> = names(&layers)?.into_iter().filter_map(|name| name.into_string().ok()).collect();
    let pinned = Pins::of(&config);
    // Before the scan, which adds to it.
    let earlier = records_store.quarantined()?;
    for name in &earlier {
        tracing::warn!(name, "an image's record is in quarantine: no layer is thrown away, since it may be its");
    }
    let scan = records_store.scan()?;
    for bad in &scan.quarantined {
        tracing::warn!(record = %bad.path.display(), why = %bad.why, "an image's record cannot be read");
    }
    let mut unread = !(earlier.is_empty() && scan.quarantined.is_empty());
    let mut half_gone = Vec::new();
    let (records, robbed) = settle_tags(scan.good.into_iter().map(|(_, record)| record));
    for record in records {
        let id = record.id.clone();
        if robbed.contains(&id)
            && let Err(error) = records_store.put(id.hex(), &record)
        {
            tracing::warn!(image = %id, %error, "a tag that went to another image stays in its record");
        }
        let removed: Option<Vec<Digest>> =
            record.removed.then(|| record.blobs().map(|(digest, _)| digest.clone()).collect());
        match (whole(&blobs, &present, &pinned, record), removed) {
            (Ok(image), _) => drop(index.put_image(Arc::new(image))),
            // Its content was being deleted: what is left of it goes too, unless others need it.
            (Err(NotOpened::Lost(_)), Some(blobs)) => {
                half_gone.extend(blobs);
                records_store.remove(id.hex())?;
            }
            (Err(NotOpened::Lost(why)), None) => {
                tracing::warn!(image = %id, %why, "an image is not whole any more and is forgotten; pull it again");
                records_store.remove(id.hex())?;
            }
            // The disk could not give it to us now; that says nothing about the image.
            (Err(NotOpened::Unread(why)), _) => {
                tracing::warn!(image = %id, %why, "an image cannot be read now; all that may be its is kept");
                unread = true;
            }
        }
    }
    let records = records_store;
    let shelf =
        Shelf::new(Parts { config, blobs, layers, ingest, empty, records, trash, steps, index, pinned, unread });
    if !unread {
        shelf.throw_blobs(&half_gone);
    }
    shelf.tidy(left_over::FRESH)?;
    Ok(shelf)
}

/// Throws away the layers that no image names. Not before it is known that no container uses an image whose record is
/// lost.
pub(crate) fn throw_unknown_layers(shelf: &Shelf) -> Result<()> {
    // Held meanwhile, so that nobody names a layer that has just been found without.
    let index = shelf.index();
    let known: HashSet<String> = index.layers().map(|chain_id| chain_id.hex().to_owned()).collect();
    throw_all(shelf.trash(), shelf.layers(), |name| !known.contains(name))
}

/// Why an image of a record is not listed.
enum NotOpened {
    /// Something of it is gone, or is not what it should be.
    Lost(String),
    /// Something of it cannot be read, and may be well.
    Unread(String),
}

fn whole(
    blobs: &Blobs,
    present: &HashSet<String>,
    pinned: &Pins,
    record: ImageRecord,
) -> Result<crate::Image, NotOpened> {
    let lost = |error: Error| NotOpened::Lost(with_causes(&error));
    if let Some(layer) = record.layers.iter().find(|layer| !present.contains(layer.chain_id.hex())) {
        return Err(NotOpened::Lost(format!("layer {} is missing", layer.chain_id)));
    }
    let bytes = blobs.read(&record.id, LARGEST_DOCUMENT).map_err(|error| match &error {
        Error::Disk { source, .. } if source.kind() != io::ErrorKind::NotFound => {
            NotOpened::Unread(with_causes(&error))
        }
        _ => lost(error),
    })?;
    let config = read_configuration(&record.id, &bytes).map_err(lost)?;
    image(pinned, record, config).map_err(lost)
}

/// A crash while a tag moved can leave it in two records: it belongs to the one that got it last.
/// Answers also which have lost one.
fn settle_tags(records: impl Iterator<Item = ImageRecord>) -> (Vec<ImageRecord>, HashSet<Digest>) {
    let mut records: Vec<ImageRecord> = records.collect();
    let mut latest: HashMap<String, u64> = HashMap::new();
    for (tag, since) in records.iter().flat_map(|record| &record.tags) {
        let known = latest.entry(tag.clone()).or_default();
        *known = (*known).max(*since);
    }
    let mut robbed = HashSet::new();
    for record in &mut records {
        let before = record.tags.len();
        record.tags.retain(|tag, since| latest.get(tag) == Some(since));
        if record.tags.len() < before {
            robbed.insert(record.id.clone());
        }
    }
    (records, robbed)
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
