// SPDX-License-Identifier: Apache-2.0
//! Reports to whoever started the monitor, one JSON object a line.

use std::error::Error;
use std::fs::File;
use std::io::Write;

use walnut_vmm_config::{Ending, Report};

/// Where reports go; nowhere, when nobody asked.
pub struct Reporter(Option<File>);

impl Reporter {
    pub fn new(to: Option<File>) -> Self {
        Self(to)
    }

    pub fn started(&mut self, at_us: u64) {
        self.send(&Report::Started { at_us });
    }

    pub fn running(&mut self) {
        self.send(&Report::Running { at_us: now_us() });
    }

    pub fn ended(&mut self, ending: Ending) {
        self.send(&Report::Ended {
            at_us: now_us(),
            ending,
        });
    }

    fn send(&mut self, report: &Report) {
        let Some(file) = &mut self.0 else { return };
        let mut line = serde_json::to_vec(report).unwrap_or_default();
        line.push(b'\n');
        // One write a line. A reader that has gone takes the report with it.
        if let Err(error) = file.write_all(&line) {
            log::debug!("nobody reads reports: {error}");
        }
    }
}

/// `CLOCK_MONOTONIC` in microseconds: the same in every process of the host.
pub fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}

/// What failed, and why, and why that: one line.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
