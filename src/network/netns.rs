//! Network namespaces with a name: made, found again, removed.
//!
//! A namespace is kept alive by a bind mount of its nsfs file on `<dir>/coracle-<short pod id>`, where `ip netns` and
//! CNI plugins find it. Beside it a *mark* in this instance's own state directory says whose it is, written before the
//! namespace is made: several instances share `/run/netns` and must never remove each other's. Both die with a reboot.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use kernel::{
    mount::{PropagationType, bind, move_mount, open_tree_clone, set_propagation, umount_detach},
    namespace::{Namespaces, is_nsfs, of_thread, setns, unshare},
};
use model::PodId;
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use crate::{
    Error, Result,
    link::{Batch, Links},
};

/// Every file of ours in the shared directory begins so.
const PREFIX: &str = "coracle-";

/// Mounts stacked on one name that are taken off before giving up: one is normal, a second means a crash between two.
const STACKED_MAX: usize = 16;

/// A network namespace that its file keeps alive.
#[derive(Debug)]
pub struct Netns {
    /// The file that names it.
    pub path: PathBuf,
    /// The namespace itself, open.
    pub fd: OwnedFd,
}

/// The directory of namespace files, and the marks of those that are this instance's.
#[derive(Debug)]
pub(crate) struct NetnsDir {
    dir: PathBuf,
    marks: PathBuf,
}

impl NetnsDir {
    /// `state` is this instance's directory for what a reboot may take away.
    pub(crate) fn open(dir: &Path, state: &Path) -> Result<Self> {
        let marks = state.join("netns");
        for made in [dir, &marks] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(made)
                .map_err(failed("make directory of", made))?;
        }
        share(dir).map_err(failed("share directory of", dir))?;
        Ok(Self { dir: dir.to_owned(), marks })
    }

    /// Where the pod's namespace is, or would be.
    pub(crate) fn path(&self, pod: &PodId) -> PathBuf {
        self.dir.join(format!("{PREFIX}{}", pod.short()))
    }

    /// Makes the pod's namespace, with its loopback up, and leaves the calling thread in it, which must be one of
    /// [`crate::thread`]'s and end with this job. Blocks for about half a millisecond.
    pub(crate) fn make(&self, pod: &PodId) -> Result<Netns> {
        let path = self.path(pod);
        let mark = self.mark(&path);
        fs::write(&mark, pod.as_str()).map_err(failed("mark", &mark))?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o444);
        // Not undone when it exists: then it is somebody's, most likely this very pod's.
        options.open(&path).map_err(failed("make file of", &path))?;
        let made = unshare(Namespaces::NET)
            .map_err(failed("make", &path))
            // By thread: /proc/self would be the namespace of the process's first thread, the host's.
            .and_then(|()| bind(Path::new("/proc/thread-self/ns/net"), &path).map_err(failed("mount", &path)))
            .and_then(|()| {
                // Here, since every pod has it and we are there: no plugin need be asked for it.
                let mut links = Links::open()?;
                let mut batch = Batch::default();
                batch.set_up("lo");
                links.run(batch)
            })
            .and_then(|()| Self::open_netns(&path));
        if made.is_err() {
            // Best effort: what cannot be removed here keeps its mark, and reconciliation comes back to it.
            let _ = self.remove(&path);
        }
        made
    }

    /// Opens a namespace by its file. A file that is no namespace (left by a reboot) is refused with `EINVAL`.
    pub(crate) fn open_netns(path: &Path) -> Result<Netns> {
        let file = File::open(path).map_err(failed("open", path))?;
        if !is_nsfs(file.as_fd()).map_err(failed("open", path))? {
            let what = io::Error::new(io::ErrorKind::InvalidInput, "the file is not a namespace");
            return Err(Error::Netns { act: "open", path: path.to_owned(), source: what });
        }
        Ok(Netns { path: path.to_owned(), fd: file.into() })
    }

    /// Removes a namespace's file; the kernel takes the namespace down once nothing uses it. Safe to repeat.
    ///
    /// Only a mounted namespace or an empty regular file (what a crash or a reboot leaves) is removed.
    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        for _ in 0..STACKED_MAX {
            match umount_detach(path) {
                Ok(()) => {}
                // Not a mount point, or gone.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => break,
                Err(error) => return Err(failed("unmount", path)(error)),
            }
        }
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() && meta.len() == 0 => {
                fs::remove_file(path).or_else(gone).map_err(failed("remove file of", path))?;
            }
            Ok(_) => {
                let what = io::Error::new(io::ErrorKind::InvalidInput, "the file is not one of ours");
                return Err(failed("remove file of", path)(what));
            }
            Err(error) => gone(error).map_err(failed("look at", path))?,
        }
        let mark = self.mark(path);
        fs::remove_file(&mark).or_else(gone).map_err(failed("unmark", &mark))
    }

    /// The namespaces that this instance has marked as its own: pod id (if the mark is whole) and file.
    pub(crate) fn marked(&self) -> Result<Vec<(Option<PodId>, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.marks).map_err(failed("list marks of", &self.marks))? {
            let name = entry.map_err(failed("list marks of", &self.marks))?.file_name();
            if !name.to_str().is_some_and(|name| name.starts_with(PREFIX)) {
                continue;
            }
            let pod = fs::read_to_string(self.marks.join(&name)).ok().and_then(|text| text.parse().ok());
            found.push((pod, self.dir.join(name)));
        }
        Ok(found)
    }

    /// Whether this instance has marked the namespace as its own.
    pub(crate) fn is_marked(&self, path: &Path) -> bool {
        self.mark(path).exists()
    }

    fn mark(&self, path: &Path) -> PathBuf {
        self.marks.join(path.file_name().unwrap_or_default())
    }
}

/// Runs `act` inside a namespace and comes back: what the thread does afterwards, it does on the host again. The thread
/// must be one of [`crate::thread`]'s all the same: should the way back fail, it ends where it is.
pub(crate) fn inside<T>(netns: BorrowedFd<'_>, path: &Path, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut home = WayHome(Some(of_thread(Namespaces::NET).map_err(failed("remember the way out of", path))?));
    setns(netns, Namespaces::NET).map_err(failed("enter", path))?;
    let done = act();
    home.take().map_err(failed("leave", path))?;
    done
}

/// Whether there is a namespace at this path, and no file that one was to be mounted on.
pub(crate) fn is_one(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Brings the thread back, also when what was done there panics.
struct WayHome(Option<OwnedFd>);

impl WayHome {
    fn take(&mut self) -> io::Result<()> {
        self.0.take().map_or(Ok(()), |home| setns(home.as_fd(), Namespaces::NET))
    }
}

impl Drop for WayHome {
    fn drop(&mut self) {
        if let Err(error) = self.take() {
            tracing::error!(%error, "leave a pod's network namespace");
        }
    }
}

/// Makes the directory a shared mount of its own, as `ip netns` does: mounts made in it reach the other mount
/// namespaces that should see them, and unmounting is not held up by copies elsewhere. Done once; safe to repeat.
fn share(dir: &Path) -> io::Result<()> {
    let shared = || set_propagation(dir, PropagationType::Shared, true);
    match shared() {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let target = File::open(dir)?;
            // With all that is mounted below it: others' namespaces must not vanish behind ours.
            let copy = open_tree_clone(target.as_fd(), Path::new(""), true)?;
            move_mount(copy.as_fd(), target.as_fd())?;
            shared()
        }
        done => done,
    }
}

fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Netns { act, path: path.to_owned(), source }
}
