//! The one runner that every step passes.

use std::{fmt, future::Future, time::Instant};

use crate::faults::{Act, Faults};

/// A step of an act: what [`steps!`](crate::steps!) makes.
pub trait Step: Copy + fmt::Display {
    /// Its name, as in `run.attach`.
    fn name(self) -> &'static str;
}

/// Why a step failed: a test wanted it.
#[derive(Debug, thiserror::Error)]
#[error("{step}: made to fail")]
pub struct MadeToFail<S: Step> {
    /// Which.
    pub step: S,
}

/// What happens after a step.
enum Then {
    GoOn,
    EndAtOnce,
}

/// The runner.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    faults: Faults,
}

impl Steps {
    /// A runner that injects these faults.
    pub fn new(faults: Faults) -> Self {
        Self { faults }
    }

    /// Before a step's work; what is to happen after it.
    fn begin<S: Step>(&self, step: S) -> Result<Then, MadeToFail<S>> {
        match self.faults.at(step.name()) {
            None => {}
            Some(Act::Fail) => return Err(MadeToFail { step }),
            Some(Act::StandBefore) => stand_still(),
            Some(Act::KillBefore) => end_at_once(),
            Some(Act::KillAfter) => return Ok(Then::EndAtOnce),
        }
        Ok(Then::GoOn)
    }

    /// Does `work` as `step`.
    pub async fn pass<S: Step, T, E: From<MadeToFail<S>>>(
        &self,
        step: S,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let then = self.begin(step)?;
        let begun = Instant::now();
        let result = work.await;
        end(step, then, begun, result.is_ok());
        result
    }

    /// The same for work that needs no waiting.
    pub fn pass_now<S: Step, T, E: From<MadeToFail<S>>>(
        &self,
        step: S,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let then = self.begin(step)?;
        let begun = Instant::now();
        let result = work();
        end(step, then, begun, result.is_ok());
        result
    }
}

/// After a step's work.
fn end(step: impl Step, then: Then, begun: Instant, ok: bool) {
    match then {
        Then::EndAtOnce => end_at_once(),
        Then::GoOn => tracing::debug!(step = step.name(), took_us = begun.elapsed().as_micros() as u64, ok),
    }
}

/// As SIGKILL would: no destructor runs, nothing is flushed.
fn end_at_once() -> ! {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    std::process::abort()
}

/// All threads of the daemon, at once.
fn stand_still() {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGSTOP);
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::steps! {
        /// Of this test.
        enum Walk {
            /// One.
            Left = "walk.left",
            /// Another.
            Right = "walk.right",
        }
    }

    #[tokio::test]
    async fn a_step_that_is_made_to_fail_is_not_done_and_the_error_names_it() {
        let names = Walk::ALL.iter().map(|step| step.name());
        let steps = Steps::new(Faults::read("walk.left=fail", names).unwrap());
        let mut done = Vec::new();
        let mut walk = |step: Walk| -> Result<(), MadeToFail<Walk>> {
            done.push(step);
            Ok(())
        };
        let left = steps.pass(Walk::Left, async { walk(Walk::Left) }).await;
        assert_eq!(left.unwrap_err().to_string(), "walk.left: made to fail");
        let left = steps.pass_now(Walk::Left, || walk(Walk::Left));
        assert_eq!(left.unwrap_err().to_string(), "walk.left: made to fail");
        assert!(steps.pass(Walk::Right, async { walk(Walk::Right) }).await.is_ok());
        assert_eq!(done, [Walk::Right]);
    }
}
