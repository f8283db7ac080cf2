// SPDX-License-Identifier: Apache-2.0
//! `walnut template …`.

use clap::{Args, Subcommand};

use super::run::memory_limit;
use crate::units::MilliCpus;

const EXAMPLES: &str = "\
A template is a machine that was stopped when it was ready. The first run of a size leaves one
behind, and later ones of that size start from it.

Examples:
  walnut template create
  walnut template create --cpus 2 --memory 1g
  walnut template ls
  walnut template prune --all";

#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Make the template of a size
    #[command(after_help = EXAMPLES)]
    Create(CreateArgs),
    /// List templates
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove templates
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove templates that no machine can start from any more
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Number of CPUs, as of `run`
    #[arg(long, value_name = "N", value_parser = MilliCpus::parse)]
    pub cpus: Option<MilliCpus>,
    /// Memory limit, as of `run`
    #[arg(short, long, value_name = "SIZE", value_parser = memory_limit)]
    pub memory: Option<u64>,
    /// CPUs, MiB, image room and network of a machine: for a command that asks for it behind its user's back
    #[arg(long, hide = true, num_args = 4, value_names = ["CPUS", "MIB", "BYTES", "0|1"])]
    pub machine: Option<Vec<u64>>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut template ls")]
pub struct LsArgs {
    /// Show IDs only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut template rm 5f31b99b3fd30a15")]
pub struct RmArgs {
    #[arg(value_name = "TEMPLATE", required = true)]
    pub templates: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut template prune
  walnut template prune --all")]
pub struct PruneArgs {
    /// Remove all
    #[arg(short, long)]
    pub all: bool,
}
