// SPDX-License-Identifier: Apache-2.0
//! Guest memory: private, anonymous, 2 MiB-aligned, never populated up front.
//!
//! The region type is the one virtiofsd's server works on. No dirty bitmap is ever installed in it.

pub mod mapped;

use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};
use thiserror::Error;
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::mmap::{MmapRegionBuilder, NewBitmap};
use vm_memory::{
    GuestAddress, GuestMemory as _, GuestMemoryMmap, GuestMemoryRegion as _, GuestRegionMmap,
    MemoryRegionAddress,
};

pub type GuestMemory = GuestMemoryMmap<BitmapMmapRegion>;

/// Shared by every thread that touches guest memory.
pub type Memory = Arc<GuestMemory>;

/// What memory is mapped, copied and counted in.
pub const PAGE: u64 = 4096;

/// One huge page: regions start on such a boundary, so that the host can back them with huge pages.
pub const HUGE_PAGE: usize = 2 << 20;

#[derive(Debug, Error)]
pub enum MemoryError {
    #[error("cannot map {len} bytes of guest memory")]
    Map {
        len: usize,
        source: rustix::io::Errno,
    },
    #[error("cannot make a guest memory region of {len} bytes at {start:#x}")]
    Region { start: u64, len: usize },
}

/// Maps private anonymous memory for each `(start, length)`.
pub fn allocate(ranges: &[(GuestAddress, usize)]) -> Result<Memory, MemoryError> {
    let mut regions = Vec::with_capacity(ranges.len());
    for &(start, len) in ranges {
        let bad = || MemoryError::Region {
            start: start.0,
            len,
        };
        let at = map_aligned(len)?;
        let builder = MmapRegionBuilder::new_with_bitmap(len, BitmapMmapRegion::with_len(len))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        #[expect(unsafe_code, reason = "vm-memory cannot align a mapping itself")]
        // SAFETY: `map_aligned` just mapped `len` bytes at `at`, readable and writable; nobody else
        // knows the address and nobody unmaps it: guest memory lives as long as the process.
        let builder = unsafe { builder.with_raw_mmap_pointer(at) };
        let region = builder.build().map_err(|_| bad())?;
        regions.push(GuestRegionMmap::new(region, start).ok_or_else(bad)?);
    }
    let (start, len) = ranges
        .first()
        .map_or((0, 0), |&(start, len)| (start.0, len));
    let memory =
        GuestMemory::from_regions(regions).map_err(|_| MemoryError::Region { start, len })?;
    Ok(Arc::new(memory))
}

/// Where this process has a region.
pub fn host_address(region: &GuestRegionMmap<BitmapMmapRegion>) -> u64 {
    region
        .get_host_address(MemoryRegionAddress(0))
        .expect("a region has a first byte")
        .expose_provenance() as u64
}

/// Where the guest sees what this process has at `host`.
pub fn guest_address(memory: &GuestMemory, host: usize) -> Option<GuestAddress> {
    memory.iter().find_map(|region| {
        let base = region.get_host_address(MemoryRegionAddress(0)).ok()?.addr();
        let offset = host.checked_sub(base)? as u64;
        (offset < region.len()).then(|| GuestAddress(region.start_addr().0 + offset))
    })
}

/// Maps `len` bytes on a huge-page boundary: reserves one huge page more and gives the ends back.
#[expect(unsafe_code, reason = "mmap is unsafe by nature")]
pub(crate) fn map_aligned(len: usize) -> Result<*mut u8, MemoryError> {
    let failed = |source| MemoryError::Map { len, source };
    let reserved = len
        .checked_add(HUGE_PAGE)
        .ok_or(MemoryError::Region { start: 0, len })?;
    // SAFETY: a null hint without MAP_FIXED replaces no existing mapping.
    let base = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            reserved,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }
    .map_err(failed)?;
    let head = base.cast::<u8>().align_offset(HUGE_PAGE);
    let start = base.cast::<u8>().wrapping_add(head);
    if head > 0 {
        // SAFETY: these bytes were mapped above and nothing refers to them.
        unsafe { rustix::mm::munmap(base, head) }.map_err(failed)?;
    }
    let tail = HUGE_PAGE - head;
    if tail > 0 {
        // SAFETY: as above: the bytes behind the region that was asked for.
        unsafe { rustix::mm::munmap(start.wrapping_add(len).cast(), tail) }.map_err(failed)?;
    }
    // SAFETY: the range is exactly the mapping that is left. Advice: failure changes nothing.
    let advised =
        unsafe { rustix::mm::madvise(start.cast(), len, rustix::mm::Advice::LinuxHugepage) };
    if let Err(error) = advised {
        log::debug!("no huge pages for guest memory: {error}");
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::{HUGE_PAGE, allocate};
    use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryRegion as _};

    #[test]
    fn regions_are_huge_page_aligned_and_writable() {
        let memory = allocate(&[
            (GuestAddress(0), 3 * HUGE_PAGE),
            (GuestAddress(1 << 32), 4096),
        ])
        .unwrap();
        for region in memory.iter() {
            let host = region
                .get_host_address(vm_memory::MemoryRegionAddress(0))
                .unwrap();
            assert_eq!(host.align_offset(HUGE_PAGE), 0);
        }
        memory
            .write_obj(7u64, GuestAddress((3 * HUGE_PAGE - 8) as u64))
            .unwrap();
        memory
            .write_obj(8u64, GuestAddress((1 << 32) + 4088))
            .unwrap();
        assert!(
            memory
                .write_obj(9u64, GuestAddress((1 << 32) + 4089))
                .is_err()
        );
    }
}
