//! Places for layers that are unpacked: who may begin, so that neither the huge nor the slow hold up the others.
//!
//! A layer can be begun before its blob has all come, and before the layers below it are there; then it may have to
//! wait for them with its threads and buffers in hand. Only so many may do that. Whoever has to wait for nothing has
//! places of its own, which become free by work alone: so everything that is begun comes to its end. Small layers have
//! some more, in which no huge one ever is.

use std::{future::Future, sync::Arc};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::{Error, Result};

/// Layers that may wait for others while they are unpacked: two images' worth of downloads.
const EARLY: usize = 6;
/// Layers that wait for nothing: as many as fill most machines, three threads each, fairly shared by the kernel.
const READY: usize = 8;
/// The same for small ones.
const SMALL: usize = 4;
/// Layers whose inflating takes much memory, 128 MiB at most. They wait for nothing either.
const WIDE: usize = 1;
/// Bytes of a blob that is small: unpacked in a tenth of a second.
const SMALL_BYTES: u64 = 8 << 20;

/// Who unpacks.
#[derive(Debug)]
pub(crate) struct Places {
    early: Arc<Semaphore>,
    ready: Arc<Semaphore>,
    small: Arc<Semaphore>,
    wide: Arc<Semaphore>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Default for Places {
    fn default() -> Self {
        let places = [EARLY, READY, SMALL, WIDE].map(|places| Arc::new(Semaphore::new(places)));
        let [early, ready, small, wide] = places;
        Self { early, ready, small, wide }
    }
}

impl Places {
    /// Waits for a place for a layer whose blob has so many bytes. `is_ready` ends when it has nothing to wait for.
    pub(crate) async fn take(&self, bytes: u64, is_ready: impl Future<Output = ()>) -> Result<Place> {
        let ready = async {
            is_ready.await;
            if bytes > SMALL_BYTES {
                return self.ready.clone().acquire_owned().await;
            }
            tokio::select! {
                place = self.small.clone().acquire_owned() => place,
                place = self.ready.clone().acquire_owned() => place,
            }
        };
        let place = tokio::select! {
            biased;
            place = ready => place,
            place = self.early.clone().acquire_owned() => place,
        };
        held(place)
    }

    /// Waits for a place for a layer that waits for nothing and takes much memory.
    pub(crate) async fn take_wide(&self) -> Result<Place> {
        held(self.wide.clone().acquire_owned().await)
    }
}

/// None of them is ever closed.
fn held(permit: Result<OwnedSemaphorePermit, AcquireError>) -> Result<Place> {
    permit.map(|permit| Place { _permit: permit }).map_err(|_| Error::Cancelled)
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        time::Duration,
    };

    use super::*;

    /// With a paused clock this passes as soon as nobody can go on.
    const WHILE: Duration = Duration::from_secs(1);
    const HUGE: u64 = 1 << 40;

    async fn all(places: &Places, bytes: u64, is_ready: bool) -> Vec<Place> {
        let mut held = Vec::new();
        loop {
            let place = async {
                if is_ready { places.take(bytes, ready(())).await } else { places.take(bytes, pending()).await }
            };
            match tokio::time::timeout(WHILE, place).await {
                Ok(place) => held.push(place.unwrap()),
                Err(_) => return held,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn neither_who_waits_nor_who_is_huge_keeps_a_small_layer_from_its_place() {
        let places = Places::default();
        let waiting = all(&places, HUGE, false).await;
        assert_eq!(waiting.len(), EARLY);
        let huge = all(&places, HUGE, true).await;
        assert_eq!(huge.len(), READY);
        let small = all(&places, 1, true).await;
        assert_eq!(small.len(), SMALL);
        drop(huge);
        assert_eq!(all(&places, 1, true).await.len(), READY, "whoever is small may have any");
        drop((small, waiting));
        assert_eq!(all(&places, HUGE, true).await.len(), EARLY + READY);
    }
}
