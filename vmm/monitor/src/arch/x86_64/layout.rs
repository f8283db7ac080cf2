// SPDX-License-Identifier: Apache-2.0
//! The guest physical address space.
//!
//! | from | to | what |
//! |---|---|---|
//! | 0 | [`EBDA_START`] | RAM; boot structures at its start |
//! | [`EBDA_START`] | 1 MiB | reserved; the MP table |
//! | 1 MiB | at most [`MMIO_START`] | RAM; kernel, initramfs at its end |
//! | [`MMIO_START`] | 4 GiB | virtio-mmio devices, IOAPIC, local APICs, KVM's own pages |
//! | 4 GiB | | the rest of RAM |
//! | above RAM, 1 GiB-aligned | | pmem devices |

use vm_memory::GuestAddress;

use crate::memory::HUGE_PAGE;

pub const GDT: GuestAddress = GuestAddress(0x500);
/// PVH `hvm_start_info`, and its memory map.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
pub const PVH_MODULES: GuestAddress = GuestAddress(0x6040);
pub const PVH_MEMMAP: GuestAddress = GuestAddress(0x6100);
/// `boot_params` of the Linux boot protocol.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
pub const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// Identity map of the first 4 GiB: PML4, PDPT, four page directories.
pub const PML4: GuestAddress = GuestAddress(0x9000);
pub const PDPT: GuestAddress = GuestAddress(0xa000);
pub const PAGE_DIRECTORIES: GuestAddress = GuestAddress(0xb000);
pub const CMDLINE: GuestAddress = GuestAddress(0x20000);
/// `COMMAND_LINE_SIZE` of x86 Linux.
pub const CMDLINE_MAX: usize = 2048;
/// Where Linux looks for the MP table: the last KiB of base memory.
pub const EBDA_START: u64 = 0x9fc00;
pub const HIGH_RAM_START: u64 = 0x10_0000;

/// The hole below 4 GiB that no RAM may fill.
pub const MMIO_START: u64 = 0xd000_0000;
pub const MMIO_END: u64 = 1 << 32;
pub const IOAPIC: u32 = 0xfec0_0000;
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Intel VT-x needs three pages for real mode's task state, and one for its page table.
pub const KVM_TSS: usize = 0xfffb_d000;
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// Interrupt lines of the IOAPIC that devices may have; the ISA ones below are taken.
pub const GSI_FIRST: u32 = 5;
pub const GSI_LAST: u32 = 23;
/// Places for devices, each with a line of its own.
pub const SLOTS: u32 = GSI_LAST - GSI_FIRST + 1;
pub const GSI_SERIAL: u32 = 4;

pub const SERIAL_PORT: u16 = 0x3f8;
pub const I8042_PORT: u16 = 0x60;

/// Where RAM lies for a machine of `bytes`.
pub fn ram_ranges(bytes: u64) -> Vec<(GuestAddress, u64)> {
    if bytes <= MMIO_START {
        return vec![(GuestAddress(0), bytes)];
    }
    vec![
        (GuestAddress(0), MMIO_START),
        (GuestAddress(MMIO_END), bytes - MMIO_START),
    ]
}

/// Where the first pmem device goes: above RAM and above 4 GiB, on a 1 GiB boundary.
pub fn pmem_start(ram_bytes: u64) -> u64 {
    let ram_end = if ram_bytes <= MMIO_START {
        MMIO_END
    } else {
        MMIO_END + (ram_bytes - MMIO_START)
    };
    ram_end.next_multiple_of(1 << 30)
}

/// Rounds a pmem device's length so that the next one is aligned too.
pub fn pmem_align(len: u64) -> u64 {
    len.next_multiple_of(HUGE_PAGE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_the_hole_below_4_gib_free() {
        assert_eq!(ram_ranges(1 << 30), [(GuestAddress(0), 1 << 30)]);
        let split = ram_ranges(6 << 30);
        assert_eq!(split.iter().map(|&(_, len)| len).sum::<u64>(), 6 << 30);
        assert_eq!(split[0], (GuestAddress(0), MMIO_START));
        assert_eq!(split[1].0, GuestAddress(MMIO_END));
    }

    #[test]
    fn pmem_is_above_all_ram() {
        assert_eq!(pmem_start(128 << 20), 4 << 30);
        assert!(pmem_start(6 << 30) >= MMIO_END + (6 << 30) - MMIO_START);
    }
}
