// SPDX-License-Identifier: Apache-2.0
//! Connections to a guest's ports, by the unix socket of its machine: by who runs it, and by any
//! other command that may open that socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{RecvFlags, recv};
use walnut_protocol::{Client, RPC_PORT};

use super::{PEER_TIMEOUT, VmError};

/// A stream to the guest's listener on `port`.
pub fn connect(vsock: &Path, port: u32) -> Result<UnixStream, VmError> {
    let fail = |source| VmError::Connect { port, source };
    let mut stream = UnixStream::connect(vsock).map_err(fail)?;
    stream.set_read_timeout(Some(PEER_TIMEOUT)).map_err(fail)?;
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .map_err(fail)?;
    expect_ok(&mut stream).map_err(fail)?;
    stream.set_read_timeout(None).map_err(fail)?;
    Ok(stream)
}

pub fn agent(vsock: &Path) -> Result<Client, VmError> {
    let stream = connect(vsock, RPC_PORT)?;
    Client::new(stream).map_err(|source| VmError::Connect {
        port: RPC_PORT,
        source,
    })
}

/// The monitor's answer to `CONNECT`: `OK <port>\n`, or nothing but the end. Nothing after that
/// line may be taken: it is the guest's.
pub(super) fn expect_ok(stream: &mut UnixStream) -> io::Result<()> {
    /// Longer than any port makes it.
    const MAX: usize = 32;
    let mut line = [0; MAX];
    let mut len = 0;
    while !line[..len].ends_with(b"\n") {
        let seen = recv(&*stream, &mut line[len..], RecvFlags::PEEK)?.0;
        if seen == 0 {
            let refused = "nobody listens there in the guest";
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, refused));
        }
        let end = line[len..len + seen].iter().position(|b| *b == b'\n');
        let take = end.map_or(seen, |at| at + 1);
        stream.read_exact(&mut line[len..len + take])?;
        len += take;
        if len == MAX {
            break;
        }
    }
    if line.starts_with(b"OK ") {
        return Ok(());
    }
    let garbled = "the monitor's answer is not OK";
    Err(io::Error::new(io::ErrorKind::InvalidData, garbled))
}
