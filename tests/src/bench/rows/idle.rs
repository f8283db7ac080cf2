// SPDX-License-Identifier: Apache-2.0
//! Containers in the background that do nothing: what a supervisor holds, and 16 of them at once.

use std::fs;

use super::exec::FOREVER;
use super::{Bench, LIMIT, RowError, chain, progress};
use crate::bench::names::{contender, metric, row};
use crate::bench::process;
use crate::bench::report::{Row, Unit};
use crate::bench::smaps;
use crate::bench::walnut::Walnut;

const CROWD: usize = 16;
/// Each container's `--memory`.
const MEMORY: &str = "64m";

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let title = format!("{CROWD} containers of --memory {MEMORY} that sleep");
    let mut row = Row::new(row::IDLE, title);
    let Some(walnut) = bench.walnut(row::IDLE) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    if let Err(error) = crowd(&walnut, &mut names, &mut row) {
        bench
            .report
            .skip(row::IDLE, contender::CROWD, chain(&error));
    }
    let mut remove = walnut.command();
    if let Err(error) = process::run("walnut rm", remove.args(["rm", "-f"]).args(&names), LIMIT) {
        bench
            .report
            .skip(row::IDLE, contender::CROWD, chain(&error));
    }
    vec![row]
}

#[expect(clippy::cast_precision_loss, reason = "amounts far below 2^52")]
fn crowd(walnut: &Walnut, names: &mut Vec<String>, row: &mut Row) -> Result<(), RowError> {
    let before = available_kib();
    for n in 0..CROWD {
        progress(&format!("idle: container {} of {CROWD}", n + 1));
        let name = format!("idle-{n}");
        let mut command = walnut.command();
        command.args([
            "run", "-d", "--cpus", "1", "--memory", MEMORY, "--name", &name,
        ]);
        process::run("walnut run -d", command.args(FOREVER), LIMIT)?;
        names.push(name);
        if n == 0 {
            // Alone: nobody shares the program's text with it.
            let kib = supervisor_kib(walnut, &names[0])?;
            let name = contender::SUPERVISOR;
            row.sample(name, metric::ALL_PSS, Unit::Kib, kib as f64);
        }
    }
    let used = before.saturating_sub(available_kib());
    let each = used as f64 / CROWD as f64;
    row.sample(contender::CROWD, metric::HOST, Unit::Kib, each);
    let mut answers = 0;
    for name in names.iter() {
        let mut command = walnut.command();
        command.args(["exec", name, "echo", "x"]);
        let done = process::run("walnut exec", &mut command, LIMIT)?;
        answers += u32::from(done.stdout == b"x\n");
    }
    row.sample(
        contender::CROWD,
        metric::ANSWER,
        Unit::Count,
        answers.into(),
    );
    Ok(())
}

/// PSS of a container's supervisor, text and all.
fn supervisor_kib(walnut: &Walnut, name: &str) -> Result<u64, RowError> {
    let pid = supervisor(walnut, name)?;
    let path = format!("/proc/{pid}/smaps");
    let mappings = smaps::read(pid).map_err(|source| RowError::Read {
        path: path.into(),
        source,
    })?;
    Ok(mappings.iter().map(|mapping| mapping.pss_kib).sum())
}

/// The process that looks after a container.
pub(super) fn supervisor(walnut: &Walnut, name: &str) -> Result<u32, RowError> {
    let mut command = walnut.command();
    command.args(["inspect", "-f", "{{.State.Pid}}", name]);
    let done = process::run("walnut inspect", &mut command, LIMIT)?;
    let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    said.parse().map_err(|_| RowError::Nonsense {
        name: "walnut inspect".into(),
        said,
    })
}

fn available_kib() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    smaps::kib_field(&meminfo, "MemAvailable").unwrap_or(0)
}
