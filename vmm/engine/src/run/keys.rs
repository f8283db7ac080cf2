// SPDX-License-Identifier: Apache-2.0
//! `--detach-keys`: the keys that leave a container running. What was typed of them is held back
//! until it is clear that they are not meant.

use rustix::io::Errno;
use thiserror::Error;

#[derive(Debug, Error, PartialEq, Eq)]
#[error("invalid detach keys: {0}: Unknown character: '{1}'")]
pub struct KeysError(String, String);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    keys: Vec<u8>,
    typed: usize,
}

impl Keys {
    /// Ctrl-p, ctrl-q.
    pub fn docker() -> Self {
        Self {
            keys: vec![0x10, 0x11],
            typed: 0,
        }
    }

    /// A comma between each two; a character, or `ctrl-` and a letter or one of `@[\]^_`.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let key = |name: &str| {
            let unknown = || KeysError(text.to_owned(), name.to_owned());
            match (name.strip_prefix("ctrl-"), name.as_bytes()) {
                (Some(control), _) => match control.as_bytes() {
                    [letter] if letter.is_ascii_alphabetic() => {
                        Ok(letter.to_ascii_lowercase() & 31)
                    }
                    [sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(sign & 31),
                    _ => Err(unknown()),
                },
                (None, [byte]) => Ok(*byte),
                _ => Err(unknown()),
            }
        };
        let keys = text.split(',').map(key).collect::<Result<_, _>>()?;
        Ok(Self { keys, typed: 0 })
    }

    /// What of `bytes` is for the container, and whether the user leaves.
    pub fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (bytes.to_vec(), false);
        }
        let mut through = Vec::with_capacity(bytes.len() + self.typed);
        for byte in bytes {
            if *byte == self.keys[self.typed] {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    self.typed = 0;
                    return (through, true);
                }
                continue;
            }
            through.extend_from_slice(&self.keys[..self.typed]);
            self.typed = usize::from(*byte == self.keys[0]);
            if self.typed == 0 {
                through.push(*byte);
            }
        }
        (through, false)
    }
}

/// How the reading of a terminal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// There is no more input.
    End,
    /// The user left.
    Left,
    /// Nobody takes it any more.
    Refused,
}

/// Reads this process's input, and has what is for the container sent there; nothing of it is
/// empty.
pub fn read_stdin<E>(
    mut keys: Keys,
    buffer: usize,
    mut send: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Typed {
    let mut buffer = vec![0; buffer];
    loop {
        let count = match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..]) {
            Ok(0) => return Typed::End,
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(_) => return Typed::End,
        };
        let (bytes, leaves) = keys.filter(&buffer[..count]);
        if !bytes.is_empty() && send(bytes).is_err() {
            return Typed::Refused;
        }
        if leaves {
            return Typed::Left;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dockers_own_and_others() {
        assert_eq!(Keys::parse("ctrl-p,ctrl-q"), Ok(Keys::docker()));
        assert_eq!(Keys::parse("a,ctrl-[").unwrap().keys, [b'a', 0x1b]);
        for bad in ["", "ab", "ctrl-", "ctrl-1", "a,,b"] {
            assert!(Keys::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn held_back_until_it_is_clear() {
        let mut keys = Keys::docker();
        assert_eq!(keys.filter(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.filter(b"b\x10"), (b"\x10b".to_vec(), false));
        assert_eq!(
            keys.filter(b"\x10c\x10\x11d"),
            (b"\x10\x10c".to_vec(), true)
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost_without_them(bytes: Vec<u8>) {
            prop_assert_eq!(Keys::default().filter(&bytes), (bytes.clone(), false));
        }
    }
}
