// SPDX-License-Identifier: Apache-2.0
//! The MP table (Intel MultiProcessor Specification 1.4, chapter 4): how a kernel without ACPI finds
//! the IOAPIC and the other processors.

use vm_memory::{Bytes, GuestAddress};

use super::layout::{EBDA_START, GSI_LAST, HIGH_RAM_START, IOAPIC, LOCAL_APIC};
use crate::memory::GuestMemory;

const APIC_VERSION: u8 = 0x14;
const SPEC_REVISION: u8 = 4;
/// Room up to the end of base memory at 640 KiB.
const ROOM: usize = 0x400;

// Entry types, §4.3.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const CPU_ENABLED: u8 = 1;
const CPU_BOOTSTRAP: u8 = 2;
const INT_NMI: u8 = 1;
const INT_EXTINT: u8 = 3;
const ALL_APICS: u8 = 0xff;

pub(super) fn write(memory: &GuestMemory, cpus: u8) -> Result<(), vm_memory::GuestMemoryError> {
    let table = table(cpus);
    let pointer = floating_pointer(EBDA_START + 16);
    memory.write_slice(&pointer, GuestAddress(EBDA_START))?;
    memory.write_slice(&table, GuestAddress(EBDA_START + 16))
}

/// §4.1.
fn floating_pointer(table: u64) -> [u8; 16] {
    debug_assert!(table < HIGH_RAM_START, "the table lies below 1 MiB");
    let table = u32::try_from(table).unwrap_or(0).to_le_bytes();
    let mut pointer = [0; 16];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&table);
    pointer[8] = 1; // length in 16-byte units
    pointer[9] = SPEC_REVISION;
    pointer[10] = checksum(&pointer);
    pointer
}

/// §4.2 and §4.3.
fn table(cpus: u8) -> Vec<u8> {
    let io_apic_id = cpus; // the first ID that no local APIC has
    let mut entries = Vec::with_capacity(ROOM);
    let mut count = 0u16;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for cpu in 0..cpus {
        let flags = CPU_ENABLED | if cpu == 0 { CPU_BOOTSTRAP } else { 0 };
        let mut entry = [0; 20];
        entry[..4].copy_from_slice(&[PROCESSOR, cpu, APIC_VERSION, flags]);
        entry[4..8].copy_from_slice(&0x600u32.to_le_bytes()); // signature: family 6
        entry[8..12].copy_from_slice(&0x201u32.to_le_bytes()); // FPU and APIC
        add(&entry);
    }
    add(&[BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let mut io_apic = [IO_APIC, io_apic_id, APIC_VERSION, 1, 0, 0, 0, 0];
    io_apic[4..].copy_from_slice(&IOAPIC.to_le_bytes());
    add(&io_apic);
    for gsi in 0..=u8::try_from(GSI_LAST).unwrap_or(u8::MAX) {
        add(&[IO_INTERRUPT, 0, 0, 0, 0, gsi, io_apic_id, gsi]);
    }
    add(&[LOCAL_INTERRUPT, INT_EXTINT, 0, 0, 0, 0, 0, 0]);
    add(&[LOCAL_INTERRUPT, INT_NMI, 0, 0, 0, 0, ALL_APICS, 1]);

    let mut table = vec![0; 44];
    table[..4].copy_from_slice(b"PCMP");
    let len = u16::try_from(44 + entries.len()).unwrap_or(u16::MAX);
    table[4..6].copy_from_slice(&len.to_le_bytes());
    table[6] = SPEC_REVISION;
    table[8..16].copy_from_slice(b"WALNUT  ");
    table[16..28].copy_from_slice(b"MICROVM     ");
    table[34..36].copy_from_slice(&count.to_le_bytes());
    table[36..40].copy_from_slice(&LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(&entries);
    table[7] = checksum(&table);
    table
}

/// The byte that makes the sum of all zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte))
}

#[cfg(test)]
mod tests {
    use super::{ROOM, floating_pointer, table};
    use walnut_vmm_config::MAX_CPUS;

    #[test]
    fn sums_are_zero_and_all_processors_fit_below_640_kib() {
        for cpus in 1..=MAX_CPUS {
            let table = table(cpus);
            assert_eq!(
                table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)),
                0
            );
            assert_eq!(
                usize::from(u16::from_le_bytes([table[4], table[5]])),
                table.len()
            );
            assert!(
                16 + table.len() <= ROOM,
                "{cpus} CPUs take {} bytes",
                table.len()
            );
        }
        let pointer = floating_pointer(0x9fc10);
        assert_eq!(
            pointer
                .iter()
                .fold(0u8, |sum, &byte| sum.wrapping_add(byte)),
            0
        );
    }
}
