//! Places for downloads of blobs: so many for the whole node, and of those so many for one registry.
//!
//! Each holds a connection and two batches of memory, however slowly it comes. A registry that lets its own all stand
//! still keeps nobody away from another.

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

/// Who downloads.
#[derive(Debug)]
pub(crate) struct Downloads {
    node: Arc<Semaphore>,
    registries: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _of_registry: OwnedSemaphorePermit,
    _of_node: OwnedSemaphorePermit,
}

impl Default for Downloads {
    fn default() -> Self {
        Self { node: Arc::new(Semaphore::new(OF_NODE)), registries: Mutex::default() }
    }
}

impl Downloads {
    /// Waits for a place; in order, of those who want the same registry.
    pub(crate) async fn place(&self, registry: &str) -> Result<Place> {
        let own = self.of(registry);
        // Whoever waits for this one holds none that others could have. Neither is ever closed.
        let of_registry = own.acquire_owned().await.map_err(|_| Error::Cancelled)?;
        let of_node = self.node.clone().acquire_owned().await.map_err(|_| Error::Cancelled)?;
        Ok(Place { _of_registry: of_registry, _of_node: of_node })
    }

    fn of(&self, registry: &str) -> Arc<Semaphore> {
        let mut registries = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        registries.retain(|_, places| places.strong_count() > 0);
        match registries.get(registry).and_then(Weak::upgrade) {
            Some(places) => places,
            None => {
                let places = Arc::new(Semaphore::new(OF_REGISTRY));
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

    #[tokio::test(start_paused = true)]
    async fn one_registry_has_its_share_and_all_have_the_nodes() {
        let downloads = Downloads::default();
        let mut held = Vec::new();
        for _ in 0..OF_REGISTRY {
            held.push(downloads.place("slow.example").await.unwrap());
        }
        assert!(tokio::time::timeout(WHILE, downloads.place("slow.example")).await.is_err());
        for n in OF_REGISTRY..OF_NODE {
            held.push(downloads.place(&format!("{n}.example")).await.unwrap());
        }
        assert!(tokio::time::timeout(WHILE, downloads.place("brisk.example")).await.is_err());
        held.pop();
        downloads.place("brisk.example").await.unwrap();
        assert!(tokio::time::timeout(WHILE, downloads.place("slow.example")).await.is_err());
        held.remove(0);
        downloads.place("slow.example").await.unwrap();
        drop(held);
        drop(downloads.place("another.example").await.unwrap());
        assert_eq!(downloads.registries.lock().unwrap().len(), 1, "who downloads nothing is forgotten");
    }
}
