// SPDX-License-Identifier: Apache-2.0
//! KVM's own counters: `/sys/kernel/debug/kvm/PID-FD/`, a directory for each machine that lives,
//! with one number a file (kernel: virt/kvm/kvm_main.c). Needs root and debugfs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub const DIRECTORY: &str = "/sys/kernel/debug/kvm";

/// A machine, by the name that KVM has for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Machine {
    /// The monitor's process.
    pub pid: u32,
    fd: u32,
}

/// Name and value of each counter that isn't zero.
pub type Counters = BTreeMap<String, u64>;

impl Machine {
    fn parse(name: &str) -> Option<Self> {
        let (pid, fd) = name.split_once('-')?;
        Some(Self {
            pid: pid.parse().ok()?,
            fd: fd.parse().ok()?,
        })
    }

    fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(format!("{}-{}", self.pid, self.fd))
    }

    /// The counters now. They are those of all the machine's vCPUs together.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn counters(&self) -> io::Result<Counters> {
        let mut counters = Counters::new();
        for entry in fs::read_dir(self.path())? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            // Histograms hold more than one number; a few files can only be written.
            let Ok(text) = fs::read_to_string(entry.path()) else {
                continue;
            };
            if let Ok(value @ 1..) = text.trim().parse() {
                counters.insert(entry.file_name().to_string_lossy().into_owned(), value);
            }
        }
        Ok(counters)
    }
}

/// The machines that live now.
///
/// # Errors
/// No debugfs, or no right to look into it.
pub fn machines() -> io::Result<BTreeSet<Machine>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(DIRECTORY)? {
        found.extend(Machine::parse(&entry?.file_name().to_string_lossy()));
    }
    Ok(found)
}

/// The one machine that is there now and was not before.
///
/// # Errors
/// There is none, or more than one.
pub fn newcomer(before: &BTreeSet<Machine>) -> io::Result<Machine> {
    let now = machines()?;
    let mut new = now.difference(before);
    match (new.next(), new.next()) {
        (Some(machine), None) => Ok(machine.clone()),
        (None, _) => Err(io::Error::other("KVM has no new machine")),
        _ => Err(io::Error::other(
            "KVM has several new machines; is something else running?",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_named_by_process_and_descriptor() {
        assert_eq!(
            Machine::parse("1234-11"),
            Some(Machine { pid: 1234, fd: 11 })
        );
        for name in ["exits", "-", "12-", "a-1", "1-2-3"] {
            assert_eq!(Machine::parse(name), None, "{name}");
        }
    }
}
