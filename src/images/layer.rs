//! Makes a layer: a blob inflated, hashed and unpacked in the workplace, named only when its diff id is right.
//!
//! Three threads share the work, since inflating, hashing and writing files each fill one: the caller's unpacks, one
//! inflates, one hashes. Chunks go to both readers by reference, and their memory goes round.

use std::{
    fs,
    io::{self, BufRead, Read},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use model::Digest;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Fault, Result,
    budget::Share,
    hash::Hasher,
    inflate::{Window, inflate_within},
    manifest::LayerPlan,
    record::LayerSize,
    shelf::Shelf,
    tar_stream::stream_fault,
    unpack::{Lowers, Tree, unpack},
};

/// Bytes that pass from thread to thread at a time: large enough that handing over costs nothing.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait between two threads: 1 MiB each way.
const WAITING: usize = 4;

type Inflated = Result<Arc<Chunk>, Fault>;

/// A layer that was unpacked and verified, still in the workplace. Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Unpacked {
    shelf: Arc<Shelf>,
    pub(crate) path: PathBuf,
    pub(crate) size: LayerSize,
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // After it got its name nothing is here any more, and that is fine.
        if let Err(error) = self.shelf.trash().throw(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a spoiled layer stays until the next start");
        }
    }
}

/// What is to be made, and within which bounds.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) plan: &'a LayerPlan,
    /// Of what the image may take.
    pub(crate) share: Share,
    /// How much memory inflating may take.
    pub(crate) window: Window,
    /// This job's own. Looked at at each chunk, and at each header; ended by the job when nothing more is wanted of the
    /// blob, which may have to be waited for.
    pub(crate) stop: CancellationToken,
}

/// Unpacks what `blob` gives, which is a layer's blob, on top of the directories that `lowers` tells, topmost first: it
/// is asked when one of them has to be looked at, and may wait. Blocks.
pub(crate) fn make(
    shelf: &Arc<Shelf>,
    job: Job<'_>,
    blob: impl Read + Send,
    lowers: impl Fn() -> Result<Vec<PathBuf>, Fault> + 'static,
) -> Result<Unpacked> {
    let Job { plan, share, window, stop } = job;
    let share = Arc::new(share);
    let path = shelf.workplace();
    fs::create_dir(&path).map_err(Error::disk("create", &path))?;
    let mut unpacked = Unpacked { shelf: shelf.clone(), path, size: LayerSize::default() };
    let limits = &shelf.config.limits;
    let failed = |source| Error::Layer { layer: plan.blob.clone(), source };
    let tree = Tree::open_on(&unpacked.path, Lowers::coming(lowers), limits, share.clone()).map_err(failed)?;
    let (found, size) = thread::scope(|scope| {
        let (to_hash, hashed) = sync_channel::<Arc<Chunk>>(WAITING);
        let (to_unpack, inflated) = sync_channel::<Inflated>(WAITING);
        let hasher = scope.spawn(move || hash(&hashed));
        let bounds = Bounds { limit: limits.layer_bytes, share: &share, window, cancel: &stop };
        scope.spawn(move || produce(blob, &bounds, &to_hash, &to_unpack));
        let size = unpack(Chunks { inflated, chunk: None, at: 0, cancel: &stop }, tree);
        // `unpack` has read to the end or dropped its end of the channel: either way the others come to theirs.
        if size.is_err() {
            stop.cancel();
        }
        (hasher.join(), size)
    });
    unpacked.size = size.map_err(failed)?;
    let Ok(found) = found else { return Err(Error::Cancelled) };
    if found != plan.diff_id {
        return Err(failed(Fault::DiffId { expected: plan.diff_id.clone(), found }));
    }
    share.keep();
    Ok(unpacked)
}

/// Checks that the blob in the store is one of the layer's content, without unpacking it. Blocks.
pub(crate) fn check_diff_id(shelf: &Shelf, plan: &LayerPlan, cancel: &CancellationToken) -> Result<()> {
    let failed = |source| Error::Layer { layer: plan.blob.clone(), source };
    let blob = shelf.blobs.open(&plan.blob)?;
    let limit = shelf.config.limits.layer_bytes;
    let found = content_digest(blob, limit, cancel).map_err(failed)?;
    if found != plan.diff_id {
        return Err(failed(Fault::DiffId { expected: plan.diff_id.clone(), found }));
    }
    Ok(())
}

fn content_digest(blob: impl Read, limit: u64, cancel: &CancellationToken) -> Result<Digest, Fault> {
    let mut stream = inflate_within(Window::Wide, blob).map_err(stream_fault)?;
    let (mut hasher, mut memory, mut total) = (Hasher::new(), vec![0; CHUNK], 0);
    loop {
        if cancel.is_cancelled() {
            return Err(Fault::Cancelled);
        }
        let filled = fill(&mut stream, &mut memory).map_err(stream_fault)?;
        total += filled as u64;
        if total > limit {
            return Err(Fault::budget("bytes", limit));
        }
        if filled == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&memory[..filled]);
    }
}

/// Some of the inflated content. Its memory goes back to where it came from.
#[derive(Debug)]
struct Chunk {
    /// Of [`CHUNK`] bytes, of which the first are filled: cleared once, not each time.
    memory: Vec<u8>,
    filled: usize,
    spare: Arc<Spare>,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

/// Memory for chunks that nobody reads any more: taking it anew each time, the kernel would have to clear it.
#[derive(Debug, Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    fn memory(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| vec![0; CHUNK])
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.spare.0.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

fn hash(chunks: &Receiver<Arc<Chunk>>) -> Digest {
    let mut hasher = Hasher::new();
    while let Ok(chunk) = chunks.recv() {
        hasher.update(chunk.bytes());
    }
    hasher.finish()
}

/// What ends the inflating before its end.
#[derive(Debug)]
struct Bounds<'a> {
    /// Bytes of the layer.
    limit: u64,
    share: &'a Share,
    window: Window,
    cancel: &'a CancellationToken,
}

/// Inflates, counts, and hands each chunk to both readers. Ends early when the unpacker has.
fn produce(blob: impl Read, bounds: &Bounds<'_>, to_hash: &SyncSender<Arc<Chunk>>, to_unpack: &SyncSender<Inflated>) {
    let (mut total, spare) = (0, Arc::<Spare>::default());
    let mut next = |stream: &mut dyn Read| -> Result<Option<Arc<Chunk>>, Fault> {
        if bounds.cancel.is_cancelled() {
            return Err(Fault::Cancelled);
        }
        let mut memory = spare.memory();
        let filled = fill(stream, &mut memory).map_err(stream_fault)?;
        total += filled as u64;
        if total > bounds.limit {
            return Err(Fault::budget("bytes", bounds.limit));
        }
        bounds.share.take_bytes(filled as u64)?;
        Ok((filled > 0).then(|| Arc::new(Chunk { memory, filled, spare: spare.clone() })))
    };
    let mut stream = match inflate_within(bounds.window, blob) {
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

/// Fills the memory as far as the stream goes.
fn fill(stream: &mut dyn Read, memory: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < memory.len() {
        match stream.read(&mut memory[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What the unpacker reads. The faults of the other side come out as errors that hold them. Cancelled, it ends at once:
/// thousands of entries may wait in it, and each may take its time.
struct Chunks<'a> {
    inflated: Receiver<Inflated>,
    chunk: Option<Arc<Chunk>>,
    at: usize,
    cancel: &'a CancellationToken,
}

impl Read for Chunks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Chunks<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other(Fault::Cancelled));
        }
        if self.chunk.as_ref().is_none_or(|chunk| self.at == chunk.filled) {
            // Given back before there is a wait for the next.
            (self.chunk, self.at) = (None, 0);
            match self.inflated.recv() {
                Ok(Ok(chunk)) => self.chunk = Some(chunk),
                Ok(Err(fault)) => return Err(io::Error::other(fault)),
                Err(_) => {}
            }
        }
        Ok(self.chunk.as_ref().map(|chunk| &chunk.bytes()[self.at..]).unwrap_or_default())
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}
