// SPDX-License-Identifier: Apache-2.0
//! Which devices a container may open: the OCI spec's `linux.resources.devices` as a BPF program
//! on its control group (cgroup-v2.rst, "Device controller"; bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`).
//!
//! libcontainer would need libbpf for it. Without it a container that may make device nodes, as
//! Docker's default has it, could read the machine's disks and the kernel's log.

mod install;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

pub use install::{DevicesError, attach};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// linux/bpf_common.h and linux/bpf.h.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_IMMEDIATE: u8 = 0xb4;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const UNLESS_EQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

// BPF_DEVCG_…
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const EVERY_ACCESS: i32 = MKNOD | READ | WRITE;
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// What every container has, whatever its rules, as runc adds it: null, zero, full, random,
/// urandom, tty, console, ptmx.
const ALWAYS: &[(i32, i32)] = &[
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
];
/// The major number of a devpts' terminals.
const TERMINALS: i32 = 136;

/// One rule; what is `None` matches all there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    const fn allow(major: i32, minor: Option<i32>) -> Self {
        Self {
            allow: true,
            kind: Some(CHARACTER),
            major: Some(major),
            minor,
            access: EVERY_ACCESS,
        }
    }
}

impl From<&LinuxDeviceCgroup> for Rule {
    fn from(spec: &LinuxDeviceCgroup) -> Self {
        let kind = match spec.typ() {
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
            _ => None,
        };
        // Negative is runc's word for all; a number that no device has matches none.
        let number = |number: Option<i64>| {
            number
                .filter(|n| *n >= 0)
                .map(|n| i32::try_from(n).unwrap_or(i32::MAX))
        };
        let access = spec.access().as_deref().unwrap_or("rwm").chars();
        let access = access.fold(0, |mask, letter| {
            mask | match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => 0,
            }
        });
        Self {
            allow: spec.allow(),
            kind,
            major: number(spec.major()),
            minor: number(spec.minor()),
            access,
        }
    }
}

/// The program for a container's rules; none where it has none.
fn program(rules: &[LinuxDeviceCgroup]) -> Option<Vec<Instruction>> {
    if rules.is_empty() {
        return None;
    }
    let always = ALWAYS
        .iter()
        .map(|(major, minor)| Rule::allow(*major, Some(*minor)));
    let all: Vec<Rule> = rules
        .iter()
        .map(Rule::from)
        .chain(always)
        .chain([Rule::allow(TERMINALS, None)])
        .collect();
    Some(assemble(&all))
}

const fn step(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

/// Registers 2 to 5 hold the kind, the access, the major and the minor number. The last rule that
/// matches decides, so it comes first.
fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut code = vec![
        // struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor.
        step(LOAD_WORD, 2, 1, 0, 0),
        step(MOVE, 3, 2, 0, 0),
        step(AND, 2, 0, 0, 0xffff),
        step(SHIFT_RIGHT, 3, 0, 0, 16),
        step(LOAD_WORD, 4, 1, 4, 0),
        step(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        code.extend(block(rule));
        if rule.kind.is_none()
            && rule.major.is_none()
            && rule.minor.is_none()
            && rule.access == EVERY_ACCESS
        {
            // It decided: the verifier takes no code that can't be reached.
            return code;
        }
    }
    code.extend([step(MOVE_IMMEDIATE, 0, 0, 0, 0), step(EXIT, 0, 0, 0, 0)]);
    code
}

fn block(rule: &Rule) -> Vec<Instruction> {
    let mut code = Vec::new();
    let mut tests: Vec<(u8, i32)> = Vec::new();
    if rule.access != EVERY_ACCESS {
        // A rule is for an access that asks for nothing beyond it.
        code.push(step(MOVE, 0, 3, 0, 0));
        code.push(step(AND, 0, 0, 0, EVERY_ACCESS & !rule.access));
        tests.push((0, 0));
    }
    tests.extend(rule.kind.map(|kind| (2, kind)));
    tests.extend(rule.major.map(|major| (4, major)));
    tests.extend(rule.minor.map(|minor| (5, minor)));
    // Over the tests that are left, and the two instructions of the answer.
    let mut over = 2 + i16::from(u8::try_from(tests.len()).unwrap_or(u8::MAX));
    for (register, value) in tests {
        over -= 1;
        code.push(step(UNLESS_EQUAL, register, 0, over, value));
    }
    code.push(step(MOVE_IMMEDIATE, 0, 0, 0, rule.allow.into()));
    code.push(step(EXIT, 0, 0, 0, 0));
    code
}

#[cfg(test)]
mod tests;
