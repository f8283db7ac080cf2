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
        Err(error) => {
            say(&chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let mut reporter = Reporter::new(run::report_file(&config));
    reporter.started(started_us);
    let saved = terminal::prepare(&config.console);
    let ending = run::run(config, &mut reporter).unwrap_or_else(|error| Ending::Failed {
        message: chain(&error),
    });
    terminal::restore(saved);
    say(&ending::describe(&ending));
    let orderly = ending::is_orderly(&ending);
    reporter.ended(ending);
    if orderly {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn say(message: &str) {
    eprintln!("walnut-vmm: {message}");
}
