// SPDX-License-Identifier: Apache-2.0
//! Flags of `walnut volume VERB`, as they are typed.

use clap::{Args, Subcommand};

/// `walnut volume VERB`.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Create a volume
    Create(CreateArgs),
    /// Tell all about volumes
    Inspect(InspectArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove volumes that no container has
    Prune(PruneArgs),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
A volume is a disk image of its own; size=SIZE says how large it may grow (10 GiB).

Examples:
  walnut volume create data
  walnut volume create -o size=1g --label app=db db
  walnut run -v data:/var/lib/data busybox touch /var/lib/data/file")]
pub struct CreateArgs {
    /// local is what there is
    #[arg(
        short,
        long,
        value_name = "DRIVER",
        default_value = "local",
        hide_default_value = true
    )]
    pub driver: String,
    /// Set a label
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub label: Vec<String>,
    /// size=SIZE
    #[arg(short, long = "opt", value_name = "NAME=VALUE")]
    pub options: Vec<String>,
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut volume inspect data
  walnut volume inspect -f '{{.Mountpoint}}' data")]
pub struct InspectArgs {
    /// json or TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    #[arg(required = true, value_name = "VOLUME")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Filters: dangling, driver, label, name

Examples:
  walnut volume ls
  walnut volume ls -q --filter dangling=true")]
pub struct LsArgs {
    /// Only those: KEY=VALUE
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show names only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut volume prune
  walnut volume prune -af --filter label=temporary")]
pub struct PruneArgs {
    /// Those with names, too
    #[arg(short, long)]
    pub all: bool,
    /// Only those: label=NAME[=VALUE], label!=NAME[=VALUE]
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut volume rm data")]
pub struct RmArgs {
    /// One that is not there is no failure
    #[arg(short, long)]
    pub force: bool,
    #[arg(required = true, value_name = "VOLUME")]
    pub names: Vec<String>,
}
