// SPDX-License-Identifier: Apache-2.0
//! A guest of a few instructions, for what no kernel does on purpose.

/// Where the instructions lie, in the file and in memory.
const OFFSET: u32 = 0x100;
const ENTRY: u32 = 0x20_0000;

/// An ELF file with a PVH note (Xen's `XEN_ELFNOTE_PHYS32_ENTRY`, 18) that enters `code`, in flat
/// 32-bit mode.
#[must_use]
pub fn kernel(code: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, n: u16| file.extend(n.to_le_bytes());
    let word = |file: &mut Vec<u8>, n: u32| file.extend(n.to_le_bytes());
    let long = |file: &mut Vec<u8>, n: u64| file.extend(n.to_le_bytes());
    half(&mut file, 2); // ET_EXEC
    half(&mut file, 62); // EM_X86_64
    word(&mut file, 1);
    long(&mut file, ENTRY.into());
    long(&mut file, 64); // program headers: behind this one
    long(&mut file, 0);
    word(&mut file, 0);
    for n in [64, 56, 2, 64, 0, 0] {
        half(&mut file, n);
    }
    let offset = u64::from(OFFSET);
    let note = offset + code.len() as u64;
    let note_len = 12 + 4 + 8;
    for (kind, offset, at, len) in [
        (1, offset, ENTRY.into(), code.len() as u64), // PT_LOAD
        (4, note, 0, note_len),                       // PT_NOTE
    ] {
        word(&mut file, kind);
        word(&mut file, 5);
        for n in [offset, at, at, len, len, 4] {
            long(&mut file, n);
        }
    }
    file.resize(OFFSET as usize, 0);
    file.extend(code);
    for n in [4, 8, 18] {
        word(&mut file, n);
    }
    file.extend(b"Xen\0");
    long(&mut file, ENTRY.into());
    file
}
