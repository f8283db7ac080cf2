// SPDX-License-Identifier: Apache-2.0
//! `walnut network`: networks by name.

mod shown;

use std::fs::File;
use std::io;

use serde_json::{Value, json};
use walnut_protocol::chain;

use self::shown::{DRIVER, Shown};
use super::filter::{self, has_label};
use super::ports::way;
use super::{VerbError, complain, confirmed, refused, say, say_gone};
use crate::cli::network::{ConnectArgs, CreateArgs, DisconnectArgs, LsArgs, NetworkCommand};
use crate::cli::shared::{InspectArgs, PruneArgs, RmArgs};
use crate::container::label;
use crate::events::Event;
use crate::format::{Inspect, Listing};
use crate::network::{Mode, Other, Wanted as Attach};
use crate::networks::{Networks, NetworksError, Wanted};
use crate::paths::Paths;
use crate::record::{Config, Entry, Registry};
use crate::supervisor::client;
use crate::supervisor::wire::Request;
use crate::times::Timestamp;

const NETWORKS: Listing = Listing {
    headers: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
    ],
    table: "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    quiet: "{{.ID}}",
};
const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

pub fn run(command: NetworkCommand, paths: &Paths) -> Result<u8, VerbError> {
    let networks = Networks::new(paths);
    match command {
        NetworkCommand::Connect(args) => connect(&args, &networks, paths),
        NetworkCommand::Create(args) => create(&args, &networks),
        NetworkCommand::Disconnect(args) => disconnect(&args, &networks, paths),
        NetworkCommand::Inspect(args) => inspect(&args, &networks),
        NetworkCommand::Ls(args) => list(&args, &networks),
        NetworkCommand::Prune(args) => prune(&args, &networks),
        NetworkCommand::Rm(args) => remove(&args, &networks),
    }
}

fn create(args: &CreateArgs, networks: &Networks<'_>) -> Result<u8, VerbError> {
    let driver = args.driver.as_str();
    if !matches!(driver, DRIVER | "bridge") {
        return refused(format!("plugin \"{driver}\" not found"));
    }
    let wanted = Wanted {
        name: args.name.clone(),
        labels: label::parse_all(&[], &args.label)
            .map_err(crate::container::ContainerError::from)?,
        subnet: only("subnet", &args.subnet)?,
        gateway: only("gateway", &args.gateway)?,
        internal: args.internal,
    };
    say(&networks.create(&wanted)?.id)?;
    Ok(0)
}

fn only(flag: &str, given: &[String]) -> Result<Option<String>, VerbError> {
    match given {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        _ => refused(format!("--{flag} is given twice: a network has one")),
    }
}

/// What a container on the network of that name asks for.
fn mode_of(name: &str, networks: &Networks<'_>) -> Result<Mode, NetworksError> {
    match name {
        "bridge" => Ok(Mode::Bridge),
        "user" => Ok(Mode::User),
        "none" => Ok(Mode::None),
        own => Ok(Mode::Network(networks.find(own)?.name)),
    }
}

fn connect(args: &ConnectArgs, networks: &Networks<'_>, paths: &Paths) -> Result<u8, VerbError> {
    // Nobody removes it before the container's record says that it is used.
    let held = networks.lock()?;
    let mode = mode_of(&args.network, networks)?;
    let network = mode.name();
    if mode == Mode::None {
        return refused(
            "container cannot be connected to network none: disconnect it from its own",
        );
    }
    let address = args.ip.as_deref().filter(|ip| !ip.is_empty());
    let address = address.map(Attach::parse_address).transpose();
    let address = address.map_err(crate::container::ContainerError::from)?;
    let other = Other {
        mode,
        address,
        mac: None,
        aliases: args.alias.clone(),
    };
    let told = Told {
        request: Request::Connect(other.clone()),
        held: Some(held),
        force: false,
    };
    let entry = change(&args.container, paths, told, |config| {
        let name = config.name().to_owned();
        let wanted = &mut config.container.network;
        if wanted.modes().any(|one| one.is_same(&other.mode)) {
            return refused(format!(
                "endpoint with name {name} already exists in network {network}"
            ));
        }
        let connected = wanted.connect(other);
        Ok(connected.map_err(crate::container::ContainerError::from)?)
    })?;
    changed(&entry, "connect", &network, paths);
    Ok(0)
}

fn disconnect(
    args: &DisconnectArgs,
    networks: &Networks<'_>,
    paths: &Paths,
) -> Result<u8, VerbError> {
    // One that is gone can still be in a container's record.
    let mode = match mode_of(&args.network, networks) {
        Err(NetworksError::NotFound(name)) => Mode::Network(name),
        found => found?,
    };
    let lost = published_by(&mode, &args.container, paths)?;
    let told = Told {
        request: Request::Disconnect(mode.clone()),
        held: None,
        force: args.force,
    };
    let entry = change(&args.container, paths, told, |config| {
        let id = config.container.id.to_string();
        match config.container.network.disconnect(&mode) {
            true => Ok(()),
            false => refused(format!(
                "container {id} is not connected to network {}",
                mode.name()
            )),
        }
    })?;
    changed(&entry, "disconnect", &mode.name(), paths);
    if let [first, others @ ..] = lost.as_slice() {
        let more = match others.len() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        log::warn!(
            "{first}{more} went with the network {}: what {} publishes is published again when it is \
             restarted",
            mode.name(),
            args.container
        );
    }
    Ok(0)
}

/// The ports of a container that runs which go with a network.
fn published_by(mode: &Mode, container: &str, paths: &Paths) -> Result<Vec<String>, VerbError> {
    let state = Registry::new(paths).find(container)?.state()?;
    if !state.is_up() {
        return Ok(Vec::new());
    }
    let name = mode.network();
    let all = state.network.all().filter(|one| one.network == name);
    Ok(all.flat_map(|one| &one.ports).map(way).collect())
}

/// What the supervisor of a container that runs is told, and what is held until the record says it.
struct Told {
    request: Request,
    held: Option<File>,
    /// Whatever the supervisor says.
    force: bool,
}

/// Changes what a container is to be and, where it runs, what it is.
fn change(
    name: &str,
    paths: &Paths,
    told: Told,
    change: impl FnOnce(&mut Config) -> Result<(), VerbError>,
) -> Result<Entry, VerbError> {
    let entry = Registry::new(paths).find(name)?;
    let held = entry.change()?;
    let state = entry.correct(&held)?;
    if state.starting {
        return refused(format!("container {name} is about to start: try again"));
    }
    let before = entry.config()?;
    if before.container.in_vm.is_some() {
        return refused(format!(
            "container {name} is in the machine of another one, whose networks it has"
        ));
    }
    let mut config = before.clone();
    change(&mut config)?;
    entry.write_config(&config)?;
    drop(told.held);
    if state.is_up()
        && let Err(error) = client::request(paths, &entry, told.request)
    {
        if !told.force {
            entry.write_config(&before)?;
            return Err(error.into());
        }
        log::warn!("{}: it stays there until it ends", chain(&error));
    }
    Ok(entry)
}

/// What `network ls` shows for that name.
pub(super) fn id_of(name: &str, networks: &Networks<'_>) -> String {
    let shown = Shown::find(name, networks).map(|shown| shown.id);
    // A tap is none, nor is one that was removed.
    shown.unwrap_or_default()
}

fn changed(entry: &Entry, action: &str, network: &str, paths: &Paths) {
    if let Ok(shown) = Shown::find(network, &Networks::new(paths)) {
        let event = Event::network(&shown.id, &shown.name, action);
        event
            .with("container", entry.id())
            .with("type", shown.driver)
            .emit(paths);
    }
}

fn inspect(args: &InspectArgs, networks: &Networks<'_>) -> Result<u8, VerbError> {
    let format = Inspect::parse(args.format.as_deref())?;
    let mut documents = Vec::new();
    let mut code = 0;
    for name in &args.names {
        match Shown::find(name, networks) {
            Ok(shown) => documents.push(shown.document(networks)),
            Err(error) => {
                code = 1;
                complain(&error.into());
            }
        }
    }
    format.write(&mut io::stdout().lock(), &documents)?;
    Ok(code)
}

/// What `inspect` says of a name that is no container's, image's or volume's.
pub(super) fn document(name: &str, paths: &Paths) -> Option<Value> {
    let networks = Networks::new(paths);
    let shown = Shown::find(name, &networks).ok()?;
    Some(shown.document(&networks))
}

fn list(args: &LsArgs, networks: &Networks<'_>) -> Result<u8, VerbError> {
    let format = NETWORKS.format(args.list.format.as_deref(), args.list.quiet)?;
    let filters = filter::pairs(&args.list.filter, FILTERS)?;
    let is_type = |value: &str| matches!(value, "custom" | "builtin");
    if let Some((_, value)) = filters
        .iter()
        .find(|(key, value)| key == "type" && !is_type(value))
    {
        return refused(format!("invalid filter 'type={value}'"));
    }
    let rows: Vec<Value> = Shown::all(networks)?
        .into_iter()
        .filter(|shown| fits(shown, &filters, networks))
        .map(|shown| {
            let labels = shown.labels();
            let list: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let id = match args.no_trunc {
                true => shown.id.as_str(),
                false => &shown.id[..12],
            };
            let created = shown.network.as_ref().map(|network| network.created);
            json!({
                "CreatedAt": crate::times::or_never(created),
                "Driver": shown.driver,
                "ID": id,
                "IPv4": "true",
                "IPv6": shown.has_ipv6().to_string(),
                "Internal": shown.internal().to_string(),
                "Labels": list.join(","),
                "Label": labels,
                "Name": shown.name,
                "Scope": "local",
            })
        })
        .collect();
    format.list(&mut io::stdout().lock(), &rows)?;
    Ok(0)
}

fn fits(shown: &Shown, filters: &[(String, String)], networks: &Networks<'_>) -> bool {
    let labels = shown.labels();
    filters.iter().all(|(key, value)| match key.as_str() {
        "dangling" => {
            let idle = shown.network.is_some() && networks.members(&shown.name).is_empty();
            idle == matches!(value.as_str(), "true" | "1")
        }
        "driver" => shown.driver == value,
        "id" => shown.id.starts_with(value.as_str()),
        "label" => has_label(&labels, value),
        "label!" => !has_label(&labels, value),
        "scope" => value == "local",
        "type" => (value == "custom") == shown.network.is_some(),
        _ => filter::name_matches(&shown.name, value),
    })
}

fn prune(args: &PruneArgs, networks: &Networks<'_>) -> Result<u8, VerbError> {
    let warning =
        "WARNING! This will remove all custom networks not used by at least one container.";
    if !args.force && !confirmed(warning)? {
        return Ok(0);
    }
    let removed = prune_unused(networks, &args.filter)?;
    say_gone("Networks", &removed)?;
    Ok(0)
}

/// Removes those that no container is on; their names.
pub(super) fn prune_unused(
    networks: &Networks<'_>,
    given: &[String],
) -> Result<Vec<String>, VerbError> {
    let mut filters = filter::pairs(given, &["label", "label!", "until"])?;
    let mut until = None;
    for (_, value) in filters.iter().filter(|(key, _)| key == "until") {
        until = Some(Timestamp::parse_flag("until", value, Timestamp::now())?);
    }
    filters.retain(|(key, _)| key != "until");
    let mut removed = Vec::new();
    for network in networks.list()? {
        let is_old = until.is_none_or(|until| network.created < until);
        if !is_old || !fits(&Shown::of(network.clone()), &filters, networks) {
            continue;
        }
        match networks.remove(&network.name) {
            Ok(network) => removed.push(network.name),
            Err(NetworksError::InUse { .. } | NetworksError::NotFound(_)) => {}
            Err(error) => complain(&error.into()),
        }
    }
    Ok(removed)
}

fn remove(args: &RmArgs, networks: &Networks<'_>) -> Result<u8, VerbError> {
    let mut code = 0;
    for name in &args.names {
        match networks.remove(name) {
            Ok(_) => say(name)?,
            Err(NetworksError::NotFound(_)) if args.force => {}
            Err(error) => {
                code = 1;
                complain(&error.into());
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn what_makes_no_sense_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::within(temp.path());
        for (line, said) in [
            (
                "create --subnet 10.7.0.0/24 --subnet 10.8.0.0/24 x",
                "--subnet is given twice: a network has one",
            ),
            (
                "create --subnet 10.7.0.0/24 --gateway 10.7.0.1 --gateway 10.7.0.2 x",
                "--gateway is given twice: a network has one",
            ),
            ("ls --filter type=mine", "invalid filter 'type=mine'"),
        ] {
            let words = ["walnut", "network"].into_iter().chain(line.split(' '));
            let argv: Vec<std::ffi::OsString> = words.map(Into::into).collect();
            let Command::Network(command) = Cli::from_args(&argv).unwrap().command else {
                panic!("{line}")
            };
            let error = run(command, &paths).unwrap_err();
            assert_eq!(error.to_string(), said);
        }
    }
}
