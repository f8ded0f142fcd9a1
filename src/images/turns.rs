//! One at a time for each digest: what one pull makes, another waits for and then finds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use model::Digest;
use tokio::sync::OwnedMutexGuard;

/// Whose turn it is, by digest.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    waiting: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits for the turn; it lasts until the guard is dropped.
    pub(crate) async fn take(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        let turn = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain(|_, turn| turn.strong_count() > 0);
            match waiting.get(digest).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::default();
                    waiting.insert(digest.clone(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }
}
