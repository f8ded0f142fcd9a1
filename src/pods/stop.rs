//! The patience of a stop: ask once, kill when it ends, kill again until the kernel obeys.
//!
//! Pure: time is passed in, the keeper does what comes out.

use std::time::{Duration, Instant};

/// How long after a SIGKILL without effect the next one is sent: the process is stuck in the kernel, and only its
/// wake-up will end it.
const KILL_AGAIN: Duration = Duration::from_secs(2);

/// Patience without end, in practice: what a grace that no clock can hold becomes.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// What a stop needs done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Wait.
    Nothing,
    /// Send the stop signal to the first process.
    Ask,
    /// Send SIGKILL to all of the container.
    Kill,
}

/// A stop under way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    kill_at: Instant,
    asked: bool,
    kills: u32,
    /// A signal is on its way: the next one waits until it is known what became of it, so that they do not pile up
    /// before a monitor that does not answer.
    signalling: bool,
}

impl Stop {
    /// A stop that begins now. Without any grace nobody is asked.
    pub(crate) fn within(grace: Duration, now: Instant) -> Self {
        Self { kill_at: after(now, grace), asked: false, kills: 0, signalling: false }
    }

    /// Somebody else wants the same stop. Less patience counts; more never puts the end off (a kubelet that deletes a
    /// pod again does so with a shorter grace). What has been killed has no patience left to be shortened.
    pub(crate) fn hasten(&mut self, grace: Duration, now: Instant) {
        if self.kills == 0 {
            self.kill_at = self.kill_at.min(after(now, grace));
        }
    }

    /// What to do at `now`. After a signal nothing, until [`Stop::signalled`].
    pub(crate) fn act(&mut self, now: Instant) -> Act {
        if self.signalling {
            return Act::Nothing;
        }
        let act = if now >= self.kill_at {
            self.kill_at = now + KILL_AGAIN;
            self.kills = self.kills.saturating_add(1);
            Act::Kill
        } else if self.asked {
            Act::Nothing
        } else {
            Act::Ask
        };
        self.asked = true;
        self.signalling = act != Act::Nothing;
        act
    }

    /// What became of the last signal is known.
    pub(crate) fn signalled(&mut self) {
        self.signalling = false;
    }

    /// The last signal was lost on its way: it is due again.
    pub(crate) fn missed(&mut self, act: Act, now: Instant) {
        self.signalling = false;
        match act {
            Act::Nothing => {}
            Act::Ask => self.asked = false,
            Act::Kill => self.kill_at = now,
        }
    }

    /// Whether it has been killed before without effect.
    pub(crate) fn is_stuck(&self) -> bool {
        self.kills > 1
    }

    /// When it has to be looked at again; `None` before [`Stop::signalled`].
    pub(crate) fn alarm(&self) -> Option<Instant> {
        (!self.signalling).then_some(self.kill_at)
    }
}

fn after(now: Instant, grace: Duration) -> Instant {
    now.checked_add(grace).unwrap_or(now + FOR_EVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What it does at `now`; whatever it sends arrives.
    fn act(stop: &mut Stop, now: Instant) -> Act {
        let act = stop.act(now);
        stop.signalled();
        act
    }

    #[test]
    fn it_asks_once_and_kills_when_the_grace_is_over() {
        let now = Instant::now();
        let mut stop = Stop::within(10 * SECOND, now);
        assert_eq!(act(&mut stop, now), Act::Ask);
        assert_eq!(act(&mut stop, now + SECOND), Act::Nothing);
        assert_eq!(act(&mut stop, now + 10 * SECOND), Act::Kill);
    }

    #[test]
    fn without_grace_nobody_is_asked() {
        let now = Instant::now();
        assert_eq!(Stop::within(Duration::ZERO, now).act(now), Act::Kill);
    }

    #[test]
    fn a_kill_without_effect_is_repeated() {
        let now = Instant::now();
        let mut stop = Stop::within(Duration::ZERO, now);
        assert_eq!(act(&mut stop, now), Act::Kill);
        assert_eq!(act(&mut stop, now + SECOND), Act::Nothing);
        assert_eq!(act(&mut stop, now + KILL_AGAIN), Act::Kill);
    }

    #[test]
    fn a_slow_death_is_not_hastened_by_killing_without_pause() {
        let begin = Instant::now();
        let mut stop = Stop::within(Duration::ZERO, begin);
        let mut kills = 0;
        // A removal wants the stop anew whenever anything happens to the pod.
        for milliseconds in 0..5000 {
            let now = begin + Duration::from_millis(milliseconds);
            stop.hasten(Duration::ZERO, now);
            kills += usize::from(act(&mut stop, now) == Act::Kill);
        }
        assert_eq!(kills, 3, "at once, after two seconds, after four");
    }

    #[test]
    fn no_signal_follows_one_that_is_still_on_its_way() {
        let now = Instant::now();
        let mut stop = Stop::within(SECOND, now);
        assert_eq!(stop.act(now), Act::Ask);
        assert_eq!((stop.act(now + 10 * SECOND), stop.alarm()), (Act::Nothing, None));
        stop.signalled();
        assert_eq!(stop.alarm(), Some(now + SECOND));
        assert_eq!(stop.act(now + 10 * SECOND), Act::Kill);
        assert_eq!(stop.act(now + 60 * SECOND), Act::Nothing);
    }

    #[test]
    fn a_signal_that_was_lost_is_sent_again() {
        let now = Instant::now();
        let mut stop = Stop::within(SECOND, now);
        assert_eq!(stop.act(now), Act::Ask);
        stop.missed(Act::Ask, now);
        assert_eq!(act(&mut stop, now), Act::Ask);
        assert_eq!(act(&mut stop, now), Act::Nothing);
        assert_eq!(stop.act(now + SECOND), Act::Kill);
        stop.missed(Act::Kill, now + SECOND);
        assert_eq!(act(&mut stop, now + SECOND), Act::Kill);
        assert_eq!(act(&mut stop, now + SECOND), Act::Nothing);
    }

    #[test]
    fn only_less_patience_counts() {
        let now = Instant::now();
        let mut stop = Stop::within(10 * SECOND, now);
        assert_eq!(act(&mut stop, now), Act::Ask);
        stop.hasten(60 * SECOND, now);
        assert_eq!(stop.alarm(), Some(now + 10 * SECOND));
        stop.hasten(2 * SECOND, now);
        assert_eq!(stop.act(now + 2 * SECOND), Act::Kill);
    }

    #[test]
    fn a_grace_beyond_any_clock_is_a_long_one() {
        let now = Instant::now();
        let mut stop = Stop::within(Duration::MAX, now);
        assert_eq!(act(&mut stop, now), Act::Ask);
        assert!(stop.alarm() > Some(now + SECOND));
    }
}
