//! The faults to inject, as they are written.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What to do at a step instead of, or after, doing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Answer with an error in its place.
    Fail,
    /// End the daemon as SIGKILL would, before it.
    KillBefore,
    /// End the daemon as SIGKILL would, after it.
    KillAfter,
    /// Have the daemon stand still as SIGSTOP would, before it, until it is told to go on.
    StandBefore,
}

/// Faults to inject, read once at start: none in ordinary life. Clones share their count of passes.
#[derive(Debug, Clone, Default)]
pub struct Faults(Vec<Fault>);

#[derive(Debug, Clone)]
struct Fault {
    step: &'static str,
    act: Act,
    when: When,
    /// How often the step has come by.
    passes: Arc<AtomicUsize>,
}

/// At which passes of its step a fault comes about, counted from the daemon's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// At this one alone; the first is 1.
    At(usize),
}

/// Why a fault list is not one.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is not a fault: want STEP=fail, STEP=fail-once, STEP=kill-before, STEP=kill-after or STEP=stand-before, \
     each but fail-once also as STEP=fail@2: at the second pass alone"
)]
pub struct InvalidFault {
    /// As given.
    pub text: String,
}

impl Faults {
    /// Reads `run.attach=fail,create.launch=kill-after,exit.cgroup=kill-before@2` about steps of these names.
    pub fn read(text: &str, steps: impl IntoIterator<Item = &'static str> + Clone) -> Result<Self, InvalidFault> {
        let one = |part: &str| {
            let (name, act) = part.split_once('=')?;
            let step = steps.clone().into_iter().find(|step| *step == name)?;
            let (act, when) = match act.split_once('@') {
                None if act == "fail-once" => ("fail", When::At(1)),
                None => (act, When::Always),
                Some((act, pass)) => (act, When::At(pass.parse().ok().filter(|pass| *pass > 0)?)),
            };
            let act = match act {
                "fail" => Act::Fail,
                "kill-before" => Act::KillBefore,
                "kill-after" => Act::KillAfter,
                "stand-before" => Act::StandBefore,
                _ => return None,
            };
            Some(Fault { step, act, when, passes: Arc::default() })
        };
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| one(part).ok_or_else(|| InvalidFault { text: part.to_owned() }))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// What happens at this pass of a step.
    pub(crate) fn at(&self, step: &str) -> Option<Act> {
        let fault = self.0.iter().find(|fault| fault.step == step)?;
        let pass = fault.passes.fetch_add(1, Ordering::Relaxed) + 1;
        (fault.when == When::Always || fault.when == When::At(pass)).then_some(fault.act)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [&str; 2] = ["run.attach", "create.launch"];

    #[test]
    fn faults_are_read_by_step_name_and_nonsense_is_refused() {
        let faults = Faults::read("run.attach=fail, create.launch=kill-after", STEPS).unwrap();
        let read: Vec<_> = faults.0.iter().map(|fault| (fault.step, fault.act)).collect();
        assert_eq!(read, [("run.attach", Act::Fail), ("create.launch", Act::KillAfter)]);
        let wrong =
            ["run.attach", "run.attach=explode", "no.such=fail", "run.attach=fail@", "run.attach=fail@0", "fail@1"];
        for wrong in wrong {
            assert!(Faults::read(wrong, STEPS).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_fault_with_a_count_comes_about_at_that_pass_alone() {
        for (fault, expected) in [
            ("fail", [true, true, true]),
            ("fail-once", [true, false, false]),
            ("fail@1", [true, false, false]),
            ("fail@2", [false, true, false]),
        ] {
            let faults = Faults::read(&format!("run.attach={fault}"), STEPS).unwrap();
            // A clone counts with it.
            let passes = [faults.at("run.attach"), faults.clone().at("run.attach"), faults.at("run.attach")];
            assert_eq!(passes.map(|act| act == Some(Act::Fail)), expected, "{fault}");
            assert_eq!(faults.at("create.launch"), None, "{fault}");
        }
    }
}
