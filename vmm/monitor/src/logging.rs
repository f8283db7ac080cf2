// SPDX-License-Identifier: Apache-2.0
//! Log lines on standard error: warnings and worse, or what `WALNUT_LOG` says. At most a few a
//! second: a guest that misbehaves must not fill the host's disk.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::report::now_us;

/// Lines in one [`WINDOW_US`].
const LINES: u64 = 20;
const WINDOW_US: u64 = 1_000_000;

struct Stderr {
    window: AtomicU64,
    lines: AtomicU64,
}

static STDERR: Stderr = Stderr {
    window: AtomicU64::new(0),
    lines: AtomicU64::new(0),
};

/// To be called once, first of all.
pub fn start() {
    let level = std::env::var("WALNUT_LOG")
        .ok()
        .and_then(|level| level.parse().ok());
    log::set_max_level(level.unwrap_or(LevelFilter::Warn));
    // Fails only when a logger is there already.
    let _ = log::set_logger(&STDERR);
}

impl Stderr {
    /// Whether one more line fits into this window.
    fn admits(&self, now_us: u64) -> bool {
        let window = now_us / WINDOW_US;
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.lines.store(0, Ordering::Relaxed);
        }
        self.lines.fetch_add(1, Ordering::Relaxed) < LINES
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // Libraries speak of guests' mistakes as errors of their own.
        metadata.target().starts_with("walnut") || metadata.level() <= Level::Error
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) && self.admits(now_us()) {
            // Nobody to tell when standard error is gone.
            let _ = writeln!(std::io::stderr(), "walnut-vmm: {}", record.args());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::{LINES, Stderr, WINDOW_US};
    use std::sync::atomic::AtomicU64;

    #[test]
    fn a_flood_is_cut_and_the_next_window_is_open() {
        let log = Stderr {
            window: AtomicU64::new(0),
            lines: AtomicU64::new(0),
        };
        let admitted = (0..1000).filter(|_| log.admits(5 * WINDOW_US)).count();
        assert_eq!(admitted as u64, LINES);
        assert!(log.admits(6 * WINDOW_US));
    }
}
