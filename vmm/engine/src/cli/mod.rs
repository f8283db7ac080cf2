// SPDX-License-Identifier: Apache-2.0
//! The command line: literal flags here and in [`run`], what they mean in [`crate::container`].

pub mod checkpoint;
pub mod completion;
pub mod exec;
pub mod files;
pub mod image;
pub mod life;
pub mod look;
pub mod network;
pub mod run;
pub mod shared;
mod supervise;
pub mod switch;
mod switches;
pub mod system;
pub mod template;
mod usage;
pub mod volume;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use usage::UsageError;

const EXAMPLES: &str = "\
Examples:
  walnut run --rm oci-archive:busybox.tar echo hello
  walnut run --rm -it docker-archive:debian.tar bash
  walnut run --rm --rootfs ./rootfs -v \"$PWD\":/work -w /work -- ./script.sh
  walnut doctor

Files:
  --root   images and containers; /var/lib/walnut, or $XDG_DATA_HOME/walnut
  --state  what lives as long as a machine; /run/walnut, or $XDG_RUNTIME_DIR/walnut

Environment:
  WALNUT_LOG              error, warn, info, debug or trace: what is told on stderr
  WALNUT_LIBEXEC          where walnut-vmm, vmlinux and guest.erofs are, if not beside walnut
  WALNUT_MAKE_TEMPLATES   no: a run leaves no template behind
  WALNUT_READY_TIMEOUT_S  how long a machine may take to come up, in seconds";

const PRUNE_EXAMPLES: &str = "\
Examples:
  walnut container prune
  walnut container prune -f --filter until=24h";

/// Runs each container in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(
    name = "walnut",
    version,
    after_help = EXAMPLES,
    disable_help_subcommand = true,
    args_override_self = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Where images and containers are kept
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// Where the state of running machines is kept
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// Say more; twice says everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

/// A verb's flags are not defined before it is asked for: all verbs' together take longer than
/// the rest of what a start does before there is a machine.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Attach standard streams to a running container
    Attach(life::AttachArgs),
    /// Manage checkpoints
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Checkpoint(checkpoint::CheckpointCommand),
    /// Make containers that go on where a running one is
    Clone(checkpoint::CloneArgs),
    /// Make an image of a container's files
    Commit(files::CommitArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
    /// Show what the kernel of a container's machine has said
    Console(look::ConsoleArgs),
    /// Copy files from a container, or into it
    Cp(files::CpArgs),
    /// Create a container, without running it
    Create(Box<run::CreateArgs>),
    /// Show what a container has changed in its image's files
    Diff(files::DiffArgs),
    /// Say what this machine can do, and what to do about what it can't
    #[command(after_help = "Examples:\n  walnut doctor")]
    Doctor,
    /// Show what happens to containers and volumes
    Events(system::EventsArgs),
    /// Run a command in a running container
    Exec(exec::ExecArgs),
    /// Write a container's files to a tar archive
    Export(files::ExportArgs),
    /// Tell about this machine and what is on it
    Info(system::FormatArgs),
    /// Tell all about containers
    Inspect(look::InspectArgs),
    /// Send a signal to containers
    Kill(life::KillArgs),
    /// Show what a container wrote
    Logs(look::LogsArgs),
    /// Manage networks
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Network(network::NetworkCommand),
    /// Suspend all processes of containers
    Pause(life::NamesArgs),
    /// List the ports of a container that can be reached
    Port(look::PortArgs),
    /// List containers
    Ps(look::PsArgs),
    /// Rename a container
    Rename(life::RenameArgs),
    /// Restart containers
    Restart(life::StopArgs),
    /// Remove containers
    Rm(life::RmArgs),
    /// Create and run a container
    Run(Box<run::RunArgs>),
    /// Start stopped containers
    Start(life::StartArgs),
    /// Show what containers use
    Stats(look::StatsArgs),
    /// Stop running containers
    Stop(life::StopArgs),
    #[command(hide = true)]
    Supervise(supervise::SuperviseArgs),
    #[command(hide = true)]
    Switch(switch::SwitchArgs),
    /// Manage machines to start from
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Template(template::TemplateCommand),
    /// See to all there is: what it takes on disk, what of it is of no use
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    System(system::SystemCommand),
    /// Show the processes of a container
    Top(look::TopArgs),
    /// Continue all processes of paused containers
    Unpause(life::NamesArgs),
    /// Change limits and restart policies
    Update(life::UpdateArgs),
    /// Say which version this is
    Version(system::FormatArgs),
    /// Manage volumes
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Volume(volume::VolumeCommand),
    /// Wait until containers stop, and print their exit codes
    Wait(life::WaitArgs),
    /// Manage containers
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Container(Box<ContainerCommand>),
    /// Write man pages into a directory
    ManPages(completion::ManPagesArgs),
    #[command(flatten)]
    Images(image::ImageVerb),
}

/// `walnut container VERB`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum ContainerCommand {
    /// Attach standard streams to a running container
    Attach(life::AttachArgs),
    /// Make containers that go on where a running one is
    Clone(checkpoint::CloneArgs),
    /// Make an image of a container's files
    Commit(files::CommitArgs),
    /// Copy files from a container, or into it
    Cp(files::CpArgs),
    /// Create a container, without running it
    Create(Box<run::CreateArgs>),
    /// Show what a container has changed in its image's files
    Diff(files::DiffArgs),
    /// Run a command in a running container
    Exec(exec::ExecArgs),
    /// Write a container's files to a tar archive
    Export(files::ExportArgs),
    /// Tell all about containers
    Inspect(look::InspectArgs),
    /// Send a signal to containers
    Kill(life::KillArgs),
    /// Show what a container wrote
    Logs(look::LogsArgs),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(look::PsArgs),
    /// Suspend all processes of containers
    Pause(life::NamesArgs),
    /// List the ports of a container that can be reached
    Port(look::PortArgs),
    /// Remove all stopped containers
    #[command(after_help = PRUNE_EXAMPLES)]
    Prune(shared::PruneArgs),
    /// Rename a container
    Rename(life::RenameArgs),
    /// Restart containers
    Restart(life::StopArgs),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(life::RmArgs),
    /// Create and run a container
    Run(Box<run::RunArgs>),
    /// Start stopped containers
    Start(life::StartArgs),
    /// Show what containers use
    Stats(look::StatsArgs),
    /// Stop running containers
    Stop(life::StopArgs),
    /// Show the processes of a container
    Top(look::TopArgs),
    /// Continue all processes of paused containers
    Unpause(life::NamesArgs),
    /// Change limits and restart policies
    Update(life::UpdateArgs),
    /// Wait until containers stop, and print their exit codes
    Wait(life::WaitArgs),
}

impl Cli {
    /// # Errors
    /// What is wrong with the arguments, in Docker's words where it has some. Help and version are
    /// no errors of ours: clap prints them.
    pub fn from_args(args: &[OsString]) -> Result<Self, UsageError> {
        let mut command = switches::understood(Self::command(), args);
        command
            .try_get_matches_from_mut(help_as_flag(args))
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(|e| {
                let mut whole = Self::command();
                whole.build();
                UsageError::new(e, &whole, args)
            })
    }
}

/// `help VERB` asks for the same as `VERB --help`.
fn help_as_flag(args: &[OsString]) -> Vec<OsString> {
    let mut args = args.to_vec();
    if args.get(1).is_some_and(|first| first == "help") {
        args.remove(1);
        args.push("--help".into());
    }
    args
}

#[cfg(test)]
mod tests;
