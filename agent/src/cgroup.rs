// SPDX-License-Identifier: Apache-2.0
//! The containers' control groups (cgroup-v2.rst): one below [`CONTAINERS`] for each.
//!
//! libcontainer sets the limits when a container is made; everything later is here. RPC threads
//! and the reaper. Waits are for events of `cgroup.events`, with a deadline.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcgroups::common::{CgroupManager, ControllerOpt};
use libcgroups::v2::manager::Manager;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};
use rustix::event::{PollFd, PollFlags, poll};
use walnut_protocol::agent::StatsResponse;

use crate::devices::{self, DevicesError};
use crate::failure::chain;

const ROOT: &str = "/sys/fs/cgroup";
/// Parent of every container's group, below [`ROOT`].
const CONTAINERS: &str = "containers";
/// Most processes that are listed, and groups that are looked into for them.
const MAX_PIDS: usize = 65_536;
const MAX_GROUPS: usize = 1_024;
/// How long the kernel may take to freeze or empty a group.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write {value:?} to {}", path.display())]
    Write {
        path: PathBuf,
        value: String,
        source: io::Error,
    },
    #[error("create {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("remove {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("{} did not come to {event} within {} s", path.display(), PATIENCE.as_secs())]
    Wait { path: PathBuf, event: &'static str },
    #[error("set limits of {}: {why}", path.display())]
    Limits { path: PathBuf, why: String },
}

/// Passes every controller on to [`CONTAINERS`], and from there to the containers.
///
/// # Errors
/// There is no cgroup2, or it can't be written.
pub fn prepare() -> Result<(), CgroupError> {
    let root = Path::new(ROOT);
    let containers = root.join(CONTAINERS);
    enable_controllers(root)?;
    match fs::create_dir(&containers) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(CgroupError::Create {
                path: containers,
                source,
            });
        }
        _ => {}
    }
    enable_controllers(&containers)
}

fn enable_controllers(group: &Path) -> Result<(), CgroupError> {
    let available = read(&group.join("cgroup.controllers"))?;
    let all: Vec<String> = available
        .split_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    let control = group.join("cgroup.subtree_control");
    let all = all.join(" ");
    if all.is_empty() {
        Ok(())
    } else {
        write(&control, &all)
    }
}

/// One container's group.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the group `name`, which is the agent's own choice.
    ///
    /// # Errors
    /// It is there already, or can't be made.
    pub fn create(name: &str) -> Result<Self, CgroupError> {
        let path = Path::new(ROOT).join(CONTAINERS).join(name);
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(CgroupError::Create { path, source }),
        }
    }

    /// Where a process of the machine's own says that it is none of a container's.
    #[must_use]
    pub fn machine_procs_path() -> PathBuf {
        Path::new(ROOT).join("cgroup.procs")
    }

    /// The group as an OCI spec names it.
    #[must_use]
    pub fn spec_path(name: &str) -> String {
        format!("/{CONTAINERS}/{name}")
    }

    /// Puts the group under the spec's rules for devices.
    ///
    /// # Errors
    /// The kernel has no such thing, or refuses them.
    pub fn limit_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<(), DevicesError> {
        devices::attach(&self.path, rules)
    }

    /// Where processes are written to join.
    #[must_use]
    pub fn procs_path(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Where those are written that join the group of process `pid`.
    #[must_use]
    pub fn procs_path_of(pid: i32) -> Option<PathBuf> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        Some(Path::new(ROOT).join(group).join("cgroup.procs"))
    }

    /// Every process in the group and in those that the container made below it.
    ///
    /// # Errors
    /// The group can't be read.
    pub fn pids(&self) -> Result<Vec<u32>, CgroupError> {
        let mut pids = Vec::new();
        let mut groups = vec![self.path.clone()];
        let mut looked_at = 0;
        while let Some(group) = groups.pop() {
            looked_at += 1;
            if looked_at > MAX_GROUPS || pids.len() > MAX_PIDS {
                break;
            }
            match read(&group.join("cgroup.procs")) {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
                // A group that the container made may be gone by now, or be threaded.
                Err(_) if group != self.path => continue,
                Err(error) => return Err(error),
            }
            let Ok(entries) = fs::read_dir(&group) else {
                continue;
            };
            let dirs = entries
                .flatten()
                .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            groups.extend(dirs.map(|entry| entry.path()));
        }
        pids.truncate(MAX_PIDS);
        Ok(pids)
    }

    /// SIGKILL to every process, all at once.
    ///
    /// # Errors
    /// The group can't be written.
    pub fn kill(&self) -> Result<(), CgroupError> {
        write(&self.path.join("cgroup.kill"), "1")
    }

    /// Stops or continues every process, and waits until that is so.
    ///
    /// # Errors
    /// The group can't be written, or did not get there in time.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        write(
            &self.path.join("cgroup.freeze"),
            if frozen { "1" } else { "0" },
        )?;
        self.wait_for(if frozen { "frozen 1" } else { "frozen 0" })
    }

    /// Whether the group is frozen.
    ///
    /// # Errors
    /// The group can't be read.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        Ok(read(&self.path.join("cgroup.freeze"))?.trim() == "1")
    }

    /// How often the OOM killer struck in the group.
    ///
    /// # Errors
    /// The group can't be read, or has no memory controller.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let events = read(&self.path.join("memory.events"))?;
        Ok(keyed(&events, "oom_kill"))
    }

    /// Usage and limits; what a controller that isn't there would tell is 0.
    #[must_use]
    pub fn stats(&self) -> StatsResponse {
        let text = |name: &str| read(&self.path.join(name)).unwrap_or_default();
        let (cpu, memory, io) = (text("cpu.stat"), text("memory.stat"), text("io.stat"));
        StatsResponse {
            cpu_usage_us: keyed(&cpu, "usage_usec"),
            cpu_user_us: keyed(&cpu, "user_usec"),
            cpu_system_us: keyed(&cpu, "system_usec"),
            memory_current: number(&text("memory.current")),
            memory_max: number(&text("memory.max")),
            memory_inactive_file: keyed(&memory, "inactive_file"),
            pids_current: number(&text("pids.current")),
            pids_max: number(&text("pids.max")),
            io_read_bytes: io_sum(&io, "rbytes="),
            io_write_bytes: io_sum(&io, "wbytes="),
            ..StatsResponse::default()
        }
    }

    /// Sets the limits that `resources` names.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let failed = |error: &dyn std::error::Error| CgroupError::Limits {
            path: self.path.clone(),
            why: chain(error),
        };
        let below = self.path.strip_prefix(ROOT).unwrap_or(&self.path);
        let manager = Manager::new(ROOT.into(), below.into()).map_err(|e| failed(&e))?;
        let limits = ControllerOpt {
            resources,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        };
        manager.apply(&limits).map_err(|e| failed(&e))
    }

    /// Kills what is left in the group and removes it, with those below it.
    ///
    /// # Errors
    /// It did not empty in time, or the kernel refuses.
    pub fn remove(&self) -> Result<(), CgroupError> {
        match self.kill() {
            Err(CgroupError::Write { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            killed => killed?,
        }
        self.wait_for("populated 0")?;
        remove_tree(&self.path, &mut 0)
    }

    fn wait_for(&self, event: &'static str) -> Result<(), CgroupError> {
        let path = self.path.join("cgroup.events");
        let failed = |source| CgroupError::Read {
            path: path.clone(),
            source,
        };
        let mut file = File::open(&path).map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        let mut text = String::new();
        loop {
            text.clear();
            file.rewind().map_err(failed)?;
            file.read_to_string(&mut text).map_err(failed)?;
            if text.lines().any(|line| line == event) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CgroupError::Wait { path, event });
            }
            let left = left
                .try_into()
                .map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
            // The kernel tells of a change by POLLPRI, once for each reading.
            poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&left))
                .map_err(|error| failed(error.into()))?;
        }
    }
}

fn remove_tree(path: &Path, looked_at: &mut usize) -> Result<(), CgroupError> {
    *looked_at += 1;
    if *looked_at <= MAX_GROUPS
        && let Ok(entries) = fs::read_dir(path)
    {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove_tree(&entry.path(), looked_at)?;
            }
        }
    }
    match fs::remove_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CgroupError::Remove {
            path: path.into(),
            source,
        }),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Read {
        path: path.into(),
        source,
    })
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|source| CgroupError::Write {
        path: path.into(),
        value: value.into(),
        source,
    })
}

/// `max` is all there can be.
fn number(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or(0),
    }
}

/// The value of `key` in a flat keyed file.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .map_or(0, |(_, value)| number(value))
}

/// The sum of `key` over all devices of `io.stat`.
fn io_sum(text: &str, key: &str) -> u64 {
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(number("12345\n"), 12345);
        assert_eq!(number("max\n"), u64::MAX);
        assert_eq!(number(""), 0);
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(keyed(events, "oom_kill"), 2);
        assert_eq!(keyed(events, "oom_killer"), 0);
        let io = "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n254:0 rbytes=5 wbytes=7 rios=0 wios=0\n";
        assert_eq!((io_sum(io, "rbytes="), io_sum(io, "wbytes=")), (15, 27));
    }

    #[test]
    fn a_group_that_is_not_there() {
        let group = Cgroup {
            path: "/sys/fs/cgroup/containers/none-of-this-name".into(),
        };
        assert!(group.pids().is_err());
        assert!(group.remove().is_ok());
        assert_eq!(group.stats(), StatsResponse::default());
    }
}
