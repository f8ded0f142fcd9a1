//! Makes records durable soon, in groups, off everybody's path.
//!
//! A flush costs 1–10 ms on an ordinary disk and a call may wait for none of them, yet a pod that was acknowledged more
//! than a second ago must be listed after a power loss. So writers leave paths here, and a thread of its own syncs all
//! that gathered within [`GATHER`]: each file, then each directory once (the rename lives there). Many at a time are
//! cheaper by one `syncfs`. First it deletes what was replaced or removed, which lies under names that no scan heeds.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::unistd::syncfs;

/// How long paths gather before they are synced: with the sync itself well under the promised second.
const GATHER: Duration = Duration::from_millis(400);

/// From so many files on, one `syncfs` a file system replaces a sync of each.
const MANY: usize = 24;

/// The background thread. Dropping it syncs what still waits, then ends it.
#[derive(Debug)]
pub struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Something was asked, or the end has come.
    asked: Condvar,
    /// A round is over.
    synced: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    paths: BTreeSet<PathBuf>,
    /// Files to be deleted first.
    deleted: Vec<PathBuf>,
    /// Rounds begun and rounds finished, for [`Flusher::settle`].
    begun: u64,
    finished: u64,
    /// Somebody waits for the end of this round: do not gather longer.
    hurry: bool,
    ending: bool,
}

impl Flusher {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = thread::Builder::new().name("flusher".to_owned()).spawn(move || run(&theirs))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Within a second the file at `path` and its directory are on the medium; of a directory, its entries. A file that
    /// is gone by then was removed: then that removal is. Returns at once.
    pub fn soon(&self, path: impl Into<PathBuf>) {
        if self.shared.lock().paths.insert(path.into()) {
            self.shared.asked.notify_one();
        }
    }

    /// With the next round this file is deleted. Its name is one that a scan deletes too, so nothing depends on when.
    pub(crate) fn delete_soon(&self, path: impl IntoIterator<Item = PathBuf>) {
        self.shared.lock().deleted.extend(path);
    }

    /// Waits until all that was asked for before is on the medium (or its failure logged).
    pub fn settle(&self) {
        let mut waiting = self.shared.lock();
        let round = waiting.begun + u64::from(!waiting.paths.is_empty());
        while waiting.finished < round {
            waiting.hurry = true;
            self.shared.asked.notify_one();
            waiting = self.shared.synced.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.asked.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(shared: &Shared) {
    // A disk that refuses refuses every round: say so once, and once when it is well again.
    let mut failing = false;
    let mut waiting = shared.lock();
    loop {
        while waiting.paths.is_empty() && !waiting.ending {
            waiting = shared.asked.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.paths.is_empty() {
            return;
        }
        let gathered = shared.asked.wait_timeout_while(waiting, GATHER, |waiting| !waiting.hurry && !waiting.ending);
        waiting = gathered.unwrap_or_else(PoisonError::into_inner).0;
        let (paths, deleted) = (std::mem::take(&mut waiting.paths), std::mem::take(&mut waiting.deleted));
        waiting.hurry = false;
        waiting.begun += 1;
        drop(waiting);
        match sync_all(&paths) {
            Ok(()) if failing => {
                failing = false;
                tracing::info!("records reach the disk again");
            }
            Ok(()) => {}
            Err((path, error)) => {
                if !failing {
                    tracing::error!(
                        path = %path.display(), %error,
                        "records do not reach the disk: a power loss would lose them"
                    );
                }
                failing = true;
            }
        }
        // Not before: what is to last is not to wait for what is to go. What cannot be deleted now is by the next scan.
        for path in deleted {
            let _ = fs::remove_file(path);
        }
        waiting = shared.lock();
        waiting.finished += 1;
        shared.synced.notify_all();
    }
}

/// Syncs everything it can; the first failure is returned.
fn sync_all(paths: &BTreeSet<PathBuf>) -> Result<(), (PathBuf, io::Error)> {
    let directories: BTreeSet<&Path> = paths
        .iter()
        .map(|path| if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(Path::new("/")) })
        .collect();
    let mut first = Ok(());
    let mut note = |path: &Path, result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound && first.is_ok() => {
            first = Err((path.to_owned(), error));
        }
        _ => {}
    };
    if paths.len() >= MANY {
        let mut done = BTreeSet::new();
        for directory in directories {
            // One per file system: its device number tells them apart.
            match File::open(directory).and_then(|file| Ok((device(&file)?, file))) {
                Ok((device, file)) if done.insert(device) => note(directory, syncfs(&file).map_err(Into::into)),
                Ok(_) => {}
                Err(error) => note(directory, Err(error)),
            }
        }
        return first;
    }
    for path in paths {
        note(path, File::open(path).and_then(|file| file.sync_all()));
    }
    for directory in directories {
        note(directory, File::open(directory).and_then(|file| file.sync_all()));
    }
    first
}

fn device(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.dev())
}
