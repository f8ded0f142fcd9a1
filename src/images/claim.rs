//! Holds on what is in the store: leases on images by those who use them, claims on layers and blobs by those who are
//! making an image of them.

use std::{fmt, sync::Arc, time::Instant};

use model::Digest;

use crate::{index::Garbage, shelf::Shelf};

/// Keeps an image's layers on disk until it is dropped, whoever removes the image meanwhile.
pub struct Lease {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) id: Digest,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.shelf.index().end_lease(&self.id) {
            return;
        }
        // The image was removed and this was its last user: its record goes too, which is work for a blocking thread.
        let (shelf, id) = (self.shelf.clone(), self.id.clone());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || shelf.collect(&id))),
            Err(_) => shelf.collect(&id),
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.id)
    }
}

/// Keeps one layer or blob until it is dropped.
pub(crate) struct Claim {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) what: Garbage,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut index = self.shelf.index();
        let garbage = match &self.what {
            Garbage::Layer(chain_id) => index.unclaim(std::slice::from_ref(chain_id), &[], now),
            Garbage::Blob(digest) => index.unclaim(&[], std::slice::from_ref(digest), now),
        };
        self.shelf.discard(&index, garbage);
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claim({:?})", self.what)
    }
}
