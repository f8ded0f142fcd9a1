//! What the daemon hears of a container's log: how it fares, at most once a second.
//!
//! On a full disk a log may fail and recover with each entry. The daemon keeps every message until it has read it, so a
//! container must not make them at its own pace; what is not told at once is told, summed up, when the second is over.

use std::time::{Duration, Instant};

use crate::log::Change;

/// From one message to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// What has been told of one log, and what has not.
#[derive(Debug, Default)]
pub(crate) struct LogHealth {
    told: Option<Instant>,
    untold: Option<Change>,
    /// Entries lost since the last message that counted them.
    dropped: u64,
}

impl LogHealth {
    /// Something has changed.
    pub(crate) fn note(&mut self, change: Change) {
        self.untold = Some(match change {
            Change::Failing => Change::Failing,
            Change::Resumed { dropped } => {
                self.dropped += dropped;
                Change::Resumed { dropped: self.dropped }
            }
        });
    }

    /// When something is to be told; `None` while there is nothing.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.untold.as_ref()?;
        Some(self.told.map_or_else(Instant::now, |told| told + PAUSE))
    }

    /// What is to be told at `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Change> {
        if self.told.is_some_and(|told| now < told + PAUSE) {
            return None;
        }
        let change = self.untold.take()?;
        self.told = Some(now);
        if matches!(change, Change::Resumed { .. }) {
            self.dropped = 0;
        }
        Some(change)
    }

    /// What has not been told when the container has ended.
    pub(crate) fn take_last(&mut self) -> Option<Change> {
        self.untold.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_fails_and_recovers_all_the_time_is_told_of_once_a_second_and_no_entry_is_uncounted() {
        let begin = Instant::now();
        let mut health = LogHealth::default();
        let mut told = Vec::new();
        for milliseconds in 0..2500 {
            let change = if milliseconds % 2 == 0 { Change::Failing } else { Change::Resumed { dropped: 1 } };
            health.note(change);
            told.extend(health.take_due(begin + Duration::from_millis(milliseconds)));
        }
        assert_eq!(told, [Change::Failing; 3]);
        assert_eq!(health.take_last(), Some(Change::Resumed { dropped: 1250 }));
        assert_eq!((health.due(), health.take_last()), (None, None));
    }

    #[test]
    fn the_first_change_is_told_at_once_and_the_next_when_its_time_has_come() {
        let now = Instant::now();
        let mut health = LogHealth::default();
        health.note(Change::Failing);
        assert_eq!(health.take_due(now), Some(Change::Failing));
        health.note(Change::Resumed { dropped: 2 });
        assert_eq!((health.take_due(now), health.due()), (None, Some(now + PAUSE)));
        assert_eq!(health.take_due(now + PAUSE), Some(Change::Resumed { dropped: 2 }));
    }
}
