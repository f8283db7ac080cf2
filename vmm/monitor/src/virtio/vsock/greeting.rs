// SPDX-License-Identifier: Apache-2.0
//! The line that a host's connection begins with: `CONNECT <port>\n`, or `RESUME <port>\n` for one
//! that a snapshot has. What follows it stays in the socket, for the guest.

use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::RecvFlags;

/// `CONNECT 4294967295\n` has 19 bytes.
const MAX_LINE: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// The line is not whole yet.
    Waits,
    /// To this port of the guest.
    Connect(u32),
    /// That of the snapshot with this port of the host.
    Resume(u32),
    /// No such line will come.
    Bad,
}

/// Takes the line off the socket once it is whole.
pub(super) fn read(stream: &UnixStream) -> Greeting {
    let mut bytes = [0; MAX_LINE];
    let peek = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let len = match rustix::net::recv(stream, &mut bytes, peek) {
        Ok((0, _)) => return Greeting::Bad,
        Ok((len, _)) => len,
        Err(Errno::AGAIN | Errno::INTR) => return Greeting::Waits,
        Err(_) => return Greeting::Bad,
    };
    let Some(end) = bytes[..len].iter().position(|&byte| byte == b'\n') else {
        return match len {
            MAX_LINE => Greeting::Bad,
            _ => Greeting::Waits,
        };
    };
    let mut line = [0; MAX_LINE];
    match rustix::net::recv(stream, &mut line[..=end], RecvFlags::DONTWAIT) {
        Ok((len, _)) if len == end + 1 => parse(&line[..end]),
        _ => Greeting::Bad,
    }
}

/// `line` is without its newline.
fn parse(line: &[u8]) -> Greeting {
    let parse = || {
        let space = line.iter().position(|&byte| byte == b' ')?;
        let (word, port) = (&line[..space], &line[space + 1..]);
        if !port.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let port = std::str::from_utf8(port).ok()?.parse().ok()?;
        match word {
            b"CONNECT" => Some(Greeting::Connect(port)),
            b"RESUME" => Some(Greeting::Resume(port)),
            _ => None,
        }
    };
    parse().unwrap_or(Greeting::Bad)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::{Greeting, parse, read};

    #[test]
    fn takes_the_line_and_nothing_else() {
        let (mut host, stream) = UnixStream::pair().unwrap();
        assert_eq!(read(&stream), Greeting::Waits);
        host.write_all(b"CONNECT 10").unwrap();
        assert_eq!(read(&stream), Greeting::Waits);
        host.write_all(b"24\nGET / and more than a line's length of it")
            .unwrap();
        assert_eq!(read(&stream), Greeting::Connect(1024));
        let mut next = [0; 5];
        (&stream).read_exact(&mut next).unwrap();
        assert_eq!(&next, b"GET /");
    }

    #[test]
    fn a_line_without_end_or_a_socket_without_line_is_bad() {
        let (mut host, stream) = UnixStream::pair().unwrap();
        host.write_all(&[b'0'; 32]).unwrap();
        assert_eq!(read(&stream), Greeting::Bad);
        let (host, stream) = UnixStream::pair().unwrap();
        drop(host);
        assert_eq!(read(&stream), Greeting::Bad);
    }

    #[test]
    fn only_a_port_in_digits_is_one() {
        let lines: [&[u8]; 9] = [
            b"",
            b"CONNECT",
            b"CONNECT ",
            b"CONNECT +1",
            b"CONNECT 4294967296",
            b"connect 1",
            b"RESUME",
            b"RESUME  1",
            b"CONNECT 1\r",
        ];
        for line in lines {
            assert_eq!(parse(line), Greeting::Bad, "{line:?}");
        }
        assert_eq!(parse(b"CONNECT 4294967295"), Greeting::Connect(u32::MAX));
        assert_eq!(parse(b"RESUME 7"), Greeting::Resume(7));
    }

    proptest! {
        #[test]
        fn any_line_is_answered(line: Vec<u8>, port: u32) {
            parse(&line);
            prop_assert_eq!(parse(format!("CONNECT {port}").as_bytes()), Greeting::Connect(port));
        }
    }
}
