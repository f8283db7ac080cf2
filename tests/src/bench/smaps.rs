// SPDX-License-Identifier: Apache-2.0
//! A monitor's own memory: `/proc/PID/smaps` (proc_pid_smaps(5)) without the guest's.

use std::fs;
use std::io;

/// One mapping; sizes in KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    start: u64,
    end: u64,
    writable: bool,
    /// Empty for anonymous memory.
    pub path: String,
    pub pss_kib: u64,
}

/// What a monitor holds in memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Footprint {
    /// PSS of everything but the guest's memory and the images mapped into it.
    pub own_kib: u64,
    /// PSS of the guest's memory and images.
    pub guest_kib: u64,
    /// The mappings that are counted as the guest's.
    pub guest: Vec<Mapping>,
}

impl Mapping {
    fn size_kib(&self) -> u64 {
        (self.end - self.start) / 1024
    }
}

/// Reads the mappings of a process; sizes in KiB.
///
/// # Errors
/// It is gone, or somebody else's.
pub fn read(pid: u32) -> io::Result<Vec<Mapping>> {
    fs::read_to_string(format!("/proc/{pid}/smaps")).map(|text| parse(&text))
}

/// A field of `/proc/PID/status` that is in kB.
///
/// # Errors
/// The process is gone, or the kernel knows no such field.
pub fn status_kib(pid: u32, field: &str) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    kib_field(&text, field).ok_or_else(|| io::Error::other(format!("no {field} of process {pid}")))
}

/// `field:   123 kB`, from status, smaps or meminfo.
pub(super) fn kib_field(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(field)?.strip_prefix(':')?;
        value.trim().strip_suffix("kB")?.trim().parse().ok()
    })
}

fn parse(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(mapping) = header(line) {
            mappings.push(mapping);
        } else if let (Some(mapping), Some(pss)) = (mappings.last_mut(), kib_field(line, "Pss")) {
            mapping.pss_kib = pss;
        }
    }
    mappings
}

/// `start-end perms offset device inode  path`.
fn header(line: &str) -> Option<Mapping> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16)
        .ok()
        .filter(|end| *end > start)?;
    let writable = words.next()?.starts_with("rw");
    let path = words.skip(3).collect::<Vec<_>>().join(" ");
    Some(Mapping {
        start,
        end,
        writable,
        path,
        pss_kib: 0,
    })
}

/// Splits a monitor's memory. The guest's is the shortest run of adjacent, writable mappings that
/// holds `memory_mib`, anonymous but for files in `images` (a kernel's text is mapped in the midst of
/// memory), and any other mapping of such a file. `None` where no run is that long.
#[must_use]
pub fn split(mappings: &[Mapping], memory_mib: u64, images: &[String]) -> Option<Footprint> {
    let is_image = |m: &Mapping| images.contains(&m.path);
    let is_ram = |m: &Mapping| m.writable && (is_anonymous(m) || is_image(m));
    let ram = mappings
        .chunk_by(|a, b| is_ram(a) && is_ram(b) && a.end == b.start)
        .filter(|run| run.first().is_some_and(is_ram))
        .filter_map(|run| shortest(run, memory_mib * 1024))
        .min_by_key(|run| size_kib(run))?;
    let mut guest = ram.to_vec();
    let elsewhere = mappings.iter().filter(|m| is_image(m) && !ram.contains(m));
    guest.extend(elsewhere.cloned());
    let guest_kib = guest.iter().map(|m| m.pss_kib).sum();
    let all: u64 = mappings.iter().map(|m| m.pss_kib).sum();
    Some(Footprint {
        own_kib: all - guest_kib,
        guest_kib,
        guest,
    })
}

fn is_anonymous(mapping: &Mapping) -> bool {
    mapping.path.is_empty() || mapping.path.starts_with("[anon")
}

fn size_kib(run: &[Mapping]) -> u64 {
    run.iter().map(Mapping::size_kib).sum()
}

/// The shortest part of a run that comes to `wanted_kib`.
fn shortest(run: &[Mapping], wanted_kib: u64) -> Option<&[Mapping]> {
    let from = |first: usize| {
        let rest = run.get(first..)?;
        (1..=rest.len())
            .filter_map(|n| rest.get(..n))
            .find(|part| size_kib(part) >= wanted_kib)
    };
    (0..run.len())
        .filter_map(from)
        .min_by_key(|part| size_kib(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00500000 r-xp 00000000 00:1c 42                                 /run/walnut-vmm
Size:               1024 kB
Pss:                 600 kB
Pss_Dirty:             0 kB
00500000-00510000 rw-p 00000000 00:00 0                                  [heap]
Pss:                  64 kB
7f0000000000-7f0004000000 rw-p 00000000 00:00 0 
Pss:               30000 kB
7f0004000000-7f0008000000 rw-p 00000000 00:00 0 
Pss:                   0 kB
7f0008200000-7f0008400000 rw-p 00000000 00:1c 77                         /dev/shm/a b/image.erofs
Pss:                 900 kB
7f0009000000-7f0009100000 rw-p 00000000 00:00 0 
Pss:                  20 kB
VmFlags: rd wr mr mw me ac
";

    #[test]
    fn reads_mappings_and_their_pss() {
        let mappings = parse(SMAPS);
        assert_eq!(mappings.len(), 6);
        assert_eq!(mappings[0].pss_kib, 600);
        assert_eq!(mappings[4].path, "/dev/shm/a b/image.erofs");
        assert_eq!(mappings[2].size_kib(), 64 << 10);
    }

    #[test]
    fn guest_memory_may_be_several_mappings() {
        let images = ["/dev/shm/a b/image.erofs".to_owned()];
        let footprint = split(&parse(SMAPS), 128, &images).unwrap();
        assert_eq!(footprint.own_kib, 600 + 64 + 20);
        assert_eq!(footprint.guest_kib, 30_900);
        assert_eq!(footprint.guest.len(), 3);
    }

    #[test]
    fn a_file_may_lie_in_the_midst_of_guest_memory() {
        let pieces = "7f0004000000-7f0006000000 rw-p 00000000 00:1c 78    /run/vmlinux\nPss: 500 kB\n\
                      7f0006000000-7f0008000000 rw-p 00000000 00:00 0 \nPss:";
        let text = SMAPS.replacen(
            "7f0004000000-7f0008000000 rw-p 00000000 00:00 0 \nPss:",
            pieces,
            1,
        );
        let images = ["/run/vmlinux".to_owned()];
        let footprint = split(&parse(&text), 128, &images).unwrap();
        assert_eq!(footprint.guest_kib, 30_500);
        assert_eq!(footprint.own_kib, 600 + 64 + 900 + 20);
    }

    #[test]
    fn a_neighbour_is_not_the_guests() {
        let neighbour =
            "7f0008000000-7f0008010000 rw-p 00000000 00:00 0 \nPss: 64 kB\n7f0008200000-";
        let text = SMAPS.replacen("7f0008200000-", neighbour, 1);
        let footprint = split(&parse(&text), 128, &[]).unwrap();
        assert_eq!(footprint.guest_kib, 30_000);
        assert_eq!(footprint.own_kib, 600 + 64 + 64 + 900 + 20);
    }

    #[test]
    fn no_mapping_is_large_enough() {
        assert_eq!(split(&parse(SMAPS), 256, &[]), None);
    }

    #[test]
    fn fields_in_kib() {
        let status = "Name:\tx\nVmHWM:\t    1234 kB\nThreads:\t3\n";
        assert_eq!(kib_field(status, "VmHWM"), Some(1234));
        assert_eq!(kib_field(status, "Threads"), None);
        assert_eq!(kib_field(status, "Vm"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed(text: String) {
            let _ = split(&parse(&text), 1, &[]);
        }
    }
}
