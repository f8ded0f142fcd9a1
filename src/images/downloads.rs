//! Places for downloads of blobs: so many for the whole node, and of those so many for one registry.
//!
//! Each holds a connection and two batches of memory, however slowly it comes. A registry that lets its own all stand
//! still keeps nobody away from another; four of them do, until the slowest pace that is borne is up. The huge keep no
//! place from the small: those have some more of their own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, Result};

/// Most downloads of the node.
const OF_NODE: usize = 64;
/// Most downloads from one registry: some five images at a time.
const OF_REGISTRY: usize = 16;

/// Most of small blobs, besides.
const SMALL_OF_NODE: usize = 16;
const SMALL_OF_REGISTRY: usize = 6;
/// Bytes of a blob that is small: here in a second, if it comes at all.
const SMALL: u64 = 8 << 20;

/// Who downloads.
#[derive(Debug)]
pub(crate) struct Downloads {
    node: Places,
    registries: Mutex<HashMap<String, Weak<Places>>>,
}

/// Places that are counted together.
#[derive(Debug)]
struct Places {
    any: Arc<Semaphore>,
    small: Arc<Semaphore>,
}

impl Places {
    fn new(any: usize, small: usize) -> Self {
        Self { any: Arc::new(Semaphore::new(any)), small: Arc::new(Semaphore::new(small)) }
    }

    /// Whoever waits for one holds none that others could have. None is ever closed.
    async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let any = self.any.clone().acquire_owned();
        let permit = if bytes > SMALL {
            any.await
        } else {
            tokio::select! {
                permit = self.small.clone().acquire_owned() => permit,
                permit = any => permit,
            }
        };
        permit.map_err(|_| Error::Cancelled)
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _of_registry: OwnedSemaphorePermit,
    _of_node: OwnedSemaphorePermit,
    /// The registry is known as long as anybody downloads from it.
    _own: Arc<Places>,
}

impl Default for Downloads {
    fn default() -> Self {
        Self { node: Places::new(OF_NODE, SMALL_OF_NODE), registries: Mutex::default() }
    }
}

impl Downloads {
    /// Waits for a place for a blob of so many bytes; in order, of those who want the same registry.
    pub(crate) async fn place(&self, registry: &str, bytes: u64) -> Result<Place> {
        let own = self.of(registry);
        let of_registry = own.take(bytes).await?;
        let of_node = self.node.take(bytes).await?;
        Ok(Place { _of_registry: of_registry, _of_node: of_node, _own: own })
    }

    fn of(&self, registry: &str) -> Arc<Places> {
        let mut registries = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        registries.retain(|_, places| places.strong_count() > 0);
        match registries.get(registry).and_then(Weak::upgrade) {
            Some(places) => places,
            None => {
                let places = Arc::new(Places::new(OF_REGISTRY, SMALL_OF_REGISTRY));
                registries.insert(registry.to_owned(), Arc::downgrade(&places));
                places
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// With a paused clock this passes as soon as nobody can go on.
    const WHILE: Duration = Duration::from_secs(1);
    const HUGE: u64 = 1 << 40;

    #[tokio::test(start_paused = true)]
    async fn one_registry_has_its_share_and_all_have_the_nodes() {
        let downloads = Downloads::default();
        let mut held = Vec::new();
        for _ in 0..OF_REGISTRY {
            held.push(downloads.place("slow.example", HUGE).await.unwrap());
        }
        assert!(tokio::time::timeout(WHILE, downloads.place("slow.example", HUGE)).await.is_err());
        for n in OF_REGISTRY..OF_NODE {
            held.push(downloads.place(&format!("{n}.example"), HUGE).await.unwrap());
        }
        assert!(tokio::time::timeout(WHILE, downloads.place("brisk.example", HUGE)).await.is_err());
        held.pop();
        downloads.place("brisk.example", HUGE).await.unwrap();
        assert!(tokio::time::timeout(WHILE, downloads.place("slow.example", HUGE)).await.is_err());
        held.remove(0);
        downloads.place("slow.example", HUGE).await.unwrap();
        drop(held);
        drop(downloads.place("another.example", HUGE).await.unwrap());
        assert_eq!(downloads.registries.lock().unwrap().len(), 1, "who downloads nothing is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn huge_blobs_keep_no_place_from_small_ones() {
        let downloads = Downloads::default();
        let mut held = Vec::new();
        for n in 0..OF_NODE {
            held.push(downloads.place(&format!("{}.example", n / OF_REGISTRY), HUGE).await.unwrap());
        }
        for _ in 0..SMALL_OF_REGISTRY {
            held.push(downloads.place("0.example", 1).await.unwrap());
        }
        assert!(tokio::time::timeout(WHILE, downloads.place("0.example", 1)).await.is_err());
        held.remove(0);
        downloads.place("0.example", 1).await.unwrap();
    }
}
