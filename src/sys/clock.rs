//! The only door to the clocks.

use std::time::Instant;

/// Milliseconds since 1970, UTC. For display and ids; never for time-outs.
pub fn unix_ms() -> u64 {
    #[cfg(test)]
    if let Some(world) = super::simulated::world() {
        return world.unix_ms();
    }
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    #[cfg(feature = "fault-points")]
    let now = now.saturating_add_signed(stepped::by_ms());
    now
}

/// In test builds the clock can be set while a program runs: a static binary takes no other one by LD_PRELOAD.
#[cfg(feature = "fault-points")]
mod stepped {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    /// Names a file with so many milliseconds, ahead or (with a sign) behind, which is read at every look at the clock.
    const VARIABLE: &str = "HAKURIVER_TEST_CLOCK";

    static FILE: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os(VARIABLE).map(PathBuf::from));

    pub(super) fn by_ms() -> i64 {
        let text = FILE.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }
}

/// The monotonic clock, for time-outs. It goes on while the machine sleeps or not, but never back.
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(world) = super::simulated::world() {
        return world.now();
    }
    Instant::now()
}

/// `2026-11-23T00:31:27.123+00:00`; years above 9999 (which no clock shows) are written as the end of 9999.
pub fn rfc3339(unix_ms: u64) -> String {
    let unix_ms = unix_ms.min(END_OF_9999_MS);
    let (seconds, ms) = (unix_ms / 1_000, unix_ms % 1_000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(i64::try_from(days).expect("below the end of 9999"));
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}+00:00")
}

/// The inverse of [`rfc3339`]; takes any offset, and `Z`; None if it is not of that form.
///
/// Digits of the second beyond the third are dropped. Times before 1970 are None. A leap second (`:60`) is the second after it.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !text.is_ascii() {
        return None;
    }
    let shape = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if shape.iter().any(|&(at, sign)| bytes[at] != sign) || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (number(&bytes[0..4])?, number(&bytes[5..7])?, number(&bytes[8..10])?);
    let (hour, minute, second) = (number(&bytes[11..13])?, number(&bytes[14..16])?, number(&bytes[17..19])?);
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }

    let mut rest = &bytes[19..];
    let mut ms = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        // ".5" is 500 ms: the first three digits, filled up with zeros.
        let mut three = [b'0'; 3];
        let kept = digits.min(3);
        three[..kept].copy_from_slice(&fraction[..kept]);
        ms = number(&three)?;
        rest = &fraction[digits..];
    }
    let offset_minutes = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 60 + minutes;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let seconds =
        days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset_minutes * 60;
    u64::try_from(seconds * 1_000 + ms).ok()
}

/// 9999-12-31T23:59:59.999Z
const END_OF_9999_MS: u64 = 253_402_300_799_999;

/// Digits alone.
fn number(digits: &[u8]) -> Option<i64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

// The two functions below count in years that begin on 1 March, so that the leap day is the last day of a year, and
// in eras of 400 such years (146,097 days), after which the calendar repeats. Day 0 of era 0 is 0000-03-01, which is
// 719,468 days before 1970-01-01.
const DAYS_OF_ERA: i64 = 146_097;
const DAYS_TO_1970: i64 = 719_468;

/// Days since 1970-01-01 of a date of the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let march_year = if month <= 2 { year - 1 } else { year };
    let march_month = (month + 9) % 12;
    let era = march_year.div_euclid(400);
    let year_of_era = march_year.rem_euclid(400);
    // The months from March on have 31, 30, 31, 30, 31 days, and again: 153 days in five months.
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_OF_ERA + day_of_era - DAYS_TO_1970
}

/// The inverse of [`days_from_civil`]: (year, month, day).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_1970;
    let era = days.div_euclid(DAYS_OF_ERA);
    let day_of_era = days.rem_euclid(DAYS_OF_ERA);
    // Leap days so far are taken out (one in 1,460 days, none in 36,524, one in 146,096): what is left counts 365 a year.
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (year_of_era * 365 + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_and_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000+00:00"),
            (951_782_400_000, "2000-02-29T00:00:00.000+00:00"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999+00:00"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000+00:00"),
            (1_795_393_887_123, "2026-11-23T00:31:27.123+00:00"),
            (END_OF_9999_MS, "9999-12-31T23:59:59.999+00:00"),
        ] {
            assert_eq!(rfc3339(ms), text);
            assert_eq!(parse_rfc3339(text), Some(ms), "{text}");
        }
        assert_eq!(rfc3339(u64::MAX), rfc3339(END_OF_9999_MS));
    }

    #[test]
    fn every_day_of_eight_centuries_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1600, 1, 1);
        for days in days_from_civil(1600, 1, 1)..days_from_civil(2400, 1, 1) {
            assert_eq!(civil_from_days(days), (year, month, day));
            assert_eq!(days_from_civil(year, month, day), days);
            day += 1;
            if day > days_in_month(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn offsets_and_fractions_are_taken() {
        let at = parse_rfc3339("2026-11-23T00:31:27Z");
        assert!(at.is_some());
        for same in ["2026-11-23T00:31:27+00:00", "2026-11-23t02:01:27.000000+01:30", "2026-11-22 19:31:27.0-05:00"] {
            assert_eq!(parse_rfc3339(same), at, "{same}");
        }
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.5Z"), Some(500));
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.1239Z"), Some(123));
        assert_eq!(parse_rfc3339("2016-12-31T23:59:60Z"), parse_rfc3339("2017-01-01T00:00:00Z"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "2026-11-23",
            "2026-11-23T00:31:27",
            "2026-11-23T00:31:27.",
            "2026-11-23T00:31:27.Z",
            "2026-11-23T00:31:27+0000",
            "2026-11-23T00:31:27+24:00",
            "2026-13-23T00:31:27Z",
            "2026-02-29T00:31:27Z",
            "2026-00-10T00:31:27Z",
            "2026-11-00T00:31:27Z",
            "2026-11-23T24:31:27Z",
            "2026-11-23T00:60:27Z",
            "2026-11-23T00:31:61Z",
            "+026-11-23T00:31:27Z",
            "2026-11-23T00:31:27Zx",
            "1969-12-31T23:59:59Z",
            "2026-11-23T00:31:2٣Z",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad:?}");
        }
    }
}
