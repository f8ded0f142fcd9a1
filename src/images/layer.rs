//! Makes a layer: a blob inflated, hashed and unpacked in the workplace, named only when its diff id is right.
//!
//! Three threads share the work, since inflating, hashing and writing files each fill one: the caller's unpacks, one
//! inflates, one hashes. Chunks go to both readers by reference. Seam: the blob may as well be a download under way.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use model::Digest;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Fault, Result,
    hash::Hasher,
    inflate::inflate,
    record::LayerSize,
    shelf::Shelf,
    unpack::{Tree, unpack},
};

/// Bytes that pass from thread to thread at a time: large enough that handing over costs nothing.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait between two threads: 2 MiB each way.
const WAITING: usize = 8;

type Chunk = Result<Arc<Vec<u8>>, Fault>;

/// A layer that was unpacked and verified, still in the workplace. Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Unpacked<'a> {
    shelf: &'a Shelf,
    pub(crate) path: PathBuf,
    pub(crate) size: LayerSize,
}

impl Drop for Unpacked<'_> {
    fn drop(&mut self) {
        // After it got its name nothing is here any more, and that is fine.
        if let Err(error) = self.shelf.trash().throw(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a spoiled layer stays until the next start");
        }
    }
}

/// Unpacks the blob on top of `below` (chain ids, lowest first). Blocks; looks at `cancel` at each chunk.
pub(crate) fn make<'a>(
    shelf: &'a Shelf,
    blob: &Digest,
    diff_id: &Digest,
    below: &[Digest],
    cancel: &CancellationToken,
) -> Result<Unpacked<'a>> {
    let file = shelf.blobs.open(blob)?;
    let path = shelf.workplace();
    fs::create_dir(&path).map_err(Error::disk("create", &path))?;
    let mut unpacked = Unpacked { shelf, path, size: LayerSize::default() };
    let lowers: Vec<PathBuf> = below.iter().rev().map(|chain_id| shelf.layer(chain_id)).collect();
    let limits = &shelf.config.limits;
    let failed = |source| Error::Layer { layer: blob.clone(), source };
    let tree = Tree::open(&unpacked.path, &lowers, limits).map_err(failed)?;
    let (found, size) = thread::scope(|scope| {
        let (to_hash, hashed) = sync_channel::<Arc<Vec<u8>>>(WAITING);
        let (to_unpack, inflated) = sync_channel::<Chunk>(WAITING);
        let hasher = scope.spawn(move || hash(&hashed));
        scope.spawn(move || produce(file, limits.layer_bytes, cancel, &to_hash, &to_unpack));
        let size = unpack(Chunks { inflated, chunk: None, at: 0 }, tree);
        // `unpack` has read to the end or dropped its end of the channel: either way the others come to theirs.
        (hasher.join(), size)
    });
    unpacked.size = size.map_err(failed)?;
    let Ok(found) = found else { return Err(Error::Cancelled) };
    if found != *diff_id {
        return Err(failed(Fault::DiffId { expected: diff_id.clone(), found }));
    }
    Ok(unpacked)
}

fn hash(chunks: &Receiver<Arc<Vec<u8>>>) -> Digest {
    let mut hasher = Hasher::new();
    while let Ok(chunk) = chunks.recv() {
        hasher.update(&chunk);
    }
    hasher.finish()
}

/// Inflates, counts, and hands each chunk to both readers. Ends early when the unpacker has.
fn produce(
    blob: File,
    limit: u64,
    cancel: &CancellationToken,
    to_hash: &SyncSender<Arc<Vec<u8>>>,
    to_unpack: &SyncSender<Chunk>,
) {
    let mut total = 0;
    let mut next = |stream: &mut dyn Read| -> Result<Option<Arc<Vec<u8>>>, Fault> {
        if cancel.is_cancelled() {
            return Err(Fault::Cancelled);
        }
        let mut chunk = Vec::with_capacity(CHUNK);
        stream.take(CHUNK as u64).read_to_end(&mut chunk).map_err(|source| Fault::Stream { source })?;
        total += chunk.len() as u64;
        if total > limit {
            return Err(Fault::budget("bytes", limit));
        }
        Ok((!chunk.is_empty()).then(|| Arc::new(chunk)))
    };
    let mut stream = match inflate(blob) {
        Ok(stream) => stream,
        Err(source) => return drop(to_unpack.send(Err(Fault::Stream { source }))),
    };
    loop {
        let chunk = match next(&mut stream) {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return,
            Err(fault) => return drop(to_unpack.send(Err(fault))),
        };
        if to_hash.send(chunk.clone()).is_err() || to_unpack.send(Ok(chunk)).is_err() {
            return;
        }
    }
}

/// What the unpacker reads. The faults of the other side come out as errors that hold them.
struct Chunks {
    inflated: Receiver<Chunk>,
    chunk: Option<Arc<Vec<u8>>>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(chunk) = self.chunk.as_ref().filter(|chunk| self.at < chunk.len()) {
                let n = buffer.len().min(chunk.len() - self.at);
                buffer[..n].copy_from_slice(&chunk[self.at..self.at + n]);
                self.at += n;
                return Ok(n);
            }
            match self.inflated.recv() {
                Ok(Ok(chunk)) => (self.chunk, self.at) = (Some(chunk), 0),
                Ok(Err(fault)) => return Err(io::Error::other(fault)),
                Err(_) => return Ok(0),
            }
        }
    }
}
