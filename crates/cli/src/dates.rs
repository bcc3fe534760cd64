//! Days and times in UTC, for people.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use sparewire_core::Timestamp;

const DAY_SECS: u64 = 86_400;

/// A day of the Gregorian calendar in UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Day(u64);

impl Day {
    pub(crate) fn of(time: Timestamp) -> Self {
        Self::of_secs(time.as_secs())
    }

    pub(crate) fn of_secs(secs: u64) -> Self {
        Self(secs / DAY_SECS)
    }

    /// Year, month and day of the month. Source: Howard Hinnant, "chrono-Compatible Low-Level Date
    /// Algorithms", `civil_from_days`.
    fn civil(self) -> (u64, u64, u64) {
        let days = self.0 + 719_468; // since 0000-03-01
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153; // from March
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        (era * 400 + year + u64::from(month <= 2), month, day)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Day {
    type Err = String;

    /// A date as 2026-11-21.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no date; write it as 2026-11-21");
        let mut parts = text.splitn(3, '-');
        let mut number = |length: usize| {
            let part = parts.next().filter(|part| part.len() == length)?;
            part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u64>().ok())?
        };
        let parts = (number(4), number(2), number(2));
        let (Some(year @ 1970..), Some(month @ 1..=12), Some(day @ 1..=31)) = parts else {
            return Err(wrong());
        };
        // `days_from_civil` of the same source.
        let shifted = if month <= 2 { year - 1 } else { year };
        let (era, of_era) = (shifted / 400, shifted % 400);
        let from_march = if month > 2 { month - 3 } else { month + 9 };
        let of_year = (153 * from_march + 2) / 5 + day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
        let found = Self(days.checked_sub(719_468).ok_or_else(wrong)?);
        // The 31st of a month that has 30 days is none.
        (found.civil() == (year, month, day)).then_some(found).ok_or_else(wrong)
    }
}

/// A time as `2026-11-21 16:20:03 UTC`.
pub(crate) fn utc(time: Timestamp) -> String {
    let secs = time.as_secs();
    let of_day = secs % DAY_SECS;
    let (hours, minutes) = (of_day / 3_600, of_day / 60 % 60);
    format!("{} {hours:02}:{minutes:02}:{:02} UTC", Day::of_secs(secs), of_day % 60)
}

/// How long so many milliseconds are, in the largest unit that makes at least two of it.
pub(crate) fn duration(ms: u64) -> String {
    let units = [(86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes"), (1_000, "s")];
    match units.into_iter().find(|(unit, _)| ms >= 2 * unit) {
        Some((unit, name)) => format!("{} {name}", ms / unit),
        None => format!("{ms} ms"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let known = [(0, "1970-01-01"), (951_782_400, "2000-02-29"), (1_795_273_200, "2026-11-21")];
        for (secs, text) in known {
            assert_eq!(Day::of_secs(secs).to_string(), text);
            assert_eq!(Day::of_secs(secs - secs % DAY_SECS + DAY_SECS - 1).to_string(), text);
            assert_eq!(text.parse(), Ok(Day::of_secs(secs)));
        }
        for day in 0..80_000 {
            let day = Day(day);
            assert_eq!(day.to_string().parse(), Ok(day));
        }
        for wrong in ["2026-02-29", "2026-13-01", "21.11.2026", "2026-1-1", "", "1969-12-31"] {
            assert!(wrong.parse::<Day>().unwrap_err().contains("2026-11-21"), "{wrong}");
        }
    }

    #[test]
    fn times_are_told_for_people() {
        let time = Timestamp::from_ms(1_795_278_003_999);
        assert_eq!(utc(time), "2026-11-21 16:20:03 UTC");
        let said = [(0, "0 ms"), (1_999, "1999 ms"), (2_000, "2 s"), (7_200_000, "2 hours")];
        for (ms, words) in said {
            assert_eq!(duration(ms), words);
        }
    }
}
