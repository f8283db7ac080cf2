// SPDX-License-Identifier: Apache-2.0
//! What a device is put into: a place with registers, an interrupt line, and notifications.

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch::x86_64::layout::{GSI_FIRST, MMIO_START, SLOTS};
use crate::machine::{MachineError, kvm};
use crate::memory::Memory;
use crate::virtio::VirtioDevice;
use crate::virtio::mmio::MmioTransport;
use crate::virtio::queue::Line;
use crate::virtio::registers::{MMIO_LEN, QUEUE_NOTIFY, RegisterPages};

pub struct Board {
    pub vm: Arc<VmFd>,
    pub memory: Memory,
    pub registers: RegisterPages,
}

impl Board {
    pub fn new(vm: VmFd, memory: Memory) -> Result<Self, MachineError> {
        Ok(Self {
            vm: Arc::new(vm),
            memory,
            registers: RegisterPages::new(SLOTS).map_err(MachineError::Registers)?,
        })
    }

    /// Binds a device's events to KVM. It is the first one there.
    pub fn put(
        &self,
        slot: u32,
        name: &str,
        device: Box<dyn VirtioDevice>,
    ) -> Result<MmioTransport, MachineError> {
        let irqfd = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(MachineError::Events)?;
        self.vm
            .register_irqfd(&irqfd, gsi(slot))
            .map_err(kvm("wire up an interrupt"))?;
        let line = Gsi {
            vm: Arc::clone(&self.vm),
            number: gsi(slot),
            irqfd,
        };
        let (memory, registers) = (Arc::clone(&self.memory), self.registers.place(slot));
        let transport = MmioTransport::new(name, device, memory, registers, Arc::new(line))
            .map_err(MachineError::Events)?;
        let notify = IoEventAddress::Mmio(base(slot) + QUEUE_NOTIFY);
        for (index, kick) in (0u32..).zip(transport.kicks()) {
            self.vm
                .register_ioevent(kick, &notify, index)
                .map_err(kvm("wire up a queue"))?;
        }
        Ok(transport)
    }

    /// What the kernel's command line says about the first `count` places. Those without a device say
    /// that they have none.
    pub fn announce(&self, used: u32, count: u32) -> String {
        let count = count.min(SLOTS);
        for slot in used..count {
            self.registers.place(slot).show_empty();
        }
        (0..count)
            .map(|slot| format!(" virtio_mmio.device=4K@{:#x}:{}", base(slot), gsi(slot)))
            .collect()
    }
}

fn base(slot: u32) -> u64 {
    MMIO_START + u64::from(slot) * MMIO_LEN
}

fn gsi(slot: u32) -> u32 {
    GSI_FIRST + slot
}

/// An interrupt line of the IOAPIC, edge-triggered.
struct Gsi {
    vm: Arc<VmFd>,
    number: u32,
    /// KVM leaves those of an IOAPIC to a kernel thread.
    irqfd: EventFd,
}

impl Line for Gsi {
    fn raise(&self) -> io::Result<()> {
        for level in [true, false] {
            self.vm.set_irq_line(self.number, level)?;
        }
        Ok(())
    }

    fn raise_soon(&self) -> io::Result<()> {
        self.irqfd.write(1)
    }
}
