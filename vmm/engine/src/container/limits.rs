// SPDX-License-Identifier: Apache-2.0
//! What a container may use: memory, processors, processes, file descriptors.
//!
//! The machine is made to fit: its memory is the container's limit and what the guest itself
//! needs, its processors are the whole ones that hold the allowance. The limit proper is the
//! guest's cgroup, so that a container which oversteps it meets Docker's OOM killer, not a panic.

use oci_spec::runtime::PosixRlimitType;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use walnut_vmm_config::{MAX_CPUS, MIN_MEMORY_MIB};

use crate::units::{GIB, MIB, MilliCpus, human_size, parse_size};

#[derive(Debug, Error)]
pub enum LimitError {
    #[error("--memory {} is more than this machine has ({})", human_size(*.asked), human_size(*.host))]
    AboveHost { asked: u64, host: u64 },
    #[error("range of CPUs is from 0.01 to {MAX_CPUS}.00")]
    Cpus,
    #[error("invalid ulimit argument: {0}")]
    Ulimit(String),
    #[error("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")]
    UlimitOrder { soft: u64, hard: u64 },
    #[error("invalid argument \"{0}\" for \"--memory-swap\" flag: invalid size")]
    Swap(String),
    #[error("You should always set the Memory limit when using Memoryswap limit, see usage")]
    SwapAlone,
    #[error("Minimum memoryswap limit should be larger than memory limit, see usage")]
    SwapBelow,
    #[error("Minimum memory limit can not be less than memory reservation limit, see usage")]
    Reservation,
    #[error("invalid value {0} for cpuset cpus")]
    Cpuset(String),
    #[error(
        "Requested CPUs are not available - requested {asked}, available: 0-{last} (--cpus asks for \
         more)"
    )]
    NoSuchCpu { asked: String, last: u32 },
    #[error("Conflicting options: Nano CPUs and CPU Period cannot both be set.")]
    CpusAndQuota,
    #[error("invalid argument \"{text}\" for \"--{flag}\" flag: it needs to be /DEVICE:RATE")]
    Rate { flag: &'static str, text: String },
    #[error("find out how much memory this machine has")]
    HostMemory,
}

/// Of the machine, for a container without a limit of its own. Pages that nobody touches cost the
/// host nothing.
pub const DEFAULT_MEMORY_MIB: u32 = 512;
/// For a container without an allowance of its own; more are asked for by `--cpus`.
const DEFAULT_CPUS: u8 = 2;
/// Kernel, agent and their working memory, beside the container's.
const GUEST_OVERHEAD: u64 = 48 * MIB;
/// The kernel keeps 64 bytes of `struct page` for each 4 KiB page.
const PAGE_STRUCT_SHARE: u64 = 64;

/// `--cpus`, or the two flags that it came after.
///
/// # Errors
/// Both, or more than a machine can have.
pub fn cpus(
    cpus: Option<MilliCpus>,
    quota_us: Option<i64>,
    period_us: Option<u64>,
) -> Result<Option<MilliCpus>, LimitError> {
    const DEFAULT_PERIOD_US: u64 = 100_000;
    let cpus = cpus.filter(|cpus| cpus.milli() > 0);
    let quota = quota_us.filter(|quota| *quota > 0);
    let Some(quota) = quota.and_then(|quota| u64::try_from(quota).ok()) else {
        return Ok(cpus);
    };
    if cpus.is_some() {
        return Err(LimitError::CpusAndQuota);
    }
    let period = period_us.filter(|period| *period > 0);
    let milli = quota.saturating_mul(1000) / period.unwrap_or(DEFAULT_PERIOD_US);
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    MilliCpus::parse(&text)
        .map(Some)
        .map_err(|_| LimitError::Cpus)
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    pub cpus: Option<MilliCpus>,
    pub pids: Option<i64>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    pub ulimits: Vec<Ulimit>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// Of each of its disks, a second.
    #[serde(default)]
    pub io: IoLimits,
}

/// Nothing is no limit.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct IoLimits {
    pub read_bytes: Option<u64>,
    pub write_bytes: Option<u64>,
    pub reads: Option<u64>,
    pub writes: Option<u64>,
}

/// The smaller one of two `--memory` and `--memory-swap` that make sense together: a machine has no
/// swap, so what the second one adds is nothing.
pub fn check_swap(memory: Option<u64>, swap: Option<&str>) -> Result<(), LimitError> {
    let Some(text) = swap.filter(|text| !matches!(*text, "-1" | "0")) else {
        return Ok(());
    };
    let invalid = |_| LimitError::Swap(text.to_owned());
    let swap = parse_size(text).map_err(invalid)?;
    match memory {
        None => Err(LimitError::SwapAlone),
        Some(memory) if swap < memory => Err(LimitError::SwapBelow),
        Some(_) => Ok(()),
    }
}

/// A kernel's list of processors: `0-2,4`. The highest.
fn highest(list: &str) -> Option<u32> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let mut highest = None;
    for part in list.split(',') {
        let last = match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(last)?
            }
            None => number(part)?,
        };
        highest = highest.max(Some(last));
    }
    highest
}

/// `DEVICE:RATE` each: the smallest of them, since all of a container's disks are meant.
pub fn smallest_rate(
    flag: &'static str,
    given: &[String],
    parse: impl Fn(&str) -> Option<u64>,
) -> Result<Option<u64>, LimitError> {
    let mut smallest = None;
    for text in given {
        let rate = text
            .rsplit_once(':')
            .and_then(|(device, rate)| device.starts_with('/').then(|| parse(rate))?);
        let rate = rate
            .filter(|rate| *rate > 0)
            .ok_or_else(|| LimitError::Rate {
                flag,
                text: text.clone(),
            })?;
        smallest = Some(smallest.map_or(rate, |known: u64| known.min(rate)));
    }
    Ok(smallest)
}

impl Limits {
    pub fn check(&self) -> Result<(), LimitError> {
        if let Some(asked) = self.memory {
            let host = host_memory().ok_or(LimitError::HostMemory)?;
            if asked > host {
                return Err(LimitError::AboveHost { asked, host });
            }
        }
        if let Some(cpus) = self.cpus
            && (cpus.milli() < MilliCpus::MIN.milli() || cpus.ceil() > u32::from(MAX_CPUS))
        {
            return Err(LimitError::Cpus);
        }
        if let Some(list) = &self.cpuset {
            let there = u32::from(self.machine_cpus());
            let highest = highest(list).ok_or_else(|| LimitError::Cpuset(list.clone()))?;
            if highest >= there {
                let (asked, last) = (list.clone(), there - 1);
                return Err(LimitError::NoSuchCpu { asked, last });
            }
        }
        let reserved = self.memory_reservation.unwrap_or(0);
        if self.memory.is_some_and(|limit| limit < reserved) {
            return Err(LimitError::Reservation);
        }
        Ok(())
    }

    /// The machine's memory.
    pub fn machine_memory_mib(&self) -> u32 {
        let Some(limit) = self.memory else {
            return DEFAULT_MEMORY_MIB;
        };
        let bytes = limit + limit / PAGE_STRUCT_SHARE + GUEST_OVERHEAD;
        let mib = bytes.div_ceil(MIB).next_multiple_of(2);
        u32::try_from(mib).unwrap_or(u32::MAX).max(MIN_MEMORY_MIB)
    }

    /// The machine's virtual processors.
    pub fn machine_cpus(&self) -> u8 {
        match self.cpus {
            Some(cpus) => u8::try_from(cpus.ceil())
                .unwrap_or(MAX_CPUS)
                .clamp(1, MAX_CPUS),
            None => {
                let host = std::thread::available_parallelism().map_or(1, usize::from);
                u8::try_from(host)
                    .unwrap_or(MAX_CPUS)
                    .clamp(1, DEFAULT_CPUS)
            }
        }
    }

    /// Bytes of `/dev/shm`: half of what the container may use.
    pub fn shm_bytes(&self) -> u64 {
        let memory = self.memory.unwrap_or(u64::from(DEFAULT_MEMORY_MIB) * MIB);
        self.shm_size.unwrap_or(memory / 2)
    }
}

/// All of it, in use or not.
fn host_memory() -> Option<u64> {
    let info = rustix::system::sysinfo();
    let bytes = u128::from(info.totalram) * u128::from(info.mem_unit);
    // sysinfo leaves out what the firmware and the kernel image hold: be generous.
    u64::try_from(bytes)
        .ok()
        .map(|bytes| bytes.next_multiple_of(GIB / 4))
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Ulimit {
    pub kind: PosixRlimitType,
    pub soft: u64,
    pub hard: u64,
}

impl Ulimit {
    pub fn name(&self) -> &'static str {
        let known = KINDS.iter().find(|(_, kind)| *kind == self.kind);
        known.map_or("", |(name, _)| name)
    }

    /// `nofile=1024:2048`, `core=0`, `nproc=-1`.
    pub fn parse(text: &str) -> Result<Self, LimitError> {
        let invalid = || LimitError::Ulimit(text.to_owned());
        let (name, values) = text.split_once('=').ok_or_else(invalid)?;
        let kind = kind_of(name).ok_or_else(invalid)?;
        let value = |text: &str| match text {
            "-1" | "unlimited" => Ok(u64::MAX),
            _ => text.parse::<u64>().map_err(|_| invalid()),
        };
        let (soft, hard) = match values.split_once(':') {
            Some((soft, hard)) => (value(soft)?, value(hard)?),
            None => (value(values)?, value(values)?),
        };
        if soft > hard {
            return Err(LimitError::UlimitOrder { soft, hard });
        }
        Ok(Self { kind, soft, hard })
    }
}

/// As ulimit(1)'s users know them.
const KINDS: &[(&str, PosixRlimitType)] = &[
    ("as", PosixRlimitType::RlimitAs),
    ("core", PosixRlimitType::RlimitCore),
    ("cpu", PosixRlimitType::RlimitCpu),
    ("data", PosixRlimitType::RlimitData),
    ("fsize", PosixRlimitType::RlimitFsize),
    ("locks", PosixRlimitType::RlimitLocks),
    ("memlock", PosixRlimitType::RlimitMemlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue),
    ("nice", PosixRlimitType::RlimitNice),
    ("nofile", PosixRlimitType::RlimitNofile),
    ("nproc", PosixRlimitType::RlimitNproc),
    ("rss", PosixRlimitType::RlimitRss),
    ("rtprio", PosixRlimitType::RlimitRtprio),
    ("rttime", PosixRlimitType::RlimitRttime),
    ("sigpending", PosixRlimitType::RlimitSigpending),
    ("stack", PosixRlimitType::RlimitStack),
];

fn kind_of(name: &str) -> Option<PosixRlimitType> {
    let known = KINDS.iter().find(|(known, _)| *known == name);
    known.map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        for (list, last) in [("0", 0), ("0-2,1", 2), ("0,3", 3), (" 1 ", 1)] {
            assert_eq!(highest(list), Some(last), "{list}");
        }
        for bad in ["", "a", "2-1", "-1", "1-", "1,,2"] {
            assert_eq!(highest(bad), None, "{bad}");
        }
        let check = |list: &str, cpus| {
            let limits = Limits {
                cpus: Some(MilliCpus::parse(cpus).unwrap()),
                cpuset: Some(list.to_owned()),
                ..Limits::default()
            };
            limits.check().map_err(|e| e.to_string())
        };
        assert_eq!(check("0-1", "1.5"), Ok(()));
        let said = check("0,2", "2").unwrap_err();
        assert!(said.contains("requested 0,2, available: 0-1"), "{said}");
    }

    #[test]
    fn swap_and_rates() {
        let swap = |memory, swap| check_swap(memory, Some(swap)).is_ok();
        assert!(swap(None, "-1") && swap(Some(MIB), "1m") && swap(Some(MIB), "2m"));
        assert!(!swap(None, "1m") && !swap(Some(MIB), "1k") && !swap(Some(MIB), "x"));
        let rate = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(ToString::to_string).collect();
            smallest_rate("f", &given, |text| parse_size(text).ok()).ok()
        };
        assert_eq!(rate(&[]), Some(None));
        assert_eq!(rate(&["/dev/sda:2m", "/dev/sdb:1m"]), Some(Some(MIB)));
        for bad in ["/dev/sda", "sda:1m", "/dev/sda:0", "/dev/sda:x"] {
            assert_eq!(rate(&[bad]), None, "{bad}");
        }
    }

    #[test]
    fn the_machine_fits_the_container() {
        let limits = Limits {
            memory: Some(256 * MIB),
            ..Limits::default()
        };
        assert_eq!(limits.machine_memory_mib(), 308);
        assert_eq!(limits.shm_bytes(), 128 * MIB);
        let tiny = Limits {
            memory: Some(6 * MIB),
            ..Limits::default()
        };
        assert_eq!(tiny.machine_memory_mib(), MIN_MEMORY_MIB);
        assert_eq!(Limits::default().machine_memory_mib(), DEFAULT_MEMORY_MIB);
        let half = Limits {
            cpus: Some(MilliCpus::parse("2.5").unwrap()),
            ..Limits::default()
        };
        assert_eq!(half.machine_cpus(), 3);
    }

    #[test]
    fn more_than_there_is_is_refused() {
        let limits = Limits {
            memory: Some(1 << 50),
            ..Limits::default()
        };
        let said = limits.check().unwrap_err().to_string();
        assert!(
            said.starts_with("--memory 1048576 GiB is more than this machine has ("),
            "{said}"
        );
        for cpus in ["0", "0.001", "33", "32.5"] {
            let limits = Limits {
                cpus: Some(MilliCpus::parse(cpus).unwrap()),
                ..Limits::default()
            };
            assert!(limits.check().is_err(), "{cpus}");
        }
    }

    #[test]
    fn ulimits() {
        let parsed = Ulimit::parse("nofile=1024:2048").unwrap();
        assert_eq!((parsed.soft, parsed.hard), (1024, 2048));
        assert_eq!(Ulimit::parse("core=-1").unwrap().hard, u64::MAX);
        assert!(
            Ulimit::parse("nofile=2:1")
                .unwrap_err()
                .to_string()
                .ends_with("2 > 1")
        );
        for bad in ["", "nofile", "foo=1", "nofile=a", "nofile=1:2:3", "nofile="] {
            let said = Ulimit::parse(bad).unwrap_err().to_string();
            assert_eq!(said, format!("invalid ulimit argument: {bad}"));
        }
    }
}
