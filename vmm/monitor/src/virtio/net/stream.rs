// SPDX-License-Identifier: Apache-2.0
//! A stream socket to a network in user space, such as passt(1): each frame is preceded by its
//! length, four bytes, big-endian. The other side knows nothing of our header: checksums are whole
//! in both directions, no frame is longer than its MTU. Where it is a passt, what that leaves out of
//! handshakes is said in its stead ([`walnut_vmm_host::handshake`]).

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::io::Errno;
use walnut_vmm_host::handshake::{Handshakes, LOOKED_AT};

use super::backend::Backend;
use super::chain::{self, Slice, behind};
use super::vectors::{MAX_VECTORS, Vectors};
use super::{ETHERNET_HEADER_LEN, F_GUEST_CSUM, HEADER_LEN, NetError};

const LENGTH_LEN: usize = 4;

/// What passt takes (ETH_MAX_MTU).
const MAX_SENT: usize = 65_535;
/// A whole IP packet, its Ethernet header, and a VLAN's.
const MAX_RECEIVED: usize = 65_535 + ETHERNET_HEADER_LEN + 4;

/// Room for frames that have come in one piece.
const BUFFER_LEN: usize = 128 << 10;

/// For a guest that takes nothing; it answers again for one that is not among them.
const MAX_OWN: usize = 64;

/// `VIRTIO_NET_HDR_F_DATA_VALID` (§5.1.6): the checksum was made on this very machine.
const DATA_VALID: u8 = 2;

pub(super) struct Stream {
    socket: OwnedFd,
    /// What was received and is not the guest's yet: bytes `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The rest of a frame that the socket did not take whole.
    rest: Vec<u8>,
    /// Where their last steps are ours to make.
    handshakes: Option<Handshakes>,
    /// Frames of our own for the guest, which go first.
    own: VecDeque<Vec<u8>>,
    header: [u8; HEADER_LEN],
}

impl Stream {
    pub(super) fn connect(path: &Path) -> std::result::Result<Self, NetError> {
        let socket = UnixStream::connect(path).map_err(|source| NetError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Self::new(socket.into())
    }

    pub(super) fn new(socket: OwnedFd) -> std::result::Result<Self, NetError> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| NetError::Socket(error.into()))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER_LEN],
            start: 0,
            end: 0,
            rest: Vec::new(),
            handshakes: None,
            own: VecDeque::new(),
            header: [0; HEADER_LEN],
        })
    }

    /// Whether it is for this side to finish the handshakes of connections from outside.
    pub(super) fn finishing(self, finishes: bool) -> Self {
        let handshakes = finishes.then(Handshakes::default);
        Self { handshakes, ..self }
    }

    /// Makes ready the last steps that are missing, as far as `packets` tell.
    fn finish_handshakes(&mut self, packets: &[Vec<Slice<'_>>]) {
        let Some(handshakes) = &mut self.handshakes else {
            return;
        };
        for packet in packets {
            let (mut head, mut len) = ([0; LOOKED_AT], 0);
            for slice in behind(packet, HEADER_LEN) {
                len += slice.copy_to(&mut head[len..]);
            }
            if self.own.len() < MAX_OWN
                && let Some(frame) = handshakes.guest_says(&head[..len])
            {
                self.own.push_back(frame);
            }
        }
    }

    /// The frame that has been received whole: where it lies.
    fn next(&self) -> Result<Option<std::ops::Range<usize>>> {
        let bytes = &self.buffer[self.start..self.end];
        let Some((length, frames)) = bytes.split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*length) as usize;
        if len > MAX_RECEIVED {
            let message = format!("a frame of {len} bytes");
            return Err(Error::new(ErrorKind::InvalidData, message));
        }
        let start = self.start + LENGTH_LEN;
        Ok((frames.len() >= len).then_some(start..start + len))
    }

    /// Receives what there is; false where that is nothing.
    fn fill(&mut self) -> Result<bool> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            match rustix::io::read(&self.socket, &mut self.buffer[self.end..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    self.end += len;
                    return Ok(true);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn frame(&mut self) -> Result<Option<std::ops::Range<usize>>> {
        loop {
            match self.next()? {
                Some(frame) if frame.len() < ETHERNET_HEADER_LEN => self.start = frame.end,
                Some(frame) => return Ok(Some(frame)),
                None => {
                    if !self.fill()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// `sent` bytes of `packets`, of these lengths, went: keeps the rest of the one in the middle; how
    /// many are done.
    fn settle(&mut self, packets: &[Vec<Slice<'_>>], lengths: &[usize], mut sent: usize) -> usize {
        for (done, (packet, &len)) in packets.iter().zip(lengths).enumerate() {
            if len == 0 {
                continue;
            }
            let whole = LENGTH_LEN + len;
            if sent >= whole {
                sent -= whole;
                continue;
            }
            if sent == 0 {
                return done;
            }
            let mut bytes = vec![0; whole];
            bytes[..LENGTH_LEN].copy_from_slice(&wire_length(len));
            let mut at = LENGTH_LEN;
            for slice in behind(packet, HEADER_LEN) {
                at += slice.copy_to(&mut bytes[at..]);
            }
            bytes.drain(..sent);
            self.rest = bytes;
            return done + 1;
        }
        packets.len()
    }
}

/// 0 for one that does not go.
fn frame_len(packet: &[Slice<'_>]) -> usize {
    let len: usize = behind(packet, HEADER_LEN).map(|slice| slice.len()).sum();
    if len > MAX_SENT { 0 } else { len }
}

fn wire_length(len: usize) -> [u8; LENGTH_LEN] {
    u32::try_from(len).expect("at most MAX_SENT").to_be_bytes()
}

impl Backend for Stream {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn offloads(&self) -> u64 {
        F_GUEST_CSUM
    }

    fn negotiated(&mut self, features: u64) -> Result<()> {
        self.header = [0; HEADER_LEN];
        if features & F_GUEST_CSUM != 0 {
            self.header[0] = DATA_VALID;
        }
        Ok(())
    }

    fn most(&mut self) -> Result<Option<usize>> {
        if let Some(own) = self.own.front() {
            return Ok(Some(HEADER_LEN + own.len()));
        }
        Ok(self.frame()?.map(|frame| HEADER_LEN + frame.len()))
    }

    fn fetch(&mut self) -> Result<Option<usize>> {
        self.most()
    }

    fn receive(&mut self, slices: &[Slice<'_>]) -> Result<Option<usize>> {
        let header = chain::write(slices, 0, &self.header);
        if let Some(own) = self.own.pop_front() {
            return Ok(Some(header + chain::write(slices, HEADER_LEN, &own)));
        }
        let Some(frame) = self.frame()? else {
            return Ok(None);
        };
        self.start = frame.end;
        let frame = &mut self.buffer[frame];
        if let Some(handshakes) = &mut self.handshakes {
            handshakes.passt_says(frame);
        }
        Ok(Some(header + chain::write(slices, HEADER_LEN, frame)))
    }

    fn discard(&mut self) {
        if self.own.pop_front().is_none()
            && let Ok(Some(frame)) = self.next()
        {
            self.start = frame.end;
        }
    }

    fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    fn send(&mut self, packets: &[Vec<Slice<'_>>]) -> Result<usize> {
        let lengths: Vec<_> = packets.iter().map(|packet| frame_len(packet)).collect();
        let wire: Vec<_> = lengths.iter().map(|len| wire_length(*len)).collect();
        let mut done = 0;
        while done < packets.len() {
            if !self.flush()? {
                return Ok(done);
            }
            let (packets, lengths, wire) = (&packets[done..], &lengths[done..], &wire[done..]);
            let (mut vectors, mut count, mut bytes) = (Vectors::default(), 0, 0);
            for ((packet, &len), length) in packets.iter().zip(lengths).zip(wire) {
                if vectors.len() + packet.len() >= MAX_VECTORS {
                    break;
                }
                count += 1;
                if len == 0 {
                    continue;
                }
                vectors.push_bytes(length);
                behind(packet, HEADER_LEN).for_each(|slice| vectors.push(&slice));
                bytes += LENGTH_LEN + len;
            }
            let sent = match bytes {
                0 => 0,
                _ => match vectors.write(self.socket.as_fd())? {
                    Some(sent) => sent,
                    None => return Ok(done),
                },
            };
            let settled = self.settle(&packets[..count], lengths, sent);
            self.finish_handshakes(&packets[..settled]);
            done += settled;
            if sent < bytes {
                return Ok(done);
            }
        }
        Ok(done)
    }

    fn flush(&mut self) -> Result<bool> {
        while !self.rest.is_empty() {
            match rustix::io::write(&self.socket, &self.rest) {
                Ok(sent) => {
                    self.rest.drain(..sent);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}
