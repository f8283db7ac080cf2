// SPDX-License-Identifier: Apache-2.0
//! `walnut network`: networks by name.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value, json};

use super::filter::{self, has_label};
use super::{VerbError, complain, confirmed, refused, say, say_gone};
use crate::cli::network::{ConnectArgs, CreateArgs, DisconnectArgs, LsArgs, NetworkCommand};
use crate::cli::shared::{InspectArgs, PruneArgs, RmArgs};
use crate::container::label;
use crate::events::Event;
use crate::format::{Inspect, Listing};
use crate::image::Digest;
use crate::network::{Mode, Other, Wanted as Attach};
use crate::networks::{Member, Network, Networks, NetworksError, PREDEFINED, Wanted};
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
const DRIVER: &str = "switch";
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
        subnet: args.subnet.clone(),
        gateway: args.gateway.clone(),
        internal: args.internal,
    };
    say(&networks.create(&wanted)?.id)?;
    Ok(0)
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
    let mode = mode_of(&args.network, networks)?;
    let network = mode.name();
    if mode == Mode::None {
        return refused(
            "container cannot be connected to network none: disconnect it from its own",
        );
    }
    let address = args.ip.as_deref().map(Attach::parse_address).transpose();
    let address = address.map_err(crate::container::ContainerError::from)?;
    let other = Other {
        mode,
        address,
        mac: None,
        aliases: args.alias.clone(),
    };
    let told = Request::Connect(other.clone());
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
    let told = Request::Disconnect(mode.clone());
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
    Ok(0)
}

/// Changes what a container is to be and, where it runs, what it is.
fn change(
    name: &str,
    paths: &Paths,
    told: Request,
    change: impl FnOnce(&mut Config) -> Result<(), VerbError>,
) -> Result<Entry, VerbError> {
    let entry = Registry::new(paths).find(name)?;
    let held = entry.change()?;
    let state = entry.correct(&held)?;
    if state.starting {
        return refused(format!("container {name} is about to start: try again"));
    }
    let mut config = entry.config()?;
    if config.container.in_vm.is_some() {
        return refused(format!(
            "container {name} is in the machine of another one, whose networks it has"
        ));
    }
    change(&mut config)?;
    if state.is_up() {
        client::request(paths, &entry, told)?;
    }
    entry.write_config(&config)?;
    Ok(entry)
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

/// As a document for `inspect` and for rows.
#[derive(Clone)]
struct Shown {
    id: String,
    name: String,
    driver: &'static str,
    network: Option<Network>,
}

impl Shown {
    fn all(networks: &Networks<'_>) -> Result<Vec<Self>, VerbError> {
        let own = networks.list()?.into_iter().map(Self::of);
        let mut all: Vec<_> = PREDEFINED
            .iter()
            .map(|name| Self::predefined(name))
            .collect();
        all.extend(own);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn of(network: Network) -> Self {
        Self {
            id: network.id.clone(),
            name: network.name.clone(),
            driver: DRIVER,
            network: Some(network),
        }
    }

    /// Always there, under the same ID everywhere.
    fn predefined(name: &str) -> Self {
        let digest = Digest::of(format!("walnut network {name}").as_bytes()).to_string();
        Self {
            id: digest.rsplit(':').next().unwrap_or_default().to_owned(),
            name: name.to_owned(),
            driver: match name {
                "bridge" => "bridge",
                "none" => "null",
                _ => "passt",
            },
            network: None,
        }
    }

    fn find(name: &str, networks: &Networks<'_>) -> Result<Self, NetworksError> {
        match PREDEFINED.contains(&name) {
            true => Ok(Self::predefined(name)),
            false => networks.find(name).map(Self::of),
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let network = self.network.as_ref();
        network
            .map(|network| network.labels.clone())
            .unwrap_or_default()
    }

    fn internal(&self) -> bool {
        self.network
            .as_ref()
            .is_some_and(|network| network.internal)
    }

    fn document(&self, networks: &Networks<'_>) -> Value {
        let mut ipam = json!({ "Driver": "default", "Options": {}, "Config": [] });
        let mut containers = serde_json::Map::new();
        if let Some(network) = &self.network {
            ipam["Config"] = json!([{
                "Subnet": network.subnet().to_string(),
                "Gateway": network.gateway.to_string(),
            }]);
            let members = networks.members(&self.name);
            containers.extend(members.iter().map(|one| member(one, &self.name)));
        }
        let created = self.network.as_ref().map(|network| network.created);
        json!({
            "Name": self.name,
            "Id": self.id,
            "Created": crate::times::or_never(created),
            "Scope": "local",
            "Driver": self.driver,
            "EnableIPv4": true,
            "EnableIPv6": false,
            "IPAM": ipam,
            "Internal": self.internal(),
            "Attachable": false,
            "Ingress": false,
            "ConfigFrom": { "Network": "" },
            "ConfigOnly": false,
            "Containers": containers,
            "Options": {},
            "Labels": self.labels(),
        })
    }
}

fn member((entry, config, state): &Member, network: &str) -> (String, Value) {
    let mut all = state.network.all();
    let place = all.find(|one| one.network == network);
    let address = place.and_then(|place| Some(place.cidr()?.to_string()));
    let mac = place.and_then(|place| Some(place.mac?.to_string()));
    let document = json!({
        "Name": config.name(),
        "EndpointID": entry.id(),
        "MacAddress": mac.unwrap_or_default(),
        "IPv4Address": address.unwrap_or_default(),
        "IPv6Address": "",
    });
    (entry.id().to_owned(), document)
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
                "IPv6": "false",
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
        _ => shown.name.contains(value.as_str()),
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
