// SPDX-License-Identifier: Apache-2.0
//! The seccomp allow-lists. Anything else kills the process: it is not a guest's mistake but a
//! monitor that does what it never does.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::Thread;
use crate::virtio::{blk, fs, net};

/// `_IO(KVMIO, 0x80)`, the one ioctl of a vCPU thread in normal life; `KVM_GET_REGS`,
/// `KVM_GET_SREGS` for the message about an internal error; and those that save a vCPU:
/// `KVM_GET_MSRS`, `KVM_GET_CPUID2`, `KVM_GET_LAPIC`, `KVM_GET_MP_STATE`, `KVM_GET_VCPU_EVENTS`,
/// `KVM_GET_DEBUGREGS`, `KVM_GET_XSAVE`, `KVM_GET_XCRS`, `KVM_GET_TSC_KHZ`.
const VCPU_IOCTLS: &[u64] = &[
    0xae80,
    0x8090_ae81,
    0x8138_ae83,
    0xc008_ae88,
    0xc008_ae91,
    0x8400_ae8e,
    0x8004_ae98,
    0x8040_ae9f,
    0x8080_aea1,
    0x9000_aea4,
    0x8188_aea6,
    0xaea3,
];

/// `TCSETS`, `TCSETS2`: the user's terminal, restored at the end; `KVM_GET_IRQCHIP`,
/// `KVM_GET_PIT2`, `KVM_GET_CLOCK` for a snapshot.
const EVENT_LOOP_IOCTLS: &[u64] = &[0x5402, 0x402c_542b, 0xc208_ae62, 0x8070_ae9f, 0x8030_ae7c];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What Rust's runtime and the C library's allocator do on any thread, and how a thread ends.
const ALL: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mmap,
    // The allocator's arenas grow by it.
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

const EVENTS: &[i64] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
];

/// vsock's unix sockets, the end of the console's file, and the files of a snapshot.
const EVENT_LOOP: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_fcntl,
    libc::SYS_ftruncate,
    libc::SYS_getsockopt,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_socket,
];

/// The console's file starts anew when it is full.
const VCPU: &[i64] = &[
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_dup,
    libc::SYS_fcntl,
];

pub(super) fn program(thread: Thread) -> Result<BpfProgram, BackendError> {
    let mut rules = Rules::new();
    let lists: &[&[i64]] = match thread {
        Thread::EventLoop => &[ALL, EVENTS, EVENT_LOOP],
        // A device is activated and reset by the vCPU that writes its status.
        Thread::Vcpu => &[ALL, EVENTS, VCPU],
        Thread::Blk => &[ALL, EVENTS, blk::WORKER_SYSCALLS],
        Thread::Fs => &[ALL, EVENTS, fs::WORKER_SYSCALLS],
    };
    for &call in lists.iter().copied().flatten() {
        rules.insert(call, Vec::new());
    }
    match thread {
        Thread::Vcpu => allow_ioctls(&mut rules, &[VCPU_IOCTLS, net::ACTIVATE_IOCTLS].concat())?,
        Thread::EventLoop => {
            allow_ioctls(&mut rules, EVENT_LOOP_IOCTLS)?;
            // socket(2) makes unix sockets only.
            let unix = SeccompCondition::new(
                0,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Eq,
                u64::from(libc::AF_UNIX.unsigned_abs()),
            )?;
            rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![unix])?]);
        }
        Thread::Fs => {
            let files_only = SeccompCondition::new(
                0,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Eq,
                u64::from(libc::CLONE_FS.unsigned_abs()),
            )?;
            rules.insert(libc::SYS_unshare, vec![SeccompRule::new(vec![files_only])?]);
        }
        Thread::Blk => {}
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    filter.try_into()
}

fn allow_ioctls(rules: &mut Rules, requests: &[u64]) -> Result<(), BackendError> {
    let allowed: Result<_, _> = requests
        .iter()
        .map(|&request| {
            let is = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?;
            SeccompRule::new(vec![is])
        })
        .collect();
    rules.insert(libc::SYS_ioctl, allowed?);
    Ok(())
}
