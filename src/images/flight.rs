//! Pulls of the same content that are under way at the same time share one piece of work.
//!
//! Each caller has already been let in by the registry with its own credentials; only what comes after is shared. The
//! work goes on while anyone waits for it, and is cancelled with the last one.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::Digest;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{Error, Result, shelf::Made};

type Landing = Option<Result<Arc<Made>, Arc<Error>>>;

/// What is under way, by the digest that the reference led to.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<Digest, Flight>>,
}

#[derive(Debug)]
struct Flight {
    landing: watch::Receiver<Landing>,
    waiting: usize,
    /// Tells this flight from a later one of the same digest.
    number: Arc<()>,
    /// Aborted when the flight is taken off the map with nobody waiting.
    _task: AbortOnDropHandle<()>,
}

/// Who did the work that a caller waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The caller's own attempt.
    Began,
    /// Another caller's.
    Joined,
}

impl Flights {
    /// Waits for the work on `digest`, beginning it with `work` if nobody has.
    pub(crate) async fn join<F>(
        self: &Arc<Self>,
        digest: &Digest,
        work: impl FnOnce() -> F,
    ) -> (Part, Result<Arc<Made>>)
    where
        F: Future<Output = Result<Made>> + Send + 'static,
    {
        let (part, mut landing, number) = self.board(digest, work);
        // Leaves the flight however this ends, also when the caller is gone.
        let _seat = Seat { flights: self, digest, number };
        let landed = match landing.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone(),
            Err(_) => None,
        };
        let result = match landed {
            Some(Ok(made)) => Ok(made),
            Some(Err(error)) => Err(Error::Joined(error)),
            None => Err(Error::Cancelled),
        };
        (part, result)
    }

    fn board<F>(&self, digest: &Digest, work: impl FnOnce() -> F) -> (Part, watch::Receiver<Landing>, Arc<()>)
    where
        F: Future<Output = Result<Made>> + Send + 'static,
    {
        let mut under_way = self.lock();
        if let Some(flight) = under_way.get_mut(digest)
            && flight.landing.borrow().is_none()
        {
            flight.waiting += 1;
            return (Part::Joined, flight.landing.clone(), flight.number.clone());
        }
        let (tell, landing) = watch::channel(None);
        let work = work();
        let task = tokio::spawn(async move {
            let result = work.await.map(Arc::new).map_err(Arc::new);
            let _ = tell.send(Some(result));
        });
        let number = Arc::new(());
        let flight = Flight {
            landing: landing.clone(),
            waiting: 1,
            number: number.clone(),
            _task: AbortOnDropHandle::new(task),
        };
        under_way.insert(digest.clone(), flight);
        (Part::Began, landing, number)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Flight>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Seat<'a> {
    flights: &'a Flights,
    digest: &'a Digest,
    number: Arc<()>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut under_way = self.flights.lock();
        let Some(flight) = under_way.get_mut(self.digest).filter(|flight| Arc::ptr_eq(&flight.number, &self.number))
        else {
            return;
        };
        flight.waiting -= 1;
        if flight.waiting == 0 {
            under_way.remove(self.digest);
        }
    }
}
