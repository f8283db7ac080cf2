// SPDX-License-Identifier: Apache-2.0
//! The machine's document: what the monitor is told to build.

use std::iter;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use walnut_vmm_config::{
    Console, DiskConfig, FsConfig, NetConfig, PmemConfig, SnapshotFiles, VmConfig, VsockConfig,
};

use super::rundir::RunDir;
use crate::checkpoint::Hardware;
use crate::network::MAX_NETWORKS;
use crate::paths::Artifacts;

/// The only guest of its monitor: any number from 3 on does.
const GUEST_CID: u32 = 3;

/// The guest kernel's command line.
///
/// - `quiet`, `loglevel=1`, `earlycon`, `keep_bootcon`: no console driver is set up and, but for a
///   panic's own lines (KERN_EMERG), nothing is printed: each character is two exits. The level
///   comes first: what the kernel has said so far is printed as soon as earlycon is read.
/// - `panic=-1`, `reboot=k`: a panic resets at once, by the keyboard controller that the monitor
///   has for just this.
/// - `tsc=reliable`: no clock-source watchdog; KVM's TSC is.
/// - `random.trust_cpu=on`: the generator is seeded from RDRAND before anything waits for it.
/// - `no_timer_check`, `cryptomgr.notests`: self-tests of hardware that KVM emulates exactly.
/// - `8250.nr_uarts=0`: the driver proper does not probe the port that earlycon uses.
/// - `percpu_alloc=page`: per-CPU memory in pieces of its own size. In the usual ones of 2 MiB, the
///   first container's control groups come with an index of 4 MiB, which is written to whole.
/// - `root=…`: the agent's file system, mapped from the host's page cache.
const CMDLINE: &str = "quiet loglevel=1 earlycon=uart8250,io,0x3f8 keep_bootcon panic=-1 reboot=k \
     tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=0 noreplace-smp \
     percpu_alloc=page root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro init=/init";

/// How a machine comes to its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The kernel boots.
    Boot,
    /// The kernel boots, and the machine is to become a template.
    BootTemplate,
    /// A template's memory and state.
    Template(SnapshotFiles),
    /// As [`Self::Template`], of a template that is being made.
    TryTemplate(SnapshotFiles),
    /// A checkpoint's memory and state, and what the machine is to have again.
    Checkpoint {
        files: SnapshotFiles,
        hardware: Hardware,
        /// Host ports of the connections that are taken up.
        resumed: Vec<u32>,
    },
}

impl Origin {
    /// What it starts from, if it does not boot.
    pub(super) fn snapshot(&self) -> Option<SnapshotFiles> {
        match self {
            Self::Boot | Self::BootTemplate => None,
            Self::Template(files) => Some(files.clone()),
            Self::TryTemplate(files) => Some(SnapshotFiles {
                working_set: None,
                ..files.clone()
            }),
            Self::Checkpoint { files, .. } => Some(files.clone()),
        }
    }
}

/// Descriptors that the monitor inherits, by number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inherited {
    pub lifeline: i32,
    pub report: i32,
    pub control: i32,
}

/// What differs from machine to machine.
#[derive(Debug)]
pub struct Machine {
    pub cpus: u8,
    pub memory_mib: u32,
    pub disks: Vec<DiskConfig>,
    /// `/dev/pmem1`, behind the guest's root.
    pub image: Option<PmemConfig>,
    /// Bytes that a template has for the image: setting up the device that holds it would cost each
    /// clone more than all others together.
    pub image_room: u64,
    pub fs: Vec<FsConfig>,
    pub net: Vec<NetConfig>,
    /// Behind all other devices.
    pub late_net: Vec<NetConfig>,
    /// What they name by its number, for the monitor to inherit.
    pub inherited: Vec<OwnedFd>,
}

impl Machine {
    pub(super) fn config(
        &self,
        artifacts: &Artifacts,
        dir: &RunDir,
        origin: &Origin,
        inherited: Inherited,
    ) -> VmConfig {
        let guest = PmemConfig {
            path: artifacts.guest.clone(),
            room: None,
            prefault: true,
        };
        let image = match origin {
            Origin::Boot => self.image.clone(),
            Origin::Checkpoint { hardware, .. } => hardware.image.clone(),
            // Where there is no image, anything that all may read will do.
            _ => Some(PmemConfig {
                room: Some(self.image_room),
                ..self.image.clone().unwrap_or_else(|| PmemConfig {
                    prefault: false,
                    ..guest.clone()
                })
            }),
        };
        let (hardware, resumed) = match origin {
            Origin::Checkpoint {
                hardware, resumed, ..
            } => (Some(hardware), resumed.as_slice()),
            _ => (None, &[][..]),
        };
        VmConfig {
            kernel: artifacts.kernel.clone(),
            initrd: None,
            cmdline: match origin {
                Origin::Boot => cmdline(),
                Origin::BootTemplate => template_cmdline(),
                _ => String::new(),
            },
            cpus: hardware.map_or(self.cpus, |hardware| hardware.cpus),
            memory_mib: hardware.map_or(self.memory_mib, |hardware| hardware.memory_mib),
            console: Console::File(console(dir)),
            vsock: Some(VsockConfig {
                socket: dir.vsock(),
                guest_cid: GUEST_CID,
                resumed: resumed.to_vec(),
            }),
            disks: self.disks.clone(),
            pmem: iter::once(guest).chain(image).collect(),
            fs: self.fs.clone(),
            net: self.net.clone(),
            late_net: self.late_net.clone(),
            spare_slots: match origin {
                Origin::BootTemplate => u32::MAX,
                // For networks that the container gets while it runs: of a place, the kernel reads three
                // registers.
                _ => u32::from(MAX_NETWORKS) - 1,
            },
            restore: origin.snapshot(),
            control_fd: Some(inherited.control),
            lifeline_fd: Some(inherited.lifeline),
            report_fd: Some(inherited.report),
        }
    }
}

fn console(dir: &RunDir) -> PathBuf {
    dir.console()
}

/// With `WALNUT_LOG=debug` or more, the kernel and the agent tell the console all they have.
fn cmdline() -> String {
    if log::log_enabled!(log::Level::Debug) {
        return format!(
            "{} ignore_loglevel walnut.debug",
            CMDLINE.replace("quiet loglevel=1 ", "")
        );
    }
    CMDLINE.to_owned()
}

/// Templates are for machines without a debug log: what is told of their start was told once.
pub fn template_cmdline() -> String {
    format!("{CMDLINE} walnut.template")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_fits_the_kernels_buffer() {
        // COMMAND_LINE_SIZE is 2048; each device appends about 40 bytes.
        assert!(CMDLINE.len() < 1024 && !CMDLINE.contains("  "));
    }
}
