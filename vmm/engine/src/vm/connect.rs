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
    dial(vsock, port).map(|(stream, _)| stream)
}

/// As [`connect`], with the host's port of it, by which it can be taken up after a restore.
pub fn dial(vsock: &Path, port: u32) -> Result<(UnixStream, u32), VmError> {
    ask(vsock, &format!("CONNECT {port}\n")).map_err(|source| VmError::Connect { port, source })
}

/// Takes up the connection that a checkpoint has with this port of the host; none where the guest
/// has ended it.
pub fn resume(vsock: &Path, host_port: u32) -> Result<Option<UnixStream>, VmError> {
    match ask(vsock, &format!("RESUME {host_port}\n")) {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(source) => Err(VmError::Connect {
            port: host_port,
            source,
        }),
    }
}

fn ask(vsock: &Path, line: &str) -> io::Result<(UnixStream, u32)> {
    let mut stream = UnixStream::connect(vsock)?;
    stream.set_read_timeout(Some(PEER_TIMEOUT))?;
    stream.write_all(line.as_bytes())?;
    let port = expect_ok(&mut stream)?;
    stream.set_read_timeout(None)?;
    Ok((stream, port))
}

pub fn agent(vsock: &Path) -> Result<Client, VmError> {
    let stream = connect(vsock, RPC_PORT)?;
    Client::new(stream).map_err(|source| VmError::Connect {
        port: RPC_PORT,
        source,
    })
}

/// The monitor's answer: `OK <port>\n`, with the host's port, or nothing but the end. Nothing after that
/// line may be taken: it is the guest's.
fn expect_ok(stream: &mut UnixStream) -> io::Result<u32> {
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
    let port = line.strip_prefix(b"OK ").and_then(|rest| {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
    });
    let garbled = "the monitor's answer is not OK";
    port.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, garbled))
}
