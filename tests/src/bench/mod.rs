// SPDX-License-Identifier: Apache-2.0
//! `make bench`: what walnut costs, beside what else this machine has, all in one run on one host.
//!
//! ```text
//! Stage     everything that is timed, copied to a tmpfs
//!   └─ rows::* one question each; contenders take turns, round by round
//!        └─ Report   samples and medians: JSON, a table, a plot
//!             └─ figures   each bar that the project set itself, met or missed
//! ```
//!
//! Speed is reported, never asserted. A contender that isn't there, or fails, is named as skipped.

pub mod figures;
pub mod guest_io;
pub mod image;
mod interrupt;
mod kvm_stat;
mod machine;
mod names;
mod net_guest;
mod peers;
mod process;
pub mod record;
pub mod registry;
pub mod report;
mod rows;
pub mod smaps;
mod stage;
mod stats;
mod stream;
pub mod svg;
mod trace;
mod walnut;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use clap::ValueEnum;

pub use names::{metric, row};
use report::{Host, Report};
use rows::Bench;
pub use rows::RowError;
pub use stage::StageError;

/// What to measure, and with what.
#[derive(Debug)]
pub struct Options {
    pub rows: BTreeSet<RowName>,
    /// Rounds of the start row; the others take fewer.
    pub runs: usize,
    /// Where `walnut` and all that belongs to it was staged.
    pub staged: PathBuf,
    /// What [`image::prepare`] made.
    pub images: PathBuf,
    /// Files for the file system row, and MiB for its large one.
    pub files: usize,
    pub size_mib: usize,
    /// MiB through a container's standard streams.
    pub stream_mib: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum RowName {
    /// exec to the first byte
    Start,
    /// starts from a template
    Template,
    /// a running container to disk, back, and forked
    Checkpoint,
    /// where a start's time goes
    Phases,
    /// KVM exits
    Exits,
    /// the monitor's memory
    Memory,
    /// the files' sizes
    Sizes,
    /// a container's standard streams
    Stdio,
    /// file systems
    Files,
    /// loading an image
    Load,
    /// pulling an image from a registry on this machine
    Pull,
    /// a command in a running container
    Exec,
    /// a list of containers
    Ps,
    /// what a container wrote
    Logs,
    /// containers that do nothing
    Idle,
    /// memory that a container frees
    Back,
    /// the network: streams, latency, connections, memory
    Net,
    /// what a network costs a start
    NetStart,
}

/// Measures all that was asked for.
///
/// # Errors
/// Nothing can be measured at all: no tmpfs. Anything less is in [`Report::skipped`].
pub fn run(options: Options) -> Result<Report, StageError> {
    let mut bench = Bench::new(options)?;
    bench.report.host = host();
    bench.report.host.peers = bench.peers.versions();
    rows::measure(&mut bench);
    let mut report = bench.into_report();
    report.figures = figures::figures(&report);
    Ok(report)
}

fn host() -> Host {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(String::new, |(_, name)| name.trim().into());
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let uname = rustix::system::uname();
    Host {
        processor,
        kernel: format!(
            "{} {}",
            uname.sysname().to_string_lossy(),
            uname.release().to_string_lossy()
        ),
        cpus: std::thread::available_parallelism().map_or(1, Into::into),
        memory_mib: smaps::kib_field(&meminfo, "MemTotal").unwrap_or(0) / 1024,
        emulated: std::env::var_os("WALNUT_EMULATED_HOST").is_some(),
        ..Host::default()
    }
}
