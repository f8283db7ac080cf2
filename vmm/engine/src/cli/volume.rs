// SPDX-License-Identifier: Apache-2.0
//! Flags of `walnut volume VERB`, as they are typed.

use clap::{Args, Subcommand};

use super::shared::{InspectArgs, ListArgs, PruneArgs, RmArgs};

const INSPECT_EXAMPLES: &str = "\
Examples:
  walnut volume inspect data
  walnut volume inspect -f '{{.Mountpoint}}' data";

const LS_EXAMPLES: &str = "\
Filters: dangling, driver, label, name

Examples:
  walnut volume ls
  walnut volume ls -q --filter dangling=true";

const PRUNE_EXAMPLES: &str = "\
Filters: label, label!

Examples:
  walnut volume prune
  walnut volume prune -af --filter label=temporary";

const RM_EXAMPLES: &str = "\
Examples:
  walnut volume rm data";

/// `walnut volume VERB`.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Create a volume
    Create(CreateArgs),
    /// Tell all about volumes
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// List volumes
    #[command(visible_alias = "list", after_help = LS_EXAMPLES)]
    Ls(ListArgs),
    /// Remove volumes that no container has
    #[command(after_help = PRUNE_EXAMPLES)]
    Prune(VolumePruneArgs),
    /// Remove volumes
    #[command(
        visible_alias = "remove",
        after_help = RM_EXAMPLES,
    )]
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
pub struct VolumePruneArgs {
    /// Those with names, too
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub prune: PruneArgs,
}
