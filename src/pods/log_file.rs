//! A container's log file: opened by the daemon, written by the monitor.
//!
//! The log directory comes from the kubelet; the file's path below it is resolved beneath it and never through a link,
//! since other programs write into the directory too.
//!
//! An attempt that comes to nothing takes back the file that it made, and no other: not what has been put in its place
//! since, nor a file that a later attempt has found there and writes to.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use kernel::path_in_root::{self, OpenFlags};
use model::{ContainerId, ContainerPlan, PodPlan};
use nix::unistd::UnlinkatFlags;

use crate::{error::Error, home::Home, record::Made, run::Sandbox, step::Step};

/// Owner may write, its group may read: what log collectors of the field expect.
const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o755;

/// Where the log is, absolute; `None` when the pod or the container names none.
pub(crate) fn path(pod: &PodPlan, container: &ContainerPlan) -> Option<PathBuf> {
    Some(pod.log_directory.as_ref()?.join(container.log_path.as_ref()?))
}

/// Makes the log directory of a pod, where its kubelet has not. It stays when the pod goes: it belongs to the kubelet.
pub(crate) fn make_directory(directory: &Path) -> Result<(), Error> {
    make_directory_now(directory).map_err(|error| Error::file("make the log directory", directory, error))
}

/// Logs that were made and may still be taken back, by path. An entry lives as long as somebody who could.
#[derive(Default)]
pub(crate) struct FreshLogs(Mutex<HashMap<PathBuf, Weak<Place>>>);

/// Where logs are made.
#[derive(Default)]
struct Place {
    /// The file there that whoever made it has to itself. Held while one is opened or taken back.
    fresh: Mutex<Option<FileId>>,
    /// Held while the log is swapped.
    turn: tokio::sync::Mutex<()>,
}

/// Device and inode. No other file has them while this one is held open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId(u64, u64);

impl FreshLogs {
    fn place(&self, path: PathBuf) -> Arc<Place> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, place| place.strong_count() > 0);
        if let Some(place) = places.get(&path).and_then(Weak::upgrade) {
            return place;
        }
        let place = Arc::default();
        places.insert(path, Arc::downgrade(&place));
        place
    }
}

impl Place {
    fn hold(&self) -> MutexGuard<'_, Option<FileId>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A log that was opened.
pub(crate) struct Opened {
    pub(crate) file: OwnedFd,
    /// What was not there before; `None` where the file was.
    pub(crate) made: Option<MadeLog>,
}

/// A log that was made, to be taken back when nothing comes of it.
pub(crate) struct MadeLog {
    /// The pod's log directory.
    root: OwnedFd,
    /// The file, below it.
    path: PathBuf,
    file: FileId,
    /// Held, so that no later file is taken for it.
    _held: OwnedFd,
    place: Arc<Place>,
    /// Directories on the way that were missing, the deepest first.
    directories: Vec<PathBuf>,
}

impl MadeLog {
    /// Removes the file and the directories that were made for it, unless others have come to use them. Blocks.
    pub(crate) fn take_back(self) -> io::Result<()> {
        let mut fresh = self.place.hold();
        if *fresh != Some(self.file) {
            return Ok(());
        }
        *fresh = None;
        match path_in_root::open_no_links(self.root.as_fd(), &self.path, OpenFlags::O_PATH, 0) {
            Ok(found) if file_id(found.as_fd())? != self.file => return Ok(()),
            Ok(_) => self.unlink(&self.path, UnlinkatFlags::NoRemoveDir)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for directory in &self.directories {
            match self.unlink(directory, UnlinkatFlags::RemoveDir) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => break,
                done => done?,
            }
        }
        Ok(())
    }

    /// Removes what is at a path; that it is gone already is fine.
    fn unlink(&self, path: &Path, flags: UnlinkatFlags) -> io::Result<()> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let directory = OpenFlags::O_PATH | OpenFlags::O_DIRECTORY;
        let removed = path_in_root::open_beneath(self.root.as_fd(), parent, directory, 0)
            .and_then(|parent| Ok(nix::unistd::unlinkat(parent, name, flags)?));
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Opens the log for appending; made with its directories when missing. Blocks.
pub(crate) fn open(fresh: &FreshLogs, directory: &Path, path: &Path) -> Result<Opened, Error> {
    let failed = |error| Error::file("open the log", directory.join(path), error);
    // Again, since whoever collects logs may have taken it away meanwhile.
    make_directory_now(directory).map_err(failed)?;
    let root = OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECTORY).open(directory).map_err(failed)?;
    let mut directories: Vec<PathBuf> = Vec::new();
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        directories.extend(missing(root.as_fd(), parent));
        path_in_root::make_directories(root.as_fd(), parent, DIRECTORY_MODE).map_err(failed)?;
    }
    let flags = OpenFlags::O_WRONLY | OpenFlags::O_CREAT | OpenFlags::O_APPEND;
    let open_as = |flags| path_in_root::open_no_links(root.as_fd(), path, flags, FILE_MODE);
    let place = fresh.place(directory.join(path));
    let mut fresh = place.hold();
    match open_as(flags | OpenFlags::O_EXCL) {
        Ok(file) => {
            let id = file_id(file.as_fd()).map_err(failed)?;
            let held = file.try_clone().map_err(failed)?;
            *fresh = Some(id);
            drop(fresh);
            let made = MadeLog { root: root.into(), path: path.to_owned(), file: id, _held: held, place, directories };
            Ok(Opened { file, made: Some(made) })
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // Whoever made it has it no longer to itself.
            *fresh = None;
            Ok(Opened { file: open_as(flags).map_err(failed)?, made: None })
        }
        Err(error) => Err(failed(error)),
    }
}

fn file_id(file: BorrowedFd<'_>) -> io::Result<FileId> {
    let about = nix::sys::stat::fstat(file)?;
    Ok(FileId(about.st_dev, about.st_ino))
}

/// The directories on a path that are not there, the deepest first.
fn missing(root: BorrowedFd<'_>, path: &Path) -> Vec<PathBuf> {
    let is_missing = |path: &&Path| {
        let found = path_in_root::open_in_root(root, path, OpenFlags::O_PATH, 0);
        found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    path.ancestors().filter(|path| !path.as_os_str().is_empty()).take_while(is_missing).map(Path::to_owned).collect()
}

fn make_directory_now(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)
}

/// Swaps the log of a running container for a new file at the same path, which exists when this returns.
pub(crate) async fn reopen(
    home: &Arc<Home>,
    sandbox: &Sandbox,
    id: &ContainerId,
    made: &Made,
    plan: &ContainerPlan,
) -> Result<(), Error> {
    let (Some(directory), Some(path), Some(_)) = (&sandbox.plan.log_directory, &plan.log_path, &made.log_path) else {
        return Err(Error::NoLog { container: id.to_string() });
    };
    let work = async {
        let (own, directory, path) = (home.clone(), directory.clone(), path.clone());
        // One after the other: a file that was opened before another one's swap must not come to the monitor after it.
        let place = home.fresh_logs.place(directory.join(&path));
        let _turn = place.turn.lock().await;
        let Opened { file, made } = home.blocking(move || open(&own.fresh_logs, &directory, &path)).await?;
        let swapped = sandbox.monitor.reopen_log(id, file).await;
        // CRI: no new file where the call fails, as it does for a container that has ended meanwhile. But a monitor
        // that has not answered may write there yet.
        if let (Err(link::Error::Refused { .. }), Some(made)) = (&swapped, made)
            && let Err(error) = home.blocking(move || made.take_back()).await
        {
            tracing::warn!(container = %id, %error, "remove the new log of a container that does not take it");
        }
        swapped.map_err(|error| Error::at(Step::ReopenLog, error.class(), error))
    };
    home.steps.pass(Step::ReopenLog, work).await
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    fn opened(fresh: &FreshLogs, dir: &Path) -> Opened {
        open(fresh, dir, Path::new("deep/er/0.log")).unwrap()
    }

    fn says(dir: &Path) -> Option<String> {
        fs::read_to_string(dir.join("deep/er/0.log")).ok()
    }

    #[test]
    fn a_log_that_nothing_came_of_goes_with_its_directories() {
        let (dir, fresh) = (tempfile::tempdir().unwrap(), FreshLogs::default());
        opened(&fresh, dir.path()).made.unwrap().take_back().unwrap();
        assert!(dir.path().exists() && !dir.path().join("deep").exists());
        // And again: nothing of the first attempt is remembered.
        opened(&fresh, dir.path()).made.unwrap().take_back().unwrap();
        assert!(!dir.path().join("deep").exists());
    }

    #[test]
    fn a_log_that_another_attempt_has_found_stays() {
        let (dir, fresh) = (tempfile::tempdir().unwrap(), FreshLogs::default());
        let first = opened(&fresh, dir.path());
        let second = opened(&fresh, dir.path());
        assert!(second.made.is_none());
        first.made.unwrap().take_back().unwrap();
        fs::File::from(second.file).write_all(b"the second's").unwrap();
        assert_eq!(says(dir.path()).as_deref(), Some("the second's"));
    }

    #[test]
    fn what_has_come_into_a_logs_place_stays() {
        let (dir, fresh) = (tempfile::tempdir().unwrap(), FreshLogs::default());
        let rotate = || fs::rename(dir.path().join("deep/er/0.log"), dir.path().join("deep/er/0.log.1")).unwrap();
        // By another attempt of ours.
        let (first, second) = (opened(&fresh, dir.path()), {
            rotate();
            opened(&fresh, dir.path())
        });
        first.made.unwrap().take_back().unwrap();
        assert_eq!(says(dir.path()).as_deref(), Some(""));
        // By whoever collects logs.
        rotate();
        fs::write(dir.path().join("deep/er/0.log"), "somebody's").unwrap();
        second.made.unwrap().take_back().unwrap();
        assert_eq!(says(dir.path()).as_deref(), Some("somebody's"));
    }
}
