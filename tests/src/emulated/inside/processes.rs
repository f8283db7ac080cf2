// SPDX-License-Identifier: Apache-2.0
//! What a PID 1 owes to other processes: to reap them, and to end them.

use std::fs;
use std::io;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

/// Reaps whatever ends, until `wanted` does; returns its status as a shell would.
pub(super) fn wait_for(wanted: Pid) -> io::Result<u8> {
    loop {
        let Some((pid, status)) = wait(WaitOptions::empty())? else {
            continue;
        };
        if pid != wanted {
            continue;
        }
        let code = status
            .exit_status()
            .or_else(|| status.terminating_signal().map(|n| 128 + n));
        return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125));
    }
}

/// Kills and reaps every process but this one, so that nobody holds an output pipe open.
pub(super) fn kill_all() {
    loop {
        let mut any = false;
        for pid in others() {
            // It may have ended in between.
            any |= kill_process(pid, Signal::KILL).is_ok();
        }
        if !any {
            return;
        }
        // Blocks until one is gone; ECHILD when none is left.
        if wait(WaitOptions::empty()).is_err() {
            return;
        }
    }
}

/// Processes with a command line: kernel threads and zombies have none.
fn others() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != 1)
        .filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()))
        .filter_map(Pid::from_raw)
        .collect()
}
