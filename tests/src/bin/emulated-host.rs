// SPDX-License-Identifier: Apache-2.0
//! `emulated-host`: runs a command, or a shell, on a machine with a stock `/dev/kvm` that QEMU emulates.

#![deny(unsafe_code)]

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use walnut_tests::emulated::{self, Outcome, Run, RunError, inside};
use walnut_tests::{kvm, place};

/// A host with KVM, for machines that have none.
#[derive(Parser)]
#[command(name = "emulated-host")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs a command: same paths, directory and environment as here; / is a throw-away overlay.
    /// Exits as the command does; 124 when its time was up, 125 when the emulated host failed.
    Run {
        #[command(flatten)]
        machine: Machine,
        #[arg(last = true, required = true, value_name = "CMD")]
        argv: Vec<OsString>,
    },
    /// Opens a shell on this terminal, with what was built on the PATH; here where /dev/kvm will do.
    Shell {
        #[command(flatten)]
        machine: Machine,
        #[arg(last = true, value_name = "CMD")]
        argv: Vec<OsString>,
    },
    /// Runs a command here where /dev/kvm will do, and as `run` does elsewhere; says which, and why.
    Auto {
        #[command(flatten)]
        machine: Machine,
        #[arg(last = true, required = true, value_name = "CMD")]
        argv: Vec<OsString>,
    },
    /// Says in one line whether this machine needs it, and why. Exits 0 where /dev/kvm will do.
    Detect,
}

#[derive(Args)]
struct Machine {
    /// Kills everything after so many seconds
    #[arg(long, value_name = "N")]
    timeout_s: Option<u64>,
    #[arg(long, value_name = "N", default_value_t = 4096)]
    memory_mib: u32,
    /// A directory that stays writable inside
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Machine {
    fn run(self, argv: Vec<OsString>) -> Run {
        Run {
            argv,
            timeout: self.timeout_s.map(Duration::from_secs),
            memory_mib: self.memory_mib,
            output: self.output,
            // Only a kernel without /proc would fail this, and then the error names the path.
            init: env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()),
        }
    }
}

fn main() -> ExitCode {
    if inside::is_init() {
        inside::init();
    }
    match Cli::parse().verb {
        Verb::Run { machine, argv } => finish(emulated::run(&machine.run(argv))),
        Verb::Shell { machine, argv } => shell(machine, argv),
        Verb::Auto { machine, argv } => {
            let kvm = kvm::detect();
            eprintln!("{kvm}");
            if kvm.is_usable() {
                return here(&argv);
            }
            finish(emulated::run(&machine.run(argv)))
        }
        Verb::Detect => {
            let kvm = kvm::detect();
            eprintln!("{kvm}");
            ExitCode::from(u8::from(!kvm.is_usable()))
        }
    }
}

/// Becomes the command; returns only when that fails.
fn here(argv: &[OsString]) -> ExitCode {
    let Some((program, args)) = argv.split_first() else {
        return ExitCode::from(125);
    };
    let error = Command::new(program).args(args).exec();
    eprintln!("emulated-host: {}: {error}", program.display());
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    })
}

fn shell(machine: Machine, mut argv: Vec<OsString>) -> ExitCode {
    if argv.is_empty() {
        let path = env::var("PATH").unwrap_or_default();
        let path = format!("PATH={}:{path}", place::staged().display());
        let shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
        argv = vec!["env".into(), path.into(), shell];
    }
    let kvm = kvm::detect();
    eprintln!("{kvm}");
    if kvm.is_usable() {
        return here(&argv);
    }
    eprintln!("leave it with `exit`; what it changes in files vanishes with it");
    finish(emulated::shell(&machine.run(argv)))
}

fn finish(result: Result<Outcome, RunError>) -> ExitCode {
    match result {
        Ok(outcome) => ExitCode::from(outcome.status),
        Err(error) => {
            let mut line = format!("emulated-host: {error}");
            let mut next = error.source();
            while let Some(cause) = next {
                line = format!("{line}: {cause}");
                next = cause.source();
            }
            eprintln!("{line}");
            ExitCode::from(error.status())
        }
    }
}
