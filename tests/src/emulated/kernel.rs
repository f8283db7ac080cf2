// SPDX-License-Identifier: Apache-2.0
//! The host kernel: Debian's, downloaded and unpacked into the cache, not installed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::place;

/// In this order, the first that the package sources know. Both depend on the real package.
const META_PACKAGES: [&str; 2] = ["linux-image-6.12-amd64", "linux-image-amd64"];

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("can't run {program}")]
    Spawn { program: String, source: io::Error },
    #[error("{command} failed: {message}")]
    Command { command: String, message: String },
    #[error("no package source knows {} (is `apt-get update` due?)", META_PACKAGES.join(" or "))]
    NoPackage,
    #[error("the kernel package {package} holds no {what}")]
    Incomplete { package: String, what: &'static str },
    #[error("can't prepare the host kernel in {}", path.display())]
    Cache { path: PathBuf, source: io::Error },
}

/// A kernel and its modules, unpacked.
#[derive(Debug)]
pub(super) struct HostKernel {
    pub(super) vmlinuz: PathBuf,
    /// `…/lib/modules/<release>`.
    pub(super) modules: PathBuf,
}

/// The newest kernel in the cache, or else the one that the package sources have now.
pub(super) fn host_kernel() -> Result<HostKernel, KernelError> {
    let cache = place::cache().join("host-kernel");
    let in_cache = |source| KernelError::Cache {
        path: cache.clone(),
        source,
    };
    let _lock = place::lock(&cache).map_err(in_cache)?;
    if let Some(found) = newest(&cache).map_err(in_cache)? {
        return look_into(&found);
    }
    let package = resolve()?;
    let work = tempfile::Builder::new()
        .prefix("tmp.")
        .tempdir_in(&cache)
        .map_err(in_cache)?;
    eprintln!("emulated host: downloading {package} (once)");
    let unpacked = work.path().join("root");
    output(
        Command::new("apt-get")
            .args(["-q", "download", &package])
            .current_dir(&work),
    )?;
    let archive = only_deb(work.path(), &package).map_err(in_cache)?;
    output(
        Command::new("dpkg-deb")
            .arg("-x")
            .args([archive.as_os_str(), unpacked.as_os_str()]),
    )?;
    // For modprobe inside; without it everything that was loaded up front still works.
    let release = look_into(&unpacked)?.modules;
    if let Some(release) = release.file_name() {
        let base: [&OsStr; 3] = [OsStr::new("-b"), unpacked.as_os_str(), release];
        output(Command::new("depmod").args(base))?;
    }
    let published = cache.join(&package);
    fs::rename(&unpacked, &published).map_err(in_cache)?;
    look_into(&published)
}

fn newest(cache: &Path) -> io::Result<Option<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir(cache)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("linux-"))
        })
        .collect();
    found.sort_by_key(|path| fs::metadata(path).and_then(|m| m.modified()).ok());
    Ok(found.pop())
}

/// The meta package's dependency that is the kernel itself.
fn resolve() -> Result<String, KernelError> {
    for meta in META_PACKAGES {
        let Ok(text) = output(Command::new("apt-cache").args(["depends", meta])) else {
            continue;
        };
        if let Some(package) = parse_depends(&text) {
            return Ok(package);
        }
    }
    Err(KernelError::NoPackage)
}

fn parse_depends(text: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-") && !name.contains("unsigned"))
        .map(Into::into)
}

fn only_deb(directory: &Path, package: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("deb")) {
            return Ok(path);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("apt-get download left no {package}"),
    ))
}

fn look_into(root: &Path) -> Result<HostKernel, KernelError> {
    let incomplete = |what| KernelError::Incomplete {
        package: root.display().to_string(),
        what,
    };
    let first = |directory: PathBuf, prefix: &str| {
        fs::read_dir(directory)
            .ok()?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            })
    };
    let vmlinuz =
        first(root.join("boot"), "vmlinuz-").ok_or_else(|| incomplete("boot/vmlinuz-*"))?;
    // Debian moved /lib to /usr/lib.
    let modules = first(root.join("lib/modules"), "")
        .or_else(|| first(root.join("usr/lib/modules"), ""))
        .ok_or_else(|| incomplete("lib/modules"))?;
    Ok(HostKernel { vmlinuz, modules })
}

/// Runs a command and returns its stdout.
pub(super) fn output(command: &mut Command) -> Result<String, KernelError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .output()
        .map_err(|source| KernelError::Spawn { program, source })?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&done.stderr)
        .trim()
        .replace('\n', "; ");
    Err(KernelError::Command {
        command: format!("{command:?}"),
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_real_package_behind_the_meta_package() {
        let text = "linux-image-6.12-amd64\n  Depends: linux-image-6.12.9-amd64\n  Suggests: x\n";
        assert_eq!(
            parse_depends(text).as_deref(),
            Some("linux-image-6.12.9-amd64")
        );
        assert_eq!(parse_depends("x\n  Depends: <linux-image>\n"), None);
    }
}
