// SPDX-License-Identifier: Apache-2.0
//! What the two halves of the emulated host say to each other: JSON lines on the control port.

use std::io::{self, BufRead, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The virtio-serial ports' numbers; inside, port N is `/dev/vport<device>pN`. Number 0 is taken by the
/// console of old (virtio 1.3 §5.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Port {
    Control = 1,
    Stdin = 2,
    Stdout = 3,
    Stderr = 4,
}

impl Port {
    pub(super) const ALL: [Self; 4] = [Self::Control, Self::Stdin, Self::Stdout, Self::Stderr];

    pub(super) fn number(self) -> u8 {
        self as u8
    }
}

/// The first byte that the inside writes to every port. A write waits for the outside, while a
/// read that comes too early would see the end of the stream.
pub(super) const HELLO: u8 = b'+';

/// From outside.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ToInside {
    /// The first message.
    Run(Request),
    /// The terminal outside has a new size.
    Resize(Size),
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Request {
    /// Bytes, since neither arguments nor environments need be UTF-8.
    pub(super) argv: Vec<Vec<u8>>,
    pub(super) env: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) cwd: Vec<u8>,
    /// Give it a pseudo-terminal of this size; then there is no stderr of its own.
    pub(super) terminal: Option<Size>,
    /// Mount the second share, read-write, here.
    pub(super) output: Option<Vec<u8>>,
    /// `/lib/modules` with everything that was not loaded up front.
    pub(super) modules: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Size {
    pub(super) columns: u16,
    pub(super) rows: u16,
}

/// From inside.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ToOutside {
    /// The command runs.
    Started,
    /// The machine or the command could not be started; `status` is the shell's word for it.
    Failed { status: u8, message: String },
    /// The command has ended, and so many bytes were written to the two ports before.
    Exited {
        status: u8,
        stdout: u64,
        stderr: u64,
    },
}

/// Writes one message.
pub(super) fn send(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one message; `None` at the end of the stream.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let mut bytes = Vec::new();
        send(
            &mut bytes,
            &ToInside::Resize(Size {
                columns: 132,
                rows: 43,
            }),
        )
        .unwrap();
        send(
            &mut bytes,
            &ToInside::Resize(Size {
                columns: 80,
                rows: 25,
            }),
        )
        .unwrap();
        let mut stream = bytes.as_slice();
        let Some(ToInside::Resize(first)) = receive(&mut stream).unwrap() else {
            panic!()
        };
        assert_eq!(
            first,
            Size {
                columns: 132,
                rows: 43
            }
        );
        assert!(receive::<ToInside>(&mut stream).unwrap().is_some());
        assert!(receive::<ToInside>(&mut stream).unwrap().is_none());
    }
}
