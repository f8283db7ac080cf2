// SPDX-License-Identifier: Apache-2.0
//! Gives a device program to the kernel: bpf(2), `BPF_PROG_LOAD` and `BPF_PROG_ATTACH`.

#![expect(unsafe_code, reason = "a system call that no crate of ours wraps")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxDeviceCgroup;

use super::{Instruction, program};

// linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    #[error("open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("load the devices' program, {len} instructions")]
    Load { len: usize, source: io::Error },
    #[error("attach the devices' program to {}", path.display())]
    Attach { path: PathBuf, source: io::Error },
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` takes, up to `prog_flags`.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_ATTACH` takes.
#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Puts the control group at `path` under `rules`; it stays so for as long as the group lives.
///
/// # Errors
/// The kernel has no device programs, or refuses this one.
pub fn attach(path: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), DevicesError> {
    let Some(code) = program(rules) else {
        return Ok(());
    };
    let group = File::open(path).map_err(|source| DevicesError::Open {
        path: path.into(),
        source,
    })?;
    let program = load(&code).map_err(|source| DevicesError::Load {
        len: code.len(),
        source,
    })?;
    let attr = AttachAttr {
        target_fd: number(group.as_raw_fd()),
        attach_bpf_fd: number(program.as_raw_fd()),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the kernel reads as many bytes of `attr` as it is told there are, and holds both
    // descriptors' files by itself.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attr,
            size_of::<AttachAttr>(),
        )
    };
    if answer < 0 {
        return Err(DevicesError::Attach {
            path: path.into(),
            source: io::Error::last_os_error(),
        });
    }
    Ok(())
}

pub(super) fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(code.len()).map_err(io::Error::other)?,
        insns: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the kernel reads as many bytes of `attr` as it is told there are, and through it the
    // instructions and the license, which live until it returns.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attr,
            size_of::<LoadAttr>(),
        )
    };
    let fd = RawFd::try_from(answer).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, close-on-exec, for this caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: RawFd) -> u32 {
    fd.cast_unsigned()
}
