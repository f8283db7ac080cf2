// SPDX-License-Identifier: Apache-2.0
//! Filters run here, by an interpreter of their few instructions, against what a profile says.

use libc::sock_filter;
use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number.cast_unsigned()
}

/// What the kernel would answer.
fn run(code: &[sock_filter], arch: u32, nr: u32, args: &[u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(nr.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend([0; 8]);
    data.extend(args.iter().flat_map(|arg| arg.to_le_bytes()));
    let (mut at, mut a) = (0, 0_u32);
    loop {
        let step = code[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        match u32::from(step.code) {
            0x20 => {
                let k = step.k as usize;
                a = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
            }
            0x54 => a &= step.k,
            0x06 => return step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(a == step.k),
            0x25 => at += jump(a > step.k),
            0x35 => at += jump(a >= step.k),
            other => panic!("{other:#x}"),
        }
    }
}

fn compiled(profile: serde_json::Value) -> Filter {
    let profile: LinuxSeccomp = serde_json::from_value(profile).unwrap();
    compile(&profile).unwrap()
}

fn number(name: &str) -> u32 {
    Table::x86_64().number(name).unwrap()
}

#[test]
fn docker_s_shapes() {
    let filter = compiled(json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["read", "write", "getuid32", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 0xffff_ffff_u64, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 12, "op": "SCMP_CMP_LT"}]},
        ],
    }));
    let call =
        |name: &str, first: u64| run(filter.code(), X86_64, number(name), &[first, 0, 0, 0, 0, 0]);
    assert_eq!(call("read", 0), ALLOW);
    assert_eq!(call("open", 0), errno(libc::EPERM));
    // A fork, and one that would make a user namespace.
    assert_eq!(call("clone", 17), ALLOW);
    assert_eq!(call("clone", 17 | 0x1000_0000), errno(libc::EPERM));
    assert_eq!(call("clone3", 0), errno(libc::ENOSYS));
    assert_eq!(call("personality", 0xffff_ffff), ALLOW);
    assert_eq!(call("personality", 0x1_ffff_ffff), errno(libc::EPERM));
    assert_eq!(call("socket", 2), ALLOW);
    assert_eq!(call("socket", 12), errno(libc::EPERM));
    assert_eq!(call("socket", 1 << 32), errno(libc::EPERM));
    let i386 = |name: &str| {
        run(
            filter.code(),
            I386,
            Table::x86().number(name).unwrap(),
            &[0; 6],
        )
    };
    assert_eq!(
        (i386("read"), i386("getuid32"), i386("getuid")),
        (ALLOW, ALLOW, errno(1))
    );
    assert_eq!(
        run(filter.code(), X86_64, 5000, &[0; 6]),
        errno(libc::ENOSYS)
    );
    assert_eq!(
        run(filter.code(), X86_64, 0x4000_0000, &[0; 6]),
        errno(libc::ENOSYS)
    );
    assert_eq!(
        run(filter.code(), 0xc000_00b7, 0, &[0; 6]),
        libc::SECCOMP_RET_KILL_PROCESS
    );
}

#[test]
fn every_name_at_once_needs_long_jumps_and_fits() {
    let every_other: Vec<&str> = syscalls::x86_64::Sysno::iter()
        .step_by(2)
        .map(|call| call.name())
        .collect();
    let filter = compiled(json!({
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [{"names": every_other, "action": "SCMP_ACT_ALLOW"}],
    }));
    for call in syscalls::x86_64::Sysno::iter() {
        let allowed = every_other.contains(&call.name());
        let wanted = if allowed {
            ALLOW
        } else {
            libc::SECCOMP_RET_KILL_PROCESS
        };
        let number = call.id().cast_unsigned();
        assert_eq!(
            run(filter.code(), X86_64, number, &[0; 6]),
            wanted,
            "{}",
            call.name()
        );
    }
}

#[test]
fn bytes_there_and_back() {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO"}]});
    let filter = compiled(profile);
    let (bytes, flags) = filter.to_bytes();
    let again = Filter::from_bytes(&bytes, flags).unwrap();
    assert_eq!(again.to_bytes(), (bytes.clone(), flags));
    assert_eq!(flags, 2);
    assert_eq!(run(again.code(), X86_64, 0, &[0; 6]), errno(libc::EPERM));
    for bad in [&bytes[..0], &bytes[1..], &vec![0; 8 * (MAX_LEN + 1)][..]] {
        assert!(Filter::from_bytes(bad, 0).is_err());
    }
}

#[test]
fn what_can_t_be_is_refused() {
    let refused = |profile: serde_json::Value| {
        let profile: LinuxSeccomp = serde_json::from_value(profile).unwrap();
        compile(&profile).unwrap_err().to_string()
    };
    let notify = json!({"defaultAction": "SCMP_ACT_NOTIFY"});
    assert!(refused(notify).contains("not supported"));
    let arm = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ARM"]});
    assert!(refused(arm).contains("which this machine has not"));
    let seventh = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [
            {"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]});
    assert!(refused(seventh).contains("argument 6 of read"));
}

#[test]
fn the_kernel_takes_it() {
    let filter = compiled(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}],
    }));
    // A filter is for good: a thread of its own has it.
    let got = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        filter.install().unwrap();
        // SAFETY: getppid(2) takes nothing and touches nothing.
        #[expect(unsafe_code, reason = "the call must really be made")]
        let answer = unsafe { libc::syscall(libc::SYS_getppid) };
        (answer, std::io::Error::last_os_error().raw_os_error())
    });
    assert_eq!(got.join().unwrap(), (-1, Some(99)));
}

fn ops() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "SCMP_CMP_EQ",
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_GT",
        "SCMP_CMP_GE",
        "SCMP_CMP_MASKED_EQ",
    ])
}

/// Values around which comparisons of halves go wrong.
fn values() -> impl Strategy<Value = u64> {
    let edges = vec![
        0,
        1,
        2,
        0xffff_fffe,
        0xffff_ffff,
        1 << 32,
        (1 << 32) + 1,
        u64::MAX,
        1 << 63,
    ];
    prop_oneof![prop::sample::select(edges), any::<u64>()]
}

fn holds(op: &str, arg: u64, value: u64, value_two: u64) -> bool {
    match op {
        "SCMP_CMP_EQ" => arg == value,
        "SCMP_CMP_NE" => arg != value,
        "SCMP_CMP_LT" => arg < value,
        "SCMP_CMP_LE" => arg <= value,
        "SCMP_CMP_GT" => arg > value,
        "SCMP_CMP_GE" => arg >= value,
        _ => arg & value == value_two,
    }
}

type RuleArgs = Vec<(usize, &'static str, u64, u64)>;

fn rules() -> impl Strategy<Value = Vec<(u32, RuleArgs, i32)>> {
    let args = prop::collection::vec((0_usize..6, ops(), values(), values()), 0..4);
    prop::collection::vec((0_u32..12, args, 1_i32..50), 0..12)
}

proptest! {
    #[test]
    fn the_filter_says_what_the_profile_says(
        rules in rules(),
        nr in 0_u32..14,
        args in prop::array::uniform6(values()),
    ) {
        let table = Table::x86_64();
        let name = |nr: u32| syscalls::x86_64::Sysno::new(nr as usize).unwrap().name();
        let json_rules: Vec<_> = rules.iter().map(|(nr, args, errno)| json!({
            "names": [name(*nr)], "action": "SCMP_ACT_ERRNO", "errnoRet": errno,
            "args": args.iter().map(|(index, op, value, two)| json!({
                "index": index, "op": op, "value": value, "valueTwo": two,
            })).collect::<Vec<_>>(),
        })).collect();
        let filter = compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": json_rules}));
        prop_assert!(table.number(name(nr)) == Some(nr));

        let matching = |args_of: &RuleArgs| {
            let mut indices: Vec<_> = args_of.iter().map(|arg| arg.0).collect();
            indices.sort_unstable();
            indices.dedup();
            let mut each = args_of.iter().map(|(i, op, v, two)| holds(op, args[*i], *v, *two));
            if indices.len() < args_of.len() { each.any(|held| held) } else { each.all(|held| held) }
        };
        let of_this = || rules.iter().filter(|rule| rule.0 == nr);
        let wanted = of_this()
            .find(|rule| !rule.1.is_empty() && matching(&rule.1))
            .or_else(|| of_this().find(|rule| rule.1.is_empty()))
            .map_or(ALLOW, |rule| errno(rule.2));
        prop_assert_eq!(run(filter.code(), X86_64, nr, &args), wanted);
    }
}
