// SPDX-License-Identifier: Apache-2.0
//! A guest's descriptor chain to a typed request (virtio 1.3 §5.2.6): everything is checked here,
//! and nothing is carried out. Runs on the device's worker thread.

use std::ops::Range;

use thiserror::Error;
use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory as _, GuestMemoryError, VolatileSlice};

use super::{Disk, ID_LEN, MAX_RANGE_SECTORS, MAX_RANGES, SECTOR, SEG_MAX};
use crate::memory::GuestMemory;

/// Guest memory that is known to be there.
pub(super) type Slice<'a> = VolatileSlice<'a, vm_memory::bitmap::MS<'a, GuestMemory>>;

// struct virtio_blk_req.type
const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

// struct virtio_blk_req.status
pub(super) const S_OK: u8 = 0;
pub(super) const S_IOERR: u8 = 1;
pub(super) const S_UNSUPP: u8 = 2;

/// The one flag of struct virtio_blk_discard_write_zeroes.
const FLAG_UNMAP: u32 = 1;

/// le32 type, le32 reserved, le64 sector.
const HEADER_LEN: usize = 16;

/// le64 sector, le32 num_sectors, le32 flags.
const RANGE_LEN: usize = 16;

/// A chain that has a place for its status.
pub(super) struct Parsed<'a> {
    pub(super) status: Slice<'a>,
    pub(super) request: Result<Request<'a>, Refusal>,
}

/// Positions and lengths are in bytes, within the disk.
pub(super) enum Request<'a> {
    Read {
        offset: u64,
        data: Vec<Slice<'a>>,
    },
    Write {
        offset: u64,
        data: Vec<Slice<'a>>,
    },
    Flush,
    Discard(Vec<Range<u64>>),
    /// With whether the driver has no use for the space.
    WriteZeroes(Vec<(Range<u64>, bool)>),
    /// [`ID_LEN`] bytes.
    GetId(Vec<Slice<'a>>),
}

/// A request that gets an error status.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error("a header of {0} bytes")]
    Header(usize),
    #[error("{count} sectors at {sector} are not within the disk")]
    Range { sector: u64, count: u64 },
    #[error("a transfer of {0} bytes")]
    Length(usize),
    #[error("{0} data buffers")]
    Buffers(usize),
    #[error("{0} bytes of ranges")]
    Ranges(usize),
    #[error("a write to a read-only disk")]
    ReadOnly,
    #[error("a request of type {0}")]
    Type(u32),
    #[error("a range with flags {0:#x}")]
    Flags(u32),
}

impl Refusal {
    pub(super) fn status(&self) -> u8 {
        match self {
            Self::Type(_) | Self::Flags(_) => S_UNSUPP,
            _ => S_IOERR,
        }
    }
}

/// A chain that cannot even be told that it failed.
#[derive(Debug, Error)]
pub(super) enum NoStatus {
    #[error("a request without room for its status")]
    Missing,
    #[error("a request's buffers do not lie in guest memory")]
    Memory(#[source] GuestMemoryError),
}

pub(super) fn parse<'a>(
    disk: &Disk,
    memory: &'a GuestMemory,
    chain: DescriptorChain<&GuestMemory>,
) -> Result<Parsed<'a>, NoStatus> {
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    for descriptor in chain {
        let buffers = match descriptor.is_write_only() {
            true => &mut writable,
            false => &mut readable,
        };
        for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
            let slice = slice.map_err(NoStatus::Memory)?;
            if !slice.is_empty() {
                buffers.push(slice);
            }
        }
    }
    let status = take_last_byte(&mut writable).ok_or(NoStatus::Missing)?;
    let request = typed(disk, readable, writable);
    Ok(Parsed { status, request })
}

fn typed<'a>(
    disk: &Disk,
    mut readable: Vec<Slice<'a>>,
    writable: Vec<Slice<'a>>,
) -> Result<Request<'a>, Refusal> {
    let header: [u8; HEADER_LEN] = take_front(&mut readable).map_err(Refusal::Header)?;
    let (kind, sector) = (le32(&header, 0), le64(&header, 8));
    if matches!(kind, T_OUT | T_DISCARD | T_WRITE_ZEROES) && disk.read_only {
        return Err(Refusal::ReadOnly);
    }
    match kind {
        T_IN => Ok(Request::Read {
            offset: transfer(disk, sector, &writable)?,
            data: writable,
        }),
        T_OUT => Ok(Request::Write {
            offset: transfer(disk, sector, &readable)?,
            data: readable,
        }),
        T_FLUSH => Ok(Request::Flush),
        T_GET_ID => match total(&writable) {
            ID_LEN => Ok(Request::GetId(writable)),
            len => Err(Refusal::Length(len)),
        },
        T_DISCARD => {
            let ranges = ranges(disk, readable)?;
            // §5.2.6.2: a discard with the unmap flag is not supported.
            match ranges.iter().find(|(_, flags)| *flags != 0) {
                Some((_, flags)) => Err(Refusal::Flags(*flags)),
                None => Ok(Request::Discard(
                    ranges.into_iter().map(|(range, _)| range).collect(),
                )),
            }
        }
        T_WRITE_ZEROES => {
            let ranges = ranges(disk, readable)?;
            match ranges.iter().find(|(_, flags)| flags & !FLAG_UNMAP != 0) {
                Some((_, flags)) => Err(Refusal::Flags(*flags)),
                None => Ok(Request::WriteZeroes(
                    ranges
                        .into_iter()
                        .map(|(range, flags)| (range, flags & FLAG_UNMAP != 0))
                        .collect(),
                )),
            }
        }
        other => Err(Refusal::Type(other)),
    }
}

/// Checks a read or write of `data` at `sector`; where it begins, in bytes.
fn transfer(disk: &Disk, sector: u64, data: &[Slice<'_>]) -> Result<u64, Refusal> {
    if data.len() > SEG_MAX as usize {
        return Err(Refusal::Buffers(data.len()));
    }
    let len = total(data);
    if !(len as u64).is_multiple_of(SECTOR) {
        return Err(Refusal::Length(len));
    }
    Ok(within(disk, sector, len as u64 / SECTOR)?.start)
}

fn within(disk: &Disk, sector: u64, count: u64) -> Result<Range<u64>, Refusal> {
    match sector.checked_add(count) {
        Some(end) if end <= disk.sectors => Ok(sector * SECTOR..end * SECTOR),
        _ => Err(Refusal::Range { sector, count }),
    }
}

/// Ranges and their flags.
fn ranges(disk: &Disk, mut data: Vec<Slice<'_>>) -> Result<Vec<(Range<u64>, u32)>, Refusal> {
    let len = total(&data);
    if len == 0 || !len.is_multiple_of(RANGE_LEN) || len / RANGE_LEN > MAX_RANGES as usize {
        return Err(Refusal::Ranges(len));
    }
    (0..len / RANGE_LEN)
        .map(|_| {
            let range: [u8; RANGE_LEN] = take_front(&mut data).map_err(Refusal::Ranges)?;
            let (sector, count) = (le64(&range, 0), le32(&range, 8));
            if count > MAX_RANGE_SECTORS {
                let count = u64::from(count);
                return Err(Refusal::Range { sector, count });
            }
            Ok((within(disk, sector, u64::from(count))?, le32(&range, 12)))
        })
        .collect()
}

fn total(slices: &[Slice<'_>]) -> usize {
    // A chain has less than 4 GiB; virtio-queue ends one that has more.
    slices.iter().map(VolatileSlice::len).sum()
}

fn take_last_byte<'a>(slices: &mut Vec<Slice<'a>>) -> Option<Slice<'a>> {
    let last = slices.pop()?;
    let (rest, byte) = last.split_at(last.len().checked_sub(1)?).ok()?;
    if !rest.is_empty() {
        slices.push(rest);
    }
    Some(byte)
}

/// Copies the first `N` bytes and takes them off, however they are spread. If there are fewer, the
/// error says how many.
fn take_front<const N: usize>(slices: &mut Vec<Slice<'_>>) -> Result<[u8; N], usize> {
    let mut bytes = [0; N];
    let (mut filled, mut consumed) = (0, 0);
    while filled < N {
        let Some(slice) = slices.get_mut(consumed) else {
            return Err(filled);
        };
        let len = slice.copy_to(&mut bytes[filled..]);
        filled += len;
        match slice.offset(len) {
            Ok(rest) if !rest.is_empty() => *slice = rest,
            _ => consumed += 1,
        }
    }
    slices.drain(..consumed);
    Ok(bytes)
}

fn le32(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn le64(bytes: &[u8; 16], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}
