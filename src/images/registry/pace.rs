//! How slowly a blob may come: a host that sends a byte now and then never stands still, and never ends either.
//!
//! There is no limit on a whole download. But the time that a connection is waited for is counted, and one that brings
//! too little in it is left like one that stands still: another goes on where it was. The time that our own disk takes
//! is not the host's.

use std::time::Duration;

use crate::Outcome;

/// Bytes a second that a connection has to bring, on the average of a window. A tenth of what the slowest lines that
/// anybody pulls by bring, so that it tells only those who mean harm or are broken: a gibibyte would take twelve days.
const SLOWEST: u64 = 1 << 10;

/// What one connection brings.
#[derive(Debug)]
pub(super) struct Pace {
    window: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Of a connection that is looked at each time it was waited for so long.
    pub(super) fn over(window: Duration) -> Self {
        Self { window, waited: Duration::ZERO, bytes: 0 }
    }

    /// After this wait so many bytes have come. Why the connection is to be left, if it is.
    pub(super) fn came(&mut self, waited: Duration, bytes: usize) -> Result<(), Outcome> {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < self.window {
            return Ok(());
        }
        let (waited, bytes) = (self.waited.as_secs_f64(), self.bytes);
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        if bytes as f64 >= SLOWEST as f64 * waited {
            return Ok(());
        }
        let why = format!("it sent {bytes} bytes in {waited:.0} s, less than {SLOWEST} a second");
        Err(Outcome::Broken { why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_brings_too_little_for_a_whole_window_is_left() {
        let seconds = Duration::from_secs;
        let mut pace = Pace::over(seconds(300));
        for _ in 0..299 {
            pace.came(seconds(1), 0).unwrap();
        }
        pace.came(seconds(1), 300 << 10).unwrap();
        // What one window had too much does not help the next.
        pace.came(seconds(150), 150 << 10).unwrap();
        let left = pace.came(seconds(150), (150 << 10) - 1).unwrap_err();
        assert!(matches!(&left, Outcome::Broken { why } if why.contains("307199 bytes in 300 s")), "{left:?}");
        // A byte every twenty seconds.
        assert_eq!((0..15).filter(|_| pace.came(seconds(20), 1).is_err()).count(), 1);
    }
}
