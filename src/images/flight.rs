//! Pulls of the same content that are under way at the same time share one piece of work.
//!
//! Each caller has already been let in by the registry with its own credentials; only what comes after is shared, by
//! those who ask the same registry for the same repository with the same credentials: nobody is held up, or failed, by
//! what others are told by others. The work goes on while anyone waits for it, and is cancelled with the last one.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::Digest;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Credentials, Error, Result,
    progress::{Progress, Watch},
    shelf::Made,
};

type Landing = Option<Result<Arc<Made>, Arc<Error>>>;

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<Route, Flight>>,
}

/// What is wanted, and who asks whom for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    /// What the reference led to.
    pub(crate) root: Digest,
    /// Registry and repository.
    pub(crate) name: String,
    /// Those of the request; without any the node's own, which are the same for everybody.
    pub(crate) credentials: Option<Credentials>,
}

#[derive(Debug)]
struct Flight {
    landing: watch::Receiver<Landing>,
    waiting: usize,
    progress: Arc<Progress>,
    /// Tells this flight from a later one of the same route.
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
    /// Waits for the work on `route`, beginning it with `work` if nobody has. `watch` sees how far it is.
    pub(crate) async fn join<F>(
        self: &Arc<Self>,
        route: &Route,
        watch: &Watch,
        work: impl FnOnce(Arc<Progress>) -> F,
    ) -> (Part, Result<Arc<Made>>)
    where
        F: Future<Output = Result<Made>> + Send + 'static,
    {
        let (part, mut landing, number) = self.board(route, watch, work);
        // Leaves the flight however this ends, also when the caller is gone.
        let _seat = Seat { flights: self, route, number };
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

    fn board<F>(
        &self,
        route: &Route,
        watch: &Watch,
        work: impl FnOnce(Arc<Progress>) -> F,
    ) -> (Part, watch::Receiver<Landing>, Arc<()>)
    where
        F: Future<Output = Result<Made>> + Send + 'static,
    {
        let mut under_way = self.lock();
        if let Some(flight) = under_way.get_mut(route)
            && flight.landing.borrow().is_none()
        {
            flight.waiting += 1;
            watch.follow(&flight.progress);
            return (Part::Joined, flight.landing.clone(), flight.number.clone());
        }
        let (tell, landing) = watch::channel(None);
        let progress = Arc::<Progress>::default();
        watch.follow(&progress);
        let work = work(progress.clone());
        let task = tokio::spawn(async move {
            let result = work.await.map(Arc::new).map_err(Arc::new);
            let _ = tell.send(Some(result));
        });
        let number = Arc::new(());
        let flight = Flight {
            landing: landing.clone(),
            waiting: 1,
            progress,
            number: number.clone(),
            _task: AbortOnDropHandle::new(task),
        };
        under_way.insert(route.clone(), flight);
        (Part::Began, landing, number)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Route, Flight>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Seat<'a> {
    flights: &'a Flights,
    route: &'a Route,
    number: Arc<()>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut under_way = self.flights.lock();
        let Some(flight) = under_way.get_mut(self.route).filter(|flight| Arc::ptr_eq(&flight.number, &self.number))
        else {
            return;
        };
        flight.waiting -= 1;
        if flight.waiting == 0 {
            under_way.remove(self.route);
        }
    }
}
