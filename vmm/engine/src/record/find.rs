// SPDX-License-Identifier: Apache-2.0
//! Containers by name, by ID, by the beginning of an ID; all of them.

use std::fs;
use std::path::{Path, PathBuf};

use walnut_protocol::chain;

use super::{Config, Entry, RecordError, State, config, names};
use crate::container::ContainerId;
use crate::paths::Paths;

/// A container whose record makes no sense, or is from a newer version.
#[derive(Debug)]
pub struct Unreadable {
    pub entry: Entry,
    /// By the link that leads to it.
    pub name: String,
    pub error: RecordError,
}

impl Unreadable {
    pub fn complain(&self) {
        log::warn!("container {}: {}", self.entry.short(), chain(&self.error));
    }
}

/// All containers of one `--root`.
#[derive(Clone, Debug)]
pub struct Registry {
    dir: PathBuf,
    machines: PathBuf,
}

impl Registry {
    pub fn new(paths: &Paths) -> Self {
        Self {
            dir: paths.containers(),
            machines: paths.machines(),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// An ID, a name (with or without Docker's slash before it), or the beginning of an ID, in
    /// this order.
    pub fn find(&self, text: &str) -> Result<Entry, RecordError> {
        let not_found = || RecordError::NotFound(text.to_owned());
        if ContainerId::is_one(text) {
            let entry = self.entry(text);
            return match entry.dir.join(config::NAME).exists() {
                true => Ok(entry),
                false => Err(not_found()),
            };
        }
        let name = text.strip_prefix('/').unwrap_or(text);
        // Anything else is no name, and no path below ours.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(not_found());
        }
        if let Some(id) = names::owner(&self.dir, name) {
            return Ok(self.entry(&id));
        }
        let mut matches = self.ids().filter(|id| id.starts_with(text));
        let first = matches.next().ok_or_else(not_found)?;
        match matches.next() {
            Some(_) => Err(RecordError::Ambiguous(text.to_owned())),
            None => Ok(self.entry(&first)),
        }
    }

    pub(super) fn entry(&self, id: &str) -> Entry {
        Entry::new(&self.dir, &self.machines, id)
    }

    fn ids(&self) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| ContainerId::is_one(name))
    }

    /// All that can be read, newest first. One that can't is said, not hidden.
    pub fn list(&self) -> Vec<(Entry, Config, State)> {
        let (all, unreadable) = self.list_all();
        for broken in unreadable {
            broken.complain();
        }
        all
    }

    /// All that can be read, newest first, and those that can't.
    pub fn list_all(&self) -> (Vec<(Entry, Config, State)>, Vec<Unreadable>) {
        let mut all = Vec::new();
        let mut unreadable = Vec::new();
        let mut unfinished = Vec::new();
        for id in self.ids() {
            let entry = self.entry(&id);
            let read = match Config::read(&entry.dir) {
                Ok(None) => {
                    unfinished.push(entry.dir);
                    continue;
                }
                Ok(Some(config)) => entry.state().map(|state| (config, state)),
                Err(error) => Err(error),
            };
            match read {
                Ok((config, state)) => all.push((entry, config, state)),
                Err(RecordError::NotFound(_)) => {}
                Err(error) => unreadable.push(Unreadable {
                    name: names::of(&self.dir, &id).unwrap_or_default(),
                    entry,
                    error,
                }),
            }
        }
        if !unfinished.is_empty() {
            self.sweep(&unfinished);
        }
        all.sort_by_key(|(_, config, _)| std::cmp::Reverse(config.created));
        (all, unreadable)
    }

    /// Writes the truth about containers that killed commands left, named by the beginning of
    /// their IDs.
    pub fn correct(&self, ids: &[String]) {
        for id in ids {
            let Ok(entry) = self.find(id) else { continue };
            match entry.state() {
                Ok(_) | Err(RecordError::NotFound(_)) => {}
                Err(e) => log::warn!("{}", chain(&e)),
            }
        }
    }
}
