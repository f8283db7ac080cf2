// SPDX-License-Identifier: Apache-2.0
//! `info`, `version` and `system prune`: all there is on this machine.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{VerbError, complain, confirmed, network, remove, say, say_gone, volume};
use crate::cli::system::{FormatArgs, SystemCommand, SystemPruneArgs};
use crate::format::{self, FormatError};
use crate::image::Store;
use crate::image_verbs::prune_images;
use crate::networks::Networks;
use crate::paths::{Artifacts, Paths};
use crate::record::{Registry, Status};
use crate::run::RunError;
use crate::units::{binary_size, decimal_size};
use crate::volumes::Volumes;

pub fn run(command: SystemCommand, paths: &Paths) -> Result<u8, VerbError> {
    match command {
        SystemCommand::Df(args) => super::df::df(&args, paths),
        SystemCommand::Events(args) => super::events::events(&args, paths),
        SystemCommand::Info(args) => info(&args, paths),
        SystemCommand::Prune(args) => prune(&args, paths),
    }
}

fn prune(args: &SystemPruneArgs, paths: &Paths) -> Result<u8, VerbError> {
    let mut warning = String::from("WARNING! This will remove:\n  - all stopped containers\n");
    warning.push_str("  - all networks not used by at least one container\n");
    if args.volumes {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(match args.all {
        true => "  - all images without at least one container associated to them\n",
        false => "  - all dangling images\n",
    });
    if !args.prune.force && !confirmed(&warning)? {
        return Ok(0);
    }
    let (gone, mut freed) = remove::prune_stopped(&args.prune.filter, paths)?;
    say_gone("Containers", &gone)?;
    let gone = network::prune_unused(&Networks::new(paths), &args.prune.filter)?;
    say_gone("Networks", &gone)?;
    if args.volumes {
        let volumes = Volumes::new(paths);
        let (gone, bytes) = volume::prune_unused(&volumes, |volume| volume.anonymous);
        freed += bytes;
        say_gone("Volumes", &gone)?;
    }
    let store = Store::open(&paths.root).map_err(RunError::from)?;
    match prune_images(&store, paths, args.all, &args.prune.filter) {
        Ok(pruned) => {
            freed += pruned.bytes;
            say_gone("Images", &pruned.lines())?;
        }
        Err(error) => complain(&RunError::from(Box::new(error)).into()),
    }
    say(&format!("Total reclaimed space: {}", decimal_size(freed)))?;
    Ok(0)
}

pub fn info(args: &FormatArgs, paths: &Paths) -> Result<u8, VerbError> {
    let document = facts(paths)?;
    if args.format.is_some() {
        return shown(args, &document);
    }
    let text = |field: &str| match &document[field] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let memory = document["MemTotal"].as_u64().unwrap_or(0);
    let lines = [
        ("Containers", text("Containers")),
        (" Running", text("ContainersRunning")),
        (" Paused", text("ContainersPaused")),
        (" Stopped", text("ContainersStopped")),
        ("Images", text("Images")),
        ("Server Version", text("ServerVersion")),
        ("Storage Driver", text("Driver")),
        ("Logging Driver", text("LoggingDriver")),
        ("Runtime", text("DefaultRuntime")),
        ("Kernel Version", text("KernelVersion")),
        ("Operating System", text("OperatingSystem")),
        ("OSType", text("OSType")),
        ("Architecture", text("Architecture")),
        ("CPUs", text("NCPU")),
        ("Total Memory", binary_size(memory)),
        ("Name", text("Name")),
        ("Walnut Root Dir", text("DockerRootDir")),
        ("Virtualization", text("Virtualization")),
    ];
    for (name, value) in lines {
        say(&format!("{name}: {value}"))?;
    }
    Ok(0)
}

/// Under Docker's names.
fn facts(paths: &Paths) -> Result<Value, VerbError> {
    let all = Registry::new(paths).list();
    let count = |wanted: fn(Status) -> bool| {
        all.iter()
            .filter(|(_, _, state)| wanted(state.status))
            .count()
    };
    let store = Store::open(&paths.root).map_err(RunError::from)?;
    let host = rustix::system::uname();
    let sysinfo = rustix::system::sysinfo();
    let memory = sysinfo.totalram * u64::from(sysinfo.mem_unit);
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("Linux", |name| name.trim_matches('"'));
    let kvm = match walnut_vmm_host::check() {
        Ok(()) => "kvm".to_owned(),
        Err(e) => e.to_string(),
    };
    Ok(json!({
        "Containers": all.len(),
        "ContainersRunning": count(|status| matches!(status, Status::Running | Status::Restarting)),
        "ContainersPaused": count(|status| status == Status::Paused),
        "ContainersStopped":
            count(|status| matches!(status, Status::Created | Status::Exited | Status::Dead)),
        "Images": store.list().map_err(RunError::from)?.len(),
        "Driver": "erofs+ext4",
        "LoggingDriver": "json-file",
        "DefaultRuntime": "walnut",
        "Runtimes": { "walnut": {} },
        "KernelVersion": host.release().to_string_lossy(),
        "OperatingSystem": system,
        "OSType": "linux",
        "Architecture": host.machine().to_string_lossy(),
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": memory,
        "Name": host.nodename().to_string_lossy(),
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "DockerRootDir": paths.root.display().to_string(),
        "Virtualization": kvm,
    }))
}

pub fn version(args: &FormatArgs) -> Result<u8, VerbError> {
    let host = rustix::system::uname();
    let files = Artifacts::dir().map(|dir| dir.display().to_string());
    let part = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Os": "linux",
        "Arch": "amd64",
        "KernelVersion": host.release().to_string_lossy(),
        "Files": files.unwrap_or_default(),
    });
    // One program is both.
    let document = json!({ "Client": part, "Server": part });
    if args.format.is_some() {
        return shown(args, &document);
    }
    say("Walnut:")?;
    let text = |field: &str| part[field].as_str().unwrap_or_default().to_owned();
    for (name, value) in [
        ("Version", text("Version")),
        ("OS/Arch", format!("{}/{}", text("Os"), text("Arch"))),
        ("Host kernel", text("KernelVersion")),
        ("Files", text("Files")),
    ] {
        say(&format!(" {:<17} {value}", format!("{name}:")))?;
    }
    Ok(0)
}

/// One document by a template.
fn shown(args: &FormatArgs, document: &Value) -> Result<u8, VerbError> {
    let template = format::single(args.format.as_deref().unwrap_or_default())?;
    let rendered = template.render(document).map_err(FormatError::from)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{rendered}").map_err(VerbError::Stdout)?;
    Ok(0)
}
