// SPDX-License-Identifier: Apache-2.0
//! `--filter` of `ps` and `container prune`: values of one key are alternatives but for labels, keys
//! must all hold. And what is simpler: pairs of which each must hold.

use std::collections::BTreeMap;

use super::{VerbError, refused};
use crate::network::{Protocol, Publish};
use crate::record::{Config, Entry, Registry, State};
use crate::times::Timestamp;

#[derive(Debug, Default)]
pub struct Filter {
    keys: BTreeMap<String, Vec<String>>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
}

const KNOWN: [&str; 15] = [
    "id", "name", "label", "status", "exited", "ancestor", "before", "since", "volume", "health",
    "network", "publish", "expose", "until", "label!",
];
const STATUSES: [&str; 7] = [
    "created",
    "restarting",
    "running",
    "removing",
    "paused",
    "exited",
    "dead",
];

impl Filter {
    /// `KEY=VALUE` each.
    pub fn parse(given: &[String], registry: &Registry) -> Result<Self, VerbError> {
        let mut filter = Self::default();
        for text in given {
            let Some((key, value)) = text.split_once('=') else {
                return refused(format!(
                    "invalid argument \"{text}\" for \"-f, --filter\" flag: bad format of filter \
                     (expected name=value)"
                ));
            };
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            if !KNOWN.contains(&key.as_str()) {
                return refused(format!("invalid filter '{key}'"));
            }
            if key == "status" && !STATUSES.contains(&value) {
                return refused(format!("invalid filter 'status={value}'"));
            }
            if key == "exited" && value.parse::<i32>().is_err() {
                return refused(format!("invalid filter 'exited={value}'"));
            }
            if matches!(key.as_str(), "publish" | "expose")
                && Publish::parse_exposed(value).is_err()
            {
                return refused(format!("invalid filter '{key}={value}'"));
            }
            if key == "until" {
                filter.before = Some(Timestamp::parse_flag("until", value, Timestamp::now())?);
                continue;
            }
            if key == "before" || key == "since" {
                let created = registry.find(value)?.config()?.created;
                let bound = if key == "before" {
                    &mut filter.before
                } else {
                    &mut filter.since
                };
                *bound = Some(created);
                continue;
            }
            filter.keys.entry(key).or_default().push(value.to_owned());
        }
        Ok(filter)
    }

    /// Whether containers that don't run are asked for, too.
    pub fn looks_at_all(&self) -> bool {
        self.keys.contains_key("status") || self.keys.contains_key("exited")
    }

    pub fn matches(&self, entry: &Entry, config: &Config, state: &State) -> bool {
        self.before.is_none_or(|before| config.created < before)
            && self.since.is_none_or(|since| config.created > since)
            && self.keys.iter().all(|(key, values)| {
                let mut values = values.iter();
                let fits = |value: &String| holds(key, value, entry, config, state);
                match key.as_str() {
                    "label" | "label!" => values.all(fits),
                    _ => values.any(fits),
                }
            })
    }
}

fn holds(key: &str, value: &str, entry: &Entry, config: &Config, state: &State) -> bool {
    let container = &config.container;
    let bound = state.network.bound();
    match key {
        "id" => entry.id().starts_with(value),
        "name" => name_matches(config.name(), value),
        "label" => has_label(&container.labels, value),
        "label!" => !has_label(&container.labels, value),
        "status" => state.status.to_string() == value,
        "exited" => {
            state.finished.is_some() && !state.is_live() && state.exit_code.to_string() == value
        }
        "ancestor" => {
            let id = config.image_id.map(|id| id.to_string()).unwrap_or_default();
            let bare = value.strip_prefix("sha256:").unwrap_or(value);
            let without_tag = |name: &str| name.strip_suffix(":latest").unwrap_or(name).to_owned();
            without_tag(&config.image) == without_tag(value)
                || (bare.len() >= 4 && id.trim_start_matches("sha256:").starts_with(bare))
        }
        "volume" => container
            .volumes
            .iter()
            .any(|volume| volume.target.as_os_str() == value || volume.shown(true) == value),
        "network" => container
            .network
            .modes()
            .any(|mode| mode.network() == value),
        // Of the host, and of the container.
        "publish" => ports(value).any(|port| bound.clone().any(|b| port == (b.host, b.protocol))),
        "expose" => ports(value).any(|port| {
            container.network.exposed.contains(&port)
                || bound.clone().any(|b| port == (b.container, b.protocol))
        }),
        "health" => state.health.as_ref().map_or("none", |h| h.status.as_str()) == value,
        _ => false,
    }
}

/// `--filter` of networks and volumes.
pub(super) type Pairs = Vec<(String, String)>;

/// `KEY=VALUE` each, with these keys.
pub(super) fn pairs(given: &[String], known: &[&str]) -> Result<Pairs, VerbError> {
    let parse = |text: &String| {
        let (key, value) = text.split_once('=')?;
        let is_bool = matches!(value, "true" | "false" | "1" | "0");
        let is_one = known.contains(&key) && (key != "dangling" || is_bool);
        is_one.then(|| (key.to_owned(), value.to_owned()))
    };
    let mut pairs = Pairs::new();
    for text in given {
        match parse(text) {
            Some(pair) => pairs.push(pair),
            None => return refused(format!("invalid filter '{text}'")),
        }
    }
    Ok(pairs)
}

pub(super) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|has| has == value),
        None => labels.contains_key(wanted),
    }
}

/// `80`, `80/udp`, `8000-8010`.
fn ports(value: &str) -> impl Iterator<Item = (u16, Protocol)> {
    Publish::parse_exposed(value).into_iter().flatten()
}

/// Docker's are regular expressions; of those, anchors are what people use.
pub(super) fn name_matches(name: &str, pattern: &str) -> bool {
    let pattern = pattern
        .strip_prefix("^/")
        .map_or_else(|| pattern.to_owned(), |rest| format!("^{rest}"));
    let (pattern, at_start) = match pattern.strip_prefix('^') {
        Some(rest) => (rest, true),
        None => (pattern.as_str(), false),
    };
    let (pattern, at_end) = match pattern.strip_suffix('$') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    match (at_start, at_end) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing::container;
    use crate::paths::Paths;

    #[test]
    fn containers() {
        let temp = tempfile::tempdir().unwrap();
        let registry = Registry::new(&Paths::within(temp.path()));
        let flags = [
            "-l", "a=1", "-l", "b=2", "--expose", "53/udp", "--name", "web",
        ];
        let mut config = Config::new(container(&flags), "image", None, None);
        let state = State::default();
        let (entry, _alive) = registry.create(&mut config, &state).unwrap();
        let parse = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(ToString::to_string).collect();
            Filter::parse(&given, &registry)
        };
        for (given, fits) in [
            (&["label=a"][..], true),
            (&["label=a=1", "label=b"], true),
            (&["label=a=1", "label=b=1"], false),
            (&["label!=c", "label!=a"], false),
            (&["name=db", "name=web"], true),
            (&["name=web", "status=exited"], false),
            (&["expose=53/udp"], true),
            (&["expose=50-60/udp"], true),
            (&["expose=53"], false),
            (&["publish=53/udp"], false),
            (&["network=none"], false),
            (&["network=user"], true),
            (&["health=none"], true),
            (&["since=web"], false),
        ] {
            let filter = parse(given).unwrap();
            assert_eq!(filter.matches(&entry, &config, &state), fits, "{given:?}");
        }
        for wrong in ["nosuch=1", "status=up", "exited=x", "expose=0", "publish=x"] {
            let said = parse(&[wrong]).unwrap_err().to_string();
            assert!(said.starts_with("invalid filter '"), "{said}");
        }
    }

    #[test]
    fn names() {
        for (pattern, matches) in [
            ("we", true),
            ("^web", true),
            ("^/web1$", true),
            ("eb1$", true),
            ("^eb", false),
            ("web$", false),
        ] {
            assert_eq!(name_matches("web1", pattern), matches, "{pattern}");
        }
    }
}
