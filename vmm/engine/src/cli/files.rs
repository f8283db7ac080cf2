// SPDX-License-Identifier: Apache-2.0
//! Flags of the verbs that are about a container's files, as they are typed.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
- is a tar archive on stdin or stdout. A directory's name with /. at its end means what is in it.
Owners are the caller's on the host, root's in a container, unless --archive is given.

Examples:
  walnut cp web:/etc/passwd .
  walnut cp ./site/. web:/var/www
  walnut cp web:/var/log - | tar t")]
pub struct CpArgs {
    /// Keep owners as they are
    #[arg(short, long)]
    pub archive: bool,
    /// Follow a symbolic link in the source
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Say nothing of what was copied
    #[arg(short, long)]
    pub quiet: bool,
    #[arg(value_name = "[CONTAINER:]SOURCE|-")]
    pub source: String,
    #[arg(value_name = "[CONTAINER:]DEST|-")]
    pub dest: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A is added, C is changed, D is deleted.

Examples:
  walnut diff web")]
pub struct DiffArgs {
    #[arg(value_name = "CONTAINER")]
    pub name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut export web > web.tar
  walnut export -o web.tar web")]
pub struct ExportArgs {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[arg(value_name = "CONTAINER")]
    pub name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut commit web mine:1
  walnut commit -c 'CMD [\"nginx\"]' -m 'with nginx' web mine:2")]
pub struct CommitArgs {
    /// Who made it
    #[arg(short, long, value_name = "TEXT")]
    pub author: Option<String>,
    /// Apply a Dockerfile's instruction: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER,
    /// VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// What the image's history says of it
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Pause the container meanwhile; --pause=false does not
    #[arg(short, long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true", hide_default_value = true,
          value_name = "BOOL", hide_possible_values = true)]
    pub pause: bool,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
}
