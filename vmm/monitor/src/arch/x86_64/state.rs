// SPDX-License-Identifier: Apache-2.0
//! Everything of a machine that is neither memory nor a device of ours: what KVM keeps of its
//! vCPUs, its interrupt controllers and its clock.
//!
//! The order in which a vCPU is set is KVM's: each step reads what an earlier one has set (kernel:
//! Documentation/virt/kvm/api.rst, and arch/x86/kvm/x86.c).

use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, Msrs, kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip,
    kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Its deadline is compared with the TSC, so it is set after that, and after the local APIC whose
/// timer it arms.
const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;

const IRQCHIPS: [u32; 3] = [
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQCHIP_IOAPIC,
];

#[derive(Debug, Error)]
pub enum StateError {
    #[error("KVM cannot {verb} the {what}")]
    Kvm {
        verb: &'static str,
        what: &'static str,
        source: kvm_ioctls::Error,
    },
    #[error("the snapshot is of another kind of CPU")]
    Cpu,
    #[error("the snapshot has {0} interrupt controllers")]
    Controllers(usize),
}

fn saving(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> StateError {
    move |source| StateError::Kvm {
        verb: "save",
        what,
        source,
    }
}

fn restoring(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> StateError {
    move |source| StateError::Kvm {
        verb: "restore",
        what,
        source,
    }
}

/// What belongs to no vCPU.
#[derive(Deserialize, Serialize)]
pub struct VmState {
    irqchips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
    clock: kvm_clock_data,
}

impl VmState {
    /// While no vCPU runs.
    pub fn save(vm: &VmFd) -> Result<Self, StateError> {
        let mut irqchips = Vec::with_capacity(IRQCHIPS.len());
        for chip_id in IRQCHIPS {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip)
                .map_err(saving("interrupt controllers"))?;
            irqchips.push(chip);
        }
        let mut clock = vm.get_clock().map_err(saving("clock"))?;
        // The clock goes on from here, whatever the host's clocks did meanwhile.
        clock.flags = 0;
        Ok(Self {
            irqchips,
            pit: vm.get_pit2().map_err(saving("timer"))?,
            clock,
        })
    }

    pub fn restore(&self, vm: &VmFd) -> Result<(), StateError> {
        if self.irqchips.len() != IRQCHIPS.len() {
            return Err(StateError::Controllers(self.irqchips.len()));
        }
        for chip in &self.irqchips {
            vm.set_irqchip(chip)
                .map_err(restoring("interrupt controllers"))?;
        }
        vm.set_pit2(&self.pit).map_err(restoring("timer"))?;
        vm.set_clock(&self.clock).map_err(restoring("clock"))
    }
}

#[derive(Deserialize, Serialize)]
pub struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    tsc_khz: u32,
    sregs: kvm_sregs,
    xcrs: kvm_xcrs,
    xsave: kvm_xsave,
    regs: kvm_regs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    mp_state: kvm_mp_state,
    debugregs: kvm_debugregs,
    events: kvm_vcpu_events,
}

impl VcpuState {
    /// On the vCPU's thread, when `KVM_RUN` has returned because it was asked to.
    pub fn save(vcpu: &VcpuFd, msrs: &[u32]) -> Result<Self, StateError> {
        // First: what follows is to see a pending start-up of the vCPU done.
        let mp_state = vcpu.get_mp_state().map_err(saving("vCPU's run state"))?;
        let cpuid = vcpu
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(saving("vCPU's CPUID"))?;
        Ok(Self {
            cpuid: cpuid.as_slice().to_vec(),
            tsc_khz: vcpu.get_tsc_khz().map_err(saving("TSC's frequency"))?,
            sregs: vcpu
                .get_sregs()
                .map_err(saving("vCPU's segment registers"))?,
            xcrs: vcpu.get_xcrs().map_err(saving("vCPU's XCR0"))?,
            xsave: vcpu.get_xsave().map_err(saving("vCPU's FPU state"))?,
            regs: vcpu.get_regs().map_err(saving("vCPU's registers"))?,
            lapic: vcpu.get_lapic().map_err(saving("vCPU's local APIC"))?,
            msrs: save_msrs(vcpu, msrs)?,
            mp_state,
            debugregs: vcpu
                .get_debug_regs()
                .map_err(saving("vCPU's debug registers"))?,
            events: vcpu
                .get_vcpu_events()
                .map_err(saving("vCPU's pending events"))?,
        })
    }

    /// `cpuid` is what the vCPU would get if it were booted here.
    pub fn restore(&self, vcpu: &VcpuFd, cpuid: &CpuId) -> Result<(), StateError> {
        if !fits(&self.cpuid, cpuid.as_slice()) {
            return Err(StateError::Cpu);
        }
        vcpu.set_cpuid2(cpuid).map_err(restoring("vCPU's CPUID"))?;
        if vcpu.get_tsc_khz().map_err(saving("TSC's frequency"))? != self.tsc_khz {
            return Err(StateError::Cpu);
        }
        vcpu.set_mp_state(self.mp_state)
            .map_err(restoring("vCPU's run state"))?;
        vcpu.set_regs(&self.regs)
            .map_err(restoring("vCPU's registers"))?;
        vcpu.set_sregs(&self.sregs)
            .map_err(restoring("vCPU's segment registers"))?;
        vcpu.set_xcrs(&self.xcrs)
            .map_err(restoring("vCPU's XCR0"))?;
        #[expect(
            unsafe_code,
            reason = "KVM reads more than this where permission for larger states was asked for"
        )]
        // SAFETY: nobody asked the kernel for the permission (arch_prctl(2)), so 4 KiB are all.
        let set = unsafe { vcpu.set_xsave(&self.xsave) };
        set.map_err(restoring("vCPU's FPU state"))?;
        vcpu.set_debug_regs(&self.debugregs)
            .map_err(restoring("vCPU's debug registers"))?;
        vcpu.set_lapic(&self.lapic)
            .map_err(restoring("vCPU's local APIC"))?;
        restore_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events)
            .map_err(restoring("vCPU's pending events"))
    }
}

/// Whether a guest that was told `saved` finds all of it here. KVM reports a few leaves as the
/// guest's own registers have made them.
fn fits(saved: &[kvm_cpuid_entry2], here: &[kvm_cpuid_entry2]) -> bool {
    /// OSXSAVE and APIC of leaf 1, which follow CR4 and an MSR.
    const ECX1_OSXSAVE: u32 = 1 << 27;
    const EDX1_APIC: u32 = 1 << 9;
    /// OSPKE and MONITOR likewise.
    const ECX7_OSPKE: u32 = 1 << 4;
    const ECX1_MWAIT: u32 = 1 << 3;
    let comparable = |entry: &kvm_cpuid_entry2| {
        let (mut ebx, mut ecx, mut edx) = (entry.ebx, entry.ecx, entry.edx);
        match (entry.function, entry.index) {
            (1, _) => {
                ecx &= !(ECX1_OSXSAVE | ECX1_MWAIT);
                edx &= !EDX1_APIC;
            }
            (7, 0) => ecx &= !ECX7_OSPKE,
            // The size of the enabled part of the XSAVE area.
            (0xd, 0 | 1) => ebx = 0,
            _ => {}
        }
        (entry.function, entry.index, entry.eax, ebx, ecx, edx)
    };
    saved.len() == here.len()
        && saved
            .iter()
            .zip(here)
            .all(|(saved, here)| comparable(saved) == comparable(here))
}

/// The MSRs that a vCPU of this host has.
pub fn msr_indices(kvm: &Kvm) -> Result<Vec<u32>, StateError> {
    let list = kvm.get_msr_index_list().map_err(saving("list of MSRs"))?;
    Ok(list.as_slice().to_vec())
}

/// KVM stops at the first one that this vCPU has not, after all.
fn save_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, StateError> {
    let mut saved = Vec::with_capacity(indices.len());
    let mut rest: Vec<_> = indices.iter().map(|&index| entry(index)).collect();
    while !rest.is_empty() {
        let chunk = rest.len().min(CHUNK);
        let mut msrs = Msrs::from_entries(&rest[..chunk]).expect("a chunk is small enough");
        let got = vcpu.get_msrs(&mut msrs).map_err(saving("vCPU's MSRs"))?;
        saved.extend_from_slice(&msrs.as_slice()[..got]);
        rest.drain(..if got < chunk { got + 1 } else { got });
    }
    saved.sort_by_key(|msr| msr.index == MSR_IA32_TSC_DEADLINE);
    Ok(saved)
}

/// MSRs in one call to KVM.
const CHUNK: usize = 128;

fn entry(index: u32) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        ..Default::default()
    }
}

/// KVM takes back what it gave, but for MSRs that only the host may write: those are as they were.
fn restore_msrs(vcpu: &VcpuFd, msrs: &[kvm_msr_entry]) -> Result<(), StateError> {
    let mut rest = msrs;
    while !rest.is_empty() {
        let chunk = rest.len().min(CHUNK);
        let msrs = Msrs::from_entries(&rest[..chunk]).expect("a chunk is small enough");
        let set = vcpu.set_msrs(&msrs).map_err(restoring("vCPU's MSRs"))?;
        if let Some(refused) = rest.get(set).filter(|_| set < chunk) {
            log::debug!("KVM does not take MSR {:#x} back", refused.index);
        }
        rest = &rest[if set < chunk { set + 1 } else { set }..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::fits;
    use kvm_bindings::kvm_cpuid_entry2;

    fn leaf(function: u32, ecx: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            ecx,
            ..Default::default()
        }
    }

    #[test]
    fn a_cpu_that_lacks_a_feature_does_not_fit() {
        let saved = [leaf(1, 1 << 12 | 1 << 27), leaf(7, 1)];
        assert!(fits(&saved, &[leaf(1, 1 << 12), leaf(7, 1)]));
        assert!(!fits(&saved, &[leaf(1, 0), leaf(7, 1)]));
        assert!(!fits(&saved, &[leaf(1, 1 << 12)]));
    }
}
