//! Deleting in two steps: out of the way at once by rename, from the disk later by a thread of its own.
//!
//! Unlinking a large layer takes seconds on some file systems; nobody waits for that under a lock, and the thread comes
//! after everybody else at the processor and at the disk. Renaming needs no room, so it works on a full disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use tokio::sync::oneshot;

/// The trash and its thread. The thread ends with the process: what it leaves is deleted after the next start.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    next: AtomicU64,
    work: Sender<Work>,
}

#[derive(Debug)]
enum Work {
    Delete(PathBuf),
    Tell(oneshot::Sender<()>),
}

impl Trash {
    /// Opens the trash in `dir` and starts to empty it. `records` is synced before anything is deleted: a record that
    /// came back after a power loss must not speak of content that did not.
    pub(crate) fn open(dir: &Path, records: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let (work, inbox) = mpsc::channel();
        let records = records.to_owned();
        let mut next = 0;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            next = next.max(number.map_or(0, |number| number + 1));
            // The receiver is alive: it was made above.
            let _ = work.send(Work::Delete(path));
        }
        thread::Builder::new().name("images-trash".to_owned()).spawn(move || run(&inbox, &records))?;
        Ok(Self { dir: dir.to_owned(), next: AtomicU64::new(next), work })
    }

    /// Takes `path` out of the way. It is gone from there when this returns; that it was gone already is fine.
    pub(crate) fn throw(&self, path: &Path) -> io::Result<()> {
        let place = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        match fs::rename(path, &place) {
            Ok(()) => {
                let _ = self.work.send(Work::Delete(place));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Resolves when all that was thrown before is deleted.
    pub(crate) fn emptied(&self) -> oneshot::Receiver<()> {
        let (done, emptied) = oneshot::channel();
        let _ = self.work.send(Work::Tell(done));
        emptied
    }
}

fn run(inbox: &Receiver<Work>, records: &Path) {
    if let Err(error) = kernel::priority::come_last() {
        tracing::debug!(%error, "the thread that deletes keeps its priority");
    }
    while let Ok(first) = inbox.recv() {
        let batch: Vec<Work> = std::iter::once(first).chain(inbox.try_iter()).collect();
        let anything = batch.iter().any(|work| matches!(work, Work::Delete(_)));
        if anything && let Err(error) = fs::File::open(records).and_then(|dir| dir.sync_all()) {
            // The content is unreachable either way; a power loss now could list an image that cannot be used, which
            // the next start notices.
            tracing::warn!(%error, "the image records do not reach the disk");
        }
        for work in batch {
            match work {
                Work::Delete(path) => delete(&path),
                Work::Tell(done) => drop(done.send(())),
            }
        }
    }
}

fn delete(path: &Path) {
    let result = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    if let Err(error) = result
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "trash stays; the next start tries again");
    }
}
