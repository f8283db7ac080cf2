// SPDX-License-Identifier: Apache-2.0
//! `walnut doctor`: what this machine can do, and what to do about what it can't.

use std::fs;
use std::io::Write;
use std::path::Path;

use kvm_ioctls::{Cap, Kvm};

use crate::kvm;
use crate::paths::{Artifacts, Paths};
use crate::units::{GIB, human_size};

/// The only version there is since Linux 2.6.22 (KVM api.rst, `KVM_GET_API_VERSION`).
const API_VERSION: i32 = 12;
/// What the monitor can't do without.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
];
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
    if kvm::has_virtualization() {
        findings.push(finding(
            Verdict::Good,
            "processor",
            "has virtualization (vmx or svm)",
        ));
    } else {
        findings.push(finding(Verdict::Bad, "processor", kvm::NO_VIRTUALIZATION));
    }
    if let Err(e) = kvm::open() {
        findings.push(finding(Verdict::Bad, "kvm", chain(&e)));
        return findings;
    }
    match Kvm::new() {
        Ok(kvm) => findings.push(api(&kvm)),
        Err(e) => findings.push(finding(
            Verdict::Bad,
            "kvm",
            format!("open {}: {e}", kvm::DEVICE),
        )),
    }
    findings
}

fn api(kvm: &Kvm) -> Finding {
    let version = kvm.get_api_version();
    if version != API_VERSION {
        let text = format!("API version {version}, not {API_VERSION}");
        return finding(Verdict::Bad, "kvm", text);
    }
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(cap, _)| !kvm.check_extension(*cap))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        return finding(Verdict::Bad, "kvm", format!("lacks {}", missing.join(", ")));
    }
    let text = format!(
        "{} opens, up to {} vCPUs a machine",
        kvm::DEVICE,
        kvm.get_max_vcpus()
    );
    finding(Verdict::Good, "kvm", text)
}

fn files() -> Vec<Finding> {
    let dir = match Artifacts::dir() {
        Ok(dir) => dir,
        Err(e) => return vec![finding(Verdict::Bad, "files", chain(&e))],
    };
    [Artifacts::MONITOR, Artifacts::KERNEL, Artifacts::INITRAMFS]
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

fn state(paths: &Paths) -> Finding {
    match paths.ensure_state() {
        Ok(()) => finding(Verdict::Good, "state", paths.state.display().to_string()),
        Err(e) => finding(Verdict::Bad, "state", chain(&e)),
    }
}

/// On the file system that the store is on, or will be.
fn room(root: &Path) -> Finding {
    let existing = root
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let verdict = if free < LOW_ROOM {
                Verdict::Weak
            } else {
                Verdict::Good
            };
            let text = format!("{}, {} free", root.display(), human_size(free));
            finding(verdict, "store", text)
        }
        Err(e) => finding(
            Verdict::Bad,
            "store",
            format!("{}: {e}", existing.display()),
        ),
    }
}

fn mkfs() -> Finding {
    let found = [
        "/usr/sbin/mkfs.ext4",
        "/sbin/mkfs.ext4",
        "/usr/bin/mkfs.ext4",
    ]
    .into_iter()
    .any(|path| Path::new(path).exists());
    if found {
        return finding(
            Verdict::Good,
            "mkfs.ext4",
            "is there, for containers run without --rm",
        );
    }
    let text = "is missing, so containers need --rm; `apt-get install e2fsprogs` brings it";
    finding(Verdict::Weak, "mkfs.ext4", text)
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
