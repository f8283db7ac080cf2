// SPDX-License-Identifier: Apache-2.0
//! `walnut doctor`: what this machine can do, and what to do about what it can't.

use std::fs;
use std::io::Write;
use std::path::Path;

use walnut_vmm_host::{DEVICE, NO_VIRTUALIZATION, has_virtualization};

use crate::paths::{Artifacts, Paths};
use crate::units::{GIB, human_size};

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
