// SPDX-License-Identifier: Apache-2.0
//! Packets (virtio 1.3 §5.10.6): the header's fields, and descriptor chains as a header and the
//! guest memory behind it. Nothing is executed here.

use thiserror::Error;
use virtio_queue::DescriptorChain;
use vm_memory::bitmap::MS;
use vm_memory::{Bytes, GuestMemory as _, VolatileSlice};

use super::HOST_CID;
use crate::memory::GuestMemory;

/// A piece of guest memory that is contiguous on the host.
pub(super) type Slice<'a> = VolatileSlice<'a, MS<'a, GuestMemory>>;

pub(super) const HEADER_LEN: usize = 44;

/// [`HEADER_LEN`], where lengths are the driver's.
pub(super) const HEADER_LEN_U32: u32 = 44;

/// `VIRTIO_VSOCK_TYPE_STREAM`.
pub(super) const TYPE_STREAM: u16 = 1;

/// A driver may not make a chain longer than its queue (§2.7.5.2); a descriptor can become two
/// pieces where guest memory has a hole.
const MAX_PIECES: usize = 512;

/// Bits of `flags` in a `SHUTDOWN`: its sender will receive, or send, no more.
pub(super) const SHUTDOWN_RCV: u32 = 1;
pub(super) const SHUTDOWN_SEND: u32 = 2;
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RCV | SHUTDOWN_SEND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Request,
    Response,
    Rst,
    Shutdown,
    Rw,
    CreditUpdate,
    CreditRequest,
    Unknown(u16),
}

impl From<u16> for Op {
    fn from(value: u16) -> Self {
        match value {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Rst,
            4 => Self::Shutdown,
            5 => Self::Rw,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            other => Self::Unknown(other),
        }
    }
}

impl From<Op> for u16 {
    fn from(op: Op) -> Self {
        match op {
            Op::Request => 1,
            Op::Response => 2,
            Op::Rst => 3,
            Op::Shutdown => 4,
            Op::Rw => 5,
            Op::CreditUpdate => 6,
            Op::CreditRequest => 7,
            Op::Unknown(other) => other,
        }
    }
}

/// `struct virtio_vsock_hdr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    /// Bytes of data behind the header; only [`Op::Rw`] has any.
    pub len: u32,
    pub kind: u16,
    pub op: Op,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Header {
    pub(super) fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        Self {
            src_cid: u64::from_le_bytes(field(bytes, 0)),
            dst_cid: u64::from_le_bytes(field(bytes, 8)),
            src_port: u32::from_le_bytes(field(bytes, 16)),
            dst_port: u32::from_le_bytes(field(bytes, 20)),
            len: u32::from_le_bytes(field(bytes, 24)),
            kind: u16::from_le_bytes(field(bytes, 28)),
            op: u16::from_le_bytes(field(bytes, 30)).into(),
            flags: u32::from_le_bytes(field(bytes, 32)),
            buf_alloc: u32::from_le_bytes(field(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(field(bytes, 40)),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&u16::from(self.op).to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The answer to a packet that belongs to no connection.
    /// Tells the guest that a connection is none.
    pub(super) fn reset(guest_cid: u64, guest_port: u32, host_port: u32) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: host_port,
            dst_port: guest_port,
            len: 0,
            kind: TYPE_STREAM,
            op: Op::Rst,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }

    pub(super) fn reset_reply(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            kind: self.kind,
            op: Op::Rst,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[derive(Debug, Error)]
pub(super) enum PacketError {
    #[error("a buffer of the chain does not lie in guest memory")]
    Memory,
    #[error("the chain has too many buffers")]
    Pieces,
    #[error("the chain has no room for a packet's header")]
    Short,
}

/// A chain on the tx queue.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    pub header: Header,
    /// As many bytes as the header says, unless `truncated`.
    pub data: Vec<Slice<'a>>,
    /// The header's `len` is more than the chain holds.
    pub truncated: bool,
}

impl<'a> Packet<'a> {
    pub(super) fn parse(
        memory: &'a GuestMemory,
        chain: DescriptorChain<&'a GuestMemory>,
    ) -> Result<Self, PacketError> {
        let mut parts = Parts::of(memory, chain, Direction::FromDriver)?;
        let mut bytes = [0; HEADER_LEN];
        let mut at = 0;
        for piece in &parts.header {
            at += piece.copy_to(&mut bytes[at..]);
        }
        let header = Header::from_bytes(&bytes);
        let len = match header.op {
            Op::Rw => header.len as usize,
            _ => 0,
        };
        let truncated = parts.data_len < len;
        truncate(&mut parts.data, len);
        Ok(Self {
            header,
            data: parts.data,
            truncated,
        })
    }
}

/// A chain on the rx queue: room for a header and at least one byte of data.
#[derive(Debug)]
pub(super) struct Buffer<'a> {
    pub head_index: u16,
    header: Vec<Slice<'a>>,
    pub data: Vec<Slice<'a>>,
    /// Bytes of `data`.
    pub room: usize,
}

impl<'a> Buffer<'a> {
    pub(super) fn parse(
        memory: &'a GuestMemory,
        chain: DescriptorChain<&'a GuestMemory>,
    ) -> Result<Self, PacketError> {
        let head_index = chain.head_index();
        let parts = Parts::of(memory, chain, Direction::ToDriver)?;
        if parts.data_len == 0 {
            return Err(PacketError::Short);
        }
        Ok(Self {
            head_index,
            header: parts.header,
            data: parts.data,
            room: parts.data_len,
        })
    }

    pub(super) fn write_header(&self, header: Header) {
        let bytes = header.to_bytes();
        let mut rest = bytes.as_slice();
        for piece in &self.header {
            // The pieces were cut to `HEADER_LEN` bytes in all, so each takes all of its part.
            let written = piece.write(rest, 0).unwrap_or(0);
            rest = &rest[written..];
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromDriver,
    ToDriver,
}

/// A chain, cut behind the header. A driver may frame a packet in any way (§2.7.4.1).
struct Parts<'a> {
    header: Vec<Slice<'a>>,
    data: Vec<Slice<'a>>,
    data_len: usize,
}

impl<'a> Parts<'a> {
    fn of(
        memory: &'a GuestMemory,
        chain: DescriptorChain<&'a GuestMemory>,
        direction: Direction,
    ) -> Result<Self, PacketError> {
        let mut parts = Self {
            header: Vec::with_capacity(1),
            data: Vec::with_capacity(1),
            data_len: 0,
        };
        let mut missing = HEADER_LEN;
        let mut pieces = 0;
        for desc in chain {
            if desc.is_write_only() != (direction == Direction::ToDriver) {
                continue;
            }
            for slice in memory.get_slices(desc.addr(), desc.len() as usize) {
                let slice = slice.map_err(|_| PacketError::Memory)?;
                pieces += 1;
                if pieces > MAX_PIECES {
                    return Err(PacketError::Pieces);
                }
                parts.push(slice, &mut missing)?;
            }
        }
        match missing {
            0 => Ok(parts),
            _ => Err(PacketError::Short),
        }
    }

    fn push(&mut self, slice: Slice<'a>, missing: &mut usize) -> Result<(), PacketError> {
        let of_header = slice.len().min(*missing);
        *missing -= of_header;
        let (header, data) = slice.split_at(of_header).map_err(|_| PacketError::Memory)?;
        if !header.is_empty() {
            self.header.push(header);
        }
        if !data.is_empty() {
            self.data_len += data.len();
            self.data.push(data);
        }
        Ok(())
    }
}

/// Cuts `slices` to `len` bytes in all, if they are more.
pub(super) fn truncate(slices: &mut Vec<Slice<'_>>, len: usize) {
    let mut rest = len;
    let mut keep = 0;
    for slice in slices.iter_mut() {
        if rest == 0 {
            break;
        }
        if let Ok(front) = slice.subslice(0, slice.len().min(rest)) {
            rest -= front.len();
            *slice = front;
        }
        keep += 1;
    }
    slices.truncate(keep);
}
