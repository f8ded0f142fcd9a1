//! Threads that wait for the disk: a bounded share of the daemon's, so that the work of pods always finds one.
//!
//! And threads of their own for the bulk of pulls: what hashes, inflates and writes whole images comes after everybody
//! else at the processor and at the disk, so that a pull makes no call of the daemon slow.

use std::{sync::Arc, time::Duration};

use tokio::runtime::{Builder, Runtime};

use crate::{Error, Result, shelf::Shelf};

/// Most threads that images take at once: a quarter of those that the daemon has for work that blocks. What is more
/// waits for its turn, in order. Only the disk is waited for on them; the network never is.
pub(crate) const THREADS: usize = 32;
/// Most threads of bulk work: one for each of [`THREADS`], for each place of [`crate::place`] and for each archive that
/// is read ([`crate::store::IMPORTS`]), so that no work waits for a thread that waits for it.
const WORKERS: usize = 64;
/// How long a thread of bulk work waits for more of it. Between two images of a pod, and not much longer: an idle node
/// has none.
const LINGER: Duration = Duration::from_secs(2);
/// Stack of such a thread, bytes. Deleting goes as deep as `images.limits.depth` lets a layer be.
const STACK: usize = 1 << 20;

/// The threads of bulk work. They come when there is some, and go.
#[derive(Debug)]
pub(crate) struct Workers(Option<Runtime>);

impl Workers {
    /// None yet.
    pub(crate) fn new() -> Self {
        // Never entered: its threads for work that blocks are all that is wanted of it.
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(WORKERS)
            .thread_keep_alive(LINGER)
            .thread_stack_size(STACK)
            .thread_name("images-work")
            .on_thread_start(|| {
                if let Err(error) = kernel::priority::come_last() {
                    tracing::debug!(%error, "a thread of a pull keeps its priority");
                }
            })
            // What the work took is free again, and would otherwise stay resident.
            .on_thread_stop(kernel::memory::give_back_free_pages)
            .build();
        Self(runtime.ok())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Without waiting: whoever drops the store may be a task that must not.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

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

    /// The same for a short part of the bulk of a pull, after everybody else.
    pub(crate) async fn working<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Shelf>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = self.threads.clone().acquire_owned().await.map_err(|_| Error::Cancelled)?;
        self.at_last(move |shelf| {
            let _turn = turn;
            work(shelf)
        })
        .await
    }

    /// The same without a bound of its own, for who has a place or reads an archive.
    pub(crate) async fn at_last<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Shelf>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shelf = self.clone();
        let work = move || work(&shelf);
        let done = match &self.workers.0 {
            Some(runtime) => runtime.handle().spawn_blocking(work),
            None => tokio::task::spawn_blocking(work),
        };
        done.await.unwrap_or(Err(Error::Cancelled))
    }
}
