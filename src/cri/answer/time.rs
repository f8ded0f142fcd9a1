//! Times as the contract counts them.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// Nanoseconds since 1970; never 0, which would mean "never".
pub(crate) fn nanoseconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX).max(1)
}

/// Now, later than every answer before, even when the clock is set back: the kubelet's cache takes only newer statuses.
pub(crate) fn later() -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = nanoseconds(SystemTime::now());
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last.saturating_add(1))));
    now.max(last.unwrap_or(now).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_time_is_ever_zero_and_timestamps_only_grow() {
        assert_eq!(nanoseconds(UNIX_EPOCH), 1);
        assert_eq!(nanoseconds(UNIX_EPOCH - Duration::from_secs(5)), 1);
        assert_eq!(nanoseconds(UNIX_EPOCH + Duration::from_secs(5)), 5_000_000_000);
        let stamps: Vec<_> = (0..1000).map(|_| later()).collect();
        assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
