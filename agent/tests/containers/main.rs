// SPDX-License-Identifier: Apache-2.0
//! The agent with real containers, on whatever Linux runs the tests: PID 1's boot apart, everything
//! that a guest would do, over unix sockets instead of vsock.
//!
//! Needs root and a cgroup2 hierarchy; says so and counts as skipped where it has them not. One
//! process, since the helper must be forked before there are threads: hence no test harness.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test, which prints its outcome as a harness would"
)]

mod behaviour;
mod host;

use std::process::ExitCode;

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let tests = behaviour::TESTS;
    // The agent's debug log, with each step's time, goes to the kernel's.
    if std::env::var_os("WALNUT_AGENT_DEBUG").is_some() {
        let _ = walnut_agent::kmsg::init(log::LevelFilter::Debug);
    }
    let host = match host::Host::start() {
        Ok(host) => host,
        Err(why) => {
            eprintln!("SKIPPED: {} tests of containers: {why}", tests.len());
            println!("0 passed, 0 failed, {} skipped", tests.len());
            return ExitCode::SUCCESS;
        }
    };
    let mut failed = 0;
    let mut passed = 0;
    for (name, test) in tests {
        if filter
            .as_ref()
            .is_some_and(|filter| !name.contains(filter.as_str()))
        {
            continue;
        }
        let outcome = std::panic::catch_unwind(|| test(&host));
        println!(
            "test {name} ... {}",
            if outcome.is_ok() { "ok" } else { "FAILED" }
        );
        if outcome.is_ok() {
            passed += 1
        } else {
            failed += 1
        }
    }
    host.stop();
    println!("{passed} passed, {failed} failed, 0 skipped");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
