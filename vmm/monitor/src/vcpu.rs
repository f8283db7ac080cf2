// SPDX-License-Identifier: Apache-2.0
//! A vCPU: one thread that runs the guest until it ends the machine, or until it is asked to stop.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use kvm_ioctls::{VcpuExit, VcpuFd};
use walnut_vmm_config::Ending;

use crate::arch::x86_64::state::VcpuState;
use crate::bus::Bus;
use crate::ending::Ender;
use crate::pause::{Order, catch_kicks};

pub struct Vcpu {
    id: u8,
    fd: VcpuFd,
    bus: Arc<Bus>,
    ender: Ender,
    orders: Receiver<Order>,
}

impl Vcpu {
    pub fn new(id: u8, fd: VcpuFd, bus: Arc<Bus>, ender: Ender, orders: Receiver<Order>) -> Self {
        Self {
            id,
            fd,
            bus,
            ender,
            orders,
        }
    }

    /// Returns when the machine has ended, or when this vCPU ends it.
    pub fn run(mut self) {
        catch_kicks(&mut self.fd);
        // What came before a kick could be caught.
        self.obey();
        let ending = loop {
            if let Some(ending) = self.step() {
                break ending;
            }
        };
        self.ender.end(ending);
    }

    /// One entry into the guest, and what it came back for.
    fn step(&mut self) -> Option<Ending> {
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.obey();
                return None;
            }
            Err(error) => return Some(kvm_error(format!("vCPU {}: KVM_RUN: {error}", self.id))),
        };
        match exit {
            // Where nobody answers: the devices' registers are memory to who reads them.
            VcpuExit::MmioRead(_, data) => data.fill(0xff),
            VcpuExit::MmioWrite(address, data) => self.bus.mmio_write(address, data),
            VcpuExit::IoIn(port, data) => self.bus.port_read(port, data),
            VcpuExit::IoOut(port, data) => self.bus.port_write(port, data),
            VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
            VcpuExit::Shutdown => return Some(Ending::TripleFault),
            VcpuExit::SystemEvent(kind, _) => {
                return Some(kvm_error(format!("unexpected system event {kind}")));
            }
            VcpuExit::FailEntry(reason, cpu) => {
                return Some(kvm_error(format!(
                    "vCPU {}: hardware refused to enter the guest on CPU {cpu} (reason {reason:#x})",
                    self.id
                )));
            }
            VcpuExit::InternalError => return Some(self.internal_error()),
            other => {
                let what = format!("vCPU {}: unexpected exit {other:?}", self.id);
                return Some(kvm_error(what));
            }
        }
        None
    }

    /// Carries out what it is told. KVM has completed whatever access it came back for before.
    fn obey(&mut self) {
        self.fd.set_kvm_immediate_exit(0);
        let mut order = self.orders.try_recv().ok();
        while let Some(this) = order {
            match this {
                Order::Pause(paused) => {
                    // Nobody waits for one that was too slow.
                    let _ = paused.send(());
                }
                Order::Save { msrs, state } => {
                    let _ = state.send(VcpuState::save(&self.fd, &msrs));
                }
                Order::Resume => return,
            }
            // An end of orders is the end of the machine.
            order = self.orders.recv().ok();
        }
    }

    fn internal_error(&mut self) -> Ending {
        let rip = self
            .fd
            .get_regs()
            .map_or_else(|_| "unknown".to_owned(), |r| format!("{:#x}", r.rip));
        #[expect(
            unsafe_code,
            reason = "the exit's details are a union in the kvm_run page"
        )]
        // SAFETY: KVM has filled `internal` for the exit reason that brought us here, and any bit
        // pattern is a valid integer.
        let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
        let what = match suberror {
            1 => "emulation failure".to_owned(),
            2 => "simultaneous exceptions".to_owned(),
            3 => "unexpected event delivery".to_owned(),
            4 => "unexpected exit reason".to_owned(),
            other => format!("suberror {other}"),
        };
        kvm_error(format!(
            "vCPU {}: internal error ({what}) at instruction address {rip}",
            self.id
        ))
    }
}

fn kvm_error(message: String) -> Ending {
    Ending::KvmError { message }
}
