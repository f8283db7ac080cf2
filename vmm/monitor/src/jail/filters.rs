// SPDX-License-Identifier: Apache-2.0
//! The seccomp allow-lists of the monitor's threads.

use seccompiler::{BackendError, BpfProgram};
use walnut_vmm_host::seccomp::{AllowList, BASICS, EVENTS};

use super::Thread;
use crate::virtio::{blk, fs, net};

/// `KVM_IRQ_LINE`: how a device interrupts.
const KVM_IRQ_LINE: u64 = 0x4008_ae61;

/// `_IO(KVMIO, 0x80)`, the one ioctl of a vCPU thread in normal life; `KVM_GET_REGS`,
/// `KVM_GET_SREGS` for the message about an internal error; and those that save a vCPU:
/// `KVM_GET_MSRS`, `KVM_GET_CPUID2`, `KVM_GET_LAPIC`, `KVM_GET_MP_STATE`, `KVM_GET_VCPU_EVENTS`,
/// `KVM_GET_DEBUGREGS`, `KVM_GET_XSAVE`, `KVM_GET_XCRS`, `KVM_GET_TSC_KHZ`.
const VCPU_IOCTLS: &[u64] = &[
    KVM_IRQ_LINE,
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
/// `KVM_GET_PIT2`, `KVM_GET_CLOCK` for a snapshot; `KVM_IRQFD`, `KVM_IOEVENTFD`, `FIONBIO` for a device
/// that comes while the machine runs.
const EVENT_LOOP_IOCTLS: &[u64] = &[
    KVM_IRQ_LINE,
    0x5402,
    0x402c_542b,
    0xc208_ae62,
    0x8070_ae9f,
    0x8030_ae7c,
    0x4020_ae76,
    0x4040_ae79,
    0x5421,
];

/// vsock's unix sockets, the end of the console's file, the files of a snapshot, the events of a device
/// that comes while the machine runs, and the timer of a network whose rate is bounded.
const EVENT_LOOP: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_eventfd2,
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
    libc::SYS_timerfd_settime,
];

/// The console's file starts anew when it is full.
const VCPU: &[i64] = &[
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_dup,
    libc::SYS_fcntl,
];

pub(super) fn program(thread: Thread) -> Result<BpfProgram, BackendError> {
    let mut list = AllowList::of(match thread {
        Thread::EventLoop => &[BASICS, EVENTS, EVENT_LOOP],
        // A device is activated and reset by the vCPU that writes its status.
        Thread::Vcpu => &[BASICS, EVENTS, VCPU],
        Thread::Blk => &[BASICS, EVENTS, blk::WORKER_SYSCALLS],
        Thread::Fs => &[BASICS, EVENTS, fs::WORKER_SYSCALLS],
    });
    match thread {
        Thread::Vcpu => {
            let requests = [VCPU_IOCTLS, net::ACTIVATE_IOCTLS].concat();
            list.allow_with(libc::SYS_ioctl, 1, &requests)?;
        }
        Thread::EventLoop => {
            let requests = [EVENT_LOOP_IOCTLS, net::SET_UP_IOCTLS].concat();
            list.allow_with(libc::SYS_ioctl, 1, &requests)?;
            // socket(2) makes unix sockets only.
            let unix = u64::from(libc::AF_UNIX.unsigned_abs());
            list.allow_with(libc::SYS_socket, 0, &[unix])?;
        }
        Thread::Fs => {
            list.allow_with(libc::SYS_ioctl, 1, &[KVM_IRQ_LINE])?;
            let files_only = u64::from(libc::CLONE_FS.unsigned_abs());
            list.allow_with(libc::SYS_unshare, 0, &[files_only])?;
        }
        Thread::Blk => list.allow_with(libc::SYS_ioctl, 1, &[KVM_IRQ_LINE])?,
    }
    list.compile()
}
