// SPDX-License-Identifier: Apache-2.0
//! What CPUID says to the guest: what KVM supports, with this vCPU's identity and one flat package
//! of cores. Virtualisation extensions are hidden: nested guests are nobody's use of a container.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

const ECX1_VMX: u32 = 1 << 5;
const ECX1_TSC_DEADLINE: u32 = 1 << 24;
const ECX1_HYPERVISOR: u32 = 1 << 31;
const EDX1_HTT: u32 = 1 << 28;
const ECX8000_0001_SVM: u32 = 1 << 2;
const ECX8000_0001_CMP_LEGACY: u32 = 1 << 1;

/// Levels of leaf 0xb (Intel SDM vol. 2A, CPUID).
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// Adapts `cpuid`, as KVM supports it, for vCPU `id` of `cpus`.
pub fn adapt(cpuid: &mut CpuId, id: u8, cpus: u8, tsc_deadline: bool) {
    let id = u32::from(id);
    let cpus = u32::from(cpus);
    // Bits of an APIC ID that number the cores of the package.
    let core_bits = cpus.next_power_of_two().trailing_zeros();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            0x1 => {
                entry.ebx = entry.ebx & 0xffff | cpus << 16 | id << 24;
                entry.ecx = entry.ecx & !ECX1_VMX | ECX1_HYPERVISOR;
                if tsc_deadline {
                    entry.ecx |= ECX1_TSC_DEADLINE;
                }
                set(&mut entry.edx, EDX1_HTT, cpus > 1);
            }
            // Deterministic cache parameters: one thread a core, `cpus` cores a package.
            0x4 => {
                entry.eax = entry.eax & 0x3fff | (cpus - 1) << 26 | shared(entry.eax, cpus) << 14
            }
            0xb | 0x1f => topology(entry, id, cpus, core_bits),
            0x8000_0001 => {
                entry.ecx &= !ECX8000_0001_SVM;
                set(&mut entry.ecx, ECX8000_0001_CMP_LEGACY, cpus > 1);
            }
            0x8000_0008 => entry.ecx = core_bits << 12 | (cpus - 1),
            // Extended APIC ID, core ID, node ID (AMD).
            0x8000_001e => {
                entry.eax = id;
                entry.ebx = id & 0xff;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
}

/// The x87, SSE and AVX bits of XCR0, as far as there are any (leaf 0xd).
pub fn xcr0(cpuid: &CpuId) -> Option<u64> {
    const X87_SSE_AVX: u32 = 7;
    let leaf = cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0xd && entry.index == 0)?;
    Some(u64::from(leaf.eax & X87_SSE_AVX))
}

/// How many processors share a cache, less one: the last level is the package's.
fn shared(eax: u32, cpus: u32) -> u32 {
    let level = eax >> 5 & 7;
    if level >= 3 { cpus - 1 } else { 0 }
}

fn topology(entry: &mut kvm_cpuid_entry2, id: u32, cpus: u32, core_bits: u32) {
    entry.edx = id;
    match entry.index {
        0 => (entry.eax, entry.ebx, entry.ecx) = (0, 1, LEVEL_SMT << 8),
        1 => (entry.eax, entry.ebx, entry.ecx) = (core_bits, cpus, LEVEL_CORE << 8 | 1),
        index => (entry.eax, entry.ebx, entry.ecx) = (0, 0, index),
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on {
        *register | bit
    } else {
        *register & !bit
    };
}

#[cfg(test)]
mod tests {
    use super::{ECX1_VMX, ECX8000_0001_SVM, adapt};
    use kvm_bindings::{CpuId, kvm_cpuid_entry2};

    #[test]
    fn each_vcpu_has_its_own_apic_id_and_no_virtualisation() {
        let entry = |function, ecx| kvm_cpuid_entry2 {
            function,
            ecx,
            ..Default::default()
        };
        let mut cpuid = CpuId::from_entries(&[
            entry(1, ECX1_VMX),
            entry(0xb, 0),
            entry(0x8000_0001, ECX8000_0001_SVM),
        ])
        .unwrap();
        adapt(&mut cpuid, 3, 4, true);
        let entries = cpuid.as_slice();
        assert_eq!(entries[0].ebx >> 24, 3);
        assert_eq!(entries[0].ecx & ECX1_VMX, 0);
        assert_eq!(entries[1].edx, 3);
        assert_eq!(entries[2].ecx & ECX8000_0001_SVM, 0);
    }
}
