// SPDX-License-Identifier: Apache-2.0
//! `walnut ps`: which containers there are.

use std::io;

use serde_json::{Value, json};

use super::{VerbError, ports};
use crate::cli::look::PsArgs;
use crate::container::Container;
use crate::format::Listing;
use crate::network::Mode;
use crate::paths::Paths;
use crate::record::{Config, Entry, Registry, State, Status, Unreadable};
use crate::storage::disk;
use crate::times::{Timestamp, human_duration};
use crate::units::decimal_size;

const TABLE: &str = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t\
                     {{.Ports}}\t{{.Names}}";
const TABLE_WITH_SIZE: &str = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t\
                               {{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}";

const CONTAINERS: Listing = Listing {
    headers: &[
        ("ID", "CONTAINER ID"),
        ("RunningFor", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("LocalVolumes", "LOCAL VOLUMES"),
    ],
    table: TABLE,
    quiet: "{{.ID}}",
};

/// Docker cuts a command here.
const COMMAND_WIDTH: usize = 20;

pub fn ps(args: &PsArgs, paths: &Paths) -> Result<u8, VerbError> {
    let listing = Listing {
        table: if args.size { TABLE_WITH_SIZE } else { TABLE },
        ..CONTAINERS
    };
    let format = listing.format(args.list.format.as_deref(), args.list.quiet)?;
    let registry = Registry::new(paths);
    let filter = super::filter::Filter::parse(&args.list.filter, &registry)?;
    let only_last = if args.latest { Some(1) } else { args.last };
    let all = args.all || only_last.is_some() || filter.looks_at_all();
    let (readable, unreadable) = registry.list_all();
    unreadable.iter().for_each(Unreadable::complain);
    let mut rows: Vec<Value> = readable
        .into_iter()
        .filter(|(_, _, state)| all || state.is_live())
        .filter(|(entry, config, state)| filter.matches(entry, config, state))
        .take(only_last.unwrap_or(usize::MAX))
        .map(|(entry, config, state)| {
            row(&entry, &config, &state, args.no_trunc, format.needs("Size"))
        })
        .collect();
    if args.all && args.list.filter.is_empty() {
        rows.extend(unreadable.iter().map(|broken| unreadable_row(broken, args)));
    }
    format.list(&mut io::stdout().lock(), &rows)?;
    Ok(0)
}

/// `whole`: nothing is cut.
pub(super) fn row(entry: &Entry, config: &Config, state: &State, whole: bool, size: bool) -> Value {
    let container = &config.container;
    let command = container.args.join(" ");
    let labels: Vec<String> = container
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mounts: Vec<String> = container
        .volumes
        .iter()
        .map(|volume| volume.shown(whole))
        .collect();
    let now = Timestamp::now();
    json!({
        "ID": if whole { entry.id() } else { entry.short() },
        "Image": image(config, whole),
        "Command": quoted(&command, whole),
        "CreatedAt": config.created.listed(),
        "RunningFor": format!("{} ago", human_duration(now.since(config.created))),
        "Ports": ports::listed(container, &state.network),
        "State": state.status.to_string(),
        "Status": status(state, now),
        "Health": state.health.as_ref().map_or("", |health| health.status.as_str()),
        "Size": if size { shown_size(entry) } else { "0B".to_owned() },
        "Names": config.name(),
        "Labels": labels.join(","),
        "Label": container.labels,
        "Mounts": mounts.join(","),
        "LocalVolumes": container.volumes.iter().filter(|v| v.is_named()).count().to_string(),
        "Networks": networks(container),
        "Platform": "linux/amd64",
    })
}

fn networks(container: &Container) -> String {
    let names: Vec<_> = container.network.modes().map(Mode::network).collect();
    names.join(",")
}

/// Of one whose record says nothing: it can be removed by force.
fn unreadable_row(broken: &Unreadable, args: &PsArgs) -> Value {
    let entry = &broken.entry;
    let mut row = json!({
        "ID": if args.no_trunc { entry.id() } else { entry.short() },
        "State": "dead",
        "Status": "Dead",
        "Names": broken.name,
        "Label": {},
    });
    for field in [
        "Image",
        "Command",
        "CreatedAt",
        "RunningFor",
        "Ports",
        "Health",
        "Size",
        "Labels",
        "Mounts",
        "LocalVolumes",
        "Networks",
        "Platform",
    ] {
        row[field] = "".into();
    }
    row
}

fn image(config: &Config, whole: bool) -> String {
    if config.image.is_empty() {
        return config
            .rootfs
            .as_ref()
            .map(|dir| dir.display().to_string())
            .unwrap_or_default();
    }
    match config.image.strip_prefix("sha256:") {
        Some(hex) if !whole => hex.chars().take(12).collect(),
        _ => config.image.clone(),
    }
}

/// As Go quotes it, cut in the middle of nothing but a character.
fn quoted(command: &str, whole: bool) -> String {
    let cut: String = if whole || command.chars().count() <= COMMAND_WIDTH {
        command.to_owned()
    } else {
        let head: String = command.chars().take(COMMAND_WIDTH - 1).collect();
        head + "…"
    };
    let mut text = String::from("\"");
    for c in cut.chars() {
        match c {
            '…' => text.push(c),
            '\'' => text.push(c),
            _ => text.extend(c.escape_debug()),
        }
    }
    text.push('"');
    text
}

/// What it is doing, and since when.
pub fn status(state: &State, now: Timestamp) -> String {
    let since = |time: Option<Timestamp>| human_duration(now.since(time.unwrap_or(now)));
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => {
            let health = state
                .health
                .as_ref()
                .map(|health| match health.status.as_str() {
                    "starting" => " (health: starting)".to_owned(),
                    status => format!(" ({status})"),
                });
            format!("Up {}{}", since(state.started), health.unwrap_or_default())
        }
        Status::Paused => format!("Up {} (Paused)", since(state.started)),
        Status::Restarting => format!(
            "Restarting ({}) {} ago",
            state.exit_code,
            since(state.finished)
        ),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished)),
        Status::Dead => "Dead".to_owned(),
    }
}

/// What the container's own disk takes on the host.
fn shown_size(entry: &Entry) -> String {
    decimal_size(disk::taken(&entry.disk()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_doing() {
        let now = Timestamp::from_seconds(1_000);
        let mut state = State {
            status: Status::Running,
            started: Some(Timestamp::from_seconds(880)),
            ..State::default()
        };
        assert_eq!(status(&state, now), "Up 2 minutes");
        state.status = Status::Paused;
        assert_eq!(status(&state, now), "Up 2 minutes (Paused)");
        state.status = Status::Exited;
        state.exit_code = 3;
        state.finished = Some(Timestamp::from_seconds(995));
        assert_eq!(status(&state, now), "Exited (3) 5 seconds ago");
        assert_eq!(status(&State::default(), now), "Created");
    }

    #[test]
    fn commands_are_quoted_and_cut() {
        assert_eq!(quoted("sh -c 'a'", false), "\"sh -c 'a'\"");
        assert_eq!(quoted("sh -c \"a\"", false), "\"sh -c \\\"a\\\"\"");
        assert_eq!(
            quoted(&"x".repeat(21), false),
            format!("\"{}…\"", "x".repeat(19))
        );
        assert_eq!(quoted(&"x".repeat(21), true).len(), 23);
    }
}
