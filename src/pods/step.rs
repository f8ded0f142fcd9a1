//! The steps of every multi-step act, by name.
//!
//! Each act passes its steps through [`Steps::pass`], so a test (or a person hunting a bug) can make any *named* step
//! fail, or end the daemon there as a crash would. The list is an enum: nobody can add a step that tests cannot see.

use std::{
    fmt,
    future::Future,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::error::Error;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A step of an act on a pod or container.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            /// Every step there is.
            pub const ALL: &'static [Step] = &[$(Step::$name,)*];

            /// Its name, as in `run.attach`.
            pub fn name(self) -> &'static str {
                match self { $(Step::$name => $text,)* }
            }
        }
    };
}

steps! {
    /// Write down that a pod is being made.
    RunIntent = "run.intent",
    /// Make the pod's directory, with hosts, hostname and resolv.conf.
    RunFiles = "run.files",
    /// Make the network namespace.
    RunNetns = "run.netns",
    /// Give it an interface and addresses.
    RunAttach = "run.attach",
    /// Make the pod's cgroup.
    RunCgroup = "run.cgroup",
    /// Have the launcher fork a monitor.
    RunMonitor = "run.monitor",
    /// Have the monitor make the pod's namespaces.
    RunSetUp = "run.set-up",
    /// Write down that the pod is ready.
    RunReady = "run.ready",
    /// Find the image and keep its layers.
    CreateImage = "create.image",
    /// Write down that a container is being made.
    CreateIntent = "create.intent",
    /// Make the writable layer and the overlay.
    CreateRootfs = "create.rootfs",
    /// Make the cgroup, still without limits.
    CreateCgroup = "create.cgroup",
    /// Turn request and image into a launch plan.
    CreatePlan = "create.plan",
    /// Copy the content of the image's volumes.
    CreateVolumes = "create.volumes",
    /// Open the log.
    CreateLog = "create.log",
    /// Limit the cgroup, open every mount source.
    CreatePrepare = "create.prepare",
    /// Have the monitor clone the first process.
    CreateLaunch = "create.launch",
    /// Write down that the container is made.
    CreateDone = "create.done",
    /// Let the first process exec.
    StartExec = "start.exec",
    /// Write down that it runs.
    StartDone = "start.done",
    /// Send the stop signal, or kill.
    StopSignal = "stop.signal",
    /// Write down how a container ended.
    ExitRecord = "exit.record",
    /// Remove a container's cgroup.
    ExitCgroup = "exit.cgroup",
    /// Write down that a pod is stopping.
    StopPodIntent = "stop-pod.intent",
    /// Give back addresses.
    StopPodDetach = "stop-pod.detach",
    /// End the monitor.
    StopPodMonitor = "stop-pod.monitor",
    /// Drop the network namespace.
    StopPodNetns = "stop-pod.netns",
    /// Remove the pod's cgroup.
    StopPodCgroup = "stop-pod.cgroup",
    /// Write down that the pod is stopped.
    StopPodDone = "stop-pod.done",
    /// Tell the monitor to forget a container.
    RemoveForget = "remove.forget",
    /// Delete the writable layer.
    RemoveRootfs = "remove.rootfs",
    /// Delete the container's records.
    RemoveRecord = "remove.record",
    /// Delete the pod's directory.
    RemovePodFiles = "remove-pod.files",
    /// Delete the pod's record.
    RemovePodRecord = "remove-pod.record",
    /// Start a command in a container.
    Exec = "exec.start",
    /// Swap the log file.
    ReopenLog = "reopen-log",
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What to do at a step instead of, or after, doing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Answer with an error in its place.
    Fail,
    /// The same, the first time that it comes by.
    FailOnce,
    /// End the daemon as SIGKILL would, before it.
    KillBefore,
    /// End the daemon as SIGKILL would, after it.
    KillAfter,
    /// Have the daemon stand still as SIGSTOP would, before it, until it is told to go on.
    StandBefore,
}

/// Faults to inject, read once at start: none in ordinary life.
#[derive(Debug, Clone, Default)]
pub struct Faults(Vec<Fault>);

#[derive(Debug, Clone)]
struct Fault {
    step: Step,
    act: Act,
    /// It has come about already.
    met: Arc<AtomicBool>,
}

/// Why a fault list is not one.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is not a fault: want STEP=fail, STEP=fail-once, STEP=kill-before, STEP=kill-after or STEP=stand-before"
)]
pub struct InvalidFault {
    /// As given.
    pub text: String,
}

impl FromStr for Faults {
    type Err = InvalidFault;

    /// `run.attach=fail,create.launch=kill-after`
    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let one = |part: &str| {
            let (name, act) = part.split_once('=')?;
            let step = Step::ALL.iter().copied().find(|step| step.name() == name)?;
            let act = match act {
                "fail" => Act::Fail,
                "fail-once" => Act::FailOnce,
                "kill-before" => Act::KillBefore,
                "kill-after" => Act::KillAfter,
                "stand-before" => Act::StandBefore,
                _ => return None,
            };
            Some(Fault { step, act, met: Arc::default() })
        };
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| one(part).ok_or_else(|| InvalidFault { text: part.to_owned() }))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A step that was made to fail.
#[derive(Debug, thiserror::Error)]
#[error("made to fail")]
struct Injected;

/// The one runner that every step passes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steps {
    faults: Faults,
}

impl Steps {
    /// A runner that injects these faults.
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults }
    }

    /// Does `work` as `step`.
    pub(crate) async fn pass<T>(&self, step: Step, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.fault(step) {
            None => {}
            Some(Act::Fail | Act::FailOnce) => return Err(Error::at(step, model::Class::Internal, Injected)),
            Some(Act::StandBefore) => stand_still(),
            Some(Act::KillBefore) => end_at_once(),
            Some(Act::KillAfter) => {
                let _ = work.await;
                end_at_once()
            }
        }
        let begun = std::time::Instant::now();
        let result = work.await;
        tracing::debug!(step = step.name(), took_us = begun.elapsed().as_micros() as u64, ok = result.is_ok());
        result
    }

    /// The same for work that needs no waiting.
    pub(crate) fn pass_now<T>(&self, step: Step, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        match self.fault(step) {
            None => {}
            Some(Act::Fail | Act::FailOnce) => return Err(Error::at(step, model::Class::Internal, Injected)),
            Some(Act::StandBefore) => stand_still(),
            Some(Act::KillBefore) => end_at_once(),
            Some(Act::KillAfter) => {
                let _ = work();
                end_at_once()
            }
        }
        let begun = std::time::Instant::now();
        let result = work();
        tracing::debug!(step = step.name(), took_us = begun.elapsed().as_micros() as u64, ok = result.is_ok());
        result
    }

    fn fault(&self, step: Step) -> Option<Act> {
        let fault = self.faults.0.iter().find(|fault| fault.step == step)?;
        let met = fault.met.swap(true, Ordering::Relaxed);
        (fault.act != Act::FailOnce || !met).then_some(fault.act)
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

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let mut names: Vec<_> = Step::ALL.iter().map(|step| step.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Step::ALL.len());
    }

    #[test]
    fn faults_are_read_by_step_name_and_nonsense_is_refused() {
        let faults: Faults = "run.attach=fail, create.launch=kill-after".parse().unwrap();
        let read: Vec<_> = faults.0.iter().map(|fault| (fault.step, fault.act)).collect();
        assert_eq!(read, [(Step::RunAttach, Act::Fail), (Step::CreateLaunch, Act::KillAfter)]);
        for wrong in ["run.attach", "run.attach=explode", "no.such=fail"] {
            assert!(wrong.parse::<Faults>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_step_that_is_to_fail_once_is_done_the_next_time() {
        let steps = Steps::new("remove.rootfs=fail-once".parse().unwrap());
        let mut results = Vec::new();
        for _ in 0..3 {
            results.push(steps.pass(Step::RemoveRootfs, async { Ok(()) }).await.is_ok());
        }
        assert_eq!(results, [false, true, true]);
    }
}
