// SPDX-License-Identifier: Apache-2.0
//! Docker's notations for sizes and processor counts.

use serde::{Deserialize, Serialize};
use thiserror::Error;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum UnitError {
    #[error("invalid size: '{0}'")]
    Size(String),
    #[error("invalid suffix: '{0}'")]
    Suffix(String),
    #[error("failed to parse '{0}' as a number of CPUs")]
    Cpus(String),
}

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// `64m`, `1.5g`, `512 KiB`, `1048576`: binary multiples, whatever the case and with or without
/// a trailing `b` or `ib`, as docker's `--memory` takes them.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let invalid = || UnitError::Size(text.to_owned());
    let split = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.')
        .ok_or_else(invalid)?;
    let (number, suffix) = text.split_at(split + 1);
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix);
    let factor = size_factor(suffix).ok_or_else(|| UnitError::Suffix(suffix.to_owned()))?;
    multiply(number, factor).ok_or_else(invalid)
}

fn size_factor(suffix: &str) -> Option<u64> {
    let lower = suffix.to_ascii_lowercase();
    let shift = match lower.as_str() {
        "" | "b" => return Some(1),
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    Some(1 << shift)
}

/// `number` is decimal digits with at most one point; the product is cut to a whole number.
fn multiply(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut total = whole.checked_mul(factor)?;
    let mut scale = 1u128;
    let mut numerator = 0u128;
    // Eighteen digits are finer than any factor can show.
    for digit in fraction.bytes().take(18) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    let part = u64::try_from(numerator * u128::from(factor) / scale).ok()?;
    total = total.checked_add(part)?;
    Some(total)
}

/// A processor allowance in thousandths, from docker's `--cpus`: `2`, `1.5`, `.25`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct MilliCpus(u32);

impl MilliCpus {
    /// Docker's least, too.
    pub const MIN: Self = Self(10);

    pub fn parse(text: &str) -> Result<Self, UnitError> {
        let invalid = || UnitError::Cpus(text.to_owned());
        let milli = multiply(text, 1000).ok_or_else(invalid)?;
        u32::try_from(milli).map(Self).map_err(|_| invalid())
    }

    pub fn milli(self) -> u32 {
        self.0
    }

    /// Whole processors that hold this much.
    pub fn ceil(self) -> u32 {
        self.0.div_ceil(1000)
    }
}

/// `12.3MB`-style: for people, in the binary multiples of [`parse_size`].
pub fn human_size(bytes: u64) -> String {
    for (name, unit) in [("GiB", GIB), ("MiB", MIB), ("KiB", KIB)] {
        if bytes >= unit {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            return match tenths % 10 {
                0 => format!("{} {name}", tenths / 10),
                rest => format!("{}.{rest} {name}", tenths / 10),
            };
        }
    }
    format!("{bytes} B")
}

/// `12.3MB`: as Docker's lists have it, decimal, with three significant digits (go-units'
/// `HumanSizeWithPrecision`).
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn decimal_size(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].iter();
    let mut unit = units.next().unwrap_or(&"B");
    while size >= 1000.0 {
        let Some(next) = units.next() else {
            break;
        };
        (size, unit) = (size / 1000.0, next);
    }
    let decimals = match size {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{size:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{unit}")
}

/// As [`decimal_size`], in binary multiples (go-units' `BytesSize`).
pub fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{}{}", four_digits(size), UNITS[unit])
}

/// C's `%.4g`, for what is below 1024.
fn four_digits(size: f64) -> String {
    let decimals = match size {
        ..10.0 => 3,
        ..100.0 => 2,
        ..1000.0 => 1,
        _ => 0,
    };
    let text = format!("{size:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_as_docker_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("32", 32),
            ("32b", 32),
            ("32k", 32 * KIB),
            ("32 KB", 32 * KIB),
            ("32KiB", 32 * KIB),
            ("64m", 64 * MIB),
            ("1.5g", GIB + GIB / 2),
            (".5g", GIB / 2),
            ("2T", 2048 * GIB),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn bad_sizes_in_dockers_words() {
        assert_eq!(
            parse_size("foo").unwrap_err().to_string(),
            "invalid size: 'foo'"
        );
        assert_eq!(parse_size("").unwrap_err().to_string(), "invalid size: ''");
        assert_eq!(
            parse_size("-3m").unwrap_err().to_string(),
            "invalid size: '-3m'"
        );
        assert_eq!(
            parse_size("1.2.3m").unwrap_err().to_string(),
            "invalid size: '1.2.3m'"
        );
        assert_eq!(
            parse_size("3 apples").unwrap_err().to_string(),
            "invalid suffix: 'apples'"
        );
        assert_eq!(
            parse_size("99999999p").unwrap_err().to_string(),
            "invalid size: '99999999p'"
        );
    }

    #[test]
    fn cpus() {
        let parsed = |t| MilliCpus::parse(t).unwrap();
        assert_eq!((parsed("2").milli(), parsed("2").ceil()), (2000, 2));
        assert_eq!((parsed("1.5").milli(), parsed("1.5").ceil()), (1500, 2));
        assert_eq!((parsed(".25").milli(), parsed(".25").ceil()), (250, 1));
        for bad in ["", "two", "-1", "1.5.2", "1e3", "99999999999"] {
            assert!(MilliCpus::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn in_dockers_lists() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_261_550, "4.26MB"),
            (124_000_000, "124MB"),
            (10_500_000_000, "10.5GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(decimal_size(bytes), text);
        }
    }

    #[test]
    fn for_people() {
        assert_eq!(human_size(12), "12 B");
        assert_eq!(human_size(512 * MIB), "512 MiB");
        assert_eq!(human_size(GIB + GIB / 2), "1.5 GiB");
    }

    proptest! {
        #[test]
        fn whatever_is_typed_is_answered(text in ".{0,24}") {
            let _ = parse_size(&text);
            let _ = MilliCpus::parse(&text);
        }

        #[test]
        fn whole_numbers_of_a_unit(n in 0u64..1 << 20) {
            prop_assert_eq!(parse_size(&format!("{n}m")), Ok(n * MIB));
        }
    }
}
