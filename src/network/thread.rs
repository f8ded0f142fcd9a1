//! Blocking network work runs on threads that are born for it and never reused.
//!
//! A thread that has entered another network namespace must not go back to a pool: whoever got it next would talk to
//! the wrong kernel tables. Such a thread simply ends with its job, and so do the namespaces it pinned.

use std::{io, thread};

use tokio::sync::oneshot;

use crate::{Error, Result};

/// Stack of a job's thread in bytes: netlink buffers live on the heap, the rest is shallow.
const STACK: usize = 256 * 1024;

/// Runs `job` on its own thread and waits for it without blocking the runtime.
///
/// If the caller goes away meanwhile (a cancelled request), the job still runs to its end and its result is given to
/// `unwanted`, which undoes it: nothing is left to whoever asked and has gone.
pub(crate) async fn run<T: Send + 'static>(
    act: &'static str,
    job: impl FnOnce() -> Result<T> + Send + 'static,
    unwanted: impl FnOnce(T) + Send + 'static,
) -> Result<T> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        if let Err(Ok(result)) = tell.send(job()) {
            unwanted(result);
        }
    };
    let born = thread::Builder::new().name(format!("network: {act}")).stack_size(STACK).spawn(work);
    born.map_err(|source| Error::Thread { act, source })?;
    told.await.unwrap_or_else(|_| Err(Error::Thread { act, source: io::Error::other("it ended without an answer") }))
}

/// Runs a job that enters no namespace on one of the runtime's threads, which is there already. It runs to its end even
/// when the caller goes away.
pub(crate) async fn lent<T: Send + 'static>(
    act: &'static str,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ended = |_| Err(Error::Thread { act, source: io::Error::other("it ended without an answer") });
    tokio::task::spawn_blocking(job).await.unwrap_or_else(ended)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_is_undone() {
        let (undone, seen) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let mut running = Box::pin(run(
            "a test",
            move || {
                wait.recv().unwrap();
                Ok(7)
            },
            move |number| undone.send(number).unwrap(),
        ));
        // One poll starts the thread; dropping the future is the caller's cancellation.
        let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(running.as_mut().poll(cx).is_pending())).await;
        assert!(pending);
        drop(running);
        go.send(()).unwrap();
        assert_eq!(seen.recv().unwrap(), 7);
    }
}
