// SPDX-License-Identifier: Apache-2.0
//! A container's name for itself: 64 random hexadecimal digits, as Docker's.

use std::fmt;
use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

/// Hexadecimal digits.
const LEN: usize = 64;

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(try_from = "String")]
pub struct ContainerId(String);

impl ContainerId {
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0u8; 32];
        // Up to 256 bytes come whole once the pool is ready (getrandom(2)).
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        let mut hex = String::with_capacity(64);
        for byte in bytes {
            hex.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            hex.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        Ok(Self(hex))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` could be one, whole.
    pub fn is_one(text: &str) -> bool {
        text.len() == LEN
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    }

    /// What people see and type.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// A record from elsewhere can hold anything; [`ContainerId::short`] and paths rely on the form.
impl TryFrom<String> for ContainerId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if Self::is_one(&text) {
            Ok(Self(text))
        } else {
            Err(format!("{text:?} is no container ID"))
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_digits_never_twice() {
        let (a, b) = (
            ContainerId::random().unwrap(),
            ContainerId::random().unwrap(),
        );
        assert_ne!(a, b);
        assert_eq!(a.as_str().len(), 64);
        assert!(
            a.as_str()
                .bytes()
                .all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
        );
        assert!(a.as_str().starts_with(a.short()) && a.short().len() == 12);
    }
}
