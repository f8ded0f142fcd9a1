//! A container's log file: opened by the daemon, written by the monitor.
//!
//! The log directory comes from the kubelet; the file's path below it is resolved beneath it and never through a link,
//! since other programs write into the directory too.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, OwnedFd},
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
pub(crate) async fn make_directory(home: &Arc<Home>, directory: &Path) -> Result<(), Error> {
    let directory = directory.to_owned();
    home.blocking(move || {
        make_directory_now(&directory).map_err(|e| Error::file("make the log directory", directory, e))
    })
    .await
}

/// Opens the log for appending; made with its directories when missing.
pub(crate) async fn open(home: &Arc<Home>, directory: &Path, path: &Path) -> Result<OwnedFd, Error> {
    Ok(open_or_make(home, directory, path).await?.file)
}

/// A log that was opened.
struct Opened {
    file: OwnedFd,
    /// The directory that holds the file, where the file was not there before.
    made_in: Option<OwnedFd>,
}

async fn open_or_make(home: &Arc<Home>, directory: &Path, path: &Path) -> Result<Opened, Error> {
    let (directory, path) = (directory.to_owned(), path.to_owned());
    home.blocking(move || open_now(&directory, &path)).await
}

fn open_now(directory: &Path, path: &Path) -> Result<Opened, Error> {
    let failed = |error| Error::file("open the log", directory.join(path), error);
    // Again, since whoever collects logs may have taken it away meanwhile.
    make_directory_now(directory).map_err(failed)?;
    let root = OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECTORY).open(directory).map_err(failed)?;
    let parent = match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => path_in_root::make_directories(root.as_fd(), parent, DIRECTORY_MODE).map_err(failed)?,
        None => root.try_clone().map_err(failed)?.into(),
    };
    let flags = OpenFlags::O_WRONLY | OpenFlags::O_CREAT | OpenFlags::O_APPEND;
    let open = |flags| path_in_root::open_no_links(root.as_fd(), path, flags, FILE_MODE);
    match open(flags | OpenFlags::O_EXCL) {
        Ok(file) => Ok(Opened { file, made_in: Some(parent) }),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Ok(Opened { file: open(flags).map_err(failed)?, made_in: None })
        }
        Err(error) => Err(failed(error)),
    }
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
        let Opened { file, made_in } = open_or_make(home, directory, path).await?;
        let swapped = sandbox.monitor.reopen_log(id, file).await;
        // CRI: no new file where the call fails, as it does for a container that has ended meanwhile.
        if let (Err(_), Some(parent), Some(name)) = (&swapped, made_in, path.file_name()) {
            let _ = nix::unistd::unlinkat(parent, name, UnlinkatFlags::NoRemoveDir);
        }
        swapped.map_err(|error| Error::at(Step::ReopenLog, error.class(), error))
    };
    home.steps.pass(Step::ReopenLog, work).await
}
