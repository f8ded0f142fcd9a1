//! Times as Docker's users read them: how long ago.

use jiff::{Timestamp, tz::TimeZone};

/// When an image was built. What its maker wrote is a time only if it can be read as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Created(Option<Timestamp>);

impl Created {
    /// Reads RFC 3339. The beginning of time, or earlier, is how builders say that they do not say.
    pub(crate) fn read(text: &str) -> Self {
        Self(text.parse::<Timestamp>().ok().filter(|at| at.as_second() > 0))
    }

    /// `3 weeks ago`; `N/A` when nobody knows.
    pub(crate) fn ago(self, now: Timestamp) -> String {
        match self.0 {
            Some(at) => format!("{} ago", human(now.as_second().saturating_sub(at.as_second()))),
            None => "N/A".to_owned(),
        }
    }

    /// `2026-01-31 12:00:00 +0000 UTC`.
    pub(crate) fn at(self) -> String {
        match self.0 {
            Some(at) => at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
            None => "N/A".to_owned(),
        }
    }
}

fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_one_unit() {
        const DAY: i64 = 24 * 3600;
        for (seconds, text) in [
            (-5, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (119, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (47 * 3600, "47 hours"),
            (13 * DAY, "13 days"),
            (21 * DAY, "3 weeks"),
            (90 * DAY, "3 months"),
            (900 * DAY, "2 years"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn only_a_time_is_taken_for_one() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        assert_eq!(Created::read("2026-01-31T13:30:00+02:00").ago(now), "30 minutes ago");
        assert_eq!(Created::read("2025-01-31T13:30:00.123456789Z").at(), "2025-01-31 13:30:00 +0000 UTC");
        for not_one in ["", "\x1b[2J", "yesterday", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"] {
            assert_eq!((Created::read(not_one).ago(now), Created::read(not_one).at()), ("N/A".into(), "N/A".into()));
        }
        assert!(Created::read("2026-01-31T12:00:00Z") > Created::read(""));
    }
}
