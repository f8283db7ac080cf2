// SPDX-License-Identifier: Apache-2.0
//! Which pages a clone needs at its start, from one that has started: made ready in a few calls,
//! where each would else cost the guest an exit, or three if it is read before it is written.

use std::ffi::c_void;
use std::fs::File;
use std::io;

use rustix::mm::Advice;
use serde::{Deserialize, Serialize};
use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryRegion as _};

use super::memory::{Page, Pagemap};
use crate::memory::{GuestMemory, HUGE_PAGE, PAGE, host_address};

/// Pages in a row.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Run {
    start: u64,
    len: u64,
    /// They become the clone's own.
    written: bool,
}

/// The pages that are in use now.
pub fn record(memory: &GuestMemory, pagemap: &Pagemap) -> io::Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for region in memory.iter() {
        let start = region.start_addr().0;
        let pages = pagemap.of(host_address(region), region.len() / PAGE)?;
        for (at, page) in (0..).map(|index| start + index * PAGE).zip(pages) {
            let written = match page {
                Page::None => continue,
                Page::File => false,
                Page::Own => true,
            };
            match runs.last_mut() {
                Some(run) if run.start + run.len == at && run.written == written => {
                    run.len += PAGE;
                }
                _ => runs.push(Run {
                    start: at,
                    len: PAGE,
                    written,
                }),
            }
        }
    }
    Ok(runs)
}

/// Has the host back what a start touches with small pages: the first touch of a huge one clears 512
/// times as much, and nobody else can have the rest of it. Elsewhere huge pages serve a container
/// that needs much. Without a working set, all of memory: what is touched is about to be recorded.
pub fn use_small_pages(memory: &GuestMemory, runs: &[Run]) {
    const BLOCK: u64 = HUGE_PAGE as u64;
    if runs.is_empty() {
        for region in memory.iter() {
            without_huge_pages(memory, region.start_addr().0, region.len());
        }
        return;
    }
    let mut done = 0;
    for run in runs {
        let start = (run.start - run.start % BLOCK).max(done);
        let end = run.start.saturating_add(run.len);
        let Some(end) = end.checked_next_multiple_of(BLOCK) else {
            return;
        };
        if start < end {
            without_huge_pages(memory, start, end - start);
            done = end;
        }
    }
}

fn without_huge_pages(memory: &GuestMemory, start: u64, len: u64) {
    let Ok(len) = usize::try_from(len) else {
        return;
    };
    let Ok(slice) = memory.get_slice(GuestAddress(start), len) else {
        return;
    };
    let addr = slice.ptr_guard_mut().as_ptr().cast::<c_void>();
    #[expect(unsafe_code, reason = "madvise is unsafe by nature")]
    // SAFETY: the slice is guest memory; its content stays what it is.
    let advised = unsafe { rustix::mm::madvise(addr, len, Advice::LinuxNoHugepage) };
    if let Err(error) = advised {
        log::debug!("cannot do without huge pages at {start:#x}: {error}");
    }
}

/// Gives the clone its own copies of what it will write to. What lies outside of its memory, or
/// fails, the guest does without: it is only slower. The ranges are for KVM's page tables.
pub fn populate(memory: &GuestMemory, runs: &[Run]) -> Vec<(GuestAddress, u64)> {
    let mut ranges: Vec<(GuestAddress, u64)> = Vec::with_capacity(runs.len());
    for run in runs {
        let Ok(len) = usize::try_from(run.len) else {
            continue;
        };
        let Ok(slice) = memory.get_slice(GuestAddress(run.start), len) else {
            continue;
        };
        if run.written {
            let addr = slice.ptr_guard_mut().as_ptr().cast::<c_void>();
            #[expect(unsafe_code, reason = "madvise is unsafe by nature")]
            // SAFETY: the slice is guest memory; its content stays what it is.
            let populated = unsafe { rustix::mm::madvise(addr, len, Advice::LinuxPopulateWrite) };
            if let Err(error) = populated {
                log::debug!("cannot populate {:#x}: {error}", run.start);
            }
        }
        match ranges.last_mut() {
            Some((start, len)) if start.0 + *len == run.start => *len += run.len,
            _ => ranges.push((GuestAddress(run.start), run.len)),
        }
    }
    ranges
}

pub fn write(runs: &[Run], to: &File) -> io::Result<()> {
    super::encode(&runs, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::allocate;
    use crate::snapshot::memory::{restore, save};
    use vm_memory::Bytes;

    #[test]
    fn what_a_clone_reads_and_writes_is_told_apart() {
        let ranges = [(GuestAddress(0), 2 * HUGE_PAGE)];
        let (template, clone, next) = (
            allocate(&ranges).unwrap(),
            allocate(&ranges).unwrap(),
            allocate(&ranges).unwrap(),
        );
        let page = |index: u64| GuestAddress(index * PAGE);
        for index in [0, 1, 100] {
            template.write_obj(7u64, page(index)).unwrap();
        }
        let pagemap = Pagemap::open().unwrap();
        let file = tempfile::tempfile().unwrap();
        let extents = save(&template, &pagemap, &[], &file).unwrap();
        restore(&clone, &file, &extents).unwrap();
        let _: u64 = clone.read_obj(page(0)).unwrap();
        clone.write_obj(8u64, page(100)).unwrap();
        clone.write_obj(9u64, page(300)).unwrap();
        let runs = record(&clone, &pagemap).unwrap();
        let has = |index: u64, written| {
            runs.iter().any(|run| {
                (run.start..run.start + run.len).contains(&(index * PAGE)) && run.written == written
            })
        };
        assert!(
            has(0, false) && has(100, true) && has(300, true),
            "{runs:?}"
        );

        restore(&next, &file, &extents).unwrap();
        populate(&next, &runs);
        let populated = record(&next, &pagemap).unwrap();
        for index in [100, 300] {
            let own = populated.iter().any(|run| {
                (run.start..run.start + run.len).contains(&(index * PAGE)) && run.written
            });
            assert!(own, "{populated:?}");
        }
        let word: u64 = next.read_obj(page(100)).unwrap();
        assert_eq!(word, 7);
    }

    #[test]
    fn runs_outside_of_memory_are_left_out() {
        let memory = allocate(&[(GuestAddress(0), HUGE_PAGE)]).unwrap();
        let run = |start, len| Run {
            start,
            len,
            written: true,
        };
        let runs = [run(1 << 40, PAGE), run(0, u64::MAX), run(0, PAGE)];
        assert_eq!(populate(&memory, &runs), [(GuestAddress(0), PAGE)]);
    }
}
