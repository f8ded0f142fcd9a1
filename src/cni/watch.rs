//! Notices at once when the directory of configurations may have changed: a file written, moved in or out, removed; the
//! directory itself made, replaced or swapped by a link.
//!
//! One inotify watches the directory and those above it, down from the first that exists. What it cannot see (a file
//! that a link leads elsewhere to) the look every few seconds sees.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

use crate::{Error, Result};

/// How long the directory has to be quiet before it is read: files that belong together are written one after the
/// other.
const QUIET_MS: u16 = 50;
/// How often in a row quiet may be waited for: a directory that is never quiet is read all the same.
const WAITS_MAX: usize = 20;
/// Stack of the thread, bytes.
const STACK: usize = 1024 * 1024;

/// A watch. It ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    _leash: OwnedFd,
}

impl Watch {
    /// Calls `changed` whenever something may have, on a thread of its own; also once when the watch stands, for what
    /// happened before.
    pub fn start(dir: PathBuf, changed: impl Fn() + Send + 'static) -> Result<Self> {
        let failed = |source| Error::File { act: "watch", path: dir.clone(), source };
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = inotify.map_err(|errno| failed(errno.into()))?;
        let (held, leash) = io::pipe().map_err(failed)?;
        let watched = dir.clone();
        let run = move || watch(&inotify, &held.into(), &watched, changed);
        let born = thread::Builder::new().name("cni: watch".into()).stack_size(STACK).spawn(run);
        born.map_err(failed)?;
        Ok(Self { _leash: leash.into() })
    }
}

fn watch(inotify: &Inotify, leash: &OwnedFd, dir: &Path, changed: impl Fn()) {
    loop {
        // Again each time: the directory may be another one by now.
        add_watches(inotify, dir);
        changed();
        if !await_event(inotify, leash, PollTimeout::NONE) {
            return;
        }
        let mut waits = 0;
        loop {
            drain(inotify);
            waits += 1;
            if waits == WAITS_MAX || !is_ready(inotify) {
                break;
            }
        }
    }
}

fn add_watches(inotify: &Inotify, dir: &Path) {
    let flags = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    // The directory, and where its name stands; of what is missing, where it would be made.
    let mut found = 0;
    for path in dir.ancestors() {
        match inotify.add_watch(path, flags | AddWatchFlags::IN_ONLYDIR) {
            Ok(_) => found += 1,
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => tracing::warn!(path = %path.display(), %errno, "watch for network configurations"),
        }
        if found == 2 {
            return;
        }
    }
}

/// Waits for an event; `false` when the watch is to end.
fn await_event(inotify: &Inotify, leash: &OwnedFd, patience: PollTimeout) -> bool {
    loop {
        let mut polled =
            [PollFd::new(inotify.as_fd(), PollFlags::POLLIN), PollFd::new(leash.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, patience) {
            Err(Errno::EINTR) => {}
            Err(_) => return false,
            Ok(_) => return polled[1].revents().is_none_or(|events| events.is_empty()),
        }
    }
}

/// Whether something happens before it has been quiet for a while.
fn is_ready(inotify: &Inotify) -> bool {
    let mut polled = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, QUIET_MS).is_ok_and(|ready| ready > 0)
}

/// Which events they were does not matter: what is there now is read.
fn drain(inotify: &Inotify) {
    while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, sync::mpsc, time::Duration};

    use super::*;

    #[test]
    fn whatever_happens_to_the_directory_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let dir = at("etc/cni/net.d");
        let (tell, told) = mpsc::channel();
        let watch = Watch::start(dir.clone(), move || tell.send(()).unwrap_or_default()).unwrap();
        let noticed = |what: &str| {
            told.recv_timeout(Duration::from_secs(10)).unwrap_or_else(|_| panic!("not noticed: {what}"));
            // What else belongs to it.
            while told.recv_timeout(Duration::from_millis(200)).is_ok() {}
        };
        noticed("the beginning");
        fs::create_dir(at("etc")).unwrap();
        noticed("a directory far above");
        fs::create_dir_all(&dir).unwrap();
        noticed("the directory");
        fs::write(dir.join("1.conflist"), "x").unwrap();
        noticed("a new file");
        fs::write(at("elsewhere"), "y").unwrap();
        fs::rename(at("elsewhere"), dir.join("2.conflist")).unwrap();
        noticed("a file moved in");
        fs::remove_file(dir.join("1.conflist")).unwrap();
        noticed("a removed file");
        fs::rename(&dir, at("aside")).unwrap();
        noticed("the directory moved away");
        fs::create_dir(at("new")).unwrap();
        symlink(at("new"), &dir).unwrap();
        noticed("a link in its place");
        fs::write(at("new/3.conflist"), "z").unwrap();
        noticed("a file where the link leads");
        fs::create_dir(at("newer")).unwrap();
        symlink(at("newer"), at("etc/cni/swap")).unwrap();
        noticed("a name beside it");
        fs::rename(at("etc/cni/swap"), &dir).unwrap();
        noticed("the link swapped");
        fs::write(at("newer/4.conflist"), "z").unwrap();
        noticed("a file where it leads now");
        drop(watch);
        assert!(matches!(told.recv_timeout(Duration::from_secs(10)), Err(mpsc::RecvTimeoutError::Disconnected)));
    }
}
