// SPDX-License-Identifier: Apache-2.0
//! `integration [FILTER]`: builds the integration tests here and runs them where KVM is: on this
//! machine, or in emulated hosts, one for each of its processors.
//!
//! ```text
//! integration FILTER                  (here, [`outside`])
//!   ├─ emulated-host                  (one each of [`outside::hosts`])
//!   │    └─ integration --inside FILTER   ([`inside`]): stdin names a test program a line,
//!   │         └─ TEST PROGRAM             stdout has a [`report`] a line, stderr what is for people
//!   └─ emulated-host …
//! ```

#![deny(unsafe_code)]

mod build;
mod inside;
mod outside;
mod report;

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match env::args_os().nth(1) {
        Some(word) if word == "--inside" => inside::run(env::args_os().nth(2).unwrap_or_default()),
        filter => outside::run(filter.unwrap_or_default()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("integration: {error:#}");
        ExitCode::FAILURE
    })
}
