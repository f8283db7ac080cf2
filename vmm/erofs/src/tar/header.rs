// SPDX-License-Identifier: Apache-2.0
//! One 512-byte header block (tar(5): ustar, pax, GNU and the old V7 form).

use super::{BLOCK, Timestamp};

pub(super) struct Header {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    /// The type flag as it stands.
    pub kind: u8,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: Timestamp,
    pub major: u32,
    pub minor: u32,
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, &'static str> {
        check_sum(block)?;
        let magic = &block[257..263];
        let posix = magic == b"ustar\0";
        let gnu = magic == b"ustar ";
        let mut path = text(&block[0..100]).to_vec();
        let prefix = text(&block[345..500]);
        if posix && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        let kind = block[156];
        let device = matches!(kind, b'3' | b'4') && (posix || gnu);
        let device_number = |range: std::ops::Range<usize>| {
            if !device {
                return Ok(0);
            }
            u32::try_from(number(&block[range])?).map_err(|_| "its device number is out of range")
        };
        Ok(Header {
            path,
            link: text(&block[157..257]).to_vec(),
            kind,
            mode: u16::try_from(number(&block[100..108])? & 0o7777)
                .map_err(|_| "its mode is out of range")?,
            uid: u32::try_from(number(&block[108..116])?).map_err(|_| "its uid is out of range")?,
            gid: u32::try_from(number(&block[116..124])?).map_err(|_| "its gid is out of range")?,
            size: u64::try_from(number(&block[124..136])?).map_err(|_| "its size is negative")?,
            mtime: Timestamp {
                secs: number(&block[136..148])?,
                nanos: 0,
            },
            major: device_number(329..337)?,
            minor: device_number(337..345)?,
        })
    }
}

/// The sum of all bytes, those of the field itself counted as spaces. Some old writers summed
/// signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), &'static str> {
    let stated = number(&block[148..156])?;
    let with_spaces = |byte: (usize, &u8)| match byte.0 {
        148..156 => b' ',
        _ => *byte.1,
    };
    let unsigned: i64 = block
        .iter()
        .enumerate()
        .map(with_spaces)
        .map(i64::from)
        .sum();
    let signed: i64 = block
        .iter()
        .enumerate()
        .map(with_spaces)
        .map(|byte| i64::from(byte.cast_signed()))
        .sum();
    if stated == unsigned || stated == signed {
        Ok(())
    } else {
        Err("its checksum is wrong")
    }
}

fn text(field: &[u8]) -> &[u8] {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    &field[..end]
}

/// Octal digits ended by NUL or space; or, with the top bit set, a base-256 two's complement
/// number (GNU).
pub(super) fn number(field: &[u8]) -> Result<i64, &'static str> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        return base_256(field);
    }
    let digits = field.trim_ascii_start();
    let end = digits
        .iter()
        .position(|byte| matches!(byte, 0 | b' '))
        .unwrap_or(digits.len());
    let mut value: i64 = 0;
    for digit in &digits[..end] {
        if !matches!(digit, b'0'..=b'7') {
            return Err("a number in it is not octal");
        }
        value = value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(digit - b'0')))
            .ok_or("a number in it is too large")?;
    }
    Ok(value)
}

fn base_256(field: &[u8]) -> Result<i64, &'static str> {
    let negative = field[0] & 0x40 != 0;
    // Bit 7 of the first byte is the marker, not part of the number; bit 6 is the sign.
    let first = if negative { field[0] } else { field[0] & 0x3f };
    let mut value: i128 = i128::from(first.cast_signed());
    for byte in &field[1..] {
        value = (value << 8) | i128::from(*byte);
    }
    i64::try_from(value).map_err(|_| "a number in it is too large")
}
