//! What pulls leave that were cut short or refused: verified blobs that no image needs. The next attempt goes on with
//! them, so they are kept for a while; but nobody can name them, so nobody else can delete them.
//!
//! Looked at after each pull, after each removal, and every few minutes.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use model::Digest;
use nix::sys::statvfs::{Statvfs, statvfs};
use tokio_util::task::AbortOnDropHandle;

use crate::{Error, Result, shelf::Shelf};

/// Kept whatever they take: whoever pulls again does so within the five minutes that the kubelet waits at most.
pub(crate) const FRESH: Duration = Duration::from_secs(600);
/// Kept at most.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// What is neither takes this part of the disk at most: a tenth.
const SHARE: u64 = 10;
/// The disk is short where less than this part of it is free, of bytes or of inodes, in percent: there the kubelet
/// begins to remove images.
const SHORT: u64 = 15;

/// A blob that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftOver {
    pub(crate) digest: Digest,
    /// On disk.
    pub(crate) bytes: u64,
    /// How long nobody has.
    pub(crate) age: Duration,
}

/// Since when a blob that a start finds, written so long ago, counts as left over: since now, but for what should be
/// gone already. A pull of hours may have been cut short by that very restart.
pub(crate) fn found(written: Duration, now: Instant) -> Instant {
    if written < LONGEST { now } else { now.checked_sub(written).unwrap_or(now) }
}

/// The disk that they are on.
#[derive(Debug, Clone, Copy)]
struct Disk {
    bytes: u64,
    is_short: bool,
}

impl Disk {
    fn of(found: &Statvfs) -> Self {
        let is_short = |free: u64, all: u64| u128::from(free) * 100 < u128::from(all) * u128::from(SHORT);
        // Some file systems have no bound of inodes, and say so by none at all.
        let is_short = is_short(found.blocks_available(), found.blocks())
            || found.files() > 0 && is_short(found.files_available(), found.files());
        Self { bytes: found.blocks() * found.fragment_size(), is_short }
    }
}

/// Which of them go. Those of at least the age `old` all do where the disk is short.
fn no_longer_kept(mut left_over: Vec<LeftOver>, disk: Disk, old: Duration) -> Vec<Digest> {
    left_over.sort_by(|a, b| (a.age, &a.digest).cmp(&(b.age, &b.digest)));
    let mut room = disk.bytes / SHARE;
    let mut goes = |one: &LeftOver| {
        if one.age >= LONGEST || disk.is_short && one.age >= old {
            return true;
        }
        if one.age < FRESH {
            return false;
        }
        match room.checked_sub(one.bytes) {
            Some(rest) => {
                room = rest;
                false
            }
            None => true,
        }
    };
    left_over.into_iter().filter(|one| goes(one)).map(|one| one.digest).collect()
}

impl Shelf {
    /// Throws away what is left over and not kept any longer. Where the disk is short, all that has been so for the age
    /// `old`. Blocks for a moment.
    pub(crate) fn tidy(&self, old: Duration) -> Result<()> {
        // What a record that cannot be read needs is not left over.
        if self.unread.load(Ordering::Relaxed) {
            return Ok(());
        }
        let dir = self.blobs.dir();
        let found = statvfs(dir).map_err(|errno| Error::disk("look at the disk of", dir)(errno.into()))?;
        let mut index = self.index();
        let gone = no_longer_kept(index.left_over_blobs(Instant::now()), Disk::of(&found), old);
        for digest in gone {
            tracing::debug!(blob = %digest, "left over by a pull, and not kept any longer");
            let garbage = index.drop_blob(&digest);
            self.discard(&index, garbage);
        }
        Ok(())
    }

    /// Throws away those of these blobs that nothing needs, however fresh.
    pub(crate) fn throw_blobs(&self, blobs: &[Digest]) {
        let mut index = self.index();
        let left_over = index.left_over_blobs(Instant::now());
        for one in left_over.iter().filter(|one| blobs.contains(&one.digest)) {
            let garbage = index.drop_blob(&one.digest);
            self.discard(&index, garbage);
        }
    }
}

/// Throws away what is left over and not kept any longer, now and then, until it is dropped or the store is.
pub(crate) fn keep_tidy(shelf: &Arc<Shelf>) -> AbortOnDropHandle<()> {
    let shelf = Arc::downgrade(shelf);
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(FRESH).await;
            let Some(shelf) = shelf.upgrade() else { return };
            told(shelf.blocking(|shelf| shelf.tidy(FRESH)).await);
        }
    }))
}

/// Nobody waits for it: what stays is looked at again.
pub(crate) fn told(tidied: Result<()>) {
    if let Err(error) = tidied {
        tracing::warn!(%error, "what pulls have left stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn blob(n: u8, bytes: u64, age: Duration) -> LeftOver {
        LeftOver { digest: Digest::from_sha256([n; 32]), bytes, age }
    }

    /// Which go of these, in the order in which they are given.
    fn gone(blobs: &[LeftOver], is_short: bool, old: Duration) -> Vec<usize> {
        let gone = no_longer_kept(blobs.to_vec(), Disk { bytes: 1000, is_short }, old);
        (0..blobs.len()).filter(|at| gone.contains(&blobs[*at].digest)).collect()
    }

    #[test]
    fn what_is_fresh_is_kept_and_of_the_rest_the_newest_that_take_a_tenth_of_the_disk() {
        let blobs = [
            blob(1, 60, 30 * MINUTE),
            blob(2, 900, MINUTE),
            blob(3, 60, 20 * MINUTE),
            blob(4, 40, 40 * MINUTE),
            blob(5, 1, 50 * MINUTE),
            blob(6, 0, LONGEST),
        ];
        assert_eq!(gone(&blobs, false, Duration::ZERO), [0, 4, 5]);
        assert_eq!(gone(&blobs[1..2], false, Duration::ZERO), [0_usize; 0]);
    }

    #[test]
    fn on_a_short_disk_all_goes_but_what_was_left_just_now() {
        let blobs = [blob(1, 1, Duration::ZERO), blob(2, 1, MINUTE), blob(3, 1, 20 * MINUTE)];
        assert_eq!(gone(&blobs, true, Duration::ZERO), [0, 1, 2]);
        assert_eq!(gone(&blobs, true, MINUTE), [1, 2]);
        assert_eq!(gone(&blobs, true, FRESH), [2]);
        assert_eq!(gone(&blobs, false, Duration::ZERO), [0_usize; 0]);
    }
}
