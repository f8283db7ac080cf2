// SPDX-License-Identifier: Apache-2.0
//! System calls by name, for the two architectures that an x86-64 kernel runs.

use std::collections::HashMap;

// linux/audit.h: EM_… | __AUDIT_ARCH_64BIT | __AUDIT_ARCH_LE.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;

pub(super) struct Table {
    pub(super) audit_arch: u32,
    /// One more than the greatest number there is.
    pub(super) unknown_from: u32,
    numbers: HashMap<&'static str, u32>,
}

impl Table {
    pub(super) fn x86_64() -> Self {
        let all = syscalls::x86_64::Sysno::iter();
        Self::new(AUDIT_ARCH_X86_64, all.map(|call| (call.name(), call.id())))
    }

    pub(super) fn x86() -> Self {
        let all = syscalls::x86::Sysno::iter();
        Self::new(AUDIT_ARCH_I386, all.map(|call| (call.name(), call.id())))
    }

    fn new(audit_arch: u32, all: impl Iterator<Item = (&'static str, i32)>) -> Self {
        let numbers: HashMap<_, _> = all.map(|(name, id)| (name, id.cast_unsigned())).collect();
        let unknown_from = numbers.values().max().map_or(0, |greatest| greatest + 1);
        Self {
            audit_arch,
            unknown_from,
            numbers,
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}
