//! Keeps a second daemon out of a directory that the first one owns.

use std::{
    fs::{self, File, OpenOptions},
    io::{Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{Error, Result};

/// Name of the lock file in the directory.
const FILE: &str = "lock";

/// Holds a directory until it is dropped or the process ends, however it ends: the kernel lets go of it (`flock(2)`).
#[derive(Debug)]
pub struct DirLock {
    _held: Flock<File>,
}

impl DirLock {
    /// Takes `dir`, which is made if it is missing. Never waits: if another process holds it, the error names its pid.
    pub fn take(dir: &Path) -> Result<Self> {
        let failed = |source| Error::Lock { dir: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let path = dir.join(FILE);
        let mut open = OpenOptions::new();
        // Not truncated before it is ours: it holds the other's pid.
        let file = open.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        let mut held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => held,
            Err((_, Errno::EWOULDBLOCK)) => {
                let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
                return Err(Error::InUse { dir: dir.to_owned(), pid });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        // For people only; on a full disk the lock holds all the same.
        let _ = held.set_len(0).and_then(|()| held.rewind()).and_then(|()| writeln!(held, "{}", std::process::id()));
        Ok(Self { _held: held })
    }
}
