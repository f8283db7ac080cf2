// SPDX-License-Identifier: Apache-2.0
//! Flags of the verbs that are about all there is, as they are typed.

use clap::{Args, Subcommand};

use super::shared::PruneArgs;

#[derive(Debug, Args)]
#[command(after_help = "\
Filters: container, event, image, label, network, type, volume

Examples:
  walnut events --filter container=web
  walnut events --since 10m --until 0s --format '{{.Action}} {{.Actor.Attributes.name}}'")]
pub struct EventsArgs {
    /// Only those: KEY=VALUE
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// json or TEMPLATE
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Also what is past: since a time, or a duration before now
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Not for ever: until a time, or a duration before now
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

// `info` and `version`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut info -f '{{.Driver}} {{.Containers}}'
  walnut version -f '{{.Client.Version}}'")]
pub struct FormatArgs {
    /// json or TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `walnut system VERB`.
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Show what images, containers and volumes take on disk
    Df(DfArgs),
    /// Show what happens
    Events(EventsArgs),
    /// Tell about this machine and what is on it
    Info(FormatArgs),
    /// Remove what nobody uses
    Prune(SystemPruneArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut system df
  walnut system df -v
  walnut system df --format '{{.Type}}: {{.Size}}'")]
pub struct DfArgs {
    /// table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Each image, container and volume
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Filters: label, label!, until

Examples:
  walnut system prune -f
  walnut system prune -a --volumes")]
pub struct SystemPruneArgs {
    /// All images that no container uses, not only those without a name
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub prune: PruneArgs,
    /// Volumes without a name that no container has, too
    #[arg(long)]
    pub volumes: bool,
}
