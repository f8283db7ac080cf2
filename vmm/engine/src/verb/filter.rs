// SPDX-License-Identifier: Apache-2.0
//! `--filter` of `ps` and `container prune`: values of one key are alternatives, keys must all hold.

use std::collections::BTreeMap;

use super::{VerbError, refused};
use crate::record::{Config, Entry, Registry, State};
use crate::times::Timestamp;

#[derive(Debug, Default)]
pub struct Filter {
    keys: BTreeMap<String, Vec<String>>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
}

const KNOWN: [&str; 13] = [
    "id", "name", "label", "status", "exited", "ancestor", "before", "since", "volume", "health",
    "network", "until", "label!",
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
                values
                    .iter()
                    .any(|value| holds(key, value, entry, config, state))
            })
    }
}

fn holds(key: &str, value: &str, entry: &Entry, config: &Config, state: &State) -> bool {
    let container = &config.container;
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
        "network" => container.network.mode.name() == value,
        "health" => state.health.as_ref().map_or("none", |h| h.status.as_str()) == value,
        _ => false,
    }
}

fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|has| has == value),
        None => labels.contains_key(wanted),
    }
}

/// Docker's are regular expressions; of those, anchors are what people use.
fn name_matches(name: &str, pattern: &str) -> bool {
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
