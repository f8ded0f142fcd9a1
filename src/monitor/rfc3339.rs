//! Times as CRI logs want them: `2026-11-22T03:05:43.123456789Z`, always 30 bytes.

/// Length of a written time.
pub(crate) const LENGTH: usize = 30;

/// The UTC time of nanoseconds since 1970. No allocation: this runs for every line of every log.
pub(crate) fn utc(ns: i64) -> [u8; LENGTH] {
    let ns = ns.max(0) as u64;
    let (seconds, nanoseconds) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    put(&mut text[0..4], year);
    put(&mut text[5..7], month);
    put(&mut text[8..10], day);
    put(&mut text[11..13], second / 3600);
    put(&mut text[14..16], second / 60 % 60);
    put(&mut text[17..19], second % 60);
    put(&mut text[20..29], nanoseconds);
    text
}

fn put(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a number of days since 1970-01-01, by counting years from March, so that the leap day is
/// last.
fn civil(days: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01; an era is 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_as_everyone_writes_them() {
        for (seconds, ns, want) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, 1, "2000-02-28T23:59:59.000000001Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
            (1_709_251_199, 999_999_999, "2024-02-29T23:59:59.999999999Z"),
            (1_795_316_743, 123_456_789, "2026-11-22T03:05:43.123456789Z"),
            (4_102_444_800, 0, "2100-01-01T00:00:00.000000000Z"),
        ] {
            let written = utc(seconds * 1_000_000_000 + ns);
            assert_eq!(std::str::from_utf8(&written), Ok(want));
        }
    }
}
