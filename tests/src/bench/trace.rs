// SPDX-License-Identifier: Apache-2.0
//! Why machines exit: the kernel counts KVM's trace events by their fields, in histograms of a
//! tracing instance of our own (kernel: Documentation/trace/histogram.rst). Needs root and tracefs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("can't mount tracefs")]
    Mount(#[source] io::Error),
    #[error("can't count the event {event}")]
    Count {
        event: &'static str,
        source: io::Error,
    },
}

/// What is counted: an event, its field, how many of that field's low bits don't matter, and what
/// to call it.
struct Counted {
    event: &'static str,
    field: &'static str,
    ignored_bits: u32,
    name: &'static str,
}

const COUNTED: [Counted; 5] = [
    Counted {
        event: "kvm_exit",
        field: "exit_reason",
        ignored_bits: 0,
        name: "exit",
    },
    Counted {
        event: "kvm_pio",
        field: "port",
        ignored_bits: 0,
        name: "port",
    },
    Counted {
        event: "kvm_mmio",
        field: "gpa",
        ignored_bits: 12,
        name: "MMIO page",
    },
    Counted {
        event: "kvm_msr",
        field: "ecx",
        ignored_bits: 0,
        name: "MSR",
    },
    Counted {
        event: "kvm_cpuid",
        field: "function",
        ignored_bits: 16,
        name: "CPUID leaves",
    },
];

/// Counts from its making on. Removed when dropped.
#[derive(Debug)]
pub struct Trace {
    instance: PathBuf,
    mounted: TempDir,
}

impl Trace {
    /// Starts to count.
    ///
    /// # Errors
    /// No tracefs, no right to it, or a kernel without KVM's events or histograms.
    pub fn start() -> Result<Self, TraceError> {
        let mounted = tempfile::tempdir().map_err(TraceError::Mount)?;
        mount(
            "tracefs",
            mounted.path(),
            "tracefs",
            MountFlags::empty(),
            None,
        )
        .map_err(|errno| TraceError::Mount(errno.into()))?;
        let name = format!("walnut-bench-{}", std::process::id());
        let instance = mounted.path().join("instances").join(name);
        let trace = Self { instance, mounted };
        fs::create_dir(&trace.instance).map_err(TraceError::Mount)?;
        for counted in &COUNTED {
            trace
                .write(
                    counted.event,
                    &format!("hist:keys={}:size=4096", counted.field),
                )
                .map_err(|source| TraceError::Count {
                    event: counted.event,
                    source,
                })?;
        }
        Ok(trace)
    }

    /// What was counted up to now, by name.
    ///
    /// # Errors
    /// A histogram can't be read.
    pub fn counts(&self) -> Result<BTreeMap<String, u64>, TraceError> {
        let mut counts = BTreeMap::new();
        for counted in &COUNTED {
            let read = |file: &str| {
                fs::read_to_string(self.event(counted.event).join(file)).map_err(|source| {
                    TraceError::Count {
                        event: counted.event,
                        source,
                    }
                })
            };
            let names = symbols(&read("format")?);
            for (value, hits) in histogram(&read("hist")?) {
                *counts.entry(label(counted, &names, value)).or_default() += hits;
            }
        }
        Ok(counts)
    }

    fn event(&self, event: &str) -> PathBuf {
        self.instance.join("events/kvm").join(event)
    }

    fn write(&self, event: &str, trigger: &str) -> io::Result<()> {
        fs::write(self.event(event).join("trigger"), trigger)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // An instance with triggers is busy. What can't be removed only counts on, unseen.
        for counted in &COUNTED {
            let _ = self.write(counted.event, &format!("!hist:keys={}", counted.field));
        }
        let _ = fs::remove_dir(&self.instance);
        let _ = unmount(self.mounted.path(), UnmountFlags::DETACH);
    }
}

fn label(counted: &Counted, names: &BTreeMap<u64, String>, value: u64) -> String {
    if counted.event == "kvm_exit" {
        return match names.get(&value) {
            Some(name) => format!("{} {name}", counted.name),
            None => format!("{} {value}", counted.name),
        };
    }
    let value = value >> counted.ignored_bits << counted.ignored_bits;
    format!("{} {value:#x}", counted.name)
}

/// `{ field:  value } hitcount:  n` of a histogram.
fn histogram(text: &str) -> Vec<(u64, u64)> {
    let line = |line: &str| {
        let (key, hits) = line.strip_prefix('{')?.split_once('}')?;
        let (_, value) = key.split_once(':')?;
        let (_, hits) = hits.split_once(':')?;
        Some((
            value.trim().parse().ok()?,
            hits.split_whitespace().next()?.parse().ok()?,
        ))
    };
    text.lines().filter_map(line).collect()
}

/// The names of exit reasons: the first of `__print_symbolic`'s lists in an event's format is
/// VMX's (`isa == 1`), the second SVM's.
fn symbols(format: &str) -> BTreeMap<u64, String> {
    let lists: Vec<&str> = format.split("__print_symbolic(").skip(1).collect();
    let svm = Path::new("/sys/module/kvm_amd").exists();
    let list = if svm { lists.get(1) } else { lists.first() };
    list.map_or_else(BTreeMap::new, |list| pairs(list))
}

/// `{ 0x072, "cpuid" }, …`, up to the list's end.
fn pairs(list: &str) -> BTreeMap<u64, String> {
    let list = list.split_once("})").map_or(list, |(list, _)| list);
    let pair = |text: &str| {
        let (value, name) = text
            .trim()
            .trim_end_matches([',', ' ', '}'])
            .split_once(',')?;
        let value = value.trim();
        let value = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok()?,
            None => value.parse().ok()?,
        };
        Some((value, name.trim().trim_matches('"').to_lowercase()))
    };
    list.split('{').skip(1).filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_histogram() {
        let text = "# event histogram\n#\n\n{ exit_reason:        114 } hitcount:        475\n\
                    { exit_reason:       1024 } hitcount:        756\n\nTotals:\n    Hits: 1231\n";
        assert_eq!(histogram(text), [(114, 475), (1024, 756)]);
    }

    #[test]
    fn reads_the_names_of_a_list() {
        let list =
            "REC->exit_reason, { 0x072, \"CPUID\" }, { 0x07b, \"io\" },{ 1024, \"npf\" }) : x";
        let names = pairs(list);
        assert_eq!(names.len(), 3);
        assert_eq!(names[&0x72], "cpuid");
        assert_eq!(names[&1024], "npf");
    }

    #[test]
    fn pages_and_ranges_are_counted_together() {
        let mmio = &COUNTED[2];
        assert_eq!(
            label(mmio, &BTreeMap::new(), 0xfec0_0010),
            "MMIO page 0xfec00000"
        );
        let exit = &COUNTED[0];
        assert_eq!(
            label(exit, &BTreeMap::from([(114, "cpuid".into())]), 114),
            "exit cpuid"
        );
        assert_eq!(label(exit, &BTreeMap::new(), 114), "exit 114");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text: String) {
            let _ = (histogram(&text), symbols(&text));
        }
    }
}
