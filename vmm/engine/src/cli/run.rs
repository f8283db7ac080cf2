// SPDX-License-Identifier: Apache-2.0
//! `walnut run`'s flags, as they are typed.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};

use crate::container::StartMode;
use crate::units::{MilliCpus, UnitError, parse_size};

const EXAMPLES: &str = "\
IMAGE is oci-archive:FILE[:REF], docker-archive:FILE[:REF], oci:DIR[:REF], or the name of an image
that is already loaded. Flags after IMAGE belong to the command.

Examples:
  walnut run --rm oci-archive:busybox.tar echo hello
  walnut run --rm -it oci-archive:busybox.tar sh
  tar c . | walnut run --rm -i busybox tar t
  walnut run --rm -v \"$PWD\":/src:ro -w /src --memory 256m --cpus 2 busybox ls
  walnut run --rm --rootfs ./rootfs -- ./script.sh

Exit status: the command's own; 125 if walnut fails, 126 if the command can't be invoked, 127 if it
can't be found, 128 + n if signal n ended it.";

#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    args_override_self = true,
    disable_help_flag = true,
    override_usage = "walnut run [OPTIONS] IMAGE [COMMAND] [ARG...]\n       \
                      walnut run [OPTIONS] --rootfs DIR [--] COMMAND [ARG...]"
)]
pub struct RunArgs {
    /// Attach to these streams only: stdin, stdout, stderr
    #[arg(short, long, value_name = "STREAM")]
    pub attach: Vec<String>,
    /// Run in the background and print the container's ID
    #[arg(short, long)]
    pub detach: bool,
    /// The keys that leave a container running
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Pass signals on to the container
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true",
          value_parser = BoolishValueParser::new(), hide_default_value = true, value_name = "BOOL",
          hide_possible_values = true)]
    pub sig_proxy: bool,
    /// Say on stderr how long each phase took
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "table")]
    pub timings: Option<TimingsFormat>,

    #[command(flatten)]
    pub container: ContainerArgs,
}

const CREATE_EXAMPLES: &str = "\
Examples:
  walnut create --name web -p 8080:80 busybox httpd -f -h /www
  walnut start web";

// `walnut create`'s.
#[derive(Debug, Args)]
#[command(
    after_help = CREATE_EXAMPLES,
    args_override_self = true,
    disable_help_flag = true,
    override_usage = "walnut create [OPTIONS] IMAGE [COMMAND] [ARG...]\n       \
                      walnut create [OPTIONS] --rootfs DIR [--] COMMAND [ARG...]"
)]
pub struct CreateArgs {
    #[command(flatten)]
    pub container: ContainerArgs,
}

// What a container is to be.
#[derive(Debug, Args)]
pub struct ContainerArgs {
    /// Add a host name to /etc/hosts (host:ip); host-gateway is the host's loopback
    #[arg(long, value_name = "HOST:IP")]
    pub add_host: Vec<String>,
    /// Add Linux capabilities
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// Set an annotation of the runtime spec
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<String>,
    /// private, or host for the machine's
    #[arg(long, value_name = "MODE")]
    pub cgroupns: Option<String>,
    /// Write the container's ID to a file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Number of CPUs; the machine has as many as hold them
    #[arg(long, value_name = "N", value_parser = MilliCpus::parse)]
    pub cpus: Option<MilliCpus>,
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
    #[arg(long, hide = true)]
    pub device: Vec<String>,
    /// Bytes a second that it may read from its disks; the device's name does not matter
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_read_bps: Vec<String>,
    /// Reads a second from its disks
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_read_iops: Vec<String>,
    /// Bytes a second that it may write to its disks
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_write_bps: Vec<String>,
    /// Writes a second to its disks
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_write_iops: Vec<String>,
    /// DNS servers for /etc/resolv.conf, instead of the host's
    #[arg(long, value_name = "IP")]
    pub dns: Vec<String>,
    /// DNS options for /etc/resolv.conf
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// DNS search domains for /etc/resolv.conf
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// NIS domain name of the container
    #[arg(long, value_name = "NAME")]
    pub domainname: Option<String>,
    /// Overwrite the entrypoint of the image
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Set an environment variable; NAME alone takes the value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Expose a port, for -P
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    pub expose: Vec<String>,
    #[arg(long, hide = true)]
    pub gpus: Option<String>,
    /// Add supplementary groups
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Command that says whether the container is well
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time between two such questions (30s)
    #[arg(long, value_name = "DURATION")]
    pub health_interval: Option<String>,
    /// Failures in a row that make it unhealthy (3)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub health_retries: Option<i64>,
    /// Time between questions while it starts (5s)
    #[arg(long, value_name = "DURATION")]
    pub health_start_interval: Option<String>,
    /// Time to start in which failures don't count (0s)
    #[arg(long, value_name = "DURATION")]
    pub health_start_period: Option<String>,
    /// Time that one question may take (30s)
    #[arg(long, value_name = "DURATION")]
    pub health_timeout: Option<String>,
    /// What may leave the container: deny, or IP[/PREFIX][:PORT] and NAME[:PORT], separated by commas
    #[arg(long, value_name = "POLICY")]
    pub egress: Vec<String>,
    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Host name of the container
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// private, none, shareable, or host for the machine's
    #[arg(long, value_name = "MODE")]
    pub ipc: Option<String>,
    /// Address of the network interface, on --network bridge and networks of your own
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
    /// Set a label
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
    /// Where the log goes: json-file or none
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// max-size=SIZE and max-file=N rotate the log
    #[arg(long, value_name = "OPTION")]
    pub log_opt: Vec<String>,
    /// Address of the network interface (02:42:0a:00:02:64)
    #[arg(long, value_name = "MAC")]
    pub mac_address: Option<String>,
    /// Memory limit, such as 64m or 1.5g; the machine has a little more
    #[arg(short, long, value_name = "SIZE", value_parser = memory_limit)]
    pub memory: Option<u64>,
    /// What stays in memory when the machine's is short
    #[arg(long, value_name = "SIZE", value_parser = memory_limit)]
    pub memory_reservation: Option<u64>,
    /// Memory and swap together; a machine has no swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Mount a volume, a directory or file of the host, or a tmpfs:
    /// type=volume|bind|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub mount: Vec<String>,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Do without the image's health check
    #[arg(long)]
    pub no_healthcheck: bool,
    /// user (unless given, where passt is installed), a network of your own, bridge, none,
    /// tap:NAME[,ip=CIDR][,gateway=IP], or container:NAME in that one's machine; several, with
    /// name=NETWORK[,alias=NAME][,ip=IP] for more about one
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Vec<String>,
    /// Another name of the container on its first network
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// Let a port of the container be reached on the host, at 127.0.0.1 unless an address is given
    #[arg(short, long, value_name = "[IP:][HOST:]PORT[/PROTOCOL]")]
    pub publish: Vec<String>,
    /// The same for all ports that the image exposes, each at a port of the host that is free
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Put an init before the command, which reaps processes and passes signals on
    #[arg(long)]
    pub init: bool,
    /// How willingly the kernel ends it when memory is short, -1000 to 1000
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub oom_score_adj: Option<i32>,
    /// private, host for the machine's, or container:NAME in that one's machine
    #[arg(long, value_name = "MODE")]
    pub pid: Option<String>,
    /// Limit on the number of processes; -1 is none
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    /// Platform of the image, if it has several
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// When to fetch the image from its registry: always, missing, never
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "missing",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub pull: PullPolicy,
    /// All capabilities and all devices of its own machine
    #[arg(long)]
    pub privileged: bool,
    /// Show nothing of the image's fetching
    #[arg(short, long)]
    pub quiet: bool,
    /// Mount the container's root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// When to bring the container up again: no, on-failure[:N], always, unless-stopped
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "no",
        hide_default_value = true
    )]
    pub restart: String,
    /// Remove the container when it exits
    #[arg(long)]
    pub rm: bool,
    /// Run a directory of the host instead of an image; what is written goes there
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// seccomp=PROFILE.json, seccomp=unconfined or no-new-privileges
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Size of /dev/shm; half of the memory unless given
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub shm_size: Option<u64>,
    /// How its machine comes up: auto (from a template where there is one), cold (it boots), or
    /// template (which is made first where there is none)
    #[arg(
        long,
        value_name = "MODE",
        default_value = "auto",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub start: StartMode,
    /// Signal that asks the container to stop
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds between that signal and SIGKILL; -1 is for ever
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub stop_timeout: Option<i32>,
    /// size=SIZE limits the writable layer
    #[arg(long, value_name = "OPTION")]
    pub storage_opt: Vec<String>,
    /// Kernel parameters of the machine
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// Mount a tmpfs
    #[arg(long, value_name = "DIR[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Allocate a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set resource limits
    #[arg(long, value_name = "TYPE=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// host is what there is: the machine's
    #[arg(long, value_name = "MODE")]
    pub userns: Option<String>,
    /// private, or host for the machine's
    #[arg(long, value_name = "MODE")]
    pub uts: Option<String>,
    /// User name or number, and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Run in the machine of another container, which runs: a kernel in common and nothing else
    #[arg(long, value_name = "CONTAINER")]
    pub vm: Option<String>,
    /// Mount a directory or file of the host, or a named volume; DIR alone is a new volume
    #[arg(short, long, value_name = "[SOURCE:]DIR[:ro]")]
    pub volume: Vec<String>,
    /// Mount what another container has mounted
    #[arg(long, value_name = "CONTAINER[:ro]")]
    pub volumes_from: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,

    #[arg(
        trailing_var_arg = true,
        required_unless_present = "rootfs",
        hide = true
    )]
    pub args: Vec<String>,
}

/// `--pull`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PullPolicy {
    Always,
    /// Where it is not there yet.
    #[default]
    Missing,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TimingsFormat {
    Table,
    Json,
}

/// Docker's floor: what a process, its page tables and its cgroup need to exist at all.
pub const MIN_MEMORY_LIMIT: u64 = 6 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryLimitError {
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error("minimum memory limit allowed is 6MB")]
    TooLow,
}

pub(super) fn memory_limit(text: &str) -> Result<u64, MemoryLimitError> {
    let limit = parse_size(text)?;
    // Docker's way to say that there is none.
    if limit > 0 && limit < MIN_MEMORY_LIMIT {
        return Err(MemoryLimitError::TooLow);
    }
    Ok(limit)
}

/// The one-letter names, for messages.
pub(super) fn short_of(long: &str) -> Option<char> {
    Some(match long {
        "attach" => 'a',
        "cpu-shares" => 'c',
        "detach" => 'd',
        "env" => 'e',
        "hostname" => 'h',
        "interactive" => 'i',
        "label" => 'l',
        "memory" => 'm',
        "publish" => 'p',
        "quiet" => 'q',
        "publish-all" => 'P',
        "tty" => 't',
        "user" => 'u',
        "volume" => 'v',
        "workdir" => 'w',
        _ => return None,
    })
}
