// SPDX-License-Identifier: Apache-2.0
//! Programs run here, by an interpreter of their few instructions, against what the rules say.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What the kernel would answer.
fn run(code: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0_i32; 6];
    let mut at = 0;
    loop {
        let step = code[at];
        at += 1;
        let (to, from) = (
            usize::from(step.registers & 15),
            usize::from(step.registers >> 4),
        );
        match step.code {
            LOAD_WORD => registers[to] = context[usize::try_from(step.offset).unwrap() / 4],
            MOVE => registers[to] = registers[from],
            MOVE_IMMEDIATE => registers[to] = step.immediate,
            AND => registers[to] &= step.immediate,
            SHIFT_RIGHT => registers[to] >>= step.immediate,
            UNLESS_EQUAL if registers[to] == step.immediate => {}
            UNLESS_EQUAL => at += usize::try_from(step.offset).unwrap(),
            EXIT => return registers[0] != 0,
            other => panic!("{other:#x}"),
        }
    }
}

fn rules(json: serde_json::Value) -> Vec<LinuxDeviceCgroup> {
    serde_json::from_value(json).unwrap()
}

#[test]
fn docker_s_rules() {
    let rules = rules(json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "access": "m"},
        {"allow": true, "type": "b", "access": "m"},
        {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"},
    ]));
    let code = program(&rules).unwrap();
    assert!(run(&code, CHARACTER, READ | WRITE, 1, 3), "null");
    assert!(run(&code, CHARACTER, READ, 136, 7), "a terminal");
    assert!(!run(&code, CHARACTER, READ, 1, 11), "kmsg");
    assert!(
        run(&code, CHARACTER, MKNOD, 1, 11),
        "to make a node is no access"
    );
    assert!(!run(&code, BLOCK, READ, 254, 0), "a disk");
    assert!(run(&code, CHARACTER, READ | WRITE, 10, 200), "tun");
    assert!(
        !run(&code, CHARACTER, READ | WRITE | MKNOD, 10, 200),
        "more than was allowed"
    );
    assert!(!run(&code, BLOCK, READ, 10, 200), "of the other kind");
}

#[test]
fn no_rules_no_program_and_all_is_all() {
    assert_eq!(program(&[]), None);
    let code = program(&rules(
        json!([{"allow": true, "type": "a", "access": "rwm"}]),
    ))
    .unwrap();
    assert!(run(&code, BLOCK, EVERY_ACCESS, 254, 0));
}

#[test]
fn the_kernel_takes_it() {
    let rules = rules(json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"},
    ]));
    match install::load(&program(&rules).unwrap()) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            eprintln!("SKIPPED: loading a program needs CAP_BPF");
        }
        Err(error) => panic!("{error}"),
    }
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let some = |range: std::ops::Range<i32>| prop::option::of(range);
    (any::<bool>(), some(1..3), some(0..3), some(0..3), 0..8).prop_map(
        |(allow, kind, major, minor, access)| Rule {
            allow,
            kind,
            major,
            minor,
            access,
        },
    )
}

proptest! {
    #[test]
    fn the_last_rule_that_matches_decides(
        rules in prop::collection::vec(any_rule(), 0..8),
        kind in 1..3, access in 1..8, major in 0..3, minor in 0..3,
    ) {
        let is = |wanted: Option<i32>, got: i32| wanted.is_none_or(|wanted| wanted == got);
        let wanted = rules.iter().rev().find(|rule| {
            is(rule.kind, kind) && is(rule.major, major) && is(rule.minor, minor)
                && access & !rule.access == 0
        });
        let wanted = wanted.is_some_and(|rule| rule.allow);
        prop_assert_eq!(run(&assemble(&rules), kind, access, major, minor), wanted);
    }
}
