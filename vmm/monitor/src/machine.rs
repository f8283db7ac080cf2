// SPDX-License-Identifier: Apache-2.0
//! A machine, put together in boot order: KVM's VM, memory, devices, kernel, vCPUs. Everything that
//! needs a right the jail takes away happens here.

use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryRegion as _, MemoryRegionAddress};
use walnut_vmm_config::VmConfig;
use walnut_vmm_host::KvmError;

use crate::arch::x86_64::boot::{BootError, BootFiles, Entry};
use crate::arch::x86_64::layout::{
    self, GSI_FIRST, GSI_LAST, GSI_SERIAL, KVM_IDENTITY_MAP, KVM_TSS, MMIO_START,
};
use crate::arch::x86_64::{cpuid, regs};
use crate::bus::Bus;
use crate::console::Console;
use crate::devices::{DeviceError, Devices, Served};
use crate::ending::Ender;
use crate::memory::{self, Memory, MemoryError};
use crate::prefault::prefault;
use crate::vcpu::Vcpu;
use crate::virtio::events::DeviceEvents;
use crate::virtio::mmio::{MMIO_LEN, MmioTransport, QUEUE_NOTIFY};

#[derive(Debug, Error)]
pub enum MachineError {
    #[error(transparent)]
    Host(#[from] KvmError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Regs(#[from] regs::RegsError),
    #[error("KVM cannot {what}")]
    Kvm {
        what: &'static str,
        source: kvm_ioctls::Error,
    },
    #[error("the machine has {count} devices; there are interrupt lines for {max}")]
    TooManyDevices { count: usize, max: usize },
    #[error("cannot make the events of a device")]
    Events(#[source] std::io::Error),
}

fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Kvm { what, source }
}

/// Ready to run: the vCPUs and the devices' events still want their threads.
pub struct Machine {
    pub vcpus: Vec<Vcpu>,
    /// What the monitor's event loop serves.
    pub events: Vec<DeviceEvents>,
    /// What a worker thread each serves.
    pub workers: Vec<(Served, DeviceEvents)>,
    /// Lives as long as the machine.
    _vm: VmFd,
}

impl Machine {
    pub fn build(
        config: &VmConfig,
        console: &Console,
        ender: &Ender,
    ) -> Result<Self, MachineError> {
        let kvm_fd = walnut_vmm_host::open()?;
        let vm = create_vm(&kvm_fd)?;
        let files = BootFiles::open(&config.kernel, config.initrd.as_deref())?;
        let ram_bytes = u64::from(config.memory_mib) << 20;
        let memory = add_memory(&vm, ram_bytes)?;
        let devices = Devices::open(config, layout::pmem_start(ram_bytes))?;
        add_pmem(&vm, &devices, memory.num_regions())?;
        vm.register_irqfd(&console.irqfd, GSI_SERIAL)
            .map_err(kvm("wire up the console"))?;

        let (mut transports, mut events, mut workers) = (Vec::new(), Vec::new(), Vec::new());
        let mut cmdline = config.cmdline.clone();
        let max = (GSI_LAST - GSI_FIRST + 1) as usize;
        if devices.list.len() > max {
            return Err(MachineError::TooManyDevices {
                count: devices.list.len(),
                max,
            });
        }
        for (slot, device) in (0u32..).zip(devices.list) {
            let transport = MmioTransport::new(&device.name, device.device, Arc::clone(&memory))
                .map_err(MachineError::Events)?;
            let gsi = GSI_FIRST + slot;
            let base = MMIO_START + u64::from(slot) * MMIO_LEN;
            wire_up(&vm, &transport, base, gsi)?;
            cmdline.push_str(&format!(" virtio_mmio.device=4K@{base:#x}:{gsi}"));
            let device_events = transport.events().map_err(MachineError::Events)?;
            match device.served {
                Served::EventLoop => events.push(device_events),
                worker => workers.push((worker, device_events)),
            }
            transports.push(transport);
        }
        let bus = Bus::new(transports, Arc::clone(&console.serial), ender.clone());
        let mut loaded = files.load(&memory, ram_bytes, config.cpus, &cmdline)?;
        let vcpus = create_vcpus(&kvm_fd, &vm, config.cpus, loaded.entry)?;
        let prefaulted = config.pmem.iter().zip(&devices.pmem);
        let prefaulted = prefaulted.filter(|(config, _)| config.prefault);
        loaded
            .mapped
            .extend(prefaulted.map(|(_, mapping)| (mapping.guest, mapping.len)));
        prefault(&kvm_fd, &vcpus[0], &loaded.mapped);
        let vcpus = vcpus
            .into_iter()
            .zip(0..)
            .map(|(fd, id)| Vcpu::new(id, fd, Arc::clone(&bus), ender.clone()))
            .collect();
        Ok(Self {
            vcpus,
            events,
            workers,
            _vm: vm,
        })
    }
}

fn create_vm(kvm_fd: &Kvm) -> Result<VmFd, MachineError> {
    let vm = loop {
        match kvm_fd.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            created => break created.map_err(kvm("create a virtual machine"))?,
        }
    };
    vm.set_identity_map_address(KVM_IDENTITY_MAP)
        .map_err(kvm("place its identity map"))?;
    vm.set_tss_address(KVM_TSS)
        .map_err(kvm("place its task state"))?;
    vm.create_irq_chip()
        .map_err(kvm("create interrupt controllers"))?;
    // For kernels that calibrate by it; ours takes the TSC's frequency from kvm-clock.
    vm.create_pit2(kvm_pit_config::default())
        .map_err(kvm("create a timer"))?;
    Ok(vm)
}

fn add_memory(vm: &VmFd, ram_bytes: u64) -> Result<Memory, MachineError> {
    let ranges: Vec<_> = layout::ram_ranges(ram_bytes)
        .into_iter()
        .map(|(start, len)| (start, usize::try_from(len).unwrap_or(usize::MAX)))
        .collect();
    let memory = memory::allocate(&ranges)?;
    for (slot, region) in (0..).zip(memory.iter()) {
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .expect("a region has a first byte")
            .expose_provenance() as u64;
        add_slot(vm, slot, region.start_addr(), region.len(), host)?;
    }
    Ok(memory)
}

fn add_pmem(vm: &VmFd, devices: &Devices, first_slot: usize) -> Result<(), MachineError> {
    for (slot, mapping) in (u32::try_from(first_slot).unwrap_or(u32::MAX)..).zip(&devices.pmem) {
        add_slot(vm, slot, mapping.guest, mapping.len, mapping.host)?;
    }
    Ok(())
}

fn add_slot(
    vm: &VmFd,
    slot: u32,
    guest: GuestAddress,
    len: u64,
    host: u64,
) -> Result<(), MachineError> {
    let region = kvm_userspace_memory_region {
        slot,
        guest_phys_addr: guest.0,
        memory_size: len,
        userspace_addr: host,
        flags: 0,
    };
    #[expect(unsafe_code, reason = "KVM maps memory of this process into the guest")]
    // SAFETY: the range is mapped, belongs to guest memory or a pmem device alone, and neither is
    // unmapped as long as the process lives. Slots do not overlap: see `layout`.
    let set = unsafe { vm.set_user_memory_region(region) };
    set.map_err(kvm("map guest memory"))
}

/// Binds the device's events to KVM: an interrupt line, and one notification address per queue.
fn wire_up(vm: &VmFd, transport: &MmioTransport, base: u64, gsi: u32) -> Result<(), MachineError> {
    vm.register_irqfd(transport.irqfd(), gsi)
        .map_err(kvm("wire up an interrupt"))?;
    let notify = IoEventAddress::Mmio(base + QUEUE_NOTIFY);
    for (index, kick) in (0u32..).zip(transport.kicks()) {
        vm.register_ioevent(kick, &notify, index)
            .map_err(kvm("wire up a queue"))?;
    }
    Ok(())
}

fn create_vcpus(
    kvm_fd: &Kvm,
    vm: &VmFd,
    cpus: u8,
    entry: Entry,
) -> Result<Vec<VcpuFd>, MachineError> {
    let supported = kvm_fd
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(kvm("tell what its CPUs can do"))?;
    let tsc_deadline = kvm_fd.check_extension(Cap::TscDeadlineTimer);
    let mut vcpus = Vec::with_capacity(usize::from(cpus));
    for id in 0..cpus {
        let vcpu = vm
            .create_vcpu(u64::from(id))
            .map_err(kvm("create a vCPU"))?;
        let mut cpuid: CpuId = supported.clone();
        cpuid::adapt(&mut cpuid, id, cpus, tsc_deadline);
        vcpu.set_cpuid2(&cpuid).map_err(kvm("set a vCPU's CPUID"))?;
        regs::set_common(&vcpu, cpuid::xcr0(&supported))?;
        if id == 0 {
            regs::set_boot(&vcpu, entry)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}
