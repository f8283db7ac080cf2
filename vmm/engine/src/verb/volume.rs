// SPDX-License-Identifier: Apache-2.0
//! `walnut volume`: volumes by name.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value, json};

use super::filter::{self, Pairs, has_label};
use super::{VerbError, complain, confirmed, refused, say, say_gone};
use crate::cli::shared::{InspectArgs, ListArgs, RmArgs};
use crate::cli::volume::{CreateArgs, VolumeCommand, VolumePruneArgs};
use crate::container::label;
use crate::format::{Inspect, Listing};
use crate::paths::Paths;
use crate::units::{decimal_size, parse_size};
use crate::volumes::{Users, Volume, Volumes, VolumesError, Wanted};

const VOLUMES: Listing = Listing {
    headers: &[("Driver", "DRIVER"), ("Name", "VOLUME NAME")],
    table: "table {{.Driver}}\t{{.Name}}",
    quiet: "{{.Name}}",
};

pub fn run(command: VolumeCommand, paths: &Paths) -> Result<u8, VerbError> {
    let volumes = Volumes::new(paths);
    match command {
        VolumeCommand::Create(args) => create(&args, &volumes),
        VolumeCommand::Inspect(args) => inspect(&args, &volumes),
        VolumeCommand::Ls(args) => list(&args, &volumes),
        VolumeCommand::Prune(args) => prune(&args, &volumes),
        VolumeCommand::Rm(args) => remove(&args, &volumes),
    }
}

fn create(args: &CreateArgs, volumes: &Volumes<'_>) -> Result<u8, VerbError> {
    if args.driver != "local" {
        let name = args.name.as_deref().unwrap_or_default();
        let driver = &args.driver;
        return refused(format!(
            "create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
        ));
    }
    let mut wanted = Wanted {
        name: args.name.clone().unwrap_or_default(),
        labels: label::parse_all(&[], &args.label)
            .map_err(crate::container::ContainerError::from)?,
        ..Wanted::default()
    };
    for option in &args.options {
        match option.split_once('=') {
            Some(("size", size)) => match parse_size(size) {
                Ok(bytes) => wanted.size = Some(bytes),
                Err(e) => return refused(format!("invalid option: {option}: {e}")),
            },
            _ => {
                return refused(format!(
                    "invalid option: \"{option}\": only size=SIZE is known"
                ));
            }
        }
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        wanted.options.insert(key.to_owned(), value.to_owned());
    }
    say(&volumes.create(&wanted)?.name)?;
    Ok(0)
}

fn inspect(args: &InspectArgs, volumes: &Volumes<'_>) -> Result<u8, VerbError> {
    let format = Inspect::parse(args.format.as_deref())?;
    let mut documents = Vec::new();
    let users = volumes.users();
    let mut code = 0;
    for name in &args.names {
        match volumes.find(name) {
            Ok(volume) => documents.push(document(&volume, volumes, &users)),
            Err(error) => {
                code = 1;
                complain(&error.into());
            }
        }
    }
    format.write(&mut io::stdout().lock(), &documents)?;
    Ok(code)
}

/// Also what `inspect` says of a name that is no container's.
pub(super) fn document(volume: &Volume, volumes: &Volumes<'_>, users: &Users) -> Value {
    json!({
        "CreatedAt": volume.created.rfc3339(),
        "Driver": "local",
        "Labels": labels(volume),
        "Mountpoint": volumes.data(&volume.name).display().to_string(),
        "Name": volume.name,
        "Options": volume.options,
        "Scope": "local",
        "UsageData": { "Size": volumes.size(&volume.name), "RefCount": users.of(&volume.name).len() },
    })
}

/// As Docker marks a volume that was given no name.
fn labels(volume: &Volume) -> BTreeMap<String, String> {
    let mut labels = volume.labels.clone();
    if volume.anonymous {
        labels.insert("com.docker.volume.anonymous".to_owned(), String::new());
    }
    labels
}

fn list(args: &ListArgs, volumes: &Volumes<'_>) -> Result<u8, VerbError> {
    let format = VOLUMES.format(args.format.as_deref(), args.quiet)?;
    let filters = filter::pairs(&args.filter, &["dangling", "driver", "label", "name"])?;
    // Costly, where there are many.
    let users = match filters.iter().any(|(key, _)| key == "dangling") {
        true => volumes.users(),
        false => Users::default(),
    };
    let rows: Vec<Value> = volumes
        .list()
        .into_iter()
        .filter(|volume| fits(volume, &filters, &users))
        .map(|volume| {
            let labels = labels(&volume);
            let shown: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let size = if format.needs("Size") {
                decimal_size(volumes.size(&volume.name))
            } else {
                "N/A".to_owned()
            };
            json!({
                "Availability": "N/A",
                "Driver": "local",
                "Group": "N/A",
                "Labels": shown.join(","),
                "Label": labels,
                "Links": "N/A",
                "Mountpoint": volumes.data(&volume.name).display().to_string(),
                "Name": volume.name,
                "Scope": "local",
                "Size": size,
                "Status": "N/A",
            })
        })
        .collect();
    format.list(&mut io::stdout().lock(), &rows)?;
    Ok(0)
}

fn fits(volume: &Volume, filters: &[(String, String)], users: &Users) -> bool {
    let labels = labels(volume);
    filters.iter().all(|(key, value)| match key.as_str() {
        "dangling" => users.of(&volume.name).is_empty() == matches!(value.as_str(), "true" | "1"),
        "driver" => value == "local",
        "label" => has_label(&labels, value),
        "label!" => !has_label(&labels, value),
        _ => volume.name.contains(value.as_str()),
    })
}

fn prune(args: &VolumePruneArgs, volumes: &Volumes<'_>) -> Result<u8, VerbError> {
    let filters = filter::pairs(&args.prune.filter, &["label", "label!", "all"])?;
    let all = args.all
        || filters
            .iter()
            .any(|(key, value)| key == "all" && value != "false");
    let which = if all { "all" } else { "anonymous" };
    let warning = format!(
        "WARNING! This will remove {which} local volumes not used by at least one container."
    );
    if !args.prune.force && !confirmed(&warning)? {
        return Ok(0);
    }
    let filters: Pairs = filters
        .into_iter()
        .filter(|(key, _)| key != "all")
        .collect();
    let (removed, freed) = prune_unused(volumes, |volume| {
        (all || volume.anonymous) && fits(volume, &filters, &Users::default())
    });
    say_gone("Volumes", &removed)?;
    say(&format!("Total reclaimed space: {}", decimal_size(freed)))?;
    Ok(0)
}

/// Removes what nobody has; the names, and how much room that made.
pub(super) fn prune_unused(
    volumes: &Volumes<'_>,
    wanted: impl Fn(&Volume) -> bool,
) -> (Vec<String>, u64) {
    let (mut removed, mut freed) = (Vec::new(), 0);
    for volume in volumes.list().into_iter().filter(wanted) {
        let size = volumes.size(&volume.name);
        match volumes.remove(&volume.name) {
            Ok(()) => {
                freed += size;
                removed.push(volume.name);
            }
            Err(VolumesError::InUse { .. } | VolumesError::NotFound(_)) => {}
            Err(error) => complain(&error.into()),
        }
    }
    (removed, freed)
}

fn remove(args: &RmArgs, volumes: &Volumes<'_>) -> Result<u8, VerbError> {
    let mut code = 0;
    for name in &args.names {
        match volumes.remove(name) {
            Ok(()) => say(name)?,
            Err(VolumesError::NotFound(_)) if args.force => say(name)?,
            Err(error) => {
                code = 1;
                complain(&error.into());
            }
        }
    }
    Ok(code)
}
