// SPDX-License-Identifier: Apache-2.0
//! The OCI runtime spec (config.json) that the agent hands to libcontainer: Docker's defaults for a
//! Linux container, within the guest.

pub mod exec;
pub mod files;
mod io;
mod mounts;
pub mod seccomp;
mod seccomp_table;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    BoxBuilder, Capability, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder,
    LinuxCpuBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, LinuxMemoryBuilder, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxSeccomp, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
};
use thiserror::Error;
use walnut_protocol::agent::{CreateRequest, GuestFile};

use crate::container::{Container, Limits, Seccomp, in_vm, security};
use crate::network::{Mode, Session};
use crate::storage::{Layout, Places};

#[derive(Debug, Error)]
pub enum SpecError {
    #[error("build the runtime spec")]
    Build(#[from] OciSpecError),
    #[error("write the runtime spec")]
    Write(#[from] serde_json::Error),
    #[error("compile the seccomp profile")]
    Seccomp(#[from] walnut_seccomp::SeccompError),
}

/// Of `cpu.max`, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// Docker's, for a daemon that has no limit of its own.
const DEFAULT_NOFILE: u64 = 1 << 20;
/// The annotation by which engines pass an image's STOPSIGNAL on.
const STOP_SIGNAL_ANNOTATION: &str = "org.opencontainers.image.stopSignal";

/// Docker's: what the kernel shows of the whole machine.
const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// All that the agent needs to make the container.
pub fn request(
    container: &Container,
    layout: &Layout,
    network: &Session,
    tty_size: Option<(u32, u32)>,
) -> Result<CreateRequest, SpecError> {
    let (seccomp_filter, seccomp_flags) = seccomp_filter(container)?;
    Ok(CreateRequest {
        container_id: container.id.to_string(),
        mounts: layout.mounts.clone(),
        files: generated(container, network),
        spec: generate(container, layout, tty_size)?,
        user: container.user.clone(),
        group_add: container.group_add.clone(),
        stdin: container.interactive,
        seccomp_filter,
        seccomp_flags,
        sysctls: container.sysctls.clone(),
        volumes: layout.fills.clone(),
        init: container.init,
        interfaces: network.interfaces(),
        takes: layout.takes.clone(),
        ..CreateRequest::default()
    })
}

/// The files that the agent writes for the container.
pub fn generated(container: &Container, network: &Session) -> Vec<GuestFile> {
    let places = Places::of(container);
    let files = files::all(container, network).map(|(name, content)| GuestFile {
        path: places.file(name),
        mode: 0o644,
        content: content.into_bytes(),
        ..GuestFile::default()
    });
    files.to_vec()
}

/// The seccomp filter as the kernel takes it, and its flags; nothing for an unconfined container.
/// Compiled here, while the machine boots: the guest has one thing less to do.
pub fn seccomp_filter(container: &Container) -> Result<(Vec<u8>, u32), SpecError> {
    Ok(match seccomp(container)? {
        Some(profile) => walnut_seccomp::compile(&profile)?.to_bytes(),
        None => Default::default(),
    })
}

/// `config.json`, as bytes for the agent; without the seccomp section, for which there is
/// [`seccomp_filter`].
/// `tty_size` is the terminal's first one, width and height.
pub fn generate(
    container: &Container,
    layout: &Layout,
    tty_size: Option<(u32, u32)>,
) -> Result<Vec<u8>, SpecError> {
    let mut spec = build(container, layout)?;
    if let (Some((width, height)), Some(process)) = (tty_size, spec.process_mut().as_mut()) {
        let size = BoxBuilder::default().width(width).height(height).build()?;
        process.set_console_size(Some(size));
    }
    Ok(serde_json::to_vec(&spec)?)
}

fn build(container: &Container, layout: &Layout) -> Result<Spec, SpecError> {
    let mut annotations: HashMap<String, String> =
        container.annotations.clone().into_iter().collect();
    annotations.insert(
        STOP_SIGNAL_ANNOTATION.to_owned(),
        container.stop_signal.to_string(),
    );
    let root = RootBuilder::default()
        .path(layout.rootfs.clone())
        .readonly(container.read_only)
        .build()?;
    let mut spec = SpecBuilder::default()
        .version("1.2.0")
        .hostname(container.hostname.clone())
        .root(root)
        .mounts(mounts::all(container, layout)?)
        .process(process(container)?)
        .linux(linux(container, layout)?)
        .annotations(annotations)
        .build()?;
    if !container.domainname.is_empty() {
        spec.set_domainname(Some(container.domainname.clone()));
    }
    if container.shared.uts {
        // The machine's, which stays as it is.
        spec.set_hostname(None);
    }
    Ok(spec)
}

fn process(container: &Container) -> Result<Process, SpecError> {
    let process = ProcessBuilder::default()
        .terminal(container.tty)
        .args(container.args.clone())
        .env(container.env.clone())
        .cwd(PathBuf::from(&container.cwd))
        .capabilities(capabilities(container)?)
        .rlimits(rlimits(container)?)
        .no_new_privileges(container.security.no_new_privileges)
        .oom_score_adj(container.oom_score_adj)
        .build()?;
    Ok(process)
}

fn capabilities(container: &Container) -> Result<LinuxCapabilities, SpecError> {
    let names = container.security.capabilities.iter();
    capability_set(names.filter_map(|name| security::capability(name)))
}

fn capability_set(set: impl Iterator<Item = Capability>) -> Result<LinuxCapabilities, SpecError> {
    let set: HashSet<Capability> = set.collect();
    // Nothing inheritable, nothing ambient: what a program gets from its file is its own.
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .permitted(set.clone())
        .effective(set)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()?)
}

fn rlimits(container: &Container) -> Result<Vec<PosixRlimit>, SpecError> {
    let ulimits = &container.limits.ulimits;
    let mut all = Vec::with_capacity(ulimits.len() + 1);
    if !ulimits
        .iter()
        .any(|u| u.kind == PosixRlimitType::RlimitNofile)
    {
        all.push((
            PosixRlimitType::RlimitNofile,
            DEFAULT_NOFILE,
            DEFAULT_NOFILE,
        ));
    }
    all.extend(ulimits.iter().map(|u| (u.kind, u.soft, u.hard)));
    let build = |(kind, soft, hard)| {
        PosixRlimitBuilder::default()
            .typ(kind)
            .soft(soft)
            .hard(hard)
            .build()
    };
    Ok(all
        .into_iter()
        .map(build)
        .collect::<Result<_, OciSpecError>>()?)
}

fn linux(container: &Container, layout: &Layout) -> Result<Linux, SpecError> {
    let privileged = container.security.privileged;
    let paths = |list: &[&str]| -> Vec<String> {
        if privileged {
            Vec::new()
        } else {
            list.iter().map(ToString::to_string).collect()
        }
    };
    let linux = LinuxBuilder::default()
        .namespaces(namespaces(container)?)
        .masked_paths(paths(MASKED_PATHS))
        .readonly_paths(paths(READONLY_PATHS))
        .cgroups_path(PathBuf::from(format!("/{}", container.id)))
        .resources(resources(container, layout.disks.len())?)
        .devices(if privileged {
            privileged_devices()?
        } else {
            Vec::new()
        });
    Ok(linux.build()?)
}

/// All but the network, which is the machine's, unless the machine is another container's.
fn namespaces(container: &Container) -> Result<Vec<oci_spec::runtime::LinuxNamespace>, SpecError> {
    let shared = container.shared;
    let place = container.in_vm.as_ref();
    let network = match &container.network.mode {
        Mode::Container(other) => Some(other),
        _ => None,
    };
    // Whether it is the machine's, and whose it is if not the container's own.
    let kinds = [
        (LinuxNamespaceType::Mount, false, None),
        (
            LinuxNamespaceType::Pid,
            shared.pid,
            place.and_then(|p| p.pid.as_ref()),
        ),
        (
            LinuxNamespaceType::Ipc,
            shared.ipc,
            place.and_then(|p| p.ipc.as_ref()),
        ),
        (LinuxNamespaceType::Uts, shared.uts, None),
        (LinuxNamespaceType::Cgroup, shared.cgroup, None),
        (LinuxNamespaceType::Network, place.is_none(), network),
    ];
    let build = |(kind, _, other): (_, bool, Option<&String>)| {
        let namespace = LinuxNamespaceBuilder::default().typ(kind);
        match other {
            Some(id) => namespace.path(in_vm::mode(id)).build(),
            None => namespace.build(),
        }
    };
    let kinds = kinds.into_iter().filter(|(_, shared, _)| !shared);
    Ok(kinds.map(build).collect::<Result<_, OciSpecError>>()?)
}

fn seccomp(container: &Container) -> Result<Option<LinuxSeccomp>, SpecError> {
    let capabilities = &container.security.capabilities;
    Ok(match &container.security.seccomp {
        Seccomp::Unconfined => None,
        Seccomp::Default => Some(seccomp::default_profile(capabilities)?),
        Seccomp::Profile(profile) => Some(profile.resolve(capabilities)?),
    })
}

fn resources(container: &Container, disks: usize) -> Result<LinuxResources, SpecError> {
    let mut resources = limits(&container.limits, container.machine_cpus())?;
    resources.set_block_io(io::throttle(&container.limits.io, disks)?);
    resources.set_devices(Some(device_rules(container)?));
    Ok(resources)
}

/// `linux.resources` without its devices: what can be changed while a container runs, in a machine
/// of so many processors.
pub fn limits(limits: &Limits, machine_cpus: u8) -> Result<LinuxResources, SpecError> {
    let machine_milli = u32::from(machine_cpus) * 1000;
    let mut resources = LinuxResourcesBuilder::default();
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    if limits.memory.is_some() || limits.memory_reservation.is_some() {
        let mut memory = LinuxMemoryBuilder::default();
        if let Some(bytes) = limits.memory.map(signed) {
            // Memory and swap together: the guest has none.
            memory = memory.limit(bytes).swap(bytes);
        }
        if let Some(bytes) = limits.memory_reservation.map(signed) {
            memory = memory.reservation(bytes);
        }
        resources = resources.memory(memory.build()?);
    }
    // All of the machine's need no limit.
    let cpus = limits.cpus.filter(|cpus| cpus.milli() < machine_milli);
    if cpus.is_some() || limits.cpuset.is_some() || limits.cpu_shares.is_some() {
        let mut cpu = LinuxCpuBuilder::default();
        if let Some(cpus) = cpus {
            let quota = u64::from(cpus.milli()) * CPU_PERIOD_US / 1000;
            cpu = cpu.quota(signed(quota)).period(CPU_PERIOD_US);
        }
        if let Some(list) = &limits.cpuset {
            cpu = cpu.cpus(list.clone());
        }
        if let Some(shares) = limits.cpu_shares {
            cpu = cpu.shares(shares);
        }
        resources = resources.cpu(cpu.build()?);
    }
    if let Some(limit) = limits.pids {
        resources = resources.pids(LinuxPidsBuilder::default().limit(limit).build()?);
    }
    let mut resources = resources.build()?;
    resources.set_devices(None);
    Ok(resources)
}

/// Docker's: any node may be made, only these may be opened.
fn device_rules(container: &Container) -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
    let rule = |allow: bool, kind, major: Option<i64>, minor: Option<i64>, access: &str| {
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .typ(kind)
            .access(access);
        let rule = match major {
            Some(major) => rule.major(major),
            None => rule,
        };
        match minor {
            Some(minor) => rule.minor(minor).build(),
            None => rule.build(),
        }
    };
    if container.security.privileged {
        return Ok(vec![rule(true, LinuxDeviceType::A, None, None, "rwm")?]);
    }
    let character = LinuxDeviceType::C;
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm")?,
        rule(true, character, None, None, "m")?,
        rule(true, LinuxDeviceType::B, None, None, "m")?,
    ];
    // null, zero, full, random, urandom, tty, console, ptmx.
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ] {
        rules.push(rule(true, character, Some(major), Some(minor), "rwm")?);
    }
    // The slaves of /dev/pts.
    rules.push(rule(true, character, Some(136), None, "rwm")?);
    Ok(rules)
}

/// Beside the runtime's own: what a privileged container most often looks for.
fn privileged_devices() -> Result<Vec<LinuxDevice>, SpecError> {
    let nodes = [
        ("/dev/fuse", 10, 229, 0o666),
        ("/dev/net/tun", 10, 200, 0o666),
        ("/dev/kmsg", 1, 11, 0o644),
        ("/dev/loop-control", 10, 237, 0o660),
    ];
    let build = |(path, major, minor, mode): (&str, i64, i64, u32)| {
        LinuxDeviceBuilder::default()
            .path(path)
            .typ(LinuxDeviceType::C)
            .major(major)
            .minor(minor)
            .file_mode(mode)
            .uid(0u32)
            .gid(0u32)
            .build()
    };
    Ok(nodes
        .into_iter()
        .map(build)
        .collect::<Result<_, OciSpecError>>()?)
}

#[cfg(test)]
mod tests;
