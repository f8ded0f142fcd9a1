//! Removing cgroups.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::{
    Cgroups, Layout, PodCgroup, V1, failed,
    kill::{children, remove_tree},
    make::{open_dir, open_file},
    relative,
};
use crate::Result;

/// How long the last processes of a cgroup may take to leave after they were killed.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cgroups {
    /// Removes a cgroup and all below it from every hierarchy; processes that are left are killed. One that is gone
    /// is fine. A hierarchy that refuses does not keep the others: its error comes last.
    pub fn remove(&self, path: &str) -> Result<()> {
        let beside = self.beside(path);
        let deadline = Instant::now() + PATIENCE;
        let mut killed = false;
        let mut refused = Ok(());
        for root in self.roots() {
            while let Err(error) = remove_tree(root, relative(path)) {
                if !is_busy(&error) || Instant::now() >= deadline {
                    refused = Err(failed("remove", path)(error));
                    break;
                }
                if !killed {
                    self.kill(path)?;
                    killed = true;
                }
                wait_for_change(root, path);
            }
        }
        if let (Some(root), Some(parent)) = (beside, above(path)) {
            // Made on the way by the same runtime; the kubelet, of version 1, does not know of it. Refused while others
            // use it.
            let _ = unlinkat(root, relative(parent), UnlinkatFlags::RemoveDir);
        }
        refused
    }

    /// Names of the cgroups right below `path`, over all hierarchies; none when there is no such path.
    pub(crate) fn below(&self, path: &str) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for root in self.roots() {
            match open_dir(root, path).and_then(|dir| children(dir.as_fd())) {
                Ok(found) => names.extend(found),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("list", path)(error)),
            }
        }
        Ok(names)
    }

    /// Removes a pod's cgroup where it is ours, and the directory above it when that was the last pod.
    pub fn remove_pod(&self, pod: &PodCgroup) -> Result<()> {
        if !pod.ours {
            return Ok(());
        }
        self.remove(&pod.path)?;
        if let Some(parent) = above(&pod.path) {
            for root in self.roots() {
                // Refused while other pods are there; whoever makes the next one makes it again.
                let _ = unlinkat(root, relative(parent), UnlinkatFlags::RemoveDir);
            }
        }
        Ok(())
    }

    /// The version 2 tree beside version 1, if it has a cgroup at `path`: another runtime has made it then.
    fn beside(&self, path: &str) -> Option<BorrowedFd<'_>> {
        let Layout::V1(V1 { beside: Some(root), .. }) = &self.layout else { return None };
        open_dir(root.as_fd(), path).is_ok().then(|| root.as_fd())
    }
}

/// The cgroup above one that is not at the top.
fn above(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty())
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY))
}

/// Version 2 tells when a cgroup becomes empty; version 1 tells nobody, so that side is a short pause.
fn wait_for_change(root: BorrowedFd<'_>, path: &str) {
    let events = open_dir(root, path).and_then(|dir| open_file(dir.as_fd(), "cgroup.events", OFlag::O_RDONLY));
    match &events {
        Ok(events) => {
            let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], PollTimeout::from(20u8));
        }
        Err(_) => {
            let _ = poll(&mut [], PollTimeout::from(2u8));
        }
    }
}
