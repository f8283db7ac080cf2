// SPDX-License-Identifier: Apache-2.0
//! The devices that a configuration asks for, opened. Their order here is their order in the guest:
//! `/dev/vda` before `/dev/vdb`.

use thiserror::Error;
use vm_memory::GuestAddress;
use walnut_vmm_config::{NetConfig, VmConfig};

use crate::arch::x86_64::layout;
use crate::hotplug::Nets;
use crate::virtio::VirtioDevice;
use crate::virtio::balloon::Balloon;
use crate::virtio::blk::{Blk, BlkError};
use crate::virtio::fs::{Fs, FsError};
use crate::virtio::net::{Net, NetError};
use crate::virtio::pmem::{Pmem, PmemError};
use crate::virtio::rng::Rng;
use crate::virtio::vsock::{Vsock, VsockError};

#[derive(Debug, Error)]
pub enum DeviceError {
    #[error(transparent)]
    Blk(#[from] BlkError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Pmem(#[from] PmemError),
    #[error(transparent)]
    Vsock(#[from] VsockError),
}

/// Which thread serves a device, and so which calls its seccomp filter allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    EventLoop,
    BlkWorker,
    FsWorker,
}

pub struct Opened {
    /// For log lines and thread names.
    pub name: String,
    pub served: Served,
    pub device: Box<dyn VirtioDevice>,
}

/// A pmem device's memory, to be mapped into the guest.
pub struct Mapping {
    pub guest: GuestAddress,
    pub len: u64,
    /// Of the file alone.
    pub image_len: u64,
    pub host: u64,
}

pub struct Devices {
    pub list: Vec<Opened>,
    pub pmem: Vec<Mapping>,
    /// For whoever takes network devices away, or brings them.
    pub nets: Nets,
}

impl Devices {
    pub fn open(config: &VmConfig, pmem_start: u64) -> Result<Self, DeviceError> {
        let mut devices = Self {
            list: Vec::new(),
            pmem: Vec::new(),
            nets: Nets::default(),
        };
        devices.add("rng".to_owned(), Served::EventLoop, Rng);
        devices.add("balloon".to_owned(), Served::EventLoop, Balloon::new());
        if let Some(vsock) = &config.vsock {
            devices.add("vsock".to_owned(), Served::EventLoop, Vsock::new(vsock)?);
        }
        let mut guest = pmem_start;
        for (index, pmem) in config.pmem.iter().enumerate() {
            let pmem = Pmem::new(pmem, GuestAddress(guest))?;
            let mapping = Mapping {
                guest: GuestAddress(guest),
                len: pmem.len(),
                image_len: pmem.image_len(),
                host: pmem.host_addr(),
            };
            guest += layout::pmem_align(mapping.len);
            devices.pmem.push(mapping);
            devices.add(format!("pmem{index}"), Served::EventLoop, pmem);
        }
        // Before those that no template has.
        for (index, net) in config.net.iter().enumerate() {
            devices.add_net(index, net)?;
        }
        for (index, disk) in config.disks.iter().enumerate() {
            devices.add(format!("blk{index}"), Served::BlkWorker, Blk::new(disk)?);
        }
        for fs in &config.fs {
            devices.add(format!("fs-{}", fs.tag), Served::FsWorker, Fs::new(fs)?);
        }
        for (index, net) in (config.net.len()..).zip(&config.late_net) {
            devices.add_net(index, net)?;
        }
        Ok(devices)
    }

    fn add_net(&mut self, index: usize, config: &NetConfig) -> Result<(), DeviceError> {
        let net = Net::new(config)?;
        let slot = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.nets.add(slot, net.port());
        self.add(format!("net{index}"), Served::EventLoop, net);
        Ok(())
    }

    fn add(&mut self, name: String, served: Served, device: impl VirtioDevice + 'static) {
        self.list.push(Opened {
            name,
            served,
            device: Box::new(device),
        });
    }
}
