//! Deletes what was thrown away, on a thread of its own that comes after everybody else.
//!
//! Unlinking a million files takes the kernel seconds, and on a file system without a journal slows down every creation
//! meanwhile; nobody should wait for it in a call.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// The thread that empties the trash.
pub(crate) struct TrashBin {
    wake: SyncSender<()>,
}

impl TrashBin {
    /// Starts the thread; what an earlier daemon left in `trash` is deleted first.
    pub(crate) fn start(trash: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&trash)?;
        // Closed to the host's users, as the directory of the containers is: a container's set-id programs are in here.
        // An earlier release may have left it open.
        fs::set_permissions(&trash, Permissions::from_mode(0o700))?;
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

fn empty(trash: &Path, asleep: &Receiver<()>) {
    if let Err(error) = kernel::priority::come_last() {
        tracing::debug!(%error, "the thread that deletes keeps its priority");
    }
    while asleep.recv().is_ok() {
        let Ok(entries) = fs::read_dir(trash) else { continue };
        for entry in entries.flatten() {
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "delete what was thrown away");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_looks_into_the_trash() {
        let dir = tempfile::tempdir().unwrap();
        let trash = dir.path().join("trash");
        fs::create_dir(&trash).unwrap();
        fs::set_permissions(&trash, Permissions::from_mode(0o755)).unwrap();
        TrashBin::start(trash.clone()).unwrap();
        assert_eq!(fs::metadata(&trash).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
