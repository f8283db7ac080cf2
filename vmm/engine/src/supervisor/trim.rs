// SPDX-License-Identifier: Apache-2.0
//! A supervisor needs little of this program once its container runs: what of the code is mapped by
//! then, it lets go. What is needed again comes back from the page cache, page by page.
//!
//! The code alone: other mappings of the file hold what was written to them (proc_pid_maps(5),
//! madvise(2), `MADV_DONTNEED`).

use std::ops::Range;
use std::path::Path;

use rustix::mm::{Advice, madvise};

/// Nothing depends on whether it could.
pub(super) fn forget_code() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Ok(program) = std::fs::read_link("/proc/self/exe") else {
        return;
    };
    for range in code(&maps, &program) {
        if let Err(e) = forget(&range) {
            log::debug!("keep the code at {:x}: {e}", range.start);
        }
    }
}

#[expect(unsafe_code, reason = "madvise takes an address")]
fn forget(range: &Range<usize>) -> rustix::io::Result<()> {
    let start = std::ptr::without_provenance_mut(range.start);
    // SAFETY: a private mapping of a file that nothing has ever written to: it reads the same
    // before and after.
    unsafe { madvise(start, range.len(), Advice::LinuxDontNeed) }
}

/// Where `program` is mapped to be executed, and so not to be written to.
fn code(maps: &str, program: &Path) -> Vec<Range<usize>> {
    let range = |line: &str| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let is_code = words.next()? == "r-xp" && Path::new(words.nth(3)?) == program;
        let address = |text| usize::from_str_radix(text, 16).ok();
        is_code.then_some(address(start)?..address(end)?)
    };
    maps.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_own_code() {
        let maps = "00200000-00400000 r--p 00000000 00:1e 3    /bin/walnut\n\
                    00401000-00992000 r-xp 00200000 00:1e 3    /bin/walnut\n\
                    00a0b000-00a0f000 rw-p 00808000 00:1e 3    /bin/walnut\n\
                    01401000-01992000 r-xp 00200000 00:1e 3    /lib/other.so\n\
                    7fd678000000-7fd678021000 rw-p 00000000 00:00 0\n\
                    7fd68f5a0000-7fd68f5a2000 r-xp 00000000 00:00 0    [vdso]\n";
        let found = code(maps, Path::new("/bin/walnut"));
        assert_eq!(found, vec![0x40_1000..0x99_2000; 1]);
    }

    #[test]
    fn it_goes_on_without() {
        forget_code();
    }
}
