// SPDX-License-Identifier: Apache-2.0
//! The registers with which the boot processor enters the kernel. The others wait for its SIPI.

use kvm_bindings::{
    Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;
use thiserror::Error;

use super::boot::{Entry, Protocol};
use super::layout::{BOOT_STACK, GDT, PML4, PVH_START_INFO, ZERO_PAGE};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 2;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

/// Local vector table registers, Intel SDM vol. 3A §11.5.1.
const APIC_LVT0: usize = 0x350;
const APIC_LVT1: usize = 0x360;
const APIC_MODE_NMI: u32 = 4 << 8;
const APIC_MODE_EXTINT: u32 = 7 << 8;

/// Power-on values, Intel SDM vol. 1 §8.1.5 and §11.6.4.
const FPU_CONTROL_WORD: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

#[derive(Debug, Error)]
#[error("cannot set the vCPU's {what}")]
pub struct RegsError {
    what: &'static str,
    source: kvm_ioctls::Error,
}

fn setting(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> RegsError {
    move |source| RegsError { what, source }
}

/// What every vCPU gets.
pub fn set_common(vcpu: &VcpuFd, xcr0: Option<u64>) -> Result<(), RegsError> {
    if let Some(value) = xcr0 {
        set_xcr0(vcpu, value)?;
    }
    let msr = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries = [
        msr(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        msr(MSR_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK),
    ];
    let msrs = Msrs::from_entries(&entries).expect("two MSRs are few enough");
    let set = vcpu.set_msrs(&msrs).map_err(setting("MSRs"))?;
    if set != entries.len() {
        // KVM stops at the first one it does not take; these two only tune.
        log::debug!("KVM took {set} of {} MSRs", entries.len());
    }
    let fpu = kvm_fpu {
        fcw: FPU_CONTROL_WORD,
        mxcsr: MXCSR,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu).map_err(setting("FPU state"))?;
    let mut lapic = vcpu.get_lapic().map_err(setting("local APIC"))?;
    set_delivery_mode(&mut lapic, APIC_LVT0, APIC_MODE_EXTINT);
    set_delivery_mode(&mut lapic, APIC_LVT1, APIC_MODE_NMI);
    vcpu.set_lapic(&lapic).map_err(setting("local APIC"))
}

/// The kernel sets XCR0 itself, and KVM normally sees it do so. A host whose virtualization does not
/// intercept XSETBV (QEMU's TCG, the emulated host) leaves KVM with a stale value, which it would
/// load over the guest's. So it starts as the kernel will have it.
fn set_xcr0(vcpu: &VcpuFd, value: u64) -> Result<(), RegsError> {
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0] = kvm_xcr {
        xcr: 0,
        value,
        ..Default::default()
    };
    vcpu.set_xcrs(&xcrs).map_err(setting("XCR0"))
}

/// What only the boot processor gets.
pub fn set_boot(vcpu: &VcpuFd, entry: Entry) -> Result<(), RegsError> {
    let mut sregs = vcpu.get_sregs().map_err(setting("segment registers"))?;
    let long = matches!(entry.protocol, Protocol::Linux64);
    let code = segment(0x10, 0xb, long);
    let data = segment(0x18, 0x3, false);
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        limit: 0x67,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    sregs.gdt.base = GDT.0;
    sregs.gdt.limit = super::boot::GDT_LIMIT;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_ET;
    if long {
        sregs.cr3 = PML4.0;
        sregs.cr4 = CR4_PAE;
        sregs.cr0 |= CR0_PG;
        sregs.efer = EFER_LME | EFER_LMA;
    }
    vcpu.set_sregs(&sregs)
        .map_err(setting("segment registers"))?;
    let mut regs = kvm_regs {
        rflags: RFLAGS_RESERVED,
        rip: entry.rip.0,
        ..Default::default()
    };
    match entry.protocol {
        Protocol::Pvh => regs.rbx = PVH_START_INFO.0,
        Protocol::Linux64 => {
            regs.rsi = ZERO_PAGE.0;
            (regs.rsp, regs.rbp) = (BOOT_STACK.0, BOOT_STACK.0);
        }
    }
    vcpu.set_regs(&regs).map_err(setting("registers"))
}

/// A flat 4 GiB segment.
fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

fn set_delivery_mode(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes: Vec<u8> = lapic.regs[register..register + 4]
        .iter()
        .map(|&b| b.cast_unsigned())
        .collect();
    let old = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let new = old & !0x700 | mode;
    for (at, byte) in lapic.regs[register..register + 4]
        .iter_mut()
        .zip(new.to_le_bytes())
    {
        *at = byte.cast_signed();
    }
}
