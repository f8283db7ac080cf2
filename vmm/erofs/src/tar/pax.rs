// SPDX-License-Identifier: Apache-2.0
//! Pax extended header records: `LENGTH KEY=VALUE\n` (POSIX.1-2017 pax, "pax Extended Header").

use std::collections::BTreeMap;

use super::Timestamp;
use super::sparse::PaxSparse;

/// What `star` and GNU tar put in front of an extended attribute's name.
const XATTR: &[u8] = b"SCHILY.xattr.";

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Timestamp>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub sparse: PaxSparse,
}

impl Pax {
    pub(super) fn parse(mut records: &[u8]) -> Result<Self, &'static str> {
        let mut pax = Pax::default();
        while !records.is_empty() {
            let (key, value, rest) = record(records)?;
            pax.apply(key, value)?;
            records = rest;
        }
        Ok(pax)
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            b"path" => self.path = string(value)?,
            b"linkpath" => self.link = string(value)?,
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => self.mtime = Some(timestamp(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.apply(name, value)?;
                }
            }
        }
        Ok(())
    }
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Splits the first record off: key, value, rest.
fn record(records: &[u8]) -> Result<Record<'_>, &'static str> {
    let space = records.iter().take(8).position(|byte| *byte == b' ');
    let space = space.ok_or("a record has no length")?;
    let len = decimal(&records[..space]).ok_or("a record's length is no number")?;
    let len = usize::try_from(len).map_err(|_| "a record is too long")?;
    if len > records.len() || len < space + 3 {
        return Err("a record's length is wrong");
    }
    let (this, rest) = records.split_at(len);
    let (newline, body) = this[space + 1..].split_last().ok_or("a record is empty")?;
    if *newline != b'\n' {
        return Err("a record doesn't end in a newline");
    }
    let equals = body
        .iter()
        .position(|byte| *byte == b'=')
        .ok_or("a record has no '='")?;
    if equals == 0 {
        return Err("a record has no key");
    }
    Ok((&body[..equals], &body[equals + 1..], rest))
}

/// An empty value takes back an earlier one.
fn string(value: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    if value.contains(&0) {
        return Err("a path in it holds a NUL");
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn number<T: TryFrom<u64>>(value: &[u8]) -> Result<Option<T>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    let number = decimal(value).ok_or("a value that should be a number is not")?;
    T::try_from(number)
        .map(Some)
        .map_err(|_| "a number in it is too large")
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// `[-]SECONDS[.FRACTION]`; a fraction of a negative time counts backwards.
fn timestamp(value: &[u8]) -> Result<Timestamp, &'static str> {
    const BAD: &str = "its mtime is no time";
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(point) => (&value[..point], &value[point + 1..]),
        None => (value, &[][..]),
    };
    let whole = decimal(whole)
        .and_then(|secs| i64::try_from(secs).ok())
        .ok_or(BAD)?;
    let mut nanos = 0;
    for place in 0..9 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return Err(BAD);
        }
        nanos = nanos * 10 + u32::from(digit - b'0');
    }
    Ok(match (negative, nanos) {
        (false, nanos) => Timestamp { secs: whole, nanos },
        (true, 0) => Timestamp {
            secs: -whole,
            nanos: 0,
        },
        (true, nanos) => Timestamp {
            secs: -whole - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}
