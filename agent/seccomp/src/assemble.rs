// SPDX-License-Identifier: Apache-2.0
//! Plans made into classic BPF (linux/filter.h), as seccomp runs it over `struct seccomp_data`.
//!
//! For each architecture a binary search over the call's number: neighbours that are treated alike
//! are one range, each range a leaf. Conditional jumps reach 255 instructions, which a half of the
//! search may exceed: such a half is jumped over by an unconditional jump.

use libc::sock_filter;
use oci_spec::runtime::LinuxSeccompOperator as Op;

use super::{Condition, Plan, Treatment, Verdict};

// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

const LOAD: u16 = op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
const AND: u16 = op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K);
const RETURN: u16 = op(libc::BPF_RET | libc::BPF_K);
const JUMP: u16 = op(libc::BPF_JMP | libc::BPF_JA);
const IF_EQ: u16 = op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
const IF_GT: u16 = op(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K);
const IF_GE: u16 = op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K);

const NO_SUCH_CALL: Verdict = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's codes have 16 bits"
)]
const fn op(code: u32) -> u16 {
    code as u16
}

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// The whole filter. An architecture that no plan is for is nobody's business here.
pub(super) fn program(plans: &[Plan]) -> Vec<sock_filter> {
    let mut code = vec![statement(LOAD, ARCH)];
    for plan in plans {
        let body = body(plan);
        // Not this architecture: over the body.
        code.push(sock_filter {
            code: IF_EQ,
            jt: 1,
            jf: 0,
            k: plan.audit_arch,
        });
        code.push(statement(JUMP, len(&body)));
        code.extend(body);
    }
    code.push(statement(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    code
}

/// A range of numbers that are treated alike, up to the next one's start.
struct Range {
    start: u32,
    leaf: Vec<sock_filter>,
}

fn body(plan: &Plan) -> Vec<sock_filter> {
    let default = || vec![statement(RETURN, plan.default)];
    let mut ranges = vec![Range {
        start: 0,
        leaf: default(),
    }];
    let mut next = 0;
    for (number, treatment) in &plan.calls {
        if *number > next {
            push(&mut ranges, next, default());
        }
        push(&mut ranges, *number, leaf(treatment, plan.default));
        next = number + 1;
    }
    push(&mut ranges, next, default());
    push(
        &mut ranges,
        plan.unknown_from.max(next),
        vec![statement(RETURN, NO_SUCH_CALL)],
    );
    let mut code = vec![statement(LOAD, NR)];
    code.extend(search(&ranges));
    code
}

fn push(ranges: &mut Vec<Range>, start: u32, leaf: Vec<sock_filter>) {
    match ranges.last_mut() {
        Some(last) if same(&last.leaf, &leaf) => {}
        Some(last) if last.start == start => last.leaf = leaf,
        _ => ranges.push(Range { start, leaf }),
    }
}

fn same(a: &[sock_filter], b: &[sock_filter]) -> bool {
    let words = |i: &sock_filter| (i.code, i.jt, i.jf, i.k);
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| words(a) == words(b))
}

/// The number is in the accumulator.
fn search(ranges: &[Range]) -> Vec<sock_filter> {
    if let [only] = ranges {
        return only.leaf.clone();
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let start = high.first().map_or(0, |range| range.start);
    let (low, high) = (search(low), search(high));
    let mut code = Vec::with_capacity(low.len() + high.len() + 2);
    match u8::try_from(low.len()) {
        Ok(over) => code.push(sock_filter {
            code: IF_GE,
            jt: over,
            jf: 0,
            k: start,
        }),
        Err(_) => {
            code.push(sock_filter {
                code: IF_GE,
                jt: 0,
                jf: 1,
                k: start,
            });
            code.push(statement(JUMP, len(&low)));
        }
    }
    code.extend(low);
    code.extend(high);
    code
}

fn leaf(treatment: &Treatment, default: Verdict) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for (conditions, verdict) in &treatment.conditional {
        code.extend(rule(conditions, *verdict));
    }
    code.push(statement(RETURN, treatment.otherwise.unwrap_or(default)));
    code
}

/// Where a comparison goes on.
#[derive(Clone, Copy)]
enum Go {
    /// The next instruction.
    On,
    /// The condition holds.
    Holds,
    /// The rule is none for this call.
    Fails,
}

/// Returns `verdict` where every condition holds, and runs on over its end where not.
fn rule(conditions: &[Condition], verdict: Verdict) -> Vec<sock_filter> {
    let steps: Vec<Vec<(sock_filter, Go, Go)>> = conditions.iter().map(condition).collect();
    // The last instruction is the return; a failed condition goes behind it.
    let end = steps.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(end);
    for condition in &steps {
        let after = code.len() + condition.len();
        for (instruction, holds, fails) in condition {
            let here = code.len() + 1;
            // A rule has six conditions of six instructions at most.
            let distance = |go: Go| match go {
                Go::On => 0,
                Go::Holds => u8::try_from(after - here).unwrap_or(u8::MAX),
                Go::Fails => u8::try_from(end - here).unwrap_or(u8::MAX),
            };
            code.push(sock_filter {
                jt: distance(*holds),
                jf: distance(*fails),
                ..*instruction
            });
        }
    }
    code.push(statement(RETURN, verdict));
    code
}

/// One comparison of 64 bits, in halves: each instruction with where it goes on when its test is
/// true and when not. The last one's [`Go::Holds`] is the instruction behind it.
fn condition(condition: &Condition) -> Vec<(sock_filter, Go, Go)> {
    let at = ARGS + 8 * u32::try_from(condition.index).unwrap_or(0);
    let (low, high) = halves(condition.value);
    let load = |offset| (statement(LOAD, offset), Go::On, Go::On);
    let test = |code, k, holds, fails| (statement(code, k), holds, fails);
    // x86 is little-endian: the high half comes second.
    let (load_low, load_high) = (load(at), load(at + 4));
    match condition.op {
        Op::ScmpCmpEq => vec![
            load_high,
            test(IF_EQ, high, Go::On, Go::Fails),
            load_low,
            test(IF_EQ, low, Go::Holds, Go::Fails),
        ],
        Op::ScmpCmpNe => vec![
            load_high,
            test(IF_EQ, high, Go::On, Go::Holds),
            load_low,
            test(IF_EQ, low, Go::Fails, Go::Holds),
        ],
        Op::ScmpCmpGe | Op::ScmpCmpGt => {
            let last = if condition.op == Op::ScmpCmpGe {
                IF_GE
            } else {
                IF_GT
            };
            vec![
                load_high,
                test(IF_GT, high, Go::Holds, Go::On),
                test(IF_EQ, high, Go::On, Go::Fails),
                load_low,
                test(last, low, Go::Holds, Go::Fails),
            ]
        }
        Op::ScmpCmpLt | Op::ScmpCmpLe => {
            let last = if condition.op == Op::ScmpCmpLt {
                IF_GE
            } else {
                IF_GT
            };
            vec![
                load_high,
                test(IF_GT, high, Go::Fails, Go::On),
                test(IF_EQ, high, Go::On, Go::Holds),
                load_low,
                test(last, low, Go::Fails, Go::Holds),
            ]
        }
        Op::ScmpCmpMaskedEq => {
            let (wanted_low, wanted_high) = halves(condition.value_two);
            vec![
                load_high,
                (statement(AND, high), Go::On, Go::On),
                test(IF_EQ, wanted_high, Go::On, Go::Fails),
                load_low,
                (statement(AND, low), Go::On, Go::On),
                test(IF_EQ, wanted_low, Go::Holds, Go::Fails),
            ]
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

fn len(code: &[sock_filter]) -> u32 {
    u32::try_from(code.len()).unwrap_or(u32::MAX)
}
