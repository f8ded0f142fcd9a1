//! Deletes what was thrown away, slowly, on a thread of its own.
//!
//! Unlinking a million files takes the kernel seconds, and on a file system without a journal slows down every creation
//! meanwhile; nobody should wait for it in a call.

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// The thread that empties the trash.
pub(crate) struct TrashBin {
    wake: SyncSender<()>,
}

impl TrashBin {
    /// Starts the thread; what an earlier daemon left in `trash` is deleted first.
    pub(crate) fn start(trash: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&trash)?;
        // One wake-up may wait: it covers everything thrown away before it is taken.
        let (wake, asleep) = sync_channel(1);
        thread::Builder::new().name("trash".to_owned()).spawn(move || empty(&trash, &asleep))?;
        let bin = Self { wake };
        bin.wake();
        Ok(bin)
    }

    /// Something was thrown away.
    pub(crate) fn wake(&self) {
        let _ = self.wake.try_send(());
    }
}

fn empty(trash: &std::path::Path, asleep: &Receiver<()>) {
    while asleep.recv().is_ok() {
        let Ok(entries) = std::fs::read_dir(trash) else { continue };
        for entry in entries.flatten() {
            if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "delete what was thrown away");
            }
        }
    }
}
