//! What one image may take in all: its layers may each be as large as [`Limits`] lets one be, and together no larger
//! than it lets an image be.
//!
//! Layers are unpacked side by side, and each takes from what the image has as it grows: whoever comes to its end is
//! told so at once, not when the disk is full.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{Fault, Limits, record::LayerSize};

/// What an image may take.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: Account,
    entries: Account,
}

/// One kind of thing: how much of it there may be and is.
#[derive(Debug)]
struct Account {
    what: &'static str,
    limit: u64,
    spent: AtomicU64,
}

/// What one layer has taken of it. Dropped, it is given back, unless the layer came to be.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: AtomicU64,
    entries: AtomicU64,
}

impl Budget {
    /// Of an image of which nothing is there.
    pub(crate) fn of(limits: &Limits) -> Arc<Self> {
        let account = |what, limit| Account { what, limit, spent: AtomicU64::new(0) };
        Arc::new(Self {
            bytes: account("bytes in all layers", limits.image_bytes),
            entries: account("files and directories in all layers", limits.image_entries),
        })
    }

    /// A layer is begun.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: AtomicU64::new(0), entries: AtomicU64::new(0) }
    }

    /// A layer was there before, and is as large as this.
    pub(crate) fn take(&self, size: LayerSize) -> Result<(), Fault> {
        self.bytes.take(size.bytes)?;
        self.entries.take(size.inodes)
    }
}

impl Account {
    fn take(&self, more: u64) -> Result<(), Fault> {
        let before = self.spent.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) <= self.limit { Ok(()) } else { Err(Fault::budget(self.what, self.limit)) }
    }
}

impl Share {
    /// So many bytes came out of the archive, or are to be made of less.
    pub(crate) fn take_bytes(&self, more: u64) -> Result<(), Fault> {
        self.bytes.fetch_add(more, Ordering::Relaxed);
        self.budget.bytes.take(more)
    }

    /// One more inode is there.
    pub(crate) fn take_entry(&self) -> Result<(), Fault> {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.budget.entries.take(1)
    }

    /// The layer is there, and what it has taken stays taken.
    pub(crate) fn keep(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.entries.store(0, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.bytes.spent.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
        self.budget.entries.spent.fetch_sub(*self.entries.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_share_what_the_image_has_and_one_that_comes_to_nothing_gives_its_part_back() {
        let budget = Budget::of(&Limits { image_bytes: 100, image_entries: 3, ..Limits::default() });
        budget.take(LayerSize { bytes: 40, inodes: 1 }).unwrap();
        let (one, other) = (budget.share(), budget.share());
        one.take_bytes(30).unwrap();
        other.take_bytes(30).unwrap();
        assert!(matches!(other.take_bytes(1), Err(Fault::Budget { limit: 100, .. })));
        drop(other);
        one.take_bytes(30).unwrap();
        one.keep();
        drop(one);
        let again = budget.share();
        assert!(again.take_bytes(1).is_err());
        for _ in 0..2 {
            again.take_entry().unwrap();
        }
        assert!(matches!(again.take_entry(), Err(Fault::Budget { limit: 3, .. })));
        // No sum wraps.
        assert!(budget.take(LayerSize { bytes: u64::MAX, inodes: 0 }).is_err());
    }
}
