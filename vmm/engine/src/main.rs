// SPDX-License-Identifier: Apache-2.0
//! `walnut`: arguments in, exit code out.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use walnut::cli::{Cli, Command, UsageError};
use walnut::image_verbs::VerbError;
use walnut::paths::Paths;
use walnut::run::{RunError, timings};
use walnut::{doctor, image_verbs, logger, run};

/// Docker's code for a failure of its own.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let begin_us = timings::now_us();
    let args: Vec<OsString> = std::env::args_os().collect();
    let code = match Cli::from_args(&args) {
        Ok(cli) => dispatch(cli, begin_us).unwrap_or_else(|e| fail(&e)),
        Err(usage) => explain(&usage),
    };
    ExitCode::from(code)
}

fn dispatch(cli: Cli, begin_us: u64) -> anyhow::Result<u8> {
    logger::init(cli.verbose);
    let paths = Paths::resolve(cli.root, cli.state)?;
    match cli.command {
        Command::Run(args) => Ok(run::run(&args, &paths, begin_us)?),
        Command::Doctor => doctor::run(&paths),
        Command::Images(verb) => Ok(image_verbs::run(verb, &paths)?),
    }
}

/// One line that a user can act on: what failed, on what, why.
fn fail(error: &anyhow::Error) -> u8 {
    let run = error.downcast_ref::<RunError>();
    let verb = error.downcast_ref::<VerbError>();
    if !run.is_some_and(RunError::is_silent) && !verb.is_some_and(VerbError::is_silent) {
        say(&format!("{error:#}"));
    }
    match verb {
        Some(_) => VerbError::EXIT_CODE,
        None => run.map_or(OWN_FAILURE, RunError::exit_code),
    }
}

/// In one write: other processes' lines must not get in between.
fn say(text: &str) {
    // Nobody is left to tell when stderr is gone.
    let _ = std::io::stderr().write_all(format!("walnut: {text}\n").as_bytes());
}

fn explain(usage: &UsageError) -> u8 {
    match usage.as_help() {
        Some(help) => {
            let _ = help.print();
        }
        None => {
            say(&usage.to_string());
        }
    }
    usage.exit_code()
}
