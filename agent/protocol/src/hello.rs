// SPDX-License-Identifier: Apache-2.0
//! The agent's first words: one [`Hello`], after its length as a 32-bit little-endian number.
//!
//! The guest writes it, the host reads it: the length is bounded before anything is allocated.

use std::io::{self, Read, Write};

use protobuf::Message;

use crate::agent::Hello;

/// More than any [`Hello`] needs; a longer one is refused.
pub const MAX_HELLO_LEN: usize = 4096;

/// Why no [`Hello`] came.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("read the agent's hello")]
    Read(#[source] io::Error),
    #[error("write the agent's hello")]
    Write(#[source] io::Error),
    #[error("the agent's hello is {len} bytes long, more than {MAX_HELLO_LEN}")]
    TooLong { len: usize },
    #[error("the agent's hello is malformed")]
    Malformed(#[source] protobuf::Error),
}

/// Writes `hello` as one framed message.
pub fn write_hello(to: &mut impl Write, hello: &Hello) -> Result<(), HelloError> {
    let body = hello.write_to_bytes().map_err(HelloError::Malformed)?;
    let len = match u32::try_from(body.len()) {
        Ok(len) if body.len() <= MAX_HELLO_LEN => len,
        _ => return Err(HelloError::TooLong { len: body.len() }),
    };
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)
        .and_then(|()| to.flush())
        .map_err(HelloError::Write)
}

/// Reads one framed [`Hello`], at most [`MAX_HELLO_LEN`] bytes.
pub fn read_hello(from: &mut impl Read) -> Result<Hello, HelloError> {
    let mut len = [0; 4];
    from.read_exact(&mut len).map_err(HelloError::Read)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_HELLO_LEN {
        return Err(HelloError::TooLong { len });
    }
    let mut body = vec![0; len];
    from.read_exact(&mut body).map_err(HelloError::Read)?;
    Hello::parse_from_bytes(&body).map_err(HelloError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(version in ".{0,100}", started_us: u64, ready_us: u64) {
            let hello = Hello { version, started_us, ready_us, ..Hello::default() };
            let mut wire = Vec::new();
            write_hello(&mut wire, &hello).unwrap();
            wire.extend_from_slice(b"rest");
            let mut rest = wire.as_slice();
            prop_assert_eq!(read_hello(&mut rest).unwrap(), hello);
            prop_assert_eq!(rest, b"rest");
        }

        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes: Vec<u8>) {
            let _ = read_hello(&mut bytes.as_slice());
        }
    }

    #[test]
    fn a_long_one_is_refused_before_it_is_read() {
        let wire = u32::MAX.to_le_bytes();
        assert!(matches!(
            read_hello(&mut wire.as_slice()),
            Err(HelloError::TooLong { .. })
        ));
        let hello = Hello {
            version: "x".repeat(MAX_HELLO_LEN),
            ..Hello::default()
        };
        assert!(matches!(
            write_hello(&mut Vec::new(), &hello),
            Err(HelloError::TooLong { .. })
        ));
    }

    #[test]
    fn a_short_one_is_a_read_error() {
        let mut wire = Vec::new();
        write_hello(
            &mut wire,
            &Hello {
                started_us: 7,
                ..Hello::default()
            },
        )
        .unwrap();
        for len in 0..wire.len() {
            assert!(
                matches!(read_hello(&mut &wire[..len]), Err(HelloError::Read(_))),
                "{len}"
            );
        }
    }
}
