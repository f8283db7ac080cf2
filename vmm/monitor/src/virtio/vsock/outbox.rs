// SPDX-License-Identifier: Apache-2.0
//! What the guest sent and the host's socket has not taken yet. Empty, and without memory of its
//! own, as long as the host keeps up.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::packet::Slice;
use super::socket;

/// Bytes copied out of guest memory at a time.
const CHUNK: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: VecDeque<u8>,
}

impl Outbox {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self {
            bytes: bytes.into(),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Sends `data` behind what waits already, and keeps what the socket does not take. Returns how
    /// many bytes it took. The caller bounds `data`.
    pub(super) fn send(&mut self, stream: &UnixStream, data: &[Slice<'_>]) -> io::Result<usize> {
        let sent = if self.bytes.is_empty() {
            match socket::send(stream.as_fd(), data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                sent => sent?,
            }
        } else {
            0
        };
        self.keep(data, sent);
        Ok(sent)
    }

    /// Keeps what is still to be sent; the caller bounds `data`.
    pub(super) fn keep(&mut self, data: &[Slice<'_>], mut skip: usize) {
        let mut chunk = [0; CHUNK];
        for slice in data {
            let mut at = skip.min(slice.len());
            skip -= at;
            while let Ok(rest) = slice.offset(at) {
                let len = rest.copy_to(&mut chunk[..]);
                if len == 0 {
                    break;
                }
                self.bytes.extend(&chunk[..len]);
                at += len;
            }
        }
    }

    /// Sends what the socket takes now: how many bytes.
    pub(super) fn flush(&mut self, stream: &UnixStream) -> io::Result<usize> {
        let mut sent = 0;
        while !self.bytes.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(stream, self.bytes.as_slices().0, flags) {
                Ok(len) => {
                    self.bytes.drain(..len);
                    sent += len;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(sent),
                Err(error) => return Err(error.into()),
            }
        }
        self.bytes = VecDeque::new();
        Ok(sent)
    }

    /// Forgets what waits: how many bytes that was.
    pub(super) fn clear(&mut self) -> usize {
        std::mem::take(&mut self.bytes).len()
    }
}
