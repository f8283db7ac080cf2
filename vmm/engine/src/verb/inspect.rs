// SPDX-License-Identifier: Apache-2.0
//! `walnut inspect`: all about containers, under Docker's names.

use std::io;

use serde_json::{Value, json};
use walnut_switch::Policy;

use super::{Known, VerbError, complain, ports, refused};
use crate::cli::look::InspectArgs;
use crate::container::{Container, Limits, Seccomp, in_vm, signal};
use crate::format::Inspect;
use crate::image::Store;
use crate::image_verbs;
use crate::paths::Paths;
use crate::record::{Config, Health, RecordError, State};
use crate::times::or_never;
use crate::volumes::Volumes;

pub fn inspect(args: &InspectArgs, paths: &Paths) -> Result<u8, VerbError> {
    let kind = args.kind.as_deref();
    if !matches!(
        kind,
        None | Some("container" | "image" | "network" | "volume")
    ) {
        let kind = kind.unwrap_or_default();
        return refused(format!("\"{kind}\" is not a valid value for --type"));
    }
    let format = Inspect::parse(args.format.as_deref())?;
    let mut documents = Vec::new();
    let mut code = 0;
    for name in &args.names {
        let found = match kind {
            Some("image" | "network" | "volume") => None,
            _ => Some(Known::find(name, paths)),
        };
        let found = match found {
            Some(Ok(known)) => Ok(document(&known, paths, args.size)),
            // What is no container may be an image.
            Some(Err(VerbError::Record(RecordError::NotFound(_)))) | None
                if kind != Some("container") =>
            {
                object(name, kind, paths)
            }
            Some(Err(error)) => Err(error),
            None => refused(format!("No such object: {name}")),
        };
        match found {
            Ok(document) => documents.push(document),
            Err(error) => {
                code = 1;
                complain(&error);
            }
        }
    }
    format.write(&mut io::stdout().lock(), &documents)?;
    Ok(code)
}

/// What is no container: an image, else a volume, else a network.
fn object(name: &str, kind: Option<&str>, paths: &Paths) -> Result<Value, VerbError> {
    if kind == Some("network") {
        let found = super::network::document(name, paths);
        return found.ok_or_else(|| VerbError::Refused(format!("network {name} not found")));
    }
    let image = match kind {
        Some("volume") => refused(format!("No such volume: {name}")),
        _ => image(name, paths),
    };
    if image.is_ok() || kind == Some("image") {
        return image;
    }
    let volumes = Volumes::new(paths);
    match volumes.find(name) {
        Ok(found) => Ok(super::volume::document(&found, &volumes, &volumes.users())),
        Err(_) if kind.is_none() => super::network::document(name, paths).map_or(image, Ok),
        Err(_) => image,
    }
}

fn image(name: &str, paths: &Paths) -> Result<Value, VerbError> {
    let no_such = || VerbError::Refused(format!("No such object: {name}"));
    let wanted = name.parse().map_err(|_| no_such())?;
    let store = Store::open(&paths.root).map_err(|_| no_such())?;
    let document = image_verbs::document(&store, &wanted).map_err(|_| no_such())?;
    serde_json::to_value(document).map_err(|_| no_such())
}

fn document(known: &Known, paths: &Paths, size: bool) -> Value {
    let Known {
        entry,
        config,
        state,
    } = known;
    let container = &config.container;
    let (path, args) = match container.args.split_first() {
        Some((path, args)) => (path.as_str(), args),
        None => ("", &[][..]),
    };
    let machine = container.machine(paths);
    let mut document = json!({
        "Id": entry.id(),
        "Created": config.created.rfc3339(),
        "Path": path,
        "Args": args,
        "State": state_document(state),
        "Image": config.image_id.map(|id| id.to_string()).unwrap_or_default(),
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": if container.log.driver == "none" { String::new() }
                   else { entry.log().display().to_string() },
        "Name": format!("/{}", config.name()),
        "RestartCount": state.restart_count,
        "Driver": "erofs+ext4",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(config),
        "GraphDriver": {
            "Name": "erofs+ext4",
            "Data": { "UpperFile": entry.disk().display().to_string() },
        },
        "Mounts": mounts(container),
        "Config": config_document(config),
        "NetworkSettings": ports::settings(known, paths),
        "Machine": {
            "Memory": u64::from(container.machine_memory_mib()) << 20,
            "Cpus": container.machine_cpus(),
            "Container": container.in_vm.as_ref().map_or(entry.id(), |place| &place.host),
            "VsockPath": container.vsock(paths).display().to_string(),
            "ConsolePath": machine.join("console").display().to_string(),
        },
    });
    if size {
        document["SizeRw"] = super::remove::size_of(entry).into();
        document["SizeRootFs"] = super::remove::size_of(entry).into();
    }
    document
}

fn state_document(state: &State) -> Value {
    use crate::record::Status;
    let mut document = json!({
        "Status": state.status.to_string(),
        "Running": state.is_live(),
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == Status::Dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": or_never(state.started),
        "FinishedAt": or_never(state.finished),
    });
    if let Some(health) = &state.health {
        document["Health"] = health_document(health);
    }
    document
}

fn health_document(health: &Health) -> Value {
    let log: Vec<Value> = health
        .log
        .iter()
        .map(|probe| {
            json!({
                "Start": probe.start.rfc3339(),
                "End": probe.end.rfc3339(),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            })
        })
        .collect();
    json!({
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": log,
    })
}

fn host_config(config: &Config) -> Value {
    let container = &config.container;
    let place = container.in_vm.as_ref();
    let binds: Vec<String> = container
        .volumes
        .iter()
        .map(|volume| {
            let access = if volume.readonly { ":ro" } else { "" };
            format!("{}:{}{access}", volume.shown(true), volume.target.display())
        })
        .collect();
    let tmpfs: serde_json::Map<String, Value> = container
        .tmpfs
        .iter()
        .map(|tmpfs| {
            let target = tmpfs.target.display().to_string();
            (target, tmpfs.options.join(",").into())
        })
        .collect();
    let log_config: serde_json::Map<String, Value> = [
        (
            "max-size",
            container.log.max_size.map(|size| size.to_string()),
        ),
        ("max-file", Some(container.log.max_file.to_string())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
    .collect();
    let mut document = json!({
        "Binds": binds,
        "LogConfig": { "Type": container.log.driver, "Config": log_config },
        "NetworkMode": container.network.mode.name(),
        "Egress": egress(container.network.egress.as_ref()),
        "PortBindings": ports::bindings(&container.network.publish),
        "PublishAllPorts": container.network.publish_all,
        "RestartPolicy": {
            "Name": container.restart.name(),
            "MaximumRetryCount": container.restart.max_retries(),
        },
        "AutoRemove": container.remove,
        "Dns": container.dns.servers,
        "DnsOptions": container.dns.options,
        "DnsSearch": container.dns.search,
        "ExtraHosts": container.hosts.iter().map(|(n, a)| format!("{n}:{a}")).collect::<Vec<_>>(),
        "GroupAdd": container.group_add,
        "Init": container.init,
        "CapAdd": container.security.added(),
        "CapDrop": container.security.dropped(),
        "Privileged": container.security.privileged,
        "ReadonlyRootfs": container.read_only,
        "SecurityOpt": security_options(container),
        "StorageOpt": container.storage_size.map(|size| json!({ "size": size.to_string() })),
        "Tmpfs": tmpfs,
        "Runtime": "walnut",
        "CgroupnsMode": mode(container.shared.cgroup),
        "IpcMode": place.and_then(|place| place.ipc.as_deref()).map_or_else(
            || mode(container.shared.ipc).to_owned(), in_vm::mode),
        "PidMode": place.and_then(|place| place.pid.as_deref()).map_or_else(
            || if container.shared.pid { "host" } else { "" }.to_owned(), in_vm::mode),
        "UTSMode": if container.shared.uts { "host" } else { "" },
        "UsernsMode": "",
        "CgroupParent": "",
        "Isolation": "",
        "ContainerIDFile": "",
        "VolumeDriver": "",
        "VolumesFrom": null,
        "Links": null,
        "Devices": [],
        "DeviceRequests": null,
        "Sysctls": container.sysctls,
        "OomKillDisable": false,
        "OomScoreAdj": container.oom_score_adj,
        "Annotations": container.annotations,
        "CapabilitiesEffective": container.security.capabilities,
    });
    let limits = limits_document(&container.limits);
    if let (Value::Object(document), Value::Object(limits)) = (&mut document, limits) {
        document.extend(limits);
    }
    document
}

/// As the flag takes it; null where all may leave.
fn egress(policy: Option<&Policy>) -> Value {
    match policy {
        None => Value::Null,
        Some(policy) if policy.0.is_empty() => json!(["deny"]),
        Some(policy) => json!(policy),
    }
}

/// The part of `HostConfig` that is about what it may use.
fn limits_document(limits: &Limits) -> Value {
    let ulimits: Vec<Value> = limits
        .ulimits
        .iter()
        .map(|u| json!({ "Name": u.name(), "Soft": u.soft, "Hard": u.hard }))
        .collect();
    json!({
        "BlkioWeight": 0,
        "BlkioDeviceReadBps": rate(limits.io.read_bytes),
        "BlkioDeviceWriteBps": rate(limits.io.write_bytes),
        "BlkioDeviceReadIOps": rate(limits.io.reads),
        "BlkioDeviceWriteIOps": rate(limits.io.writes),
        "CpuPeriod": 0,
        "CpuQuota": 0,
        "CpusetMems": "",
        "CpusetCpus": limits.cpuset.as_deref().unwrap_or_default(),
        "CpuShares": limits.cpu_shares.unwrap_or(0),
        "MemoryReservation": limits.memory_reservation.unwrap_or(0),
        "Memory": limits.memory.unwrap_or(0),
        "MemorySwap": limits.memory.unwrap_or(0),
        "NanoCpus": limits.cpus.map_or(0, |cpus| u64::from(cpus.milli()) * 1_000_000),
        "PidsLimit": limits.pids,
        "Ulimits": ulimits,
        "ShmSize": limits.shm_bytes(),
    })
}

/// Of each of its disks, whatever they are called.
fn rate(limit: Option<u64>) -> Vec<Value> {
    let one = |rate| json!({ "Path": "", "Rate": rate });
    limit.into_iter().map(one).collect()
}

fn security_options(container: &Container) -> Vec<&'static str> {
    let mut options = Vec::new();
    if container.security.no_new_privileges {
        options.push("no-new-privileges");
    }
    match container.security.seccomp {
        Seccomp::Default => {}
        Seccomp::Unconfined => options.push("seccomp=unconfined"),
        Seccomp::Profile(_) => options.push("seccomp=PROFILE"),
    }
    options
}

fn mode(is_host: bool) -> &'static str {
    if is_host { "host" } else { "private" }
}

fn mounts(container: &Container) -> Vec<Value> {
    container
        .volumes
        .iter()
        .map(|volume| {
            json!({
                "Type": if volume.is_named() { "volume" } else { "bind" },
                "Name": volume.name.as_deref().unwrap_or_default(),
                "Driver": if volume.is_named() { "local" } else { "" },
                "Source": volume.source.display().to_string(),
                "Destination": volume.target.display().to_string(),
                "Mode": if volume.readonly { "ro" } else { "" },
                "RW": !volume.readonly,
                "Propagation": "rprivate",
            })
        })
        .collect()
}

fn config_document(config: &Config) -> Value {
    let container = &config.container;
    let network = &container.network;
    let published = network.publish.iter();
    let published = published.map(|publish| (publish.container, publish.protocol));
    let exposed = network.exposed.iter().copied().chain(published);
    let exposed: serde_json::Map<String, Value> = exposed
        .map(|(port, protocol)| (format!("{port}/{protocol}"), json!({})))
        .collect();
    json!({
        "Hostname": container.hostname,
        "Domainname": container.domainname,
        "User": container.user,
        "AttachStdin": container.interactive,
        "AttachStdout": true,
        "AttachStderr": true,
        "ExposedPorts": exposed,
        "Tty": container.tty,
        "OpenStdin": container.interactive,
        "StdinOnce": container.interactive,
        "Env": container.env,
        "Cmd": container.args,
        "Image": config.image,
        "Volumes": null,
        "OnBuild": null,
        "WorkingDir": container.cwd,
        "Entrypoint": null,
        "Labels": container.labels,
        "StopSignal": signal::name(container.stop_signal),
        "StopTimeout": container.stop_timeout_s,
        "Healthcheck": container.health,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing::container;

    #[test]
    fn ports_and_what_may_leave() {
        let of = |flags: &[&str]| Config::new(container(flags), "image", None, None);
        let config = of(&["-p", "8080:80", "--expose", "53/udp", "--expose", "80"]);
        let exposed = &config_document(&config)["ExposedPorts"];
        assert_eq!(*exposed, json!({ "53/udp": {}, "80/tcp": {} }));
        assert_eq!(host_config(&config)["Egress"], Value::Null);
        let egress = |text: &str| host_config(&of(&["--egress", text]))["Egress"].clone();
        assert_eq!(egress("Deny"), json!(["deny"]));
        assert_eq!(
            egress("Example.org:443,192.0.2.0/24"),
            json!(["example.org:443", "192.0.2.0/24"])
        );
    }
}
