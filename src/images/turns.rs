//! One at a time for each thing: what one pull makes, another waits for and then finds.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use model::Digest;
use tokio::sync::OwnedMutexGuard;

/// A blob from where it comes. Whoever waits for it waits for its own registry and no other: another may be as slow as
/// it likes with the same content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Coming {
    /// The registry, as references name it; empty for an archive.
    pub(crate) origin: String,
    pub(crate) blob: Digest,
}

/// A layer in the making: what it is to be, and what it is made from. Another blob may be anything, and come never.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Making {
    pub(crate) from: Coming,
    pub(crate) chain_id: Digest,
}

/// Whose turn it is.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    waiting: Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { waiting: Mutex::default() }
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits for the turn; it lasts until the guard is dropped.
    pub(crate) async fn take(&self, what: K) -> OwnedMutexGuard<()> {
        let turn = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain(|_, turn| turn.strong_count() > 0);
            match waiting.get(&what).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::default();
                    waiting.insert(what, Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }
}
