//! What is written is put on its way to the medium early, while the processor is busy with what comes next: before an
//! image is listed all of it has to be there, and by then little is left to wait for.
//!
//! This only begins writing. That everything is on the medium is what the last [`Writing::sync`] sees to.

use std::{
    fs::File,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use kernel::file::{start_writing, syncfs};
use tokio::sync::Semaphore;

use crate::{Error, Result, record::LayerSize, shelf::Shelf};

/// Bytes of one file that go on their way together. What is smaller waits for others: file by file the kernel would
/// make a request for each.
const SPAN: u64 = 1 << 20;
/// Bytes and inodes of finished layers for which the file system is synced once: an inode takes about so much of the
/// time that a block of a file does.
const BATCH: u64 = 16 << 20;
const INODE: u64 = 4 << 10;

/// One file that is being written from its beginning.
#[derive(Debug, Default)]
pub(crate) struct Early {
    begun: u64,
}

impl Early {
    /// It has come so far.
    pub(crate) fn wrote(&mut self, file: &File, end: u64) {
        if end.saturating_sub(self.begun) >= SPAN {
            self.begun = end;
            // Where a file system cannot, it is written in the end.
            let _: std::io::Result<()> = start_writing(file.as_fd());
        }
    }
}

/// One image's bytes on their way to the medium. Begun before the first of them: the kernel tells whoever syncs a file
/// system of the write errors since the descriptor was opened that it is asked by, and of no others that somebody else
/// has been told of.
#[derive(Debug)]
pub(crate) struct Writing {
    directory: File,
    path: PathBuf,
    /// How often writes had been lost before.
    pub(crate) losses: u64,
    /// What lies in finished layers and was not synced yet.
    unsynced: AtomicU64,
    turn: Semaphore,
}

impl Writing {
    /// Nothing is written yet. Blocks for the disk.
    pub(crate) fn begin(shelf: &Shelf) -> Result<Self> {
        let (losses, path) = (shelf.losses(), shelf.layers().to_owned());
        let directory = File::open(&path).map_err(Error::disk("open", &path))?;
        Ok(Self { directory, path, losses, unsynced: AtomicU64::new(0), turn: Semaphore::new(1) })
    }

    /// A layer was made, and others of the image are still to come: syncs what there is, if that is enough. One at a
    /// time; what comes meanwhile is for the next.
    pub(crate) async fn add(self: &Arc<Self>, shelf: &Arc<Shelf>, size: LayerSize) -> Result<()> {
        let more = size.bytes.saturating_add(size.inodes.saturating_mul(INODE));
        if self.unsynced.fetch_add(more, Ordering::Relaxed).saturating_add(more) < BATCH {
            return Ok(());
        }
        let Ok(_turn) = self.turn.try_acquire() else { return Ok(()) };
        self.unsynced.store(0, Ordering::Relaxed);
        let writing = self.clone();
        shelf.working(move |shelf| shelf.sync(&writing)).await
    }

    /// All of it is on the medium on return, with its names. Blocks.
    pub(crate) fn sync(&self) -> Result<()> {
        syncfs(self.directory.as_fd()).map_err(Error::disk("sync", &self.path))
    }
}
