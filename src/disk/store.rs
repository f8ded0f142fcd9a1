//! A directory of records of one kind.
//!
//! Truth is what a scan finds: there is no index file that could disagree with it. A scan never fails because of one
//! bad record; it sets it aside, says why, and goes on.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    marker::PhantomData,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Damage, Error, Flusher, Result,
    at::{self, Durable, UNFINISHED},
    decode, encode,
};

/// Where a scan puts what it cannot read, below the store's directory.
const QUARANTINE: &str = "quarantine";

/// Between the name of a file in quarantine and its number, where one of that name lay there already. No record's name
/// has this in it.
const AGAIN: &str = "~";

/// Records of one type, one file each, named by the caller.
#[derive(Debug)]
pub struct Store<T> {
    dir: PathBuf,
    /// Opened once: the store stays the same one if somebody renames the path.
    fd: File,
    kind: &'static str,
    version: u32,
    values: PhantomData<fn() -> T>,
}

/// What lay in a store.
#[derive(Debug)]
pub struct Scan<T> {
    /// Whole records, sorted by name.
    pub good: Vec<(String, T)>,
    /// The others, each named with its reason. An operator should hear of every one.
    pub quarantined: Vec<Quarantined>,
}

/// A file that is not a readable record.
#[derive(Debug)]
pub struct Quarantined {
    /// Where it lies now: in `quarantine/`; or where it was, if it is a newer version's or could not be moved.
    pub path: PathBuf,
    /// The name it had in the store. Not always one that [`Store::put`] would take.
    pub name: String,
    /// What is wrong with it.
    pub why: Error,
}

impl<T: Serialize + DeserializeOwned> Store<T> {
    /// The store in `dir`, which is made if it is missing (mode 0700: plans hold secrets from the environment). `kind`
    /// is one lower-case word; `version` is what this release writes and the newest that it reads.
    pub fn open(dir: &Path, kind: &'static str, version: u32) -> Result<Self> {
        let failed = |source| Error::Open { dir: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let fd = File::open(dir).map_err(failed)?;
        Ok(Self { dir: dir.to_owned(), fd, kind, version, values: PhantomData })
    }

    /// Writes a record, in place of the one of that name if there is one. After a crash of the daemon it is there;
    /// after a power loss only if a [`Flusher`] has been asked for it and had its second.
    pub fn put(&self, name: &str, value: &T) -> Result<()> {
        self.replace(name, value, Durable::Later)
    }

    /// As [`Store::put`], and on the medium before it returns: two flushes, milliseconds on an ordinary disk.
    pub fn put_durable(&self, name: &str, value: &T) -> Result<()> {
        self.replace(name, value, Durable::Now)
    }

    /// As [`Store::put`], with the rest left to `flusher`: it makes the record durable soon, and deletes what was
    /// replaced.
    pub fn put_soon(&self, name: &str, value: &T, flusher: &Flusher) -> Result<()> {
        at::check(name)?;
        let replaced = at::exchange(self.fd.as_fd(), name, &encode(self.kind, self.version, value)?)?;
        flusher.delete_soon(replaced.map(|old| self.dir.join(old)));
        flusher.soon(self.path(name));
        Ok(())
    }

    /// As [`Store::remove`], with the deletion itself left to `flusher`, and made durable soon.
    pub fn remove_soon(&self, name: &str, flusher: &Flusher) -> Result<()> {
        let removed = at::set_aside(self.fd.as_fd(), name)?;
        flusher.delete_soon(removed.map(|old| self.dir.join(old)));
        flusher.soon(self.path(name));
        Ok(())
    }

    /// The record of this name; `None` if there is none. A damaged one is an error here, and stays where it is.
    pub fn load(&self, name: &str) -> Result<Option<T>> {
        match at::read_at(self.fd.as_fd(), name)? {
            Some(bytes) => decode(self.kind, self.version, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Removes a record; that it was gone already is fine. Works on a full disk.
    pub fn remove(&self, name: &str) -> Result<()> {
        at::remove_at(self.fd.as_fd(), name)
    }

    /// Reads everything. Damaged records and foreign files are moved to `quarantine/`, those of a newer release are
    /// left where they are, what an interrupted write left is deleted. Fails only if the directory cannot be listed.
    pub fn scan(&self) -> Result<Scan<T>> {
        let mut scan = Scan { good: Vec::new(), quarantined: Vec::new() };
        let failed = |source| Error::Open { dir: self.dir.clone(), source };
        let listing = fs::read_dir(&self.dir).map_err(failed)?;
        for entry in listing {
            let entry = entry.map_err(failed)?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str() else {
                let why = Error::Name { name: file_name.to_string_lossy().into_owned() };
                scan.quarantined.push(self.set_aside(&entry.path(), why));
                continue;
            };
            if name == QUARANTINE {
                continue;
            }
            if name.starts_with('.') && name.ends_with(UNFINISHED) {
                let _ = fs::remove_file(entry.path());
                continue;
            }
            match self.read(name, entry.file_type()) {
                Ok(Some(value)) => scan.good.push((name.to_owned(), value)),
                // Removed since it was listed.
                Ok(None) => {}
                Err(why @ Error::Damaged { source: Damage::Newer { .. }, .. }) => {
                    scan.quarantined.push(Quarantined { path: entry.path(), name: name.to_owned(), why });
                }
                // The disk could not give it to us now; that says nothing about the record, so it is not moved.
                Err(why @ Error::Read { .. }) => {
                    scan.quarantined.push(Quarantined { path: entry.path(), name: name.to_owned(), why });
                }
                Err(why) => scan.quarantined.push(self.set_aside(&entry.path(), why)),
            }
        }
        scan.good.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(scan)
    }

    /// Names of the records in `quarantine/`, as they had them in the store: what scans have set aside and nobody has
    /// taken away since.
    pub fn quarantined(&self) -> Result<BTreeSet<String>> {
        let quarantine = self.dir.join(QUARANTINE);
        let failed = |source| Error::Open { dir: quarantine.clone(), source };
        let listing = match fs::read_dir(&quarantine) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            listing => listing.map_err(failed)?,
        };
        let mut names = BTreeSet::new();
        for entry in listing {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            names.insert(name.split_once(AGAIN).map_or(name.clone(), |(name, _)| name.to_owned()));
        }
        Ok(names)
    }

    /// Where the record of this name lies: what a [`Flusher`] wants to know.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The store's directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn replace(&self, name: &str, value: &T, durable: Durable) -> Result<()> {
        at::check(name)?;
        at::replace(self.fd.as_fd(), name, &encode(self.kind, self.version, value)?, durable)
    }

    fn read(&self, name: &str, file_type: io::Result<fs::FileType>) -> Result<Option<T>> {
        let not_a_file = Error::Damaged { kind: self.kind.to_owned(), source: Damage::NotAFile };
        match file_type {
            Ok(file_type) if !file_type.is_file() => Err(not_a_file),
            _ => self.load(name),
        }
    }

    /// Moves a file out of the way. If that fails (a full disk, say) it stays, and is found again by the next scan.
    fn set_aside(&self, path: &Path, why: Error) -> Quarantined {
        let name = path.file_name().unwrap_or_default().to_owned();
        let quarantine = self.dir.join(QUARANTINE);
        let mut target = quarantine.join(&name);
        for again in 1..1000 {
            if target.symlink_metadata().is_err() {
                break;
            }
            let mut other = name.clone();
            other.push(format!("{AGAIN}{again}"));
            target = quarantine.join(other);
        }
        let moved = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&quarantine)
            .and_then(|()| fs::rename(path, &target))
            .is_ok();
        let path = if moved { target } else { path.to_owned() };
        Quarantined { path, name: name.to_string_lossy().into_owned(), why }
    }
}
