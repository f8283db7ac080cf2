// SPDX-License-Identifier: Apache-2.0
//! Flags of the verbs that change a container's life, as they are typed.

use clap::{ArgAction, Args, ValueEnum};

use super::run::memory_limit;
use crate::units::MilliCpus;

// Containers by name or ID.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut pause web db
  walnut unpause web db")]
pub struct NamesArgs {
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

const STOP_EXAMPLES: &str = "\
Examples:
  walnut stop web
  walnut stop -t 1 web db
  walnut restart web";

// `stop` and `restart`.
#[derive(Debug, Args)]
#[command(after_help = STOP_EXAMPLES, args_override_self = true)]
pub struct StopArgs {
    /// Signal to send, in place of the container's stop signal
    #[arg(short, long, value_name = "SIGNAL")]
    pub signal: Option<String>,
    /// Seconds to wait before SIGKILL; -1 is for ever
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    pub time: Option<i32>,
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

const KILL_EXAMPLES: &str = "\
Examples:
  walnut kill web
  walnut kill -s HUP web";

#[derive(Debug, Args)]
#[command(after_help = KILL_EXAMPLES, args_override_self = true)]
pub struct KillArgs {
    /// Signal to send
    #[arg(
        short,
        long,
        value_name = "SIGNAL",
        default_value = "KILL",
        hide_default_value = true
    )]
    pub signal: String,
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

const START_EXAMPLES: &str = "\
Examples:
  walnut start web
  walnut start -ai shell
  walnut start --checkpoint before-lunch web";

#[derive(Debug, Args)]
#[command(after_help = START_EXAMPLES, args_override_self = true)]
pub struct StartArgs {
    /// Attach to stdout and stderr, and pass signals on
    #[arg(short, long)]
    pub attach: bool,
    /// Go on from this checkpoint
    #[arg(long, value_name = "CHECKPOINT")]
    pub checkpoint: Option<String>,
    /// The keys that leave the container running
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Attach to stdin
    #[arg(short, long)]
    pub interactive: bool,
    /// Pass signals on to the container
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true", hide_default_value = true,
          value_name = "BOOL", hide_possible_values = true)]
    pub sig_proxy: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

const ATTACH_EXAMPLES: &str = "\
Ctrl-p ctrl-q leaves the container running.

Examples:
  walnut attach shell
  walnut attach --no-stdin web";

#[derive(Debug, Args)]
#[command(after_help = ATTACH_EXAMPLES, args_override_self = true)]
pub struct AttachArgs {
    /// The keys that leave the container running
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Do not attach stdin
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass signals on to the container
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true", hide_default_value = true,
          value_name = "BOOL", hide_possible_values = true)]
    pub sig_proxy: bool,
    #[arg(value_name = "CONTAINER")]
    pub name: String,
}

const RM_EXAMPLES: &str = "\
Examples:
  walnut rm web
  walnut rm -f $(walnut ps -aq)";

#[derive(Debug, Args)]
#[command(after_help = RM_EXAMPLES)]
pub struct RmArgs {
    /// Kill a running container first
    #[arg(short, long)]
    pub force: bool,
    /// Remove the volumes that were made for it, too
    #[arg(short, long)]
    pub volumes: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut rename web old-web")]
pub struct RenameArgs {
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    #[arg(value_name = "NEW_NAME")]
    pub new_name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaitCondition {
    NotRunning,
    NextExit,
    Removed,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut wait web
  walnut wait --condition removed web")]
pub struct WaitArgs {
    /// What to wait for
    #[arg(
        long,
        value_name = "CONDITION",
        default_value = "not-running",
        hide_default_value = true
    )]
    pub condition: WaitCondition,
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

const UPDATE_EXAMPLES: &str = "\
Examples:
  walnut update --memory 128m --pids-limit 100 web
  walnut update --restart unless-stopped web db";

#[derive(Debug, Args)]
#[command(after_help = UPDATE_EXAMPLES, args_override_self = true)]
pub struct UpdateArgs {
    /// Length of the period that --cpu-quota is of, in microseconds
    #[arg(long, value_name = "N")]
    pub cpu_period: Option<u64>,
    /// Time of the processors in each --cpu-period, in microseconds
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// Share of the processors, relative to other containers of its machine
    #[arg(short, long, value_name = "N")]
    pub cpu_shares: Option<u64>,
    /// Processors of the machine that it may use (0-1, 0,1)
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Number of CPUs, at most as many as the machine has
    #[arg(long, value_name = "N", value_parser = MilliCpus::parse)]
    pub cpus: Option<MilliCpus>,
    /// Memory limit, at most what the machine has
    #[arg(short, long, value_name = "SIZE", value_parser = memory_limit)]
    pub memory: Option<u64>,
    /// What stays in memory when the machine's is short
    #[arg(long, value_name = "SIZE", value_parser = memory_limit)]
    pub memory_reservation: Option<u64>,
    /// Memory and swap together; a machine has no swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Limit on the number of processes; -1 is none
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    /// When to bring the container up again
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}
