// SPDX-License-Identifier: Apache-2.0
//! Log lines on stderr, filtered by `WALNUT_LOG` and `-v`.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    /// What goes wrong in libraries comes back to us as errors: unless more is asked for, only
    /// our own warnings are told.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
            && (log::max_level() > LevelFilter::Warn || metadata.target().starts_with("walnut"))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_ascii_lowercase();
            let line = format!("walnut: {level}: {}\n", record.args());
            // In one write; nobody is left to tell when stderr is gone.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Warnings, unless `WALNUT_LOG` or `verbose` say otherwise; the louder of the two wins.
pub fn init(verbose: u8) {
    let asked = std::env::var("WALNUT_LOG")
        .ok()
        .and_then(|level| level.parse().ok());
    let flagged = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let level = asked.map_or(flagged, |asked: LevelFilter| {
        if verbose == 0 {
            asked
        } else {
            asked.max(flagged)
        }
    });
    log::set_max_level(level);
    // Only a second call could fail.
    let _ = log::set_logger(&Stderr);
}

/// A message for the user, in one write: other processes' lines must not get in between.
pub fn say(text: &str) {
    // Nobody is left to tell when stderr is gone.
    let _ = std::io::stderr().write_all(format!("walnut: {text}\n").as_bytes());
}
