// SPDX-License-Identifier: Apache-2.0
//! `--timings`: how long each phase of a start took, on the host's `CLOCK_MONOTONIC`.

use std::io::Write;

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::cli::run::TimingsFormat;

/// Microseconds of `CLOCK_MONOTONIC`, as the monitor's reports have them.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1_000
}

/// Moments of one run. Each phase is the time between one and the next that is known.
#[derive(Debug)]
pub struct Timings {
    begin_us: u64,
    marks: Vec<(&'static str, u64)>,
}

impl Timings {
    /// `begin_us` is when `main` was entered.
    pub fn new(begin_us: u64) -> Self {
        Self {
            begin_us,
            marks: Vec::new(),
        }
    }

    /// `phase` has ended now.
    pub fn mark(&mut self, phase: &'static str) {
        self.mark_at(phase, now_us());
    }

    pub fn mark_at(&mut self, phase: &'static str, at_us: u64) {
        self.marks.push((phase, at_us));
    }

    fn phases(&self) -> Vec<(&'static str, u64)> {
        let mut marks = self.marks.clone();
        marks.sort_by_key(|(_, at)| *at);
        let mut last = self.begin_us;
        marks
            .into_iter()
            .map(|(phase, at)| {
                let took = at.saturating_sub(last);
                last = at.max(last);
                (phase, took)
            })
            .collect()
    }

    pub fn print(&self, format: TimingsFormat) {
        let text = match format {
            TimingsFormat::Table => self.table(),
            TimingsFormat::Json => self.json(),
        };
        // Nobody is left to tell when stderr is gone.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn table(&self) -> String {
        let mut sum = 0;
        let mut text = format!("{:<18} {:>10} {:>10}\n", "PHASE", "MS", "AT MS");
        for (phase, took) in self.phases() {
            sum += took;
            text += &format!("{phase:<18} {:>10} {:>10}\n", ms(took), ms(sum));
        }
        text
    }

    fn json(&self) -> String {
        let mut sum = 0;
        let phases: Vec<_> = self
            .phases()
            .into_iter()
            .map(|(phase, took)| {
                sum += took;
                json!({ "phase": phase, "us": took, "at_us": sum })
            })
            .collect();
        json!({ "begin_us": self.begin_us, "phases": phases }).to_string() + "\n"
    }
}

fn ms(us: u64) -> String {
    format!("{}.{:02}", us / 1000, us % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other() {
        let mut timings = Timings::new(1000);
        timings.mark_at("second", 4000);
        timings.mark_at("first", 1500);
        assert_eq!(timings.phases(), [("first", 500), ("second", 2500)]);
        assert!(
            timings
                .table()
                .contains("second                   2.50       3.00\n")
        );
        let json: serde_json::Value = serde_json::from_str(&timings.json()).unwrap();
        assert_eq!(json["phases"][1]["at_us"], 3000);
    }
}
