// SPDX-License-Identifier: Apache-2.0
//! The command line: a machine by flags, or a whole configuration by descriptor.

use std::fs::File;
use std::io::Read;
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Parser;
use thiserror::Error;
use walnut_vmm_config::{
    Bucket, Console, DiskConfig, FsConfig, FsSource, MIN_MEMORY_MIB, Mac, NetBackend, NetConfig,
    NetRate, Owner, PmemConfig, Rate, VmConfig, VsockConfig,
};

use crate::run::inherited;

/// A configuration is a page of text, not a book.
const CONFIG_MAX: u64 = 1 << 20;

const EXAMPLES: &str = "Examples:
  walnut-vmm --kernel vmlinux --initrd initramfs.cpio --memory 128 --cpus 1 \\
      --cmdline 'console=ttyS0 reboot=k panic=-1'
  walnut-vmm --kernel vmlinux --disk root.ext4 --cmdline 'console=ttyS0 reboot=k root=/dev/vda'
  walnut-vmm --kernel vmlinux --initrd init.cpio --fs home=/home/me --vsock /tmp/vm.sock";

/// Boot one Linux guest in a KVM microVM.
#[derive(Debug, Parser)]
#[command(name = "walnut-vmm", version, after_help = EXAMPLES)]
pub struct Args {
    /// Read the machine as JSON from this inherited descriptor; no other flag then
    #[arg(long, value_name = "FD", exclusive = true)]
    config_fd: Option<RawFd>,
    /// vmlinux with a PVH note, or a bzImage
    #[arg(long, value_name = "FILE", required_unless_present = "config_fd")]
    kernel: Option<PathBuf>,
    /// Initramfs
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Guest memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(i64::from(MIN_MEMORY_MIB)..))]
    memory: u32,
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=32))]
    cpus: u8,
    /// Kernel command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "console=ttyS0 reboot=k panic=-1"
    )]
    cmdline: String,
    /// A raw disk image, as /dev/vda and so on; `,ro` behind it makes it read-only
    #[arg(long, value_name = "FILE[,ro]")]
    disk: Vec<String>,
    /// A raw image as read-only persistent memory, /dev/pmem0 and so on
    #[arg(long, value_name = "FILE")]
    pmem: Vec<PathBuf>,
    /// A directory of the host as a virtio-fs with this tag
    #[arg(long, value_name = "TAG=DIR")]
    fs: Vec<String>,
    /// A network interface: a tap of the host, or the socket of a passt; `rate` and `ops` bound the
    /// bytes and frames of a second, each way
    #[arg(
        long,
        value_name = "tap=NAME|passt=SOCKET[,mac=MAC][,mtu=N][,rate=BYTES][,ops=N]"
    )]
    net: Vec<String>,
    /// The unix socket that stands for the guest's vsock
    #[arg(long, value_name = "SOCKET")]
    vsock: Option<PathBuf>,
    /// The guest's vsock CID
    #[arg(long, value_name = "CID", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(3..))]
    cid: u32,
    /// Write the console to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
}

#[derive(Debug, Error)]
pub enum ArgsError {
    #[error("cannot read the configuration from descriptor {fd}")]
    ReadConfig { fd: RawFd, source: std::io::Error },
    #[error("the configuration on descriptor {fd} is not valid")]
    ParseConfig {
        fd: RawFd,
        source: serde_json::Error,
    },
    #[error("--fs {0}: expected TAG=DIR")]
    Fs(String),
    #[error(
        "--net {0}: expected tap=NAME or passt=SOCKET, and perhaps ,mac=MAC ,mtu=N ,rate=BYTES ,ops=N"
    )]
    Net(String),
}

/// The machine that this process was started for.
pub fn config() -> Result<VmConfig, ArgsError> {
    let args: Vec<_> = std::env::args_os().collect();
    // The engine's way in comes first: it has no time to build a parser of all the others.
    if let [_, flag, fd] = args.as_slice()
        && flag == "--config-fd"
        && let Some(fd) = fd.to_str().and_then(|fd| fd.parse().ok())
    {
        return read_config(fd);
    }
    Args::parse_from(args).into_config()
}

impl Args {
    pub fn into_config(self) -> Result<VmConfig, ArgsError> {
        if let Some(fd) = self.config_fd {
            return read_config(fd);
        }
        let fs = self
            .fs
            .into_iter()
            .map(parse_fs)
            .collect::<Result<_, _>>()?;
        let net = self
            .net
            .iter()
            .zip(2..)
            .map(|(text, last)| parse_net(text, last).ok_or_else(|| ArgsError::Net(text.clone())))
            .collect::<Result<_, _>>()?;
        Ok(VmConfig {
            kernel: self.kernel.unwrap_or_default(),
            initrd: self.initrd,
            cmdline: self.cmdline,
            cpus: self.cpus,
            memory_mib: self.memory,
            console: self.console.map_or(Console::Stdio, Console::File),
            vsock: self.vsock.map(|socket| VsockConfig {
                socket,
                guest_cid: self.cid,
                resumed: Vec::new(),
            }),
            disks: self.disk.into_iter().map(parse_disk).collect(),
            pmem: self
                .pmem
                .into_iter()
                .map(|path| PmemConfig {
                    path,
                    room: None,
                    prefault: false,
                })
                .collect(),
            fs,
            spare_slots: 0,
            restore: None,
            control_fd: None,
            net,
            late_net: Vec::new(),
            lifeline_fd: None,
            report_fd: None,
        })
    }
}

fn read_config(fd: RawFd) -> Result<VmConfig, ArgsError> {
    let mut text = Vec::new();
    File::from(inherited(fd))
        .take(CONFIG_MAX)
        .read_to_end(&mut text)
        .map_err(|source| ArgsError::ReadConfig { fd, source })?;
    serde_json::from_slice(&text).map_err(|source| ArgsError::ParseConfig { fd, source })
}

fn parse_disk(text: String) -> DiskConfig {
    match text.strip_suffix(",ro") {
        Some(path) => DiskConfig {
            path: path.into(),
            readonly: true,
            serial: None,
        },
        None => DiskConfig {
            path: text.into(),
            readonly: false,
            serial: None,
        },
    }
}

fn parse_fs(text: String) -> Result<FsConfig, ArgsError> {
    match text.split_once('=') {
        Some((tag, dir)) if !tag.is_empty() && !dir.is_empty() => Ok(FsConfig {
            tag: tag.to_owned(),
            source: FsSource::Directory(dir.into()),
            owner: Owner::default(),
        }),
        _ => Err(ArgsError::Fs(text)),
    }
}

/// `last` is the last byte of the address, where none is given.
fn parse_net(text: &str, last: u8) -> Option<NetConfig> {
    let mut parts = text.split(',');
    let backend = match parts.next()?.split_once('=')? {
        ("tap", name) => NetBackend::Tap(name.to_owned()),
        ("passt", path) => NetBackend::Stream(path.into()),
        _ => return None,
    };
    let mut net = NetConfig {
        finish_handshakes: matches!(backend, NetBackend::Stream(_)),
        backend,
        // Locally administered.
        mac: Mac([2, 0, 0, 0, 0, last]),
        mtu: None,
        rate: None,
    };
    let mut rate = Rate::default();
    for part in parts {
        match part.split_once('=')? {
            ("mac", mac) => net.mac = mac.parse().ok()?,
            ("mtu", mtu) => net.mtu = Some(mtu.parse().ok()?),
            ("rate", bytes) => rate.bytes = Some(Bucket::per_second(bytes.parse().ok()?)),
            ("ops", frames) => rate.operations = Some(Bucket::per_second(frames.parse().ok()?)),
            _ => return None,
        }
    }
    let both = NetRate { rx: rate, tx: rate };
    net.rate = (both != NetRate::default()).then_some(both);
    Some(net)
}

#[cfg(test)]
mod tests {
    use super::Args;
    use clap::{CommandFactory, Parser};
    use walnut_vmm_config::{Bucket, Console, FsSource, NetBackend};

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_become_a_configuration() {
        let args = [
            "walnut-vmm",
            "--kernel",
            "k",
            "--disk",
            "a,ro",
            "--disk",
            "b",
            "--fs",
            "t=/d",
        ];
        let config = Args::try_parse_from(args).unwrap().into_config().unwrap();
        assert!(config.disks[0].readonly && !config.disks[1].readonly);
        assert_eq!(config.fs[0].source, FsSource::Directory("/d".into()));
        assert_eq!(config.console, Console::Stdio);
    }

    #[test]
    fn networks() {
        let net = |text: &str| {
            let args = ["walnut-vmm", "--kernel", "k", "--net", text];
            Args::try_parse_from(args).unwrap().into_config()
        };
        let config = net("tap=t0,mac=02:00:00:00:00:77,mtu=9000").unwrap();
        assert_eq!(config.net[0].backend, NetBackend::Tap("t0".into()));
        assert_eq!(config.net[0].mac.to_string(), "02:00:00:00:00:77");
        assert_eq!(config.net[0].mtu, Some(9000));
        assert_eq!(config.net[0].rate, None);
        let slow = net("tap=t0,rate=1000000,ops=500").unwrap();
        let rate = slow.net[0].rate.as_ref().unwrap();
        assert_eq!(rate.rx, rate.tx);
        assert_eq!(rate.tx.bytes, Some(Bucket::per_second(1_000_000)));
        assert_eq!(rate.tx.operations, Some(Bucket::per_second(500)));
        for bad in [
            "t0",
            "tap=t0,mac=1",
            "tap=t0,mtu=x",
            "tap=t0,rate=-1",
            "tap=t0,ops=x",
            "tap=t0,x=1",
            "vde=/x",
        ] {
            assert!(net(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["--memory=1", "--cpus=0", "--cpus=33", "--cid=2"] {
            assert!(
                Args::try_parse_from(["walnut-vmm", "--kernel", "k", bad]).is_err(),
                "{bad}"
            );
        }
        let args = ["walnut-vmm", "--kernel", "k", "--fs", "nodir"];
        assert!(Args::try_parse_from(args).unwrap().into_config().is_err());
    }
}
