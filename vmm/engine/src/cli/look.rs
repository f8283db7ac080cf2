// SPDX-License-Identifier: Apache-2.0
//! Flags of the verbs that look at containers, as they are typed.

use clap::Args;

use super::shared::ListArgs;

const PS_EXAMPLES: &str = "\
Filters: ancestor, before, exited, expose, health, id, label, name, network, publish, since, status,
volume

Examples:
  walnut ps -a
  walnut ps --filter status=exited --filter name=web
  walnut ps --format '{{.Names}}: {{.Status}}'";

#[derive(Debug, Args)]
#[command(after_help = PS_EXAMPLES, args_override_self = true)]
pub struct PsArgs {
    /// Show all containers, not only those that run
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub list: ListArgs,
    /// Show the last N created containers, whether they run or not
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Show the one created last
    #[arg(short, long)]
    pub latest: bool,
    /// Show whole IDs and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// Show what containers take on disk
    #[arg(short, long)]
    pub size: bool,
}

const LOGS_EXAMPLES: &str = "\
Examples:
  walnut logs -f --tail 20 web
  walnut logs --since 10m -t web";

#[derive(Debug, Args)]
#[command(after_help = LOGS_EXAMPLES, args_override_self = true)]
pub struct LogsArgs {
    /// For Docker's sake: no log option adds any
    #[arg(long)]
    pub details: bool,
    /// Go on while the container writes
    #[arg(short, long)]
    pub follow: bool,
    /// Only what is later: a time, or a duration before now
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only the last N lines
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "all",
        hide_default_value = true
    )]
    pub tail: String,
    /// Show when each line was written
    #[arg(short, long)]
    pub timestamps: bool,
    /// Only what is earlier: a time, or a duration before now
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

const INSPECT_EXAMPLES: &str = "\
Examples:
  walnut inspect web
  walnut inspect --format '{{.State.ExitCode}}' web";

#[derive(Debug, Args)]
#[command(after_help = INSPECT_EXAMPLES, args_override_self = true)]
pub struct InspectArgs {
    /// json or TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show what containers take on disk
    #[arg(short, long)]
    pub size: bool,
    /// What is meant, if names are not enough: container, image or volume
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

const STATS_EXAMPLES: &str = "\
Examples:
  walnut stats
  walnut stats --no-stream --format '{{.Name}} {{.MemUsage}}' web";

#[derive(Debug, Args)]
#[command(after_help = STATS_EXAMPLES, args_override_self = true)]
pub struct StatsArgs {
    /// Also those that don't run
    #[arg(short, long)]
    pub all: bool,
    /// table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// One look, then end
    #[arg(long)]
    pub no_stream: bool,
    /// Show whole IDs
    #[arg(long)]
    pub no_trunc: bool,
    #[arg(value_name = "CONTAINER")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "\
Processes are numbered as the container sees them. Of ps's options there are -ef, aux and -o LIST with
pid, ppid, user, uid, comm, args, stat, tty, time, etime, rss, vsz, ni, nlwp, %cpu, %mem, stime, start.

Examples:
  walnut top web
  walnut top web -o pid,etime,args",
    override_usage = "walnut top CONTAINER [ps OPTIONS]"
)]
pub struct TopArgs {
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub options: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut console web")]
pub struct ConsoleArgs {
    #[arg(value_name = "CONTAINER")]
    pub name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut port web
  walnut port web 80/tcp")]
pub struct PortArgs {
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    #[arg(value_name = "PORT[/PROTOCOL]")]
    pub port: Option<String>,
}
