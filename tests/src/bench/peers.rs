// SPDX-License-Identifier: Apache-2.0
//! What else this machine has for the same work: QEMU's microvm, crun, runc, podman.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::image;
use super::process::{self, ProcessError};
use super::rows::{LIMIT, LONG_LIMIT};
use super::stage::{Program, Stage, StageError};

#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("the bench has no root here")]
    NoRoot,
    #[error("no kernel and no initramfs to boot")]
    NothingToBoot,
    #[error("{name} wrote a bundle that makes no sense")]
    Bundle { name: &'static str },
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Each peer, or why it can't take part.
#[derive(Debug)]
pub struct Peers {
    pub qemu: Result<Qemu, PeerError>,
    pub crun: Result<Runtime, PeerError>,
    pub runc: Result<Runtime, PeerError>,
    pub podman: Result<Podman, PeerError>,
}

impl Peers {
    /// Copies to the stage what is there.
    #[must_use]
    pub fn new(stage: &Stage, images: &Path) -> Self {
        Self {
            qemu: Qemu::new(stage),
            crun: Runtime::new(stage, "crun", images),
            runc: Runtime::new(stage, "runc", images),
            podman: Podman::new(stage, images),
        }
    }

    /// The first line of each one's `--version`.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<String, String> {
        let programs = [
            ("qemu", self.qemu.as_ref().map(|peer| &peer.program)),
            ("crun", self.crun.as_ref().map(|peer| &peer.program)),
            ("runc", self.runc.as_ref().map(|peer| &peer.program)),
            ("podman", self.podman.as_ref().map(|peer| &peer.program)),
        ];
        let found = programs.into_iter().filter_map(|(name, program)| {
            let done = process::run(name, program.ok()?.command().arg("--version"), LIMIT).ok()?;
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            Some((name.into(), text.lines().next()?.into()))
        });
        found.collect()
    }
}

#[derive(Clone, Debug)]
pub struct Qemu {
    program: Program,
    firmware: PathBuf,
}

/// Where distributions put qboot, microvm's firmware.
const FIRMWARE: [&str; 2] = [
    "/usr/share/qemu/bios-microvm.bin",
    "/usr/share/qemu/qboot.rom",
];

impl Qemu {
    fn new(stage: &Stage) -> Result<Self, PeerError> {
        let program = stage.program("qemu-system-x86_64")?;
        let firmware = FIRMWARE
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
            .ok_or_else(|| StageError::Missing {
                name: "microvm's firmware".into(),
            })?;
        let firmware = stage.copy(firmware, "microvm.bin")?;
        Ok(Self { program, firmware })
    }

    /// The leanest machine that it has: no ACPI, no PCI, none of the PC's old devices but a serial
    /// port for the guest's first words.
    ///
    /// Without XSAVE: KVM doesn't see a guest's XCR0 on a host that doesn't intercept XSETBV (the
    /// emulated one), and the guest's kernel then loses time in warnings. The boot uses none of it.
    #[must_use]
    pub fn command(&self, boot: &Boot) -> Command {
        let mut command = self.machine(boot, "off");
        command.arg("-initrd").arg(&boot.initrd);
        command
    }

    /// The same with a disk as its root, and whatever else the caller gives it: the command line says
    /// where the devices are.
    #[must_use]
    pub fn with_root(&self, boot: &Boot, image: &Path) -> Command {
        let mut command = self.machine(boot, "on");
        let drive = format!(
            "file={},if=none,id=root,format=raw,readonly=on",
            image.display()
        );
        command.args(["-drive", &drive]);
        command.args(["-device", "virtio-blk-device,drive=root"]);
        command
    }

    fn machine(&self, boot: &Boot, devices: &str) -> Command {
        const MACHINE: &str =
            "microvm,acpi=off,pit=off,pic=off,rtc=off,x-option-roms=off,auto-kernel-cmdline";
        let mut command = self.program.command();
        command
            .args([
                "-M",
                &format!("{MACHINE}={devices}"),
                "-accel",
                "kvm",
                "-cpu",
                "host,-xsave",
                "-smp",
                "1",
            ])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-serial", "stdio", "-m", &boot.memory_mib.to_string()])
            .arg("-bios")
            .arg(&self.firmware)
            .arg("-kernel")
            .arg(&boot.kernel)
            .args(["-append", &boot.cmdline]);
        command
    }
}

/// What a bare monitor is to boot.
#[derive(Clone, Debug)]
pub struct Boot {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub cmdline: String,
    pub memory_mib: u32,
}

/// A low-level OCI runtime with the busybox root file system.
#[derive(Clone, Debug)]
pub struct Runtime {
    name: &'static str,
    program: Program,
    directory: PathBuf,
    spec: serde_json::Value,
}

impl Runtime {
    fn new(stage: &Stage, name: &'static str, images: &Path) -> Result<Self, PeerError> {
        let program = stage.program(name)?;
        if !rustix::process::geteuid().is_root() {
            return Err(PeerError::NoRoot);
        }
        let directory = stage.directory(name)?;
        process::run(
            name,
            program.command().arg("spec").arg("-b").arg(&directory),
            LIMIT,
        )?;
        let rootfs = rootfs(stage, images)?;
        let spec = fs::read(directory.join("config.json")).ok();
        let spec = spec.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let mut spec = spec.ok_or(PeerError::Bundle { name })?;
        spec["process"]["terminal"] = json!(false);
        spec["root"] = json!({ "path": rootfs, "readonly": false });
        Ok(Self {
            name,
            program,
            directory,
            spec,
        })
    }

    /// A bundle for this command.
    ///
    /// # Errors
    /// It can't be written.
    pub fn bundle(&self, stage: &Stage, id: &str, args: &[&str]) -> Result<PathBuf, PeerError> {
        let mut spec = self.spec.clone();
        spec["process"]["args"] = json!(args);
        let bundle = stage.directory(&format!("{}/{id}", self.name))?;
        stage.write(&format!("{}/{id}/config.json", self.name), spec.to_string())?;
        Ok(bundle)
    }

    /// Runs a bundle. Each container has a name of its own.
    #[must_use]
    pub fn command(&self, bundle: &Path, container: &str) -> Command {
        let mut command = self.program.command();
        command.arg("--root").arg(self.directory.join("state"));
        if self.name == "crun" {
            command.arg("--cgroup-manager=cgroupfs");
        }
        command.args(["run", "--bundle"]).arg(bundle).arg(container);
        command
    }
}

/// The busybox image's files, unpacked once for both runtimes.
fn rootfs(stage: &Stage, images: &Path) -> Result<PathBuf, PeerError> {
    let rootfs = stage.path("rootfs");
    if !rootfs.exists() {
        stage.directory("rootfs")?;
        let mut tar = Command::new("tar");
        tar.arg("-xf")
            .arg(images.join(image::ROOTFS))
            .arg("-C")
            .arg(&rootfs);
        process::run("tar", &mut tar, LIMIT)?;
    }
    Ok(rootfs)
}

/// podman with a store of its own, without a network.
#[derive(Clone, Debug)]
pub struct Podman {
    program: Program,
    runtime: Option<Program>,
    conmon: Program,
    directory: PathBuf,
}

impl Podman {
    fn new(stage: &Stage, images: &Path) -> Result<Self, PeerError> {
        let program = stage.program("podman")?;
        let conmon = stage.program("conmon")?;
        let runtime = stage.program("crun").ok();
        let directory = stage.directory("podman")?;
        let podman = Self {
            program,
            runtime,
            conmon,
            directory,
        };
        podman.load(&images.join(format!("{}.tar", image::BUSYBOX)))?;
        Ok(podman)
    }

    /// # Errors
    /// podman doesn't take the archive.
    pub fn load(&self, archive: &Path) -> Result<(), PeerError> {
        let mut command = self.command();
        command.arg("load").arg("-i").arg(archive);
        process::run("podman load", &mut command, LONG_LIMIT)?;
        Ok(())
    }

    /// `podman` with all that keeps it on the stage.
    #[must_use]
    pub fn command(&self) -> Command {
        self.command_in(&self.directory)
    }

    /// The same with another store.
    #[must_use]
    pub fn command_in(&self, directory: &Path) -> Command {
        let mut command = self.program.command();
        for (flag, name) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            command.arg(flag).arg(directory.join(name));
        }
        command.args([
            "--storage-driver",
            "overlay",
            "--cgroup-manager",
            "cgroupfs",
        ]);
        command
            .args(["--events-backend", "none"])
            .arg("--conmon")
            .arg(&self.conmon.path);
        if let Some(runtime) = &self.runtime {
            command.arg("--runtime").arg(&runtime.path);
        }
        command
    }

    /// `podman run --rm FLAGS IMAGE COMMAND…`
    #[must_use]
    pub fn run(&self, flags: &[&str], image_and_command: &[&str]) -> Command {
        let mut command = self.command();
        command.args(["run", "--rm", "--network", "none", "--log-driver", "none"]);
        command.args(flags).args(image_and_command);
        command
    }
}
