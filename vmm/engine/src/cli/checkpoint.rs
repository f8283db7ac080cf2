// SPDX-License-Identifier: Apache-2.0
//! `walnut checkpoint …` and `walnut clone`.

use clap::{Args, Subcommand};

const EXAMPLES: &str = "\
A checkpoint is a running container with its whole machine, on disk. What lies outside of the
machine is not in it: directories of the host and named volumes stay where they are, connections
to others are lost.

Examples:
  walnut checkpoint create web before-lunch
  walnut start --checkpoint before-lunch web
  walnut checkpoint create --leave-running web now
  walnut checkpoint ls web
  walnut checkpoint rm web now";

const LS_EXAMPLES: &str = "\
Examples:
  walnut checkpoint ls web
  walnut checkpoint ls -q web | xargs -n1 walnut checkpoint rm web";

const RM_EXAMPLES: &str = "\
Examples:
  walnut checkpoint rm web before-lunch";

#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// Make a checkpoint of a running container, and stop it
    #[command(after_help = EXAMPLES)]
    Create(CreateArgs),
    /// List the checkpoints of a container
    #[command(visible_alias = "list", after_help = LS_EXAMPLES)]
    Ls(LsArgs),
    /// Remove a checkpoint
    #[command(visible_alias = "remove", after_help = RM_EXAMPLES)]
    Rm(RmArgs),
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Leave the container running
    #[arg(long)]
    pub leave_running: bool,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: String,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// Show names only
    #[arg(short, long)]
    pub quiet: bool,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: String,
}

const CLONE_EXAMPLES: &str = "\
A clone goes on where the container is: same processes, same memory, which is shared until one of
them writes to it. Ports that were published at a fixed port of the host are the container's alone.

Examples:
  walnut clone warm
  walnut clone --count 8 warm
  walnut clone --name second warm";

#[derive(Debug, Args)]
#[command(after_help = CLONE_EXAMPLES, args_override_self = true)]
pub struct CloneArgs {
    /// Number of clones
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub count: u16,
    /// Name of the clone
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}
