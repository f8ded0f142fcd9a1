//! Threads that wait for the disk: a bounded share of the daemon's, so that the work of pods always finds one.

use std::sync::Arc;

use crate::{Error, Result, shelf::Shelf};

/// Most threads that images take at once: a quarter of those that the daemon has for work that blocks. What is more
/// waits for its turn, in order. Only the disk is waited for on them; the network never is.
pub(crate) const THREADS: usize = 32;

impl Shelf {
    /// Runs work that waits for the disk on a thread that may. When this future is dropped the work goes on to its end,
    /// and keeps its thread so long.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Shelf>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        // Never closed, and the runtime ends tasks before it ends threads: an error means that nobody waits any more.
        let turn = self.threads.clone().acquire_owned().await.map_err(|_| Error::Cancelled)?;
        let shelf = self.clone();
        let work = move || {
            let _turn = turn;
            work(&shelf)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Cancelled))
    }
}
