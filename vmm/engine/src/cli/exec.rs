// SPDX-License-Identifier: Apache-2.0
//! `walnut exec`'s flags, as they are typed.

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  walnut exec web ls -l /
  walnut exec -it web sh
  walnut exec --vm -it web
  walnut exec -u nobody -w /tmp -e A=b web env

Exit status: the command's own; 126 if it can't be invoked, 127 if it can't be found.";

#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    args_override_self = true,
    override_usage = "walnut exec [OPTIONS] CONTAINER COMMAND [ARG...]"
)]
pub struct ExecArgs {
    /// Run in the background
    #[arg(short, long)]
    pub detach: bool,
    /// The keys that leave the command running
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Set an environment variable; NAME alone takes the value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// All capabilities
    #[arg(long)]
    pub privileged: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Run it in the container's machine, beside the container: a shell, unless a command is given,
    /// with the host's busybox for tools
    #[arg(long)]
    pub vm: bool,
    /// User name or number, and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,

    #[arg(trailing_var_arg = true, hide = true)]
    pub args: Vec<String>,
}
