// SPDX-License-Identifier: Apache-2.0
//! The monitor's way in: arguments, run, one line about how it ended, exit code.

#![deny(unsafe_code)]

use std::process::ExitCode;

use walnut_vmm::report::{Reporter, chain, now_us};
use walnut_vmm::{cli, ending, logging, run, terminal};
use walnut_vmm_config::Ending;

fn main() -> ExitCode {
    let started_us = now_us();
    logging::start();
    let config = match cli::config() {
        Ok(config) => config,
        Err(error) => return fail(&chain(&error)),
    };
    let mut reporter = Reporter::new(run::report_file(&config));
    reporter.started(started_us);
    let saved = terminal::prepare(&config.console);
    let ending = run::run(config, &mut reporter).unwrap_or_else(|error| Ending::Failed {
        message: chain(&error),
    });
    terminal::restore(saved);
    let words = ending::describe(&ending);
    reporter.ended(ending);
    words.map_or(ExitCode::SUCCESS, |words| fail(&words))
}

fn fail(message: &str) -> ExitCode {
    eprintln!("walnut-vmm: {message}");
    ExitCode::FAILURE
}
