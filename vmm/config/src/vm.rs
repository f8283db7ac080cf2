// SPDX-License-Identifier: Apache-2.0
//! One virtual machine, described.
//!
//! Paths are the monitor's to open, before it gives up the right to open anything else.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::NetConfig;

/// Most vCPUs a machine may have; the guest kernel's `CONFIG_NR_CPUS`.
pub const MAX_CPUS: u8 = 32;

/// Least guest memory, in MiB, in which the guest kernel and the agent come up.
pub const MIN_MEMORY_MIB: u32 = 64;

/// A whole machine. Unknown fields are refused, so that a newer engine and an older monitor find
/// out about each other at once.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// `vmlinux` (ELF with a PVH note) or a `bzImage`.
    pub kernel: PathBuf,
    /// Loaded as it is; the kernel unpacks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line; the monitor appends one `virtio_mmio.device=` per device.
    pub cmdline: String,
    /// 1 to [`MAX_CPUS`].
    pub cpus: u8,
    pub memory_mib: u32,
    #[serde(default)]
    pub console: Console,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockConfig>,
    /// virtio-blk devices: `/dev/vda`, `/dev/vdb`, … in this order.
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
    /// virtio-pmem devices: `/dev/pmem0`, … in this order. Always read-only.
    #[serde(default)]
    pub pmem: Vec<PmemConfig>,
    /// virtio-fs devices, one worker thread each.
    #[serde(default)]
    pub fs: Vec<FsConfig>,
    /// Empty places that the guest's kernel is told of, at most: devices that come later, or that a
    /// machine has which is restored from this one's snapshot, are there.
    #[serde(default)]
    pub spare_slots: u32,
    /// Starts where another machine's snapshot was taken, instead of booting `kernel`. That machine
    /// had the same CPUs, memory and first devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<SnapshotFiles>,
    /// A unix socket (`SOCK_SEQPACKET`) on which [`crate::Command`]s are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_fd: Option<RawFd>,
    /// virtio-net devices: `eth0`, `eth1`, … in this order.
    #[serde(default)]
    pub net: Vec<NetConfig>,
    /// More of them, behind all other devices: those that a machine gets while it runs are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late_net: Vec<NetConfig>,
    /// When this descriptor (the read end of a pipe that the parent holds) reaches EOF, the
    /// monitor ends: no machine outlives the process that asked for it. It is killed when the thread
    /// ends that started it, too, which that process must keep for as long as it wants the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifeline_fd: Option<RawFd>,
    /// Where [`crate::Report`]s go, one JSON object a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_fd: Option<RawFd>,
}

/// What [`crate::Command::Snapshot`] wrote.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SnapshotFiles {
    /// Guest memory, without what is zero: mapped, never written to.
    pub memory: PathBuf,
    /// Everything else.
    pub state: PathBuf,
    /// What [`crate::Command::WorkingSet`] wrote: made ready for the guest before it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_set: Option<PathBuf>,
}

/// Where the bytes of the 16550 at `0x3f8` go, and where its input comes from.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Console {
    /// Output to the monitor's stdout, input from its stdin.
    #[default]
    Stdio,
    /// Output to this file, which never grows beyond 1 MiB; no input.
    File(PathBuf),
}

/// A virtio-vsock device whose host side is unix sockets.
///
/// The host connects to `socket` and sends `CONNECT <port>\n`; the monitor answers `OK <port>\n`
/// and from then on the stream is the guest's listener on `port`. A connection that the guest opens
/// to CID 2, port `P`, arrives at the unix socket `<socket>_<P>`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    pub socket: PathBuf,
    /// The guest's CID, 3 or more.
    pub guest_cid: u32,
    /// Host ports of the snapshot's connections that are taken up again, each by a connection to
    /// `socket` that begins with `RESUME <port>\n`. All others are reset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<u32>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// A raw image, a multiple of 512 bytes long.
    pub path: PathBuf,
    #[serde(default)]
    pub readonly: bool,
    /// What `VIRTIO_BLK_T_GET_ID` answers; at most 20 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PmemConfig {
    /// A raw image of any length; the guest sees it padded with zeros to 2 MiB.
    pub path: PathBuf,
    /// The guest sees a device of this many bytes, zeros behind the image; a multiple of 2 MiB. A
    /// larger image is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<u64>,
    /// All of it is in the guest's page tables from the start, in huge pages where its file system has
    /// them: for a small image of which the guest needs most at once.
    #[serde(default)]
    pub prefault: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FsConfig {
    /// What the guest mounts by; at most 36 bytes.
    pub tag: String,
    pub source: FsSource,
    #[serde(default)]
    pub owner: Owner,
}

/// Whose the caller's files are in the guest, where the monitor is not root's: it can be nobody else
/// on the host, and so translates. Root's monitor leaves every number as it is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// What a virtio-fs device shows.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FsSource {
    /// One directory, as it is.
    Directory(PathBuf),
    /// A directory of the monitor's own, in which each volume is bind-mounted under its name.
    Volumes(Vec<Volume>),
}

/// One entry of [`FsSource::Volumes`]: a directory or a file of the host.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// One path component.
    pub name: String,
    pub source: PathBuf,
    /// Enforced by the host kernel: the bind mount itself is read-only.
    #[serde(default)]
    pub readonly: bool,
}
