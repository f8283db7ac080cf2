// SPDX-License-Identifier: Apache-2.0
//! A descriptor chain as the guest memory of one packet, or of a part of one (§5.1.6). A driver may
//! frame it in any way (§2.7.4.1). Nothing is executed here.

use thiserror::Error;
use virtio_queue::DescriptorChain;
use vm_memory::bitmap::MS;
use vm_memory::{GuestMemory as _, VolatileSlice};

use super::{ETHERNET_HEADER_LEN, HEADER_LEN, MAX_FRAME};
use crate::memory::GuestMemory;

/// A piece of guest memory that is contiguous on the host.
pub(super) type Slice<'a> = VolatileSlice<'a, MS<'a, GuestMemory>>;

/// A driver may not make a chain longer than its queue (§2.7.5.2); a descriptor can become two
/// pieces where guest memory has a hole.
const MAX_PIECES: usize = 512;

#[derive(Debug, Error)]
pub(super) enum ChainError {
    #[error("a buffer of the chain does not lie in guest memory")]
    Memory,
    #[error("the chain has too many buffers")]
    Pieces,
    #[error("a chain of {0} bytes")]
    Length(usize),
}

#[derive(Debug)]
pub(super) struct Chain<'a> {
    pub head: u16,
    pub slices: Vec<Slice<'a>>,
    pub len: usize,
}

impl<'a> Chain<'a> {
    /// On the tx queue: a header and a frame.
    pub(super) fn packet(
        memory: &'a GuestMemory,
        chain: DescriptorChain<&'a GuestMemory>,
    ) -> Result<Self, ChainError> {
        let packet = Self::of(memory, chain, false)?;
        match packet.len.checked_sub(HEADER_LEN) {
            Some(ETHERNET_HEADER_LEN..=MAX_FRAME) => Ok(packet),
            _ => Err(ChainError::Length(packet.len)),
        }
    }

    /// On the rx queue: room for a header at least.
    pub(super) fn room(
        memory: &'a GuestMemory,
        chain: DescriptorChain<&'a GuestMemory>,
    ) -> Result<Self, ChainError> {
        let room = Self::of(memory, chain, true)?;
        if room.len < HEADER_LEN {
            return Err(ChainError::Length(room.len));
        }
        Ok(room)
    }

    fn of(
        memory: &'a GuestMemory,
        chain: DescriptorChain<&'a GuestMemory>,
        write_only: bool,
    ) -> Result<Self, ChainError> {
        let mut all = Self {
            head: chain.head_index(),
            slices: Vec::with_capacity(2),
            len: 0,
        };
        for desc in chain {
            if desc.is_write_only() != write_only {
                continue;
            }
            for slice in memory.get_slices(desc.addr(), desc.len() as usize) {
                let slice = slice.map_err(|_| ChainError::Memory)?;
                if all.slices.len() == MAX_PIECES {
                    return Err(ChainError::Pieces);
                }
                all.len += slice.len();
                all.slices.push(slice);
            }
        }
        Ok(all)
    }
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
