// SPDX-License-Identifier: Apache-2.0
//! Filling KVM's page tables ahead of the guest (kernel: Documentation/virt/kvm/api.rst,
//! `KVM_PRE_FAULT_MEMORY`, since Linux 6.11), for memory that is there already and will be touched
//! page by page: one call instead of an exit per page.

use kvm_bindings::{KVM_CAP_PRE_FAULT_MEMORY, KVMIO, kvm_pre_fault_memory};
use kvm_ioctls::{Kvm, VcpuFd};
use vm_memory::GuestAddress;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

ioctl_iowr_nr!(PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);

/// A host that can't do this is only slower, so nothing fails.
pub fn prefault(kvm: &Kvm, vcpu: &VcpuFd, ranges: &[(GuestAddress, u64)]) {
    if kvm.check_extension_raw(KVM_CAP_PRE_FAULT_MEMORY.into()) <= 0 {
        return;
    }
    for &(start, len) in ranges {
        let mut range = kvm_pre_fault_memory {
            gpa: start.0,
            size: len,
            ..Default::default()
        };
        // KVM writes back what is left to do.
        while range.size > 0 {
            #[expect(unsafe_code, reason = "kvm-ioctls has no call for this")]
            // SAFETY: the request takes this structure and keeps no pointer to it.
            let done = unsafe { ioctl_with_mut_ref(vcpu, PRE_FAULT_MEMORY(), &mut range) };
            if done < 0 {
                let error = std::io::Error::last_os_error();
                if error.kind() == std::io::ErrorKind::Interrupted {
                    continue;
                }
                log::debug!("cannot fill the page tables at {:#x}: {error}", range.gpa);
                break;
            }
        }
    }
}
