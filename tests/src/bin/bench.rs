// SPDX-License-Identifier: Apache-2.0
//! `bench`: what `make bench` runs. Without a command it measures; see [`walnut_tests::bench`].

#![deny(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::sys::resource::{UsageWho, getrusage};
use walnut_tests::bench::report::Report;
use walnut_tests::bench::{self, Options, RowName, guest_io, image, metric, record, row, svg};
use walnut_tests::place;

/// Measures walnut beside what else this machine has.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    measure: Measure,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the images that are run and loaded
    Prepare {
        #[command(flatten)]
        amounts: Amounts,
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
    },
    /// Time file work and print it as JSON; runs on the host, in containers and in guests
    GuestIo(guest_io::GuestIo),
    /// Run a command, and say on stderr how much memory it took at most
    Peak {
        #[arg(last = true, required = true, value_name = "CMD")]
        argv: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
struct Amounts {
    /// Small files for the file system row
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    files: usize,
    /// MiB of its large file
    #[arg(long, default_value_t = 32, value_name = "MIB")]
    size_mib: usize,
}

#[derive(Debug, Args)]
struct Measure {
    #[command(flatten)]
    amounts: Amounts,
    /// Which rows, separated by commas; all unless given
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    rows: Vec<RowName>,
    /// Rounds for start times
    #[arg(long, default_value_t = 10, value_name = "N")]
    runs: usize,
    /// MiB through a container's standard streams
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    stream_mib: usize,
    /// Where `bench.json`, `bench.txt` and the plots go
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where `make build` staged walnut
    #[arg(long, value_name = "DIR")]
    staged: Option<PathBuf>,
    /// Where `bench prepare` left its images
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    if let Some(own_path) = record::invoked_as_monitor() {
        record::play_monitor(&own_path).context("record the machine")?;
        // The engine must not take this for a monitor that works.
        std::process::exit(1);
    }
    let cli = Cli::parse();
    match cli.command {
        None => measure(cli.measure),
        Some(Command::GuestIo(work)) => {
            let measured = guest_io::run(&work)?;
            serde_json::to_writer(io::stdout(), &measured)?;
            Ok(())
        }
        Some(Command::Peak { argv }) => peak(&argv),
        Some(Command::Prepare { amounts, images }) => {
            let own = std::env::current_exe().context("find this program's own file")?;
            let directory = images.unwrap_or_else(default_images);
            Ok(image::prepare(
                &directory,
                &own,
                amounts.size_mib,
                amounts.files,
            )?)
        }
    }
}

fn peak(argv: &[OsString]) -> anyhow::Result<()> {
    let (program, args) = argv.split_first().context("a command")?;
    let status = std::process::Command::new(program).args(args).status();
    let status = status.with_context(|| format!("run {}", program.display()))?;
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    writeln!(io::stderr(), "{{\"peak_kib\":{}}}", used.max_rss())?;
    std::process::exit(status.code().unwrap_or(1))
}

fn default_images() -> PathBuf {
    place::test_images().join("bench")
}

fn measure(args: Measure) -> anyhow::Result<()> {
    let rows: BTreeSet<RowName> = if args.rows.is_empty() {
        RowName::value_variants().iter().copied().collect()
    } else {
        args.rows.into_iter().collect()
    };
    let report = bench::run(Options {
        rows,
        runs: args.runs,
        staged: args.staged.unwrap_or_else(place::staged),
        images: args.images.unwrap_or_else(default_images),
        files: args.amounts.files,
        size_mib: args.amounts.size_mib,
        stream_mib: args.stream_mib,
    })?;
    if let Some(directory) = args.out {
        write(&report, &directory)
            .with_context(|| format!("write the results to {}", directory.display()))?;
    }
    Ok(write!(io::stdout(), "{report}")?)
}

fn write(report: &Report, directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(
        directory.join("bench.json"),
        serde_json::to_vec_pretty(report)?,
    )?;
    fs::write(directory.join("bench.txt"), report.to_string())?;
    let found = |id| report.rows.iter().find(|found| found.id == id);
    if let Some(start) = found(row::START) {
        let picture = svg::bars(start, &[metric::FIRST_BYTE]);
        fs::write(directory.join("start.svg"), picture)?;
    }
    if let Some(phases) = found(row::PHASES) {
        let picture = svg::stacked(phases, &[metric::ALL, metric::TO_AGENT]);
        fs::write(directory.join("phases.svg"), picture)?;
    }
    if let Some(net) = found(row::NET) {
        let picture = svg::bars(net, &[metric::IN, metric::OUT, metric::ROUND_TRIP]);
        fs::write(directory.join("net.svg"), picture)?;
    }
    Ok(())
}
