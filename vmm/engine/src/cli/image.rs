// SPDX-License-Identifier: Apache-2.0
//! Flags of the verbs that are about images, as they are typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::shared::{InspectArgs, ListArgs, PruneArgs};

const INSPECT_EXAMPLES: &str = "\
Examples:
  walnut image inspect busybox
  walnut image inspect -f '{{json .Config.Env}}' busybox";

/// Verbs of their own.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum ImageVerb {
    /// Show how an image came to be
    History(HistoryArgs),
    /// Manage images
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Image(Box<ImageCommand>),
    /// List images
    Images(ImagesArgs),
    /// Make an image of a tar archive's files
    Import(ImportArgs),
    /// Load images from an archive
    Load(LoadArgs),
    /// Log in to a registry
    Login(LoginArgs),
    /// Log out from a registry
    Logout(LogoutArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Upload an image to a registry
    Push(PushArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Save images to an archive
    Save(SaveArgs),
    /// Give an image another name
    Tag(TagArgs),
}

/// `walnut image VERB`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum ImageCommand {
    /// Show how an image came to be
    History(HistoryArgs),
    /// Make an image of a tar archive's files
    Import(ImportArgs),
    /// Tell all about images
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// Load images from an archive
    Load(LoadArgs),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Remove images that nobody needs
    Prune(ImagePruneArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Upload an image to a registry
    Push(PushArgs),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(RmiArgs),
    /// Save images to an archive
    Save(SaveArgs),
    /// Give an image another name
    Tag(TagArgs),
}

impl From<ImageCommand> for ImageVerb {
    /// `image prune` and `image inspect` have no verbs of their own.
    fn from(command: ImageCommand) -> Self {
        match command {
            ImageCommand::History(args) => ImageVerb::History(args),
            ImageCommand::Import(args) => ImageVerb::Import(args),
            ImageCommand::Load(args) => ImageVerb::Load(args),
            ImageCommand::Ls(args) => ImageVerb::Images(args),
            ImageCommand::Pull(args) => ImageVerb::Pull(args),
            ImageCommand::Push(args) => ImageVerb::Push(args),
            ImageCommand::Rm(args) => ImageVerb::Rmi(args),
            ImageCommand::Save(args) => ImageVerb::Save(args),
            ImageCommand::Tag(args) => ImageVerb::Tag(args),
            other @ (ImageCommand::Inspect(_) | ImageCommand::Prune(_)) => {
                ImageVerb::Image(Box::new(other))
            }
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Filters: before, dangling, label, reference, since, until

Examples:
  walnut images
  walnut images --filter reference='debian*' --format '{{.Repository}}:{{.Tag}} {{.Size}}'
  walnut images -q --filter dangling=true")]
pub struct ImagesArgs {
    /// Show all images; there are no hidden ones
    #[arg(short, long)]
    pub all: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    #[command(flatten)]
    pub list: ListArgs,
    /// Show IDs in full
    #[arg(long)]
    pub no_trunc: bool,
    /// Only images of this repository, with this tag
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub repository: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Archives are what `save` writes, here or elsewhere, or hold an OCI layout; gzip and zstd are undone.

Examples:
  walnut load -i busybox.tar
  zcat images.tar.gz | walnut load")]
pub struct LoadArgs {
    /// Read from a file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Platform of the images, if the archive has several
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut save -o images.tar busybox debian:12
  walnut save busybox | ssh host walnut load")]
pub struct SaveArgs {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut import rootfs.tar.gz mine:1
  tar c -C rootfs . | walnut import -c 'CMD [\"/bin/sh\"]' - mine")]
pub struct ImportArgs {
    /// Apply a Dockerfile's instruction: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER,
    /// VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// What the image's history says of it
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Platform of the image
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// A tar archive, or - for standard input
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut tag busybox example.org/me/busybox:1")]
pub struct TagArgs {
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    pub source: String,
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    pub target: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut rmi busybox
  walnut rmi -f $(walnut images -q)")]
pub struct RmiArgs {
    /// Take names away even if containers use the image; one that a container uses stays unnamed
    #[arg(short, long)]
    pub force: bool,
    /// For Docker's sake: there are no parents to delete
    #[arg(long)]
    pub no_prune: bool,
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut history --no-trunc busybox
  walnut history --format '{{.ID}}: {{.CreatedBy}}' busybox")]
pub struct HistoryArgs {
    /// table, json, "table TEMPLATE" or TEMPLATE
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Sizes and times for people
    #[arg(short = 'H', long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true", value_name = "BOOL",
          hide_possible_values = true)]
    pub human: bool,
    /// Show everything in full
    #[arg(long)]
    pub no_trunc: bool,
    /// Show IDs only
    #[arg(short, long)]
    pub quiet: bool,
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Filters: label, label!, until

Examples:
  walnut image prune -f
  walnut image prune -a --filter until=24h")]
pub struct ImagePruneArgs {
    /// All that no container uses, not only those without a name
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub prune: PruneArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without a registry in its name, an image is Docker Hub's. Registries on this machine may speak HTTP
without TLS.

Examples:
  walnut pull busybox
  walnut pull localhost:5000/me/app:1
  walnut pull debian@sha256:…")]
pub struct PullArgs {
    /// Platform of the image, if it has several
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print nothing but the image's name
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[arg(value_name = "IMAGE[:TAG|@DIGEST]")]
    pub image: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut tag busybox localhost:5000/busybox
  walnut push localhost:5000/busybox")]
pub struct PushArgs {
    /// Print nothing but the image's name
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[arg(value_name = "IMAGE[:TAG]")]
    pub image: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Credentials are Docker's: ~/.docker/config.json, or the helper that it names.

Examples:
  walnut login -u me --password-stdin example.org < password")]
pub struct LoginArgs {
    /// Whose name to log in with
    #[arg(short, long, value_name = "USER")]
    pub username: Option<String>,
    /// Anybody who lists processes can read it: better use --password-stdin
    #[arg(short, long, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walnut logout example.org")]
pub struct LogoutArgs {
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

// How far a registry is trusted.
#[derive(Clone, Copy, Debug, Args)]
pub struct TlsArgs {
    /// --tls-verify=false: look at no certificate, and take HTTP without TLS, too
    #[arg(long = "tls-verify", action = clap::ArgAction::Set, num_args = 0..=1,
          require_equals = true, default_value = "true", default_missing_value = "true",
          value_name = "BOOL", hide_possible_values = true)]
    pub verify: bool,
}
