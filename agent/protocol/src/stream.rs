// SPDX-License-Identifier: Apache-2.0
//! The first 17 bytes of a stdio stream: the token from the reply of Create or Exec, and which of
//! the process's streams the connection is to be.
//!
//! The host writes them on a fresh connection to [`STDIO_PORT`](crate::STDIO_PORT); everything
//! after them is the stream's own bytes, either way until half-close.

use std::fmt;
use std::io::{self, Read, Write};

use crate::TOKEN_LEN;

/// Bytes of a [`StreamHeader`].
pub const HEADER_LEN: usize = TOKEN_LEN + 1;

/// Opens the streams of one process, each once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; TOKEN_LEN]);

impl Token {
    #[must_use]
    pub const fn new(bytes: [u8; TOKEN_LEN]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; TOKEN_LEN] {
        &self.0
    }
}

/// A token in a log would be as good as the stream.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl TryFrom<&[u8]> for Token {
    type Error = StreamError;

    fn try_from(bytes: &[u8]) -> Result<Self, StreamError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| StreamError::TokenLength { len: bytes.len() })
    }
}

/// Which of a process's standard streams. With a terminal, `Stdin` is what is typed and `Stdout`
/// what is shown; there is no `Stderr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stdio {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
}

impl TryFrom<u8> for Stdio {
    type Error = StreamError;

    fn try_from(fd: u8) -> Result<Self, StreamError> {
        match fd {
            0 => Ok(Self::Stdin),
            1 => Ok(Self::Stdout),
            2 => Ok(Self::Stderr),
            _ => Err(StreamError::Fd { fd }),
        }
    }
}

/// What a stream connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    pub token: Token,
    pub fd: Stdio,
}

/// Why a stream connection is none.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("read the stream's header")]
    Read(#[source] io::Error),
    #[error("write the stream's header")]
    Write(#[source] io::Error),
    #[error("a stream's token has {TOKEN_LEN} bytes, not {len}")]
    TokenLength { len: usize },
    #[error("{fd} is no standard stream")]
    Fd { fd: u8 },
}

impl StreamHeader {
    /// Reads exactly [`HEADER_LEN`] bytes.
    pub fn read(from: &mut impl Read) -> Result<Self, StreamError> {
        let mut token = [0; TOKEN_LEN];
        let mut fd = [0; 1];
        from.read_exact(&mut token).map_err(StreamError::Read)?;
        from.read_exact(&mut fd).map_err(StreamError::Read)?;
        Ok(Self {
            token: Token(token),
            fd: Stdio::try_from(fd[0])?,
        })
    }

    /// Writes exactly [`HEADER_LEN`] bytes, in one piece.
    pub fn write(&self, to: &mut impl Write) -> Result<(), StreamError> {
        let mut wire = [0; HEADER_LEN];
        wire[..TOKEN_LEN].copy_from_slice(&self.token.0);
        wire[TOKEN_LEN] = self.fd as u8;
        to.write_all(&wire).map_err(StreamError::Write)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(token: [u8; TOKEN_LEN], fd in 0_u8..3) {
            let header = StreamHeader { token: Token::new(token), fd: fd.try_into().unwrap() };
            let mut wire = Vec::new();
            header.write(&mut wire).unwrap();
            prop_assert_eq!(wire.len(), HEADER_LEN);
            wire.extend_from_slice(b"first bytes");
            let mut rest = wire.as_slice();
            prop_assert_eq!(StreamHeader::read(&mut rest).unwrap(), header);
            prop_assert_eq!(rest, b"first bytes");
        }

        #[test]
        fn other_fds_are_refused(token: [u8; TOKEN_LEN], fd in 3_u8..) {
            let mut wire = token.to_vec();
            wire.push(fd);
            let refused = matches!(
                StreamHeader::read(&mut wire.as_slice()),
                Err(StreamError::Fd { fd: named }) if named == fd
            );
            prop_assert!(refused);
        }
    }

    #[test]
    fn a_short_header_is_a_read_error() {
        let wire = [0; HEADER_LEN - 1];
        assert!(matches!(
            StreamHeader::read(&mut wire.as_slice()),
            Err(StreamError::Read(_))
        ));
    }

    #[test]
    fn a_token_is_not_printed() {
        assert_eq!(format!("{:?}", Token::new([0x41; TOKEN_LEN])), "Token(…)");
    }
}
