// SPDX-License-Identifier: Apache-2.0
//! A descriptor chain as the guest memory of one packet, or of a part of one (§5.1.6). A driver may
//! frame it in any way (§2.7.4.1). Nothing is executed here.

use std::ops::RangeInclusive;

use thiserror::Error;
use virtio_queue::DescriptorChain;
use vm_memory::bitmap::MS;
use vm_memory::{GuestMemory as _, VolatileSlice};

use super::{ETHERNET_HEADER_LEN, HEADER_LEN, MAX_FRAME};
use crate::memory::GuestMemory;

/// A piece of guest memory that is contiguous on the host.
pub(super) type Slice<'a> = VolatileSlice<'a, MS<'a, GuestMemory>>;

/// A driver may not make a chain longer than its queue, nor an indirect one (§2.7.5.2, §2.7.5.3.1).
const MAX_DESCS: usize = 256;

#[derive(Debug, Error)]
pub(super) enum ChainError {
    #[error("a buffer of the chain does not lie in guest memory")]
    Memory,
    #[error("the chain is longer than its queue")]
    Descs,
    #[error("a chain of {0} bytes")]
    Length(usize),
}

/// Appends the chain of the tx queue to `slices`, a header and a frame: its bytes.
pub(super) fn packet<'a>(
    memory: &'a GuestMemory,
    chain: DescriptorChain<&'a GuestMemory>,
    slices: &mut Vec<Slice<'a>>,
) -> Result<usize, ChainError> {
    let long = HEADER_LEN + ETHERNET_HEADER_LEN..=HEADER_LEN + MAX_FRAME;
    append(memory, chain, false, long, slices)
}

/// Appends the chain of the rx queue to `slices`, room for a header at least: its bytes.
pub(super) fn room<'a>(
    memory: &'a GuestMemory,
    chain: DescriptorChain<&'a GuestMemory>,
    slices: &mut Vec<Slice<'a>>,
) -> Result<usize, ChainError> {
    append(memory, chain, true, HEADER_LEN..=usize::MAX, slices)
}

/// Nothing is appended where that fails.
fn append<'a>(
    memory: &'a GuestMemory,
    chain: DescriptorChain<&'a GuestMemory>,
    write_only: bool,
    long: RangeInclusive<usize>,
    slices: &mut Vec<Slice<'a>>,
) -> Result<usize, ChainError> {
    let start = slices.len();
    let len = append_all(memory, chain, write_only, slices).and_then(|len| {
        let fits = long.contains(&len);
        fits.then_some(len).ok_or(ChainError::Length(len))
    });
    if len.is_err() {
        slices.truncate(start);
    }
    len
}

fn append_all<'a>(
    memory: &'a GuestMemory,
    chain: DescriptorChain<&'a GuestMemory>,
    write_only: bool,
    slices: &mut Vec<Slice<'a>>,
) -> Result<usize, ChainError> {
    let mut len = 0;
    for (at, desc) in chain.enumerate() {
        if at == MAX_DESCS {
            return Err(ChainError::Descs);
        }
        if desc.is_write_only() != write_only {
            continue;
        }
        for slice in memory.get_slices(desc.addr(), desc.len() as usize) {
            let slice = slice.map_err(|_| ChainError::Memory)?;
            len += slice.len();
            slices.push(slice);
        }
    }
    Ok(len)
}

/// `slices` without their first `skip` bytes.
pub(super) fn behind<'a>(
    slices: &[Slice<'a>],
    skip: usize,
) -> impl Iterator<Item = Slice<'a>> + Clone {
    let mut skip = skip;
    slices.iter().filter_map(move |slice| {
        let front = skip.min(slice.len());
        skip -= front;
        slice.offset(front).ok().filter(|rest| !rest.is_empty())
    })
}

/// Writes `bytes` behind the first `skip` of `slices`; how many had room.
pub(super) fn write(slices: &[Slice<'_>], skip: usize, mut bytes: &[u8]) -> usize {
    let all = bytes.len();
    for slice in behind(slices, skip) {
        if bytes.is_empty() {
            break;
        }
        let (now, rest) = bytes.split_at(slice.len().min(bytes.len()));
        slice.copy_from(now);
        bytes = rest;
    }
    all - bytes.len()
}
