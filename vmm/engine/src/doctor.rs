// SPDX-License-Identifier: Apache-2.0
//! `walnut doctor`: what this machine can do, and what to do about what it can't.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Access, Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::process::geteuid;
use walnut_protocol::chain;
use walnut_vmm_host::{DEVICE, NO_VIRTUALIZATION, TUN, has_virtualization};

use crate::container::limits::DEFAULT_MEMORY_MIB;
use crate::network;
use crate::paths::{Artifacts, PathError, Paths};
use crate::storage::disk;
use crate::units::{GIB, MIB, human_size};

/// Below this much room a pull is likely to fail.
const LOW_ROOM: u64 = GIB;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It works, but not as well as it could.
    Weak,
    /// Containers can't run.
    Bad,
}

struct Finding {
    verdict: Verdict,
    subject: &'static str,
    text: String,
}

fn finding(verdict: Verdict, subject: &'static str, text: impl Into<String>) -> Finding {
    Finding {
        verdict,
        subject,
        text: text.into(),
    }
}

/// Prints all findings; 1 if something that is needed is missing.
///
/// # Errors
/// Standard output is gone.
pub fn run(paths: &Paths) -> anyhow::Result<u8> {
    let mut findings = vec![version()];
    findings.extend(kvm_findings());
    findings.extend(files());
    findings.push(state(paths));
    findings.push(room(&paths.root));
    findings.push(mkfs());
    findings.push(passt());
    findings.push(bridge());
    findings.push(tap());
    findings.push(memory());
    findings.push(cgroups());
    // Nothing comes after it: this process is in another namespace then.
    findings.extend(user_namespaces());
    let mut out = std::io::stdout().lock();
    for found in &findings {
        let mark = match found.verdict {
            Verdict::Good => "ok",
            Verdict::Weak => "--",
            Verdict::Bad => "NO",
        };
        writeln!(out, "{mark}  {:<9} {}", found.subject, found.text)?;
    }
    Ok(u8::from(
        findings.iter().any(|found| found.verdict == Verdict::Bad),
    ))
}

fn version() -> Finding {
    let kernel = rustix::system::uname();
    let release = kernel.release().to_string_lossy().into_owned();
    let text = format!("{} on Linux {release}", env!("CARGO_PKG_VERSION"));
    finding(Verdict::Good, "walnut", text)
}

fn kvm_findings() -> Vec<Finding> {
    let mut findings = Vec::new();
    if has_virtualization() {
        findings.push(finding(
            Verdict::Good,
            "processor",
            "has virtualization (vmx or svm)",
        ));
    } else {
        findings.push(finding(Verdict::Bad, "processor", NO_VIRTUALIZATION));
    }
    findings.push(match walnut_vmm_host::open() {
        Ok(kvm) => {
            let vcpus = kvm.get_max_vcpus();
            let text = format!("{DEVICE} opens, up to {vcpus} vCPUs a machine");
            finding(Verdict::Good, "kvm", text)
        }
        Err(e) => finding(Verdict::Bad, "kvm", chain(&e)),
    });
    findings
}

fn files() -> Vec<Finding> {
    let dir = match Artifacts::dir() {
        Ok(dir) => dir,
        Err(e) => return vec![finding(Verdict::Bad, "files", chain(&e))],
    };
    [Artifacts::MONITOR, Artifacts::KERNEL, Artifacts::GUEST]
        .into_iter()
        .map(|name| {
            let path = dir.join(name);
            match fs::metadata(&path) {
                Ok(meta) => {
                    let text = format!("{} ({})", path.display(), human_size(meta.len()));
                    finding(Verdict::Good, "file", text)
                }
                Err(e) => {
                    let text = format!("{}: {e}; `make build` makes it", path.display());
                    finding(Verdict::Bad, "file", text)
                }
            }
        })
        .collect()
}

fn passt() -> Finding {
    let (is_good, text) = network::diagnosis();
    let verdict = if is_good {
        Verdict::Good
    } else {
        Verdict::Weak
    };
    finding(verdict, "network", text)
}

fn bridge() -> Finding {
    let (is_there, text) = match (network::bridge::installed(), geteuid().is_root()) {
        (true, true) => (true, "nft is there, for --network bridge"),
        (true, false) => (true, "nft is there: root can have --network bridge"),
        (false, _) => (
            false,
            "there is no nft, so no --network bridge; install the package nftables",
        ),
    };
    let verdict = if is_there {
        Verdict::Good
    } else {
        Verdict::Weak
    };
    finding(verdict, "bridge", text)
}

fn tap() -> Finding {
    match rustix::fs::open(TUN, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => {
            let text = format!("{TUN} opens, for --network tap:NAME and bridge");
            finding(Verdict::Good, "tap", text)
        }
        Err(error) => {
            let text = format!(
                "{TUN}: {error}, so no --network tap:NAME and bridge; as root: `modprobe tun`, and \
                 `chmod 666 {TUN}` where users shall have it"
            );
            finding(Verdict::Weak, "tap", text)
        }
    }
}

fn state(paths: &Paths) -> Finding {
    match paths.ensure_state() {
        Ok(()) => finding(Verdict::Good, "state", paths.state.display().to_string()),
        Err(e @ PathError::Foreign { .. }) => finding(Verdict::Bad, "state", chain(&e)),
        Err(e) => {
            let text = format!("{}; --state DIR names another place", chain(&e));
            finding(Verdict::Bad, "state", text)
        }
    }
}

/// On the file system that the store is on, or will be.
fn room(root: &Path) -> Finding {
    const ELSEWHERE: &str = "--root DIR names another place";
    let existing = root
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("/"));
    let writable = rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK);
    let stat = match writable.and_then(|()| rustix::fs::statvfs(existing)) {
        Ok(stat) => stat,
        Err(e) => {
            let text = format!("{}: {e}; {ELSEWHERE}", existing.display());
            return finding(Verdict::Bad, "store", text);
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let text = format!("{}, {} free", root.display(), human_size(free));
    if free < LOW_ROOM {
        let text = format!("{text}: little for images; make room, or {ELSEWHERE}");
        return finding(Verdict::Weak, "store", text);
    }
    finding(Verdict::Good, "store", text)
}

fn mkfs() -> Finding {
    let found = Command::new(disk::mkfs_program())
        .arg("-V")
        .stdin(Stdio::null())
        .output();
    if found.is_ok() {
        return finding(
            Verdict::Good,
            "mkfs.ext4",
            "is there, for containers run without --rm",
        );
    }
    let text = "is missing, so containers need --rm; `apt-get install e2fsprogs` brings it";
    finding(Verdict::Weak, "mkfs.ext4", text)
}

/// A machine takes what its container touches, up to its size.
fn memory() -> Finding {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(available) = available_memory(&meminfo) else {
        let text = "/proc/meminfo does not tell what is available; mount /proc";
        return finding(Verdict::Weak, "memory", text);
    };
    let text = format!("{} available", human_size(available));
    if available < u64::from(DEFAULT_MEMORY_MIB) * MIB {
        let text = format!(
            "{text}, less than a container's default ({DEFAULT_MEMORY_MIB} MiB); end something, or \
             give less by --memory"
        );
        return finding(Verdict::Weak, "memory", text);
    }
    finding(Verdict::Good, "memory", text)
}

fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Limits inside a container are its own kernel's; those on whole machines are the host's.
fn cgroups() -> Finding {
    const PLACE: &str = "/sys/fs/cgroup";
    /// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
    const CGROUP2: i64 = 0x6367_7270;
    if rustix::fs::statfs(PLACE).is_ok_and(|stat| stat.f_type == CGROUP2) {
        return finding(Verdict::Good, "cgroup", format!("version 2 at {PLACE}"));
    }
    let text = format!(
        "no version 2 at {PLACE}: containers have their limits, but a service manager can set none \
         for their machines; boot with systemd.unified_cgroup_hierarchy=1"
    );
    finding(Verdict::Weak, "cgroup", text)
}

/// Without root, the monitor mounts volumes in a user namespace. Leaves this process in one.
fn user_namespaces() -> Option<Finding> {
    if geteuid().is_root() {
        return None;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    let made = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(io::Error::from)
        .and_then(|()| Ok(rustix::mount::mount_change("/", private)?));
    Some(match made {
        Ok(()) => finding(Verdict::Good, "userns", "may be made, for -v and --rootfs"),
        Err(e) => {
            let text = format!(
                "may not be made ({e}), so -v and --rootfs need root; as root: `sysctl -w \
                 user.max_user_namespaces=65536`, and where these exist \
                 kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0"
            );
            finding(Verdict::Weak, "userns", text)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_in_bytes() {
        let meminfo = "MemTotal:       4000 kB\nMemAvailable:   1000 kB\nBuffers: 1 kB\n";
        assert_eq!(available_memory(meminfo), Some(1_024_000));
        for bad in [
            "",
            "MemAvailable: x kB",
            "MemAvailable: 18446744073709551615 kB",
        ] {
            assert_eq!(available_memory(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_store_that_cannot_be_is_told_what_to_do() {
        // Root may write there, in principle; there is no room at all.
        let found = room(Path::new("/proc/walnut"));
        assert_ne!(found.verdict, Verdict::Good);
        assert!(found.text.contains("--root DIR"), "{}", found.text);
        assert_ne!(room(Path::new("/tmp/new/deep")).verdict, Verdict::Bad);
    }
}
