// SPDX-License-Identifier: Apache-2.0
//! Flags of `walnut network VERB`, as they are typed.

use clap::{Args, Subcommand};

use super::shared::{InspectArgs, ListArgs, PruneArgs, RmArgs};

const INSPECT_EXAMPLES: &str = "\
Examples:
  walnut network inspect backend
  walnut network inspect -f '{{json .Containers}}' backend";

const LS_EXAMPLES: &str = "\
Filters: dangling, driver, id, label, name, scope, type

Examples:
  walnut network ls
  walnut network ls -q --filter type=custom";

const PRUNE_EXAMPLES: &str = "\
Filters: label, label!, until

Examples:
  walnut network prune
  walnut network prune -f --filter until=24h";

const RM_EXAMPLES: &str = "\
Examples:
  walnut network rm backend";

/// `walnut network VERB`.
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Put a container on a network, at once if it runs
    Connect(ConnectArgs),
    /// Create a network
    Create(CreateArgs),
    /// Take a container off a network, at once if it runs
    Disconnect(DisconnectArgs),
    /// Tell all about networks
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// List networks
    #[command(visible_alias = "list", after_help = LS_EXAMPLES)]
    Ls(LsArgs),
    /// Remove networks that no container is on
    #[command(after_help = PRUNE_EXAMPLES)]
    Prune(PruneArgs),
    /// Remove networks
    #[command(
        visible_alias = "remove",
        after_help = RM_EXAMPLES,
    )]
    Rm(RmArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Containers on one network reach each other by name and alias; no root is needed.

Examples:
  walnut network create backend
  walnut network create --internal --subnet 10.7.0.0/24 --gateway 10.7.0.1 db
  walnut run -d --network backend --name db --network-alias store busybox nc -ll -p 1 -e date
  walnut run --rm --network backend busybox nc store 1")]
pub struct CreateArgs {
    /// switch is what there is; bridge, as Docker calls it, is the same
    #[arg(
        short,
        long,
        value_name = "DRIVER",
        default_value = "switch",
        hide_default_value = true
    )]
    pub driver: String,
    /// Address of the gateway, which also answers for names
    #[arg(long, value_name = "IP")]
    pub gateway: Vec<String>,
    /// Without a way out
    #[arg(long)]
    pub internal: bool,
    /// Set a label
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub label: Vec<String>,
    /// Addresses of the network
    #[arg(long, value_name = "CIDR")]
    pub subnet: Vec<String>,
    #[arg(value_name = "NETWORK")]
    pub name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut network connect backend web
  walnut network connect --alias store --ip 10.89.0.9 backend db")]
pub struct ConnectArgs {
    /// Another name of the container there
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// Address of the container there
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
    #[arg(value_name = "NETWORK")]
    pub network: String,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut network disconnect backend web")]
pub struct DisconnectArgs {
    /// Also where the one that runs it does not let go
    #[arg(short, long)]
    pub force: bool,
    #[arg(value_name = "NETWORK")]
    pub network: String,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    #[command(flatten)]
    pub list: ListArgs,
    /// Show IDs whole
    #[arg(long)]
    pub no_trunc: bool,
}
