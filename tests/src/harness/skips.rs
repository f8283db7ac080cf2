// SPDX-License-Identifier: Apache-2.0
//! Tests that could not run: said loudly, and counted by the runner.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::thread;

/// Names the file that the runner counts from.
pub const SKIPS_FILE: &str = "WALNUT_TEST_SKIPS";

/// Says that the calling test did not run, and why. Return right after it.
pub fn skip(why: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    eprintln!("SKIPPED {test}: {why}");
    if let Some(path) = env::var_os(SKIPS_FILE) {
        let opened = OpenOptions::new().append(true).create(true).open(path);
        let written = opened.and_then(|mut file| writeln!(file, "{test}: {why}"));
        written.expect("the runner made this file writable");
    }
}
