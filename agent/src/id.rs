// SPDX-License-Identifier: Apache-2.0
//! Names of containers and of processes run in them, as the host gives them: checked once.

use std::fmt;

/// Most bytes of an id.
const MAX_LEN: usize = 128;

/// Why a name is refused.
#[derive(Debug, thiserror::Error)]
#[error("{id:?} is no id: 1 to {MAX_LEN} of a-z A-Z 0-9 _ . - are, a letter or digit first")]
pub struct IdError {
    id: String,
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id(String);

impl Id {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Id {
    type Error = IdError;

    fn try_from(id: &str) -> Result<Self, IdError> {
        let more = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let good = id.len() <= MAX_LEN
            && id.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
            && id.bytes().all(more);
        if good {
            Ok(Self(id.into()))
        } else {
            Err(IdError {
                id: id.chars().take(MAX_LEN).collect(),
            })
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["a", "0", "a_b.c-d", &"x".repeat(MAX_LEN)] {
            assert_eq!(Id::try_from(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            "_a",
            "a/b",
            "a b",
            "ä",
            "a\0",
            &"x".repeat(MAX_LEN + 1),
        ] {
            assert!(Id::try_from(bad).is_err(), "{bad:?}");
        }
    }
}
