//! Clients that cannot be let in for want of descriptors or memory, as the log is told of them.

use std::time::{Duration, Instant};

/// From the line that tells of one such time to the line that may tell of the next. Whoever is kept out comes again and
/// again, and where the daemon is at its limit, every other client may be one too many: nobody may fill the log that
/// way.
const REST: Duration = Duration::from_secs(60);

/// Who was kept out since that was last told.
#[derive(Debug, Default)]
pub(crate) struct KeptOut {
    /// How many clients, and how many attempts to take one.
    times: u64,
    /// When the last time began that the log knows of.
    told: Option<Instant>,
    /// It goes on.
    goes_on: bool,
}

impl KeptOut {
    /// Another one is kept out. Whether that is to be told: when it begins.
    pub(crate) fn one_more(&mut self, now: Instant) -> bool {
        self.times += 1;
        let begins = !self.goes_on && self.told.is_none_or(|told| now.duration_since(told) >= REST);
        if begins {
            (self.told, self.goes_on) = (Some(now), true);
        }
        begins
    }

    /// One is let in. Where that is to be told, since it was told how it began: how often one was kept out.
    pub(crate) fn is_over(&mut self) -> Option<u64> {
        std::mem::take(&mut self.goes_on).then(|| std::mem::take(&mut self.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_beginning_and_its_end_are_told_once_however_often_one_comes() {
        let (begun, mut kept_out) = (Instant::now(), KeptOut::default());
        assert_eq!(kept_out.is_over(), None, "nobody was");
        assert!(kept_out.one_more(begun));
        for second in 1..200 {
            assert!(!kept_out.one_more(begun + Duration::from_secs(second)), "{second}");
        }
        assert_eq!(kept_out.is_over(), Some(200));
        assert_eq!(kept_out.is_over(), None);
    }

    #[test]
    fn where_every_other_client_is_one_too_many_it_is_told_once_a_minute() {
        let (begun, mut kept_out, mut lines) = (Instant::now(), KeptOut::default(), Vec::new());
        for second in 0..=120 {
            if kept_out.one_more(begun + Duration::from_secs(second)) {
                lines.push((second, None));
            }
            if let Some(times) = kept_out.is_over() {
                lines.push((second, Some(times)));
            }
        }
        let want = [(0, None), (0, Some(1)), (60, None), (60, Some(60)), (120, None), (120, Some(60))];
        assert_eq!(lines, want);
    }
}
