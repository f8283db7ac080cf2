// SPDX-License-Identifier: Apache-2.0
//! Guest memory in a file: what is not zero, one extent after the other, each mapped on its own.
//!
//! What a machine never touched is in no page table of this process, and reading it would put it
//! there: /proc/PID/pagemap tells (kernel: Documentation/admin-guide/mm/pagemap.rst).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryRegion as _};

use crate::memory::mapped::map_private;
use crate::memory::{GuestMemory, MemoryError, PAGE, host_address};

/// Zero pages between two extents that make them one: fewer mappings, and the file has a hole there.
const GAP: u64 = 64 * PAGE;

/// Each is a mapping, and Linux gives a process 65,530 of them (`vm.max_map_count`).
const MAX_EXTENTS: u64 = 16384;

/// Bits of an entry of pagemap.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE: u64 = 1 << 61;

#[derive(Debug, Error)]
pub enum SnapshotMemoryError {
    #[error("cannot read which pages of guest memory are in use")]
    Pagemap(#[source] io::Error),
    #[error("cannot read guest memory at {at:#x}")]
    Read {
        at: u64,
        source: vm_memory::GuestMemoryError,
    },
    #[error("cannot write guest memory to its file")]
    Write(#[source] io::Error),
    #[error("cannot map the memory file")]
    Map(#[source] io::Error),
    #[error("the snapshot's memory has {count} pieces, or one that does not lie in guest memory")]
    Extents { count: usize },
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Whole pages of guest memory, and where the file has them.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub len: u64,
    pub offset: u64,
}

/// What there is of a page of a private mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Nobody has touched it.
    None,
    /// The file's: it was read, or is a neighbour of one that was.
    File,
    /// This process's own: it was written to.
    Own,
}

/// Which pages of this process are there. To be opened before the jail.
pub struct Pagemap(File);

impl Pagemap {
    pub fn open() -> Result<Self, SnapshotMemoryError> {
        File::open("/proc/self/pagemap")
            .map(Self)
            .map_err(SnapshotMemoryError::Pagemap)
    }

    /// What each page from `host` on is.
    pub fn of(&self, host: u64, pages: u64) -> io::Result<Vec<Page>> {
        let len = usize::try_from(pages * 8).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, host / PAGE * 8)?;
        let entries = bytes.as_chunks::<8>().0.iter();
        Ok(entries
            .map(|entry| match u64::from_ne_bytes(*entry) {
                entry if entry & (PRESENT | SWAPPED) == 0 => Page::None,
                entry if entry & FILE != 0 => Page::File,
                _ => Page::Own,
            })
            .collect())
    }
}

/// Writes all that is not zero. No vCPU runs, no device touches memory. `files` are parts of memory
/// that are mapped files, by address: there a page is content even before it was touched.
pub fn save(
    memory: &GuestMemory,
    pagemap: &Pagemap,
    files: &[(GuestAddress, u64)],
    to: &File,
) -> Result<Vec<Extent>, SnapshotMemoryError> {
    let len: u64 = memory.iter().map(|region| region.len()).sum();
    let mut writer = Writer {
        to,
        gap: GAP.max(len / MAX_EXTENTS),
        extents: Vec::new(),
        offset: 0,
    };
    for region in memory.iter() {
        let start = region.start_addr().0;
        let host = host_address(region);
        let pages = region.len() / PAGE;
        let kinds = pagemap
            .of(host, pages)
            .map_err(SnapshotMemoryError::Pagemap)?;
        let mut page = [0; 4096];
        for (at, kind) in (0..pages).map(|index| start + index * PAGE).zip(kinds) {
            if kind == Page::None && !lies_in(files, at) {
                continue;
            }
            memory
                .read_slice(&mut page, GuestAddress(at))
                .map_err(|source| SnapshotMemoryError::Read { at, source })?;
            if page.iter().any(|&byte| byte != 0) {
                writer.put(at, &page).map_err(SnapshotMemoryError::Write)?;
            }
        }
    }
    to.set_len(writer.offset)
        .map_err(SnapshotMemoryError::Write)?;
    Ok(writer.extents)
}

fn lies_in(files: &[(GuestAddress, u64)], at: u64) -> bool {
    let after = files.partition_point(|(start, _)| start.0 <= at);
    let before = after.checked_sub(1).and_then(|index| files.get(index));
    before.is_some_and(|(start, len)| at - start.0 < *len)
}

struct Writer<'a> {
    to: &'a File,
    /// Wide enough for [`MAX_EXTENTS`], however memory is strewn.
    gap: u64,
    extents: Vec<Extent>,
    /// Where the file ends.
    offset: u64,
}

impl Writer<'_> {
    fn put(&mut self, at: u64, page: &[u8]) -> io::Result<()> {
        match self.extents.last_mut() {
            Some(last) if at - (last.start + last.len) <= self.gap => {
                last.len = at + PAGE - last.start;
                self.offset = last.offset + last.len;
            }
            _ => {
                self.extents.push(Extent {
                    start: at,
                    len: PAGE,
                    offset: self.offset,
                });
                self.offset += PAGE;
            }
        }
        self.to.write_all_at(page, self.offset - PAGE)
    }
}

/// Puts a snapshot's memory into that of a machine that was just made. What is written to becomes
/// this machine's own; the file never changes.
pub fn restore(
    memory: &GuestMemory,
    file: &File,
    extents: &[Extent],
) -> Result<(), SnapshotMemoryError> {
    let bad = || SnapshotMemoryError::Extents {
        count: extents.len(),
    };
    if extents.len() as u64 > MAX_EXTENTS {
        return Err(bad());
    }
    let there = file.metadata().map_err(SnapshotMemoryError::Map)?.len();
    for extent in extents {
        let aligned = [extent.start, extent.len, extent.offset]
            .iter()
            .all(|value| value.is_multiple_of(PAGE));
        let len = usize::try_from(extent.len).map_err(|_| bad())?;
        let in_file = extent.offset.checked_add(extent.len);
        if !aligned || len == 0 || in_file.is_none_or(|end| end > there) {
            return Err(bad());
        }
        let slice = memory
            .get_slice(GuestAddress(extent.start), len)
            .map_err(|_| bad())?;
        let addr = slice.ptr_guard().as_ptr().expose_provenance();
        map_private(file, extent.offset, addr, len).map_err(SnapshotMemoryError::Map)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{HUGE_PAGE, allocate};

    const MIB: u64 = 1 << 20;

    fn memory() -> crate::memory::Memory {
        allocate(&[
            (GuestAddress(0), 4 * HUGE_PAGE),
            (GuestAddress(1 << 32), HUGE_PAGE),
        ])
        .unwrap()
    }

    fn saved(memory: &GuestMemory) -> (File, Vec<Extent>) {
        let file = tempfile::tempfile().unwrap();
        let extents = save(memory, &Pagemap::open().unwrap(), &[], &file).unwrap();
        (file, extents)
    }

    #[test]
    fn what_was_written_comes_back_and_the_rest_is_zero() {
        let (from, to) = (memory(), memory());
        let words = [0, 4096, 5 * MIB, 8 * MIB - 8, 1 << 32, (1 << 32) + MIB];
        for at in words {
            from.write_obj(at + 1, GuestAddress(at)).unwrap();
        }
        let (file, extents) = saved(&from);
        restore(&to, &file, &extents).unwrap();
        for at in words {
            let word: u64 = to.read_obj(GuestAddress(at)).unwrap();
            assert_eq!(word, at + 1);
        }
        for at in [8, 8192, 3 * MIB, (1 << 32) + 2 * MIB - 8] {
            let word: u64 = to.read_obj(GuestAddress(at)).unwrap();
            assert_eq!(word, 0);
        }
        assert_eq!(file.metadata().unwrap().len(), 6 * PAGE);
    }

    #[test]
    fn what_a_clone_never_touched_is_in_its_own_snapshot() {
        let (from, clone, to) = (memory(), memory(), memory());
        from.write_obj(1u64, GuestAddress(0)).unwrap();
        from.write_obj(2u64, GuestAddress(8 * PAGE)).unwrap();
        let (file, extents) = saved(&from);
        restore(&clone, &file, &extents).unwrap();
        clone.write_obj(3u64, GuestAddress(5 * MIB)).unwrap();
        let mapped: Vec<_> = extents
            .iter()
            .map(|extent| (GuestAddress(extent.start), extent.len))
            .collect();
        let file = tempfile::tempfile().unwrap();
        let extents = save(&clone, &Pagemap::open().unwrap(), &mapped, &file).unwrap();
        restore(&to, &file, &extents).unwrap();
        for (at, value) in [(0, 1u64), (8 * PAGE, 2), (5 * MIB, 3)] {
            let word: u64 = to.read_obj(GuestAddress(at)).unwrap();
            assert_eq!(word, value);
        }
    }

    #[test]
    fn a_short_gap_is_a_hole_of_the_file() {
        let from = memory();
        from.write_obj(1u8, GuestAddress(0)).unwrap();
        from.write_obj(2u8, GuestAddress(3 * PAGE)).unwrap();
        let (_, extents) = saved(&from);
        let one = Extent {
            start: 0,
            len: 4 * PAGE,
            offset: 0,
        };
        assert_eq!(extents, [one]);
    }

    #[test]
    fn what_a_clone_writes_is_its_own() {
        let (from, to) = (memory(), memory());
        from.write_obj(1u64, GuestAddress(0)).unwrap();
        let (file, extents) = saved(&from);
        restore(&to, &file, &extents).unwrap();
        to.write_obj(2u64, GuestAddress(0)).unwrap();
        let second = memory();
        restore(&second, &file, &extents).unwrap();
        let word: u64 = second.read_obj(GuestAddress(0)).unwrap();
        assert_eq!(word, 1);
    }

    #[test]
    fn extents_that_lie_elsewhere_are_refused() {
        let to = memory();
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGE).unwrap();
        let extent = |start, len, offset| Extent { start, len, offset };
        for bad in [
            extent(8 * MIB, PAGE, 0),
            extent(0, 9 * MIB, 0),
            extent(0, 0, 0),
            extent(1, PAGE, 0),
            extent(0, PAGE, 7),
            extent(u64::MAX - 4095, PAGE, 0),
            extent(0, PAGE, PAGE),
        ] {
            assert!(restore(&to, &file, &[bad]).is_err(), "{bad:?}");
        }
    }
}
