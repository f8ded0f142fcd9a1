//! What a multi-step act has done so far, so that a failure can take it back in reverse order.

use std::{future::Future, pin::Pin};

use crate::{error::Error, step::Step};

type Taking = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// A stack of things to take back. Dropping it takes nothing back: either [`Undo::keep`] or [`Undo::take_back`] ends
/// it.
#[must_use]
#[derive(Default)]
pub(crate) struct Undo {
    done: Vec<(Step, Taking)>,
}

impl Undo {
    /// Nothing done yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// `step` has been done (or begun); `taking` would take it back, and must be safe when it was only begun.
    pub(crate) fn push(&mut self, step: Step, taking: impl Future<Output = Result<(), Error>> + Send + 'static) {
        self.done.push((step, Box::pin(taking)));
    }

    /// The act succeeded.
    pub(crate) fn keep(self) {
        drop(self);
    }

    /// The act failed: takes everything back, last first, going on past failures.
    /// Answers the steps that could not be taken back; whoever asked must keep the object visible until they are.
    pub(crate) async fn take_back(mut self) -> Vec<(Step, Error)> {
        let mut remains = Vec::new();
        while let Some((step, taking)) = self.done.pop() {
            if let Err(error) = taking.await {
                remains.push((step, error));
            }
        }
        remains
    }
}
