// SPDX-License-Identifier: Apache-2.0
//! A store and a state directory that belong to one test.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::program::Program;
use crate::{kvm, place};

/// One test's `walnut`: staged binaries, a store of its own that vanishes with it.
pub struct Home {
    directory: TempDir,
}

impl Home {
    /// `None` where no VM can run.
    ///
    /// # Panics
    /// When there is no room for a temporary directory.
    #[must_use]
    pub fn new() -> Option<Self> {
        kvm::detect().is_usable().then(Self::without_kvm)
    }

    /// For tests that run no VM.
    ///
    /// # Panics
    /// When there is no room for a temporary directory.
    #[must_use]
    pub fn without_kvm() -> Self {
        let directory = tempfile::Builder::new().prefix("walnut-test.").tempdir();
        Self {
            directory: directory.expect("the temporary directory is writable"),
        }
    }

    /// A directory for the test's own files.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `walnut --root … --state … ARGS`.
    #[must_use]
    pub fn walnut(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        let (root, state) = (self.root(), self.state());
        let own: [OsString; 4] = [
            "--root".into(),
            root.clone().into(),
            "--state".into(),
            state.clone().into(),
        ];
        Program::new(place::staged().join("walnut"))
            .args(own)
            .args(args)
            .logs_in([root, state])
    }

    /// `walnut-vmm ARGS`.
    #[must_use]
    pub fn vmm(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        Program::new(place::staged().join("walnut-vmm")).args(args)
    }

    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// `oci-archive:…/busybox.tar`.
    #[must_use]
    pub fn busybox(&self) -> String {
        format!(
            "oci-archive:{}",
            place::test_images().join("busybox.tar").display()
        )
    }

    /// Processes and mounts that know this test's directory: what a run left behind.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let own = self.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounts = mounts
            .lines()
            .filter(|line| line.contains(&own))
            .map(|l| format!("mount {l}"));
        let processes = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        let processes = processes.filter_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(&own)
                .then(|| format!("process {} {line}", entry.file_name().to_string_lossy()))
        });
        mounts.chain(processes).collect()
    }

    /// # Panics
    /// When something was left behind.
    pub fn assert_clean(&self) {
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}
