//! How often hosts are asked for one thing, and how long they are left alone in between.
//!
//! A round asks every host that may be asked, in order. When all have failed, and one of them may do better in a
//! moment, there is another round: after a pause that doubles, or after what that host has asked for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Attempt, Outcome};

/// Rounds at most.
const ROUNDS: u32 = 4;
/// Pause before the second round, doubled with each.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest that a host is waited for. Whoever wants more is taken at its word: the pull fails now, and the kubelet,
/// which has patience of its own, comes again.
const LONGEST: Duration = Duration::from_secs(30);

/// What is asked for, as far as failing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thing {
    /// A manifest or index. A host that is not there is soon told: nothing has been done yet that would be lost.
    Document,
    /// A blob.
    Blob,
}

/// The rounds for one thing.
#[derive(Debug)]
pub(crate) struct Rounds {
    thing: Thing,
    over: u32,
}

impl Rounds {
    /// Before the first round.
    pub(crate) fn of(thing: Thing) -> Self {
        Self { thing, over: 0 }
    }

    /// After a round in which all hosts failed so: the pause before the next one, if there is to be one.
    pub(crate) fn pause(&mut self, tried: &[Attempt]) -> Option<Duration> {
        self.over += 1;
        if self.over == ROUNDS {
            return None;
        }
        let own = jittered(PAUSE * (1 << (self.over - 1)));
        // The first of those that may do better.
        let passing = tried.iter().filter(|attempt| self.passes(&attempt.outcome));
        let pause = passing.map(|attempt| wait(&attempt.outcome).unwrap_or(own).max(own)).min()?;
        (pause <= LONGEST).then_some(pause)
    }

    /// Whether the same request may succeed in a moment.
    fn passes(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Refused { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            Outcome::Broken { .. } => true,
            Outcome::Unreachable { .. } => self.thing == Thing::Blob,
            Outcome::Spoiled { .. } => false,
        }
    }
}

fn wait(outcome: &Outcome) -> Option<Duration> {
    match outcome {
        Outcome::Refused { wait, .. } => *wait,
        _ => None,
    }
}

/// Up to half as long again: nodes that a registry has turned away together must not come back together.
fn jittered(pause: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    pause + pause.mul_f64(f64::from(nanos % 1_000_000) / 2e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(outcomes: &[Outcome]) -> Vec<Attempt> {
        outcomes.iter().map(|outcome| Attempt { host: "r.io".to_owned(), outcome: outcome.clone() }).collect()
    }

    fn busy(status: u16, wait: Option<u64>) -> Outcome {
        Outcome::Refused { status, detail: String::new(), wait: wait.map(Duration::from_secs) }
    }

    #[test]
    fn pauses_grow_and_come_to_an_end() {
        let mut rounds = Rounds::of(Thing::Document);
        for least in [250, 500, 1000] {
            let pause = rounds.pause(&tried(&[busy(503, None)])).unwrap().as_millis();
            assert!((least..=least * 3 / 2).contains(&pause), "{pause}");
        }
        assert_eq!(rounds.pause(&tried(&[busy(503, None)])), None);
    }

    #[test]
    fn a_host_gets_the_rest_that_it_asks_for_within_reason() {
        let pause = |outcomes: &[Outcome]| Rounds::of(Thing::Document).pause(&tried(outcomes));
        assert_eq!(pause(&[busy(429, Some(7))]), Some(Duration::from_secs(7)));
        assert!(pause(&[busy(429, Some(0))]).unwrap() >= PAUSE, "no host makes us hurry");
        assert_eq!(pause(&[busy(429, Some(3600))]), None);
        assert!(pause(&[busy(429, Some(3600)), busy(503, None)]).unwrap() < Duration::from_secs(1));
        assert_eq!(pause(&[busy(404, Some(1)), busy(401, None)]), None, "waiting changes nothing");
    }

    #[test]
    fn who_is_not_there_is_asked_again_for_blobs_only() {
        let away = tried(&[Outcome::Unreachable { why: String::new() }]);
        assert!(Rounds::of(Thing::Blob).pause(&away).is_some());
        assert!(Rounds::of(Thing::Document).pause(&away).is_none());
        let broken = tried(&[Outcome::Broken { why: String::new() }]);
        assert!(Rounds::of(Thing::Document).pause(&broken).is_some());
        assert!(Rounds::of(Thing::Blob).pause(&tried(&[Outcome::Spoiled { why: String::new() }])).is_none());
    }
}
