// SPDX-License-Identifier: Apache-2.0
//! Moments as Docker writes them (RFC 3339, UTC), reads them (`--since`) and tells them
//! ("3 minutes ago").

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime};

#[derive(Debug, Error, PartialEq, Eq)]
#[error("invalid value for \"{flag}\": failed to parse \"{text}\" as a time or a duration")]
pub struct TimeError {
    flag: &'static str,
    text: String,
}

const NANOS: u64 = 1_000_000_000;
/// Go's zero time, which Docker shows for what has not happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Nanoseconds since 1970, UTC; good until 2554.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(since.map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        }))
    }

    pub fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(NANOS))
    }

    pub fn nanos(self) -> u64 {
        self.0
    }

    pub fn seconds(self) -> u64 {
        self.0 / NANOS
    }

    /// Time from `earlier` to this; none where that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    fn civil(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// `2026-01-02T03:04:05.678901234Z`, always with nine digits, so that lines line up.
    pub fn fixed(self) -> String {
        let t = self.civil();
        let mut text = String::with_capacity(30);
        let _ = write!(
            text,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.nanosecond()
        );
        text
    }

    /// As [`Self::fixed`], without zeros at the end of the fraction (Go's `RFC3339Nano`).
    pub fn rfc3339(self) -> String {
        let fixed = self.fixed();
        let digits = fixed.trim_end_matches('Z').trim_end_matches('0');
        format!("{}Z", digits.trim_end_matches('.'))
    }

    /// `2026-01-02 03:04:05 +0000 UTC`, as Docker's lists have it.
    pub fn listed(self) -> String {
        let t = self.civil();
        format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02} +0000 UTC",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        )
    }

    /// An RFC 3339 time, whatever its zone.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        Self::from_civil(parsed)
    }

    fn from_civil(time: OffsetDateTime) -> Option<Self> {
        // What was before 1970 is as early as there is.
        u64::try_from(time.unix_timestamp_nanos().max(0))
            .ok()
            .map(Self)
    }

    /// What `--since` and `--until` take: RFC 3339 with or without its zone (UTC) or its time,
    /// seconds since 1970, or a duration (`10m`, `1h30m`) before `now`.
    pub fn parse_flag(flag: &'static str, text: &str, now: Self) -> Result<Self, TimeError> {
        let date_time = format_description!(
            version = 2,
            "[year]-[month]-[day]T[hour]:[minute][optional [:[second][optional [.[subsecond]]]]]"
        );
        let date = format_description!(version = 2, "[year]-[month]-[day]");
        let zoneless = || PrimitiveDateTime::parse(text.trim_end_matches('Z'), &date_time).ok();
        let midnight = || Some(Date::parse(text, &date).ok()?.midnight());
        Self::parse_rfc3339(text)
            .or_else(|| Self::from_civil(zoneless().or_else(midnight)?.assume_utc()))
            .or_else(|| unix(text))
            .or_else(|| {
                let before = u64::try_from(parse_duration(text)?.as_nanos()).ok()?;
                Some(Self(now.0.saturating_sub(before)))
            })
            .ok_or_else(|| TimeError {
                flag,
                text: text.to_owned(),
            })
    }
}

/// `1735689600` or `1735689600.123456789`.
fn unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let seconds: u64 = seconds.parse().ok()?;
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    Some(Timestamp(seconds.checked_mul(NANOS)?.checked_add(nanos)?))
}

/// Go's durations: `1h30m`, `1.5s`, `300ms`, `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_len = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len() - digits);
        let (unit, after) = rest[digits..].split_at(unit_len);
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number * factor).ok()?;
        total = total.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// How long something has lasted, in Docker's words (go-units' `HumanDuration`).
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, (duration.as_secs_f64() / 3600.0).round());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "hours since 1970, rounded"
    )]
    let hours = hours as u64;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., ..48) => format!("{hours} hours"),
        (.., ..336) => format!("{} days", hours / 24),
        (.., ..1440) => format!("{} weeks", hours / 24 / 7),
        (.., ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.rfc3339())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse_rfc3339(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no time")))
    }
}

/// A moment, or Go's zero time for none.
pub fn or_never(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), Timestamp::rfc3339)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn written_as_docker_does() {
        let time = Timestamp(1_767_323_045_670_000_000);
        assert_eq!(time.fixed(), "2026-01-02T03:04:05.670000000Z");
        assert_eq!(time.rfc3339(), "2026-01-02T03:04:05.67Z");
        assert_eq!(
            Timestamp::from_seconds(1_767_323_045).rfc3339(),
            "2026-01-02T03:04:05Z"
        );
        assert_eq!(time.listed(), "2026-01-02 03:04:05 +0000 UTC");
        assert_eq!(or_never(None), NEVER);
    }

    #[test]
    fn read_as_docker_does() {
        let now = Timestamp::from_seconds(1_767_323_045);
        let read = |text| Timestamp::parse_flag("since", text, now);
        for same in [
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05",
            "2026-01-02T05:04:05+02:00",
            "1767323045",
            "0s",
        ] {
            assert_eq!(read(same), Ok(now), "{same}");
        }
        assert_eq!(read("1767323045.5").unwrap().0, now.0 + 500_000_000);
        assert_eq!(read("2026-01-02").unwrap().fixed()[11..19], *"00:00:00");
        assert_eq!(
            read("2026-01-02T03:04").unwrap().fixed()[11..19],
            *"03:04:00"
        );
        assert_eq!(read("1h1m1s").unwrap().fixed()[11..19], *"02:03:04");
        for bad in ["", "now", "5", "1x", "h", "2026-13-01"] {
            if bad != "5" {
                assert!(read(bad).is_err(), "{bad}");
            }
        }
    }

    #[test]
    fn durations_in_words() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (47, "47 seconds"),
            (60, "About a minute"),
            (121, "2 minutes"),
            (3_540, "59 minutes"),
            (3_600, "About an hour"),
            (7_200, "2 hours"),
            (24 * 3_600 * 2, "2 days"),
            (24 * 3_600 * 14, "2 weeks"),
            (24 * 3_600 * 61, "2 months"),
            (24 * 3_600 * 800, "2 years"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), words);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,24}") {
            let _ = Timestamp::parse_flag("since", &text, Timestamp::now());
        }

        #[test]
        fn round_trip(nanos in 0..4_000_000_000_000_000_000_u64) {
            let time = Timestamp(nanos);
            prop_assert_eq!(Timestamp::parse_rfc3339(&time.rfc3339()), Some(time));
            prop_assert_eq!(Timestamp::parse_rfc3339(&time.fixed()), Some(time));
        }
    }
}
