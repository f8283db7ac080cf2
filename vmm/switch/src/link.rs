// SPDX-License-Identifier: Apache-2.0
//! Frames on a stream socket, each behind its length: four bytes, big-endian.

use std::io::{self, Error, ErrorKind};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

pub(crate) const LENGTH_LEN: usize = 4;
/// Destination, source, type.
pub(crate) const ETHERNET_LEN: usize = 14;
/// A whole IP packet, and its Ethernet header.
const MAX_FRAME: usize = 65_535 + ETHERNET_LEN;
/// Read at once.
const BUFFER_LEN: usize = 256 << 10;
/// What waits for a slow reader; more is dropped, as by any switch.
const MAX_QUEUE: usize = 4 << 20;
/// Above it, whoever can wait does, and neighbours' frames are dropped: they are not to take the room of
/// what the uplink and the gateway have to say.
const HIGH_WATER: usize = 512 << 10;

#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    inbox: Vec<u8>,
    /// Bytes of `inbox` that are there.
    len: usize,
    outbox: Vec<u8>,
    /// Bytes of `outbox` that are gone.
    sent: usize,
    pub dropped: u64,
    /// What is waited for.
    pub interest: EventFlags,
}

impl Link {
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            inbox: Vec::new(),
            len: 0,
            outbox: Vec::new(),
            sent: 0,
            dropped: 0,
            interest: EventFlags::IN,
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Receives once; the buffer with what is there, for [`Self::put_back`].
    ///
    /// # Errors
    /// The other side is gone.
    pub fn receive(&mut self) -> io::Result<(Vec<u8>, usize)> {
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.resize(BUFFER_LEN, 0);
        loop {
            match rustix::io::read(&self.socket, &mut inbox[self.len..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => return Ok((inbox, self.len + len)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok((inbox, self.len)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What of it begins a frame that has not come whole.
    pub fn put_back(&mut self, mut inbox: Vec<u8>, rest: Range<usize>) {
        self.len = rest.len();
        inbox.copy_within(rest, 0);
        self.inbox = inbox;
    }

    /// Sends frames with their lengths; what the socket does not take waits, or is dropped.
    pub fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.send_within(MAX_QUEUE, frames)
    }

    /// As [`Self::send`], for a neighbour.
    pub fn send_of_neighbour(&mut self, frames: &[u8]) -> io::Result<()> {
        self.send_within(HIGH_WATER, frames)
    }

    fn send_within(&mut self, most: usize, frames: &[u8]) -> io::Result<()> {
        let mut frames = frames;
        if self.waiting() == 0 {
            let sent = self.write(frames)?;
            frames = &frames[sent..];
            if frames.is_empty() {
                return Ok(());
            }
            // The first may be cut, and then must follow, whatever it takes.
            self.outbox.extend_from_slice(frames);
            return Ok(());
        }
        if self.waiting() + frames.len() > most {
            self.dropped += 1;
            return Ok(());
        }
        self.outbox.extend_from_slice(frames);
        Ok(())
    }

    /// Sends what waits.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.waiting() > 0 {
            let outbox = std::mem::take(&mut self.outbox);
            let sent = self.write(&outbox[self.sent..]);
            self.outbox = outbox;
            match sent? {
                0 => break,
                sent => self.sent += sent,
            }
        }
        if self.waiting() == 0 {
            self.outbox.clear();
            self.outbox.shrink_to(BUFFER_LEN);
            self.sent = 0;
        } else if self.sent > BUFFER_LEN {
            self.outbox.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::net::send(&self.socket, bytes, rustix::net::SendFlags::NOSIGNAL) {
                Ok(sent) => return Ok(sent),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub fn waiting(&self) -> usize {
        self.outbox.len() - self.sent
    }

    pub fn is_slow(&self) -> bool {
        self.waiting() > HIGH_WATER
    }
}

/// Where the next frame's bytes are, of those `from` on; `None` where it has not come whole.
///
/// # Errors
/// It is too long to be one.
pub(crate) fn next_frame(bytes: &[u8], from: usize) -> io::Result<Option<Range<usize>>> {
    let Some((length, _)) = bytes[from..].split_first_chunk::<LENGTH_LEN>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*length) as usize;
    if len > MAX_FRAME {
        let message = format!("a frame of {len} bytes");
        return Err(Error::new(ErrorKind::InvalidData, message));
    }
    let start = from + LENGTH_LEN;
    Ok((bytes.len() >= start + len).then_some(start..start + len))
}

/// A frame of our own making, with its length.
pub(crate) fn with_length(frame: &[u8]) -> Vec<u8> {
    let len = u32::try_from(frame.len()).unwrap_or(0);
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend_from_slice(frame);
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn frames_in_pieces() {
        let whole = with_length(b"one frame");
        for cut in 0..whole.len() {
            assert_eq!(next_frame(&whole[..cut], 0).unwrap(), None, "{cut}");
        }
        assert_eq!(next_frame(&whole, 0).unwrap(), Some(4..13));
        let error = next_frame(&[0xff; 8], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_reader_that_stops_costs_a_bounded_amount() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut link = Link::new(ours.into()).unwrap();
        let frame = with_length(&[7; 60_000]);
        for _ in 0..1000 {
            link.send(&frame).unwrap();
        }
        assert!(link.waiting() <= MAX_QUEUE && link.dropped > 0 && link.is_slow());
        // What comes is whole frames.
        let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
        while link.waiting() > 0 {
            let len = theirs.read(&mut buffer).unwrap();
            all.extend_from_slice(&buffer[..len]);
            link.flush().unwrap();
        }
        drop(link);
        theirs.read_to_end(&mut all).unwrap();
        assert_eq!(all.len() % frame.len(), 0);
        assert!(all.chunks(frame.len()).all(|one| one == frame));
    }
}
