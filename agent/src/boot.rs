// SPDX-License-Identifier: Apache-2.0
//! From the kernel's hand-over to a place where containers can be made. PID 1's only thread.
//!
//! Requirements: a root with this program as `/init` and a directory `/newroot`, read-only;
//! perhaps no `/dev/console`, so that descriptors 0 to 2 may be closed. Result: a tmpfs root,
//! proc, sysfs, devtmpfs, devpts, shm and cgroup2 with every controller passed on to the containers'
//! group, descriptors 0 to 2 on `/dev/null`, the log open, `lo` up.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::path::Path;

use log::LevelFilter;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{Resource, Rlimit};

use crate::{cgroup, clock, kmsg, loopback};

/// What stops the boot: there is no machine without it.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("mount {fstype} on {target}")]
    Mount {
        fstype: &'static str,
        target: &'static str,
        source: rustix::io::Errno,
    },
    #[error("move to the tmpfs root: {step}")]
    SwitchRoot {
        step: &'static str,
        source: rustix::io::Errno,
    },
    #[error("create {path}")]
    CreateDir {
        path: &'static str,
        source: io::Error,
    },
    #[error("open /dev/null")]
    DevNull(#[source] rustix::io::Errno),
    #[error("open /dev/kmsg")]
    Kmsg(#[source] io::Error),
    #[error("prepare the containers' control group")]
    Cgroup(#[source] cgroup::CgroupError),
}

/// Kernel settings that a container host has. A kernel without one of them is no error.
const SYSCTLS: &[(&str, &str)] = &[
    // As Docker sets them for each container: no capability for low ports and ping.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    // As today's distributions have it: databases and search engines want many mappings.
    ("vm/max_map_count", "1048576"),
    ("fs/inotify/max_user_instances", "8192"),
    ("kernel/pid_max", "4194304"),
];

/// Open files a process may have, as container hosts have it; a spec's rlimits come after it.
const NOFILE: u64 = 1_048_576;

/// Brings the machine up; returns the kernel's command line.
///
/// # Errors
/// Whatever PID 1 can't be without.
pub fn boot() -> Result<String, BootError> {
    switch_root()?;
    mount_all()?;
    open_standard_fds()?;
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let debug = cmdline
        .split_whitespace()
        .any(|word| word == "walnut.debug");
    if debug {
        // Without this the kernel keeps ten lines in five seconds.
        let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    }
    let level = if debug {
        LevelFilter::Debug
    } else {
        LevelFilter::Warn
    };
    kmsg::init(level).map_err(BootError::Kmsg)?;
    log::debug!("mounted at {} us", clock::boottime_us());
    cgroup::prepare().map_err(BootError::Cgroup)?;
    for (name, value) in SYSCTLS {
        if let Err(error) = fs::write(Path::new("/proc/sys").join(name), value) {
            log::debug!("sysctl {name}: {error}");
        }
    }
    set_limits();
    if let Err(error) = loopback::up() {
        log::warn!("bring lo up: {error}");
    }
    Ok(cmdline)
}

/// Mounts a tmpfs over the root, which stays below: this program is in it, and runs.
fn switch_root() -> Result<(), BootError> {
    const NEW: &str = "/newroot";
    let failed = |step| move |source| BootError::SwitchRoot { step, source };
    mount("tmpfs", NEW, "tmpfs", MountFlags::empty(), c"mode=0755")
        .map_err(failed("mount tmpfs"))?;
    rustix::process::chdir(NEW).map_err(failed("chdir"))?;
    mount_move(".", "/").map_err(failed("move"))?;
    rustix::process::chroot(".").map_err(failed("chroot"))?;
    rustix::process::chdir("/").map_err(failed("chdir to the new root"))
}

fn mount_all() -> Result<(), BootError> {
    let no_exec = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mounts = [
        ("proc", "/proc", no_exec, c""),
        ("sysfs", "/sys", no_exec, c""),
        ("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755"),
        (
            "devpts",
            "/dev/pts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            c"ptmxmode=0666,mode=0620",
        ),
        ("tmpfs", "/dev/shm", no_exec, c"mode=1777"),
        (
            "cgroup2",
            "/sys/fs/cgroup",
            no_exec,
            c"nsdelegate,memory_recursiveprot",
        ),
        (
            "tmpfs",
            "/run",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=0755",
        ),
        (
            "tmpfs",
            "/tmp",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=1777",
        ),
    ];
    for (fstype, target, flags, data) in mounts {
        // sysfs has its mount point for cgroup2 already, and takes no others.
        if !target.starts_with("/sys/") {
            fs::create_dir_all(target).map_err(|source| BootError::CreateDir {
                path: target,
                source,
            })?;
        }
        mount(fstype, target, fstype, flags, data).map_err(|source| BootError::Mount {
            fstype,
            target,
            source,
        })?;
        if fstype == "sysfs" {
            // Before the first control group is written to: a move into one waits for the kernel's
            // RCU, two jiffies each time, unless that hurries. A kernel without it is only slower.
            let _ = fs::write("/sys/kernel/rcu_expedited", "1");
        }
    }
    Ok(())
}

/// Makes descriptors 0 to 2: `open` takes the lowest that is free.
fn open_standard_fds() -> Result<(), BootError> {
    loop {
        let fd = open_null()?;
        if fd.as_raw_fd() > 2 {
            break;
        }
        // It stays open for as long as the machine runs.
        let _ = fd.into_raw_fd();
    }
    // A console that is there would keep what nobody reads, and slow whoever writes.
    let null = open_null()?;
    rustix::stdio::dup2_stdin(&null).map_err(BootError::DevNull)?;
    rustix::stdio::dup2_stdout(&null).map_err(BootError::DevNull)?;
    rustix::stdio::dup2_stderr(&null).map_err(BootError::DevNull)
}

fn open_null() -> Result<OwnedFd, BootError> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(BootError::DevNull)
}

fn set_limits() {
    let limits = [
        (Resource::Nofile, Some(NOFILE)),
        (Resource::Nproc, None),
        // 8 MiB, what container hosts give for io_uring and the like.
        (Resource::Memlock, Some(8 << 20)),
    ];
    for (resource, most) in limits {
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        if let Err(error) = rustix::process::setrlimit(resource, limit) {
            log::warn!("set the limit of {resource:?}: {error}");
        }
    }
}
