// SPDX-License-Identifier: Apache-2.0
//! A container as asked for: the literal flags and the image's own configuration, merged by
//! Docker's rules and checked once. Everything after this works on [`Container`].

pub mod env;
pub mod health;
pub mod id;
pub mod in_vm;
pub mod label;
pub mod limits;
mod log_option;
mod merge;
mod mount;
pub mod security;
pub mod signal;
mod sysctl;
pub mod volume;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use health::Healthcheck;
pub use id::ContainerId;
pub use in_vm::InVm;
pub use limits::{Limits, Ulimit};
pub use merge::{ImageDefaults, check_name};
pub use security::{Seccomp, Security};
pub use volume::{Tmpfs, Volume};

use crate::log_file;
use crate::network;
use crate::supervisor::restart::{Policy, RestartError};

#[derive(Debug, Error)]
pub enum ContainerError {
    #[error(transparent)]
    Env(#[from] env::EnvError),
    #[error(transparent)]
    Volume(#[from] volume::VolumeError),
    #[error(transparent)]
    Network(#[from] crate::network::WantedError),
    #[error(transparent)]
    Limit(#[from] limits::LimitError),
    #[error(transparent)]
    Security(#[from] security::SecurityError),
    #[error(transparent)]
    Signal(#[from] signal::SignalError),
    #[error("no command specified")]
    NoCommand,
    #[error("the working directory '{0}' is invalid, it needs to be an absolute path")]
    WorkingDir(String),
    #[error(
        "invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, at least two of them"
    )]
    Name(String),
    #[error("invalid hostname: '{}'", .0.escape_debug())]
    Hostname(String),
    #[error("invalid domainname: '{}'", .0.escape_debug())]
    Domainname(String),
    #[error("invalid argument {0:?} for \"--add-host\" flag: bad format for add-host: {0:?}")]
    AddHost(String),
    #[error(
        "invalid argument {text:?} for \"--add-host\" flag: invalid IP address in add-host: {address:?}"
    )]
    AddHostAddress { text: String, address: String },
    #[error(
        "invalid argument {0:?} for \"--dns\" flag: IP address is not correctly formatted: {0}"
    )]
    Dns(String),
    #[error("invalid argument {text:?} for \"--{flag}\" flag: expected one word, as {example}")]
    DnsWord {
        flag: &'static str,
        text: String,
        example: &'static str,
    },
    #[error("invalid argument \"{0}\" for \"--sysctl\" flag: it needs to be NAME=VALUE")]
    Sysctl(String),
    #[error("invalid argument \"{0}\" for \"--storage-opt\" flag: only size=SIZE is known")]
    StorageOpt(String),
    #[error(transparent)]
    Restart(#[from] RestartError),
    #[error("Conflicting options: --restart and --rm")]
    RestartAndRemove,
    #[error(transparent)]
    Label(#[from] label::LabelError),
    #[error(transparent)]
    LogOption(#[from] log_option::LogOptionError),
    #[error(transparent)]
    Health(#[from] health::HealthError),
    #[error("--{flag} {mode}: only private and host, the machine's own, are known")]
    Mode { flag: &'static str, mode: String },
    #[error("Invalid value {0}, range for oom score adj is [-1000, 1000]")]
    OomScore(i32),
    #[error("{0}")]
    NotHeld(&'static str),
    #[error("create a container ID")]
    Id(#[source] std::io::Error),
    #[error("run {path}: {reason}")]
    Rootfs { path: PathBuf, reason: String },
}

/// A container, resolved: no flag is looked at after this.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Container {
    pub id: ContainerId,
    pub name: Option<String>,
    pub hostname: String,
    /// Entrypoint and command.
    pub args: Vec<String>,
    /// `NAME=value` each, names once.
    pub env: Vec<String>,
    pub cwd: String,
    /// `[name|uid][:name|gid]`, for the agent to look up; empty is root.
    pub user: String,
    pub group_add: Vec<String>,
    pub tty: bool,
    pub interactive: bool,
    /// Process 1 is the agent's, its child the command.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub init: bool,
    pub read_only: bool,
    pub volumes: Vec<Volume>,
    pub tmpfs: Vec<Tmpfs>,
    pub limits: Limits,
    pub security: Security,
    #[serde(default)]
    pub shared: Shared,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    #[serde(default)]
    pub oom_score_adj: i32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Kernel parameters by name, with dots.
    pub sysctls: HashMap<String, String>,
    pub hosts: Vec<(String, String)>,
    pub dns: Dns,
    #[serde(default)]
    pub network: network::Wanted,
    pub stop_signal: u32,
    pub stop_timeout_s: i32,
    /// Of the writable layer, in bytes.
    pub storage_size: Option<u64>,
    pub remove: bool,
    pub labels: BTreeMap<String, String>,
    pub restart: Policy,
    pub log: log_file::Options,
    #[serde(default)]
    pub start: StartMode,
    /// The machine is another container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_vm: Option<InVm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Healthcheck>,
}

impl Container {
    /// Whether it has the volume with this name.
    pub fn has_volume(&self, name: &str) -> bool {
        let mut volumes = self.volumes.iter();
        volumes.any(|volume| volume.name.as_deref() == Some(name))
    }
}

/// How a container's machine comes up.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ValueEnum, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum StartMode {
    /// From a template where there is one; else it boots, and a template is made afterwards
    #[default]
    Auto,
    /// It boots
    Cold,
    /// From a template, which is made first where there is none
    Template,
}

/// Namespaces that are the machine's, not the container's own.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each namespace")]
pub struct Shared {
    pub pid: bool,
    pub ipc: bool,
    pub uts: bool,
    pub cgroup: bool,
}

#[cfg(test)]
pub mod testing;

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}
