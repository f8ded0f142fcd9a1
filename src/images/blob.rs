//! Blobs by digest: a file has its final name only when its content was seen to match it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use model::Digest;

use crate::{
    Error, Result,
    arrival::{Arrival, Teller},
    early::Early,
    hash::{Hasher, digest_of, digest_of_stream},
};

/// The directory of blobs, and the one where they are made.
#[derive(Debug)]
pub(crate) struct Blobs {
    dir: PathBuf,
    ingest: PathBuf,
    next: AtomicU64,
}

impl Blobs {
    /// Both directories must exist.
    pub(crate) fn new(dir: PathBuf, ingest: PathBuf) -> Self {
        Self { dir, ingest, next: AtomicU64::new(0) }
    }

    /// Where blobs are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the blob is, if it is.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Every blob that is there, with its bytes. Foreign files are not blobs.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, fs::Metadata)>> {
        let failed = || Error::disk("list", &self.dir);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| format!("{}{name}", Digest::PREFIX).parse::<Digest>().ok());
            if let Some(digest) = digest
                && let Ok(meta) = entry.metadata()
                && meta.is_file()
            {
                found.push((digest, meta));
            }
        }
        Ok(found)
    }

    /// Opens a blob to be read.
    pub(crate) fn open(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).map_err(Error::disk("open", path))
    }

    /// Whether the file's content is what its name says.
    pub(crate) fn is_whole(&self, digest: &Digest) -> Result<bool> {
        let path = self.path(digest);
        let (found, _) = digest_of_stream(self.open(digest)?).map_err(Error::disk("read", path))?;
        Ok(found == *digest)
    }

    /// The whole of a small blob, verified; `limit` in bytes.
    pub(crate) fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        self.open(digest)?.take(limit + 1).read_to_end(&mut bytes).map_err(Error::disk("read", &path))?;
        let found = digest_of(&bytes);
        if bytes.len() as u64 > limit || found != *digest {
            return Err(Error::Mismatch {
                expected: digest.clone(),
                found: format!("{found} from {}", path.display()),
            });
        }
        Ok(bytes)
    }

    /// The first bytes of a blob: so many, or all that there are.
    pub(crate) fn head(&self, digest: &Digest, bytes: u64) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        self.open(digest)?.take(bytes).read_to_end(&mut head).map_err(Error::disk("read", self.path(digest)))?;
        Ok(head)
    }

    /// Begins a blob.
    pub(crate) fn begin(&self) -> Result<Incoming> {
        let path = self.ingest.join(format!("blob-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = Arc::new(file.map_err(Error::disk("create", &path))?);
        Ok(Incoming { file, path, hasher: Hasher::new(), bytes: 0, early: Early::default(), teller: None })
    }

    /// The same for somebody who reads along.
    pub(crate) fn begin_for(&self, arrival: &Arc<Arrival>) -> Result<Incoming> {
        let mut incoming = self.begin()?;
        incoming.teller = arrival.begin(&incoming.file);
        Ok(incoming)
    }

    /// Gives a finished blob its name.
    pub(crate) fn keep(&self, finished: &Finished) -> Result<()> {
        let path = self.path(&finished.digest);
        // Over another of the same digest it changes nothing.
        fs::rename(&finished.path, &path).map_err(Error::disk("rename to", path))
    }
}

/// A blob that is being written. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Incoming {
    file: Arc<File>,
    path: PathBuf,
    hasher: Hasher,
    bytes: u64,
    early: Early,
    teller: Option<Teller>,
}

/// A blob that was written whole, under its temporary name. Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Finished {
    path: PathBuf,
    /// Digest of what was written.
    pub(crate) digest: Digest,
    /// Bytes that were written.
    pub(crate) bytes: u64,
}

impl Incoming {
    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        (&*self.file).write_all(bytes).map_err(Error::disk("write", &self.path))?;
        // Whoever reads along goes on while this hashes.
        if let Some(teller) = &self.teller {
            teller.add(bytes.len() as u64);
        }
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.early.wrote(&self.file, self.bytes);
        Ok(())
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends it with whatever it is.
    pub(crate) fn finish(mut self) -> Finished {
        let hasher = std::mem::replace(&mut self.hasher, Hasher::new());
        // The file is the finished blob's now: dropping `self` must not delete it.
        let path = std::mem::take(&mut self.path);
        Finished { path, digest: hasher.finish(), bytes: self.bytes }
    }

    /// Ends it as the blob that was wanted; anything else is refused and leaves nothing.
    pub(crate) fn finish_as(mut self, expected: &Digest, bytes: Option<u64>) -> Result<Finished> {
        let teller = self.teller.take();
        let finished = self.finish();
        let wrong = |found| Err(Error::Mismatch { expected: expected.clone(), found });
        if let Some(bytes) = bytes
            && bytes != finished.bytes
        {
            return wrong(format!("{} bytes instead of {bytes}", finished.bytes));
        }
        if finished.digest != *expected {
            return wrong(finished.digest.to_string());
        }
        if let Some(teller) = teller {
            teller.ends_whole();
        }
        Ok(finished)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        discard(&self.path);
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        discard(&self.path);
    }
}

/// Best effort: what stays is deleted at the next start.
fn discard(path: &Path) {
    if !path.as_os_str().is_empty() {
        let _: io::Result<()> = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let root = tempfile::tempdir().unwrap();
        for dir in ["blobs", "ingest"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        let blobs = Blobs::new(root.path().join("blobs"), root.path().join("ingest"));
        (root, blobs)
    }

    #[test]
    fn only_what_matches_gets_its_name() {
        let (root, blobs) = blobs();
        let digest = digest_of(b"hello");
        for (content, bytes) in [(&b"hullo"[..], Some(5)), (b"hello", Some(6)), (b"hell", None)] {
            let mut incoming = blobs.begin().unwrap();
            incoming.write(content).unwrap();
            assert!(matches!(incoming.finish_as(&digest, bytes), Err(Error::Mismatch { .. })));
        }
        let mut incoming = blobs.begin().unwrap();
        incoming.write(b"hel").unwrap();
        incoming.write(b"lo").unwrap();
        blobs.keep(&incoming.finish_as(&digest, Some(5)).unwrap()).unwrap();
        assert_eq!(blobs.read(&digest, 100).unwrap(), b"hello");
        assert!(blobs.is_whole(&digest).unwrap());
        drop(blobs.begin().unwrap());
        assert_eq!(fs::read_dir(root.path().join("ingest")).unwrap().count(), 0);
        assert_eq!(blobs.list().unwrap().len(), 1);
    }

    #[test]
    fn a_rotten_or_huge_blob_is_not_read() {
        let (_root, blobs) = blobs();
        let digest = digest_of(b"hello");
        fs::write(blobs.path(&digest), b"hellO").unwrap();
        assert!(!blobs.is_whole(&digest).unwrap());
        assert!(blobs.read(&digest, 100).is_err());
        fs::write(blobs.path(&digest), b"hello").unwrap();
        assert!(blobs.read(&digest, 4).is_err());
    }
}
