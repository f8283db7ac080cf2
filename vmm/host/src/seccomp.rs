// SPDX-License-Identifier: Apache-2.0
//! Seccomp allow-lists, for the processes that hostile bytes reach. Any other call kills the process:
//! it is not a guest's mistake but a program that does what it never does.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// What Rust's runtime and the C library's allocator do on any thread, and how a thread ends.
pub const BASICS: &[i64] = &[
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

/// Waiting for descriptors.
pub const EVENTS: &[i64] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
];

/// What is allowed.
#[derive(Debug, Default)]
pub struct AllowList(BTreeMap<i64, Vec<SeccompRule>>);

impl AllowList {
    #[must_use]
    pub fn of(lists: &[&[i64]]) -> Self {
        let calls = lists.iter().copied().flatten();
        Self(calls.map(|call| (*call, Vec::new())).collect())
    }

    /// A call where its argument of that number, 32 bits of it, is one of these.
    ///
    /// # Errors
    /// There is no such argument.
    pub fn allow_with(
        &mut self,
        call: i64,
        argument: u8,
        values: &[u64],
    ) -> Result<(), BackendError> {
        let rule = |value: &u64| {
            let (length, is) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
            SeccompRule::new(vec![SeccompCondition::new(argument, length, is, *value)?])
        };
        let rules = values.iter().map(rule).collect::<Result<_, _>>()?;
        self.0.insert(call, rules);
        Ok(())
    }

    /// # Errors
    /// It is too long for a filter.
    pub fn compile(self) -> Result<BpfProgram, BackendError> {
        let filter = SeccompFilter::new(
            self.0,
            SeccompAction::KillProcess,
            SeccompAction::Allow,
            TargetArch::x86_64,
        )?;
        filter.try_into()
    }
}
