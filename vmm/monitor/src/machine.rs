// SPDX-License-Identifier: Apache-2.0
//! A machine, put together in boot order: KVM's VM, memory, devices, kernel, vCPUs. Everything that
//! needs a right the jail takes away happens here.

use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MEM_READONLY, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use thiserror::Error;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryRegion as _};
use walnut_vmm_config::VmConfig;
use walnut_vmm_host::KvmError;

use crate::arch::x86_64::boot::{BootError, BootFiles, Entry};
use crate::arch::x86_64::layout::{self, GSI_SERIAL, KVM_IDENTITY_MAP, KVM_TSS, MMIO_START, SLOTS};
use crate::arch::x86_64::state::{self, StateError, VcpuState};
use crate::arch::x86_64::{cpuid, regs};
use crate::board::Board;
use crate::bus::Bus;
use crate::console::Console;
use crate::devices::{DeviceError, Devices, Opened, Served};
use crate::ending::Ender;
use crate::hotplug::Nets;
use crate::memory::{self, Memory, MemoryError};
use crate::prefault::prefault;
use crate::snapshot::memory::SnapshotMemoryError;
use crate::snapshot::{self, Snapshot, working_set};
use crate::virtio::events::DeviceEvents;
use crate::virtio::mmio::{MmioTransport, RestoreError, TransportState};
use crate::virtio::registers::{MMIO_LEN, RegisterPages};

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
    #[error("the snapshot is of a machine with {saved} devices, this one has {here}")]
    DevicesMissing { saved: usize, here: usize },
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotMemoryError),
    #[error("cannot make the events of a device")]
    Events(#[source] std::io::Error),
    #[error("cannot map the registers of the devices")]
    Registers(#[source] MmapRegionError),
}

pub(crate) fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Kvm { what, source }
}

/// Ready to run: the vCPUs and the devices' events still want their threads.
pub struct Machine {
    pub vcpus: Vec<VcpuFd>,
    /// What the monitor's event loop serves.
    pub events: Vec<DeviceEvents>,
    /// What a worker thread each serves.
    pub workers: Vec<(Served, DeviceEvents)>,
    pub bus: Arc<Bus>,
    pub board: Board,
    pub nets: Nets,
    /// Parts of memory that are files of the host, by address.
    pub mapped: Vec<(GuestAddress, u64)>,
    /// What a snapshot has to save of a vCPU.
    pub msrs: Vec<u32>,
}

impl Machine {
    /// Boots the configured kernel, or goes on where a snapshot was taken.
    pub fn build(
        config: &VmConfig,
        snapshot: Option<Snapshot>,
        console: &Console,
        ender: &Ender,
    ) -> Result<Self, MachineError> {
        let kvm_fd = walnut_vmm_host::open()?;
        let vm = create_vm(&kvm_fd)?;
        let ram_bytes = u64::from(config.memory_mib) << 20;
        let memory = add_memory(&vm, ram_bytes)?;
        let devices = Devices::open(config, layout::pmem_start(ram_bytes))?;
        vm.register_irqfd(&console.irqfd, GSI_SERIAL)
            .map_err(kvm("wire up the console"))?;
        let board = Board::new(vm, memory)?;
        let (vm, memory) = (&board.vm, &board.memory);
        let memslot = u32::try_from(memory.num_regions()).unwrap_or(u32::MAX);
        add_registers(vm, memslot, &board.registers)?;
        add_pmem(vm, memslot.saturating_add(1), &devices)?;
        let mut slots = Slots::fill(&board, devices.list)?;
        let cpus = Cpus::new(&kvm_fd, config.cpus)?;
        let mut ahead = Vec::new();
        let (vcpus, mut mapped) = match snapshot {
            None => {
                let mut cmdline = config.cmdline.clone();
                cmdline.push_str(&slots.parameters(&board, config.spare_slots));
                let files = BootFiles::open(&config.kernel, config.initrd.as_deref())?;
                let loaded = files.load(memory, ram_bytes, config.cpus, &cmdline)?;
                ahead.extend(&loaded.mapped);
                (cpus.boot(vm, loaded.entry)?, loaded.mapped)
            }
            Some(snapshot) => {
                let state = snapshot.state;
                snapshot::memory::restore(memory, &snapshot.memory, &state.extents)?;
                let vcpus = cpus.restore(vm, &state.vcpus)?;
                state.vm.restore(vm)?;
                slots.restore(state.devices)?;
                working_set::use_small_pages(memory, &snapshot.working_set);
                ahead = working_set::populate(memory, &snapshot.working_set);
                let extents = state.extents.iter();
                let mapped = extents.map(|extent| (GuestAddress(extent.start), extent.len));
                (vcpus, mapped.collect())
            }
        };
        mapped.sort_unstable_by_key(|(start, _)| start.0);
        let prefaulted = config.pmem.iter().zip(&devices.pmem);
        let prefaulted = prefaulted.filter(|(config, _)| config.prefault);
        let images = prefaulted.map(|(_, mapping)| (mapping.guest, mapping.image_len));
        ahead.extend(images);
        ahead.push((
            GuestAddress(MMIO_START),
            slots.transports.len() as u64 * MMIO_LEN,
        ));
        prefault(&kvm_fd, &vcpus[0], &ahead);
        Ok(Self {
            vcpus,
            events: slots.events,
            workers: slots.workers,
            bus: Bus::new(slots.transports, Arc::clone(&console.serial), ender.clone()),
            board,
            nets: devices.nets,
            mapped,
            msrs: match config.control_fd {
                Some(_) => state::msr_indices(&kvm_fd)?,
                None => Vec::new(),
            },
        })
    }
}

/// The devices in their places.
struct Slots {
    transports: Vec<MmioTransport>,
    events: Vec<DeviceEvents>,
    workers: Vec<(Served, DeviceEvents)>,
}

impl Slots {
    fn fill(board: &Board, devices: Vec<Opened>) -> Result<Self, MachineError> {
        let (count, max) = (devices.len(), SLOTS as usize);
        if count > max {
            return Err(MachineError::TooManyDevices { count, max });
        }
        let mut slots = Self {
            transports: Vec::with_capacity(count),
            events: Vec::new(),
            workers: Vec::new(),
        };
        for (slot, device) in (0u32..).zip(devices) {
            let transport = board.put(slot, &device.name, device.device)?;
            let events = transport.events().map_err(MachineError::Events)?;
            match device.served {
                Served::EventLoop => slots.events.push(events),
                worker => slots.workers.push((worker, events)),
            }
            slots.transports.push(transport);
        }
        Ok(slots)
    }

    /// What the kernel's command line says about the places, some empty ones included.
    fn parameters(&self, board: &Board, spare: u32) -> String {
        let used = u32::try_from(self.transports.len()).unwrap_or(SLOTS);
        board.announce(used, used.saturating_add(spare))
    }

    /// The first devices go on as they were; the others are new to the guest.
    fn restore(&mut self, states: Vec<TransportState>) -> Result<(), MachineError> {
        if states.len() > self.transports.len() {
            return Err(MachineError::DevicesMissing {
                saved: states.len(),
                here: self.transports.len(),
            });
        }
        for (transport, state) in self.transports.iter_mut().zip(states) {
            transport.restore(state)?;
        }
        Ok(())
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
        let host = memory::host_address(region);
        add_slot(vm, slot, region.start_addr(), region.len(), host, 0)?;
    }
    Ok(memory)
}

/// What a driver writes there comes to the monitor, as where there is no memory.
fn add_registers(vm: &VmFd, slot: u32, pages: &RegisterPages) -> Result<(), MachineError> {
    let (guest, host) = (GuestAddress(MMIO_START), pages.host_address());
    add_slot(vm, slot, guest, pages.bytes(), host, KVM_MEM_READONLY)
}

fn add_pmem(vm: &VmFd, first_slot: u32, devices: &Devices) -> Result<(), MachineError> {
    for (slot, mapping) in (first_slot..).zip(&devices.pmem) {
        add_slot(vm, slot, mapping.guest, mapping.len, mapping.host, 0)?;
    }
    Ok(())
}

fn add_slot(
    vm: &VmFd,
    slot: u32,
    guest: GuestAddress,
    len: u64,
    host: u64,
    flags: u32,
) -> Result<(), MachineError> {
    let region = kvm_userspace_memory_region {
        slot,
        guest_phys_addr: guest.0,
        memory_size: len,
        userspace_addr: host,
        flags,
    };
    #[expect(unsafe_code, reason = "KVM maps memory of this process into the guest")]
    // SAFETY: the range is mapped, belongs to guest memory, a pmem device or the devices' registers
    // alone, and none of them is unmapped as long as the process lives. Slots do not overlap: see
    // `layout`.
    let set = unsafe { vm.set_user_memory_region(region) };
    set.map_err(kvm("map guest memory"))
}

/// The vCPUs to be, with what CPUID shall tell them.
struct Cpus {
    supported: CpuId,
    cpuid: Vec<CpuId>,
}

impl Cpus {
    fn new(kvm_fd: &Kvm, cpus: u8) -> Result<Self, MachineError> {
        let supported = kvm_fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm("tell what its CPUs can do"))?;
        let tsc_deadline = kvm_fd.check_extension(Cap::TscDeadlineTimer);
        let cpuid = (0..cpus)
            .map(|id| {
                let mut cpuid = supported.clone();
                cpuid::adapt(&mut cpuid, id, cpus, tsc_deadline);
                cpuid
            })
            .collect();
        Ok(Self { supported, cpuid })
    }

    fn create(&self, vm: &VmFd, id: usize) -> Result<VcpuFd, MachineError> {
        vm.create_vcpu(id as u64).map_err(kvm("create a vCPU"))
    }

    fn boot(&self, vm: &VmFd, entry: Entry) -> Result<Vec<VcpuFd>, MachineError> {
        let mut vcpus = Vec::with_capacity(self.cpuid.len());
        for (id, cpuid) in self.cpuid.iter().enumerate() {
            let vcpu = self.create(vm, id)?;
            vcpu.set_cpuid2(cpuid).map_err(kvm("set a vCPU's CPUID"))?;
            regs::set_common(&vcpu, cpuid::xcr0(&self.supported))?;
            if id == 0 {
                regs::set_boot(&vcpu, entry)?;
            }
            vcpus.push(vcpu);
        }
        Ok(vcpus)
    }

    /// There is a state for each of them.
    fn restore(&self, vm: &VmFd, states: &[VcpuState]) -> Result<Vec<VcpuFd>, MachineError> {
        let mut vcpus = Vec::with_capacity(self.cpuid.len());
        for (id, (cpuid, state)) in self.cpuid.iter().zip(states).enumerate() {
            let vcpu = self.create(vm, id)?;
            state.restore(&vcpu, cpuid)?;
            vcpus.push(vcpu);
        }
        Ok(vcpus)
    }
}
