//! A container's log file: opened by the daemon, written by the monitor.
//!
//! The log directory comes from the kubelet; the file's path below it is resolved beneath it and never through a link,
//! since other programs write into the directory too.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
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
    /// Directories on the way that were missing, the deepest first.
    directories: Vec<PathBuf>,
}

impl MadeLog {
    /// Removes the file and the directories that were made for it, unless others have come to use them.
    pub(crate) fn take_back(self) -> io::Result<()> {
        self.unlink(&self.path, UnlinkatFlags::NoRemoveDir)?;
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
pub(crate) fn open(directory: &Path, path: &Path) -> Result<Opened, Error> {
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
    match open_as(flags | OpenFlags::O_EXCL) {
        Ok(file) => {
            let made = MadeLog { root: root.into(), path: path.to_owned(), directories };
            Ok(Opened { file, made: Some(made) })
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Ok(Opened { file: open_as(flags).map_err(failed)?, made: None })
        }
        Err(error) => Err(failed(error)),
    }
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
        let (directory, path) = (directory.clone(), path.clone());
        let Opened { file, made } = home.blocking(move || open(&directory, &path)).await?;
        let swapped = sandbox.monitor.reopen_log(id, file).await;
        // CRI: no new file where the call fails, as it does for a container that has ended meanwhile.
        if let (Err(_), Some(made)) = (&swapped, made)
            && let Err(error) = home.blocking(move || made.take_back()).await
        {
            tracing::warn!(container = %id, %error, "remove the new log of a container that does not take it");
        }
        swapped.map_err(|error| Error::at(Step::ReopenLog, error.class(), error))
    };
    home.steps.pass(Step::ReopenLog, work).await
}
