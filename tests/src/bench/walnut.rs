// SPDX-License-Identifier: Apache-2.0
//! The product on the stage: its files, a store of its own, and command lines.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::image;
use super::peers::Boot;
use super::process::{self, ProcessError};
use super::rows::LONG_LIMIT;
use super::stage::{Stage, StageError};

#[derive(Debug, thiserror::Error)]
pub enum WalnutError {
    #[error("{} is not there; run `make build`", .0.display())]
    NotBuilt(PathBuf),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// The files that `make build` stages.
pub const FILES: [&str; 4] = ["walnut", "walnut-vmm", "vmlinux", "guest.erofs"];

/// How a machine is to come up: as it would do by itself depends on what ran before.
pub const COLD: [&str; 2] = ["--start", "cold"];
pub const TEMPLATE: [&str; 2] = ["--start", "template"];

#[derive(Clone, Debug)]
pub struct Walnut {
    directory: PathBuf,
    root: PathBuf,
    state: PathBuf,
}

impl Walnut {
    /// Copies it to the stage and loads the images, by the product's own means.
    ///
    /// # Errors
    /// It isn't built, or can't run a container.
    pub fn new(stage: &Stage, staged: &Path, images: &Path) -> Result<Self, WalnutError> {
        let directory = stage.directory("walnut")?;
        for name in FILES {
            let from = staged.join(name);
            if !from.exists() {
                return Err(WalnutError::NotBuilt(from));
            }
            stage.copy(&from, &format!("walnut/{name}"))?;
        }
        let walnut = Self {
            directory,
            root: stage.path("root"),
            state: stage.path("state"),
        };
        walnut.load(stage, &images.join(format!("{}.tar", image::BUSYBOX)))?;
        Ok(walnut)
    }

    /// Takes an archive's image into the store, by running a container of it.
    ///
    /// # Errors
    /// The archive can't be copied, or the container not be run.
    pub fn load(&self, stage: &Stage, archive: &Path) -> Result<(), WalnutError> {
        let archive = stage.copy(archive, "loading.tar")?;
        let from = format!("docker-archive:{}", archive.display());
        let command = &mut self.run(&["--rm"], &[&from, "true"]);
        process::run("walnut run docker-archive:…", command, LONG_LIMIT)?;
        Ok(())
    }

    #[must_use]
    pub fn monitor(&self) -> PathBuf {
        self.file("walnut-vmm")
    }

    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The monitor alone, its guest's console on stdout.
    #[must_use]
    pub fn boot(&self, boot: &Boot) -> Command {
        let mut command = Command::new(self.monitor());
        command
            .arg("--kernel")
            .arg(&boot.kernel)
            .arg("--initrd")
            .arg(&boot.initrd);
        command.args(["--memory", &boot.memory_mib.to_string(), "--cpus", "1"]);
        command.args(["--cmdline", &boot.cmdline]);
        command
    }

    /// `walnut run FLAGS IMAGE COMMAND…`
    #[must_use]
    pub fn run(&self, flags: &[&str], image_and_command: &[&str]) -> Command {
        self.run_in(&self.root, flags, image_and_command)
    }

    /// The same with another store.
    #[must_use]
    pub fn run_in(&self, root: &Path, flags: &[&str], image_and_command: &[&str]) -> Command {
        let mut command = self.command_in(root);
        command.arg("run").args(flags).args(image_and_command);
        command
    }

    /// `walnut`, for any verb.
    #[must_use]
    pub fn command(&self) -> Command {
        self.command_in(&self.root)
    }

    /// The store's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The same with another store.
    #[must_use]
    pub fn command_in(&self, root: &Path) -> Command {
        let mut command = Command::new(self.file("walnut"));
        command
            .arg("--root")
            .arg(root)
            .arg("--state")
            .arg(&self.state);
        // The bench's own surroundings are not part of what is measured.
        command
            .env("WALNUT_MAKE_TEMPLATES", "no")
            .env_remove("WALNUT_LIBEXEC")
            .env_remove("WALNUT_LOG");
        command
    }
}
