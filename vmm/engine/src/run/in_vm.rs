// SPDX-License-Identifier: Apache-2.0
//! `--vm` and `container:NAME`: which machine a container is to run in, and what of that it shares.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::cli::run::ContainerArgs;
use crate::container::in_vm::named;
use crate::container::{Container, InVm, Volume};
use crate::image::Digest;
use crate::network::Mode;
use crate::paths::Paths;
use crate::record::{Config, Entry, RecordError, Registry};
use crate::storage::volume_sources;

#[derive(Debug, Error)]
pub enum InVmError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("--{flag} container:{name}: it is not in the machine of {vm}")]
    OtherMachine {
        flag: &'static str,
        name: String,
        vm: String,
    },
    #[error("--rootfs: the machine of {0} takes no more directories of the host; give an image")]
    Rootfs(String),
    #[error(
        "volume {}: the machine of {vm} takes no more; what {vm} has can be shared (--volumes-from {vm})",
        target.display()
    )]
    Volume { target: PathBuf, vm: String },
    #[error("volume {}: in the machine of {vm} it is read-only", target.display())]
    ReadOnly { target: PathBuf, vm: String },
    #[error("--network {mode}: the machine of {vm} takes no more networks; none or container:{vm}")]
    Network { mode: String, vm: String },
    #[error("conflicting options: port publishing and the machine of {0}, which has its ports")]
    Publish(String),
    #[error("conflicting options: --mac-address and the machine of {0}, which has its network")]
    Mac(String),
}

/// A container that is named, and the one whose machine it is in.
struct Neighbour {
    entry: Entry,
    host: String,
}

/// The flags that name other containers.
struct Names<'a> {
    pid: Option<&'a str>,
    ipc: Option<&'a str>,
    network: Option<&'a str>,
}

/// Finds the container's place, if it is to have no machine of its own.
///
/// # Errors
/// There is no such container, or the machine has not what is asked for.
pub(super) fn settle(
    container: &mut Container,
    args: &ContainerArgs,
    image: Option<Digest>,
    paths: &Paths,
) -> Result<(), InVmError> {
    let of_network = match &container.network.mode {
        Mode::Container(name) => Some(name.clone()),
        _ => None,
    };
    let names = Names {
        pid: named(args.pid.as_deref()),
        ipc: named(args.ipc.as_deref()),
        network: of_network.as_deref(),
    };
    let first = args
        .vm
        .as_deref()
        .or(names.network)
        .or(names.pid)
        .or(names.ipc);
    let Some(vm) = first else { return Ok(()) };
    let registry = Registry::new(paths);
    let host = registry.find(&find(&registry, vm)?.host)?;
    let config = host.config()?;
    let member = |flag, name: Option<&str>| -> Result<Option<String>, InVmError> {
        let Some(name) = name else { return Ok(None) };
        let found = find(&registry, name)?;
        if found.host == host.id() {
            return Ok(Some(found.entry.id().to_owned()));
        }
        Err(InVmError::OtherMachine {
            flag,
            name: name.to_owned(),
            vm: vm.to_owned(),
        })
    };
    let (pid, ipc) = (member("pid", names.pid)?, member("ipc", names.ipc)?);
    let network = member("network", names.network)?;
    let Some(image) = image else {
        return Err(InVmError::Rootfs(vm.to_owned()));
    };
    settle_network(container, network, vm)?;
    container.in_vm = Some(InVm {
        host: host.id().to_owned(),
        cpus: config.container.machine_cpus(),
        memory_mib: config.container.machine_memory_mib(),
        same_image: config.image_id == Some(image),
        pid,
        ipc,
        volume_sources: settle_volumes(&mut container.volumes, &config, vm)?,
    });
    Ok(())
}

fn find(registry: &Registry, name: &str) -> Result<Neighbour, InVmError> {
    let entry = registry.find(name)?;
    let host = match entry.config()?.container.in_vm {
        Some(place) => place.host,
        None => entry.id().to_owned(),
    };
    Ok(Neighbour { entry, host })
}

/// One of its own, with nothing but a loopback, or another container's.
fn settle_network(
    container: &mut Container,
    other: Option<String>,
    vm: &str,
) -> Result<(), InVmError> {
    let network = &mut container.network;
    if !network.publish.is_empty() || network.publish_all {
        return Err(InVmError::Publish(vm.to_owned()));
    }
    if network.mac.is_some() {
        return Err(InVmError::Mac(vm.to_owned()));
    }
    if let Some(other) = network.others.first() {
        return Err(InVmError::Network {
            mode: other.mode.name(),
            vm: vm.to_owned(),
        });
    }
    network.mode = match (&network.mode, other) {
        (_, Some(id)) => Mode::Container(id),
        (Mode::Default | Mode::None, None) => Mode::None,
        (mode, None) => {
            return Err(InVmError::Network {
                mode: mode.name(),
                vm: vm.to_owned(),
            });
        }
    };
    Ok(())
}

/// Where in the guest each is: the machine's first container has it mounted.
fn settle_volumes(
    volumes: &mut [Volume],
    host: &Config,
    vm: &str,
) -> Result<Vec<PathBuf>, InVmError> {
    let theirs = &host.container.volumes;
    let sources = volume_sources(&host.container);
    let place = |volume: &mut Volume| -> Result<PathBuf, InVmError> {
        let is_same = |other: &Volume| match &volume.name {
            Some(name) => other.name.as_ref() == Some(name),
            None => other.name.is_none() && other.source == volume.source,
        };
        let all = || {
            theirs
                .iter()
                .zip(&sources)
                .filter(|(other, _)| is_same(other))
        };
        // Where they have it twice, the one that may be written to.
        let writable = all().find(|(other, _)| !other.readonly);
        let found: Option<(&Volume, &PathBuf)> = writable.or_else(|| all().next());
        let target = volume.target.clone();
        let Some((other, source)) = found else {
            return Err(InVmError::Volume {
                target,
                vm: vm.to_owned(),
            });
        };
        if other.readonly && !volume.readonly {
            return Err(InVmError::ReadOnly {
                target,
                vm: vm.to_owned(),
            });
        }
        // It stays the other one's.
        volume.anonymous = false;
        volume.source.clone_from(&other.source);
        Ok(Path::new(source).to_owned())
    };
    volumes.iter_mut().map(place).collect()
}
