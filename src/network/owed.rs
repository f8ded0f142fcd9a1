//! Giving back beside what could not be given back when a pod went: the queue is [`crate::pending`]'s, the work is
//! here.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use model::with_causes;
use tokio::sync::Semaphore;

use crate::{Pending, Result, network::Inner, thread};

/// Pods at a time for which what is owed is tried again: one whose plugin hangs keeps few others.
const TRIES_AT_ONCE: usize = 8;

/// How long the namespace of a pod that is gone is kept for plugins that are still to give something back.
const KEEP_NETNS: Duration = Duration::from_secs(600);

impl Inner {
    async fn forget_netns(self: &Arc<Self>, path: PathBuf) {
        let inner = self.clone();
        if let Err(error) = thread::lent("drop netns", move || inner.netns.remove(&path)).await {
            tracing::warn!(error = with_causes(&error), "remove the namespace of a pod that is gone");
        }
    }

    /// Notes what is to be given back, and sees to it that it is.
    pub(crate) async fn owe(self: &Arc<Self>, pending: Pending) -> Result<()> {
        let inner = self.clone();
        let noted = move || {
            inner.queue.add(pending);
            Ok(())
        };
        thread::lent("note what is owed", noted).await?;
        self.work_off();
        Ok(())
    }

    /// Sees to it that what is owed is given back some time.
    pub(crate) fn work_off(self: &Arc<Self>) {
        if self.queue.wants_worker() {
            tokio::spawn(work_off(self.clone()));
        }
    }
}

async fn work_off(inner: Arc<Inner>) {
    let turns = Arc::new(Semaphore::new(TRIES_AT_ONCE));
    while let Some(next) = inner.queue.take_due() {
        match next {
            Ok(pending) => {
                let turn = turns.clone().acquire_owned().await.expect("the semaphore is never closed");
                let inner = inner.clone();
                tokio::spawn(async move {
                    let (own, pod) = (inner.clone(), pending.pod.clone());
                    let tried = tokio::spawn(async move { try_again(&own, pending).await }).await;
                    if tried.is_err() {
                        // It has panicked, and told the log.
                        inner.queue.put_off(&pod);
                    }
                    drop(turn);
                });
            }
            Err(due) => {
                let due = due.unwrap_or_else(|| Instant::now() + KEEP_NETNS);
                tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    () = inner.queue.added() => {}
                }
            }
        }
    }
}

async fn try_again(inner: &Arc<Inner>, pending: Pending) {
    let Pending { pod, choice, request, attachment, reach, tries, .. } = &pending;
    if pending.since.elapsed().is_ok_and(|age| age > KEEP_NETNS) {
        // A plugin that never comes back must not keep namespaces for ever; it can do without.
        inner.forget_netns(pending.netns.clone()).await;
    }
    match inner.leave_all(pod, choice, request, attachment.as_ref(), reach.as_deref()).await {
        Ok(()) => {
            tracing::info!(%pod, tries, "what a pod had left in its network is given back");
            inner.forget_netns(pending.netns.clone()).await;
            let (own, pod) = (inner.clone(), pod.clone());
            let forgotten = move || {
                own.queue.remove(&pod);
                Ok(())
            };
            // It cannot fail; a runtime that ends takes us along.
            let _ = thread::lent("forget what was owed", forgotten).await;
            inner.sweep();
        }
        Err(error) => {
            let error = with_causes(&error);
            tracing::warn!(%pod, tries, error, "what a pod has left in its network is not given back yet");
            let again = Pending { tries: tries.saturating_add(1), error, ..pending.clone() };
            let own = inner.clone();
            let noted = move || {
                own.queue.add(again);
                Ok(())
            };
            let _ = thread::lent("note what is owed", noted).await;
        }
    }
}
