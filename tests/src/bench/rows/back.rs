// SPDX-License-Identifier: Apache-2.0
//! What the host has again of the memory that a container frees.

use super::exec::FOREVER;
use super::idle::supervisor;
use super::template::monitors;
use super::{Bench, LIMIT, RowError, chain, progress};
use crate::bench::names::{contender, metric, row};
use crate::bench::process;
use crate::bench::report::{Row, Unit};
use crate::bench::walnut::Walnut;

const NAME: &str = "back";
const FILL: &str = "dd if=/dev/zero of=/t/file bs=1M count=400 2> /dev/null";
/// The guest's kernel gathers what it reports for two seconds.
const FREE: &str = "rm /t/file; sleep 6";

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let title = "memory of a monitor whose container writes 400 MiB to a tmpfs and removes them";
    let mut row = Row::new(row::BACK, title);
    let Some(walnut) = bench.walnut(row::BACK) else {
        return Vec::new();
    };
    progress("memory that is freed");
    if let Err(error) = used_and_freed(&walnut, &mut row) {
        bench
            .report
            .skip(row::BACK, contender::WALNUT_RUN, chain(&error));
    }
    let mut remove = walnut.command();
    if let Err(error) = process::run("walnut rm", remove.args(["rm", "-f", NAME]), LIMIT) {
        bench
            .report
            .skip(row::BACK, contender::WALNUT_RUN, chain(&error));
    }
    vec![row]
}

#[expect(clippy::cast_precision_loss, reason = "amounts far below 2^52")]
fn used_and_freed(walnut: &Walnut, row: &mut Row) -> Result<(), RowError> {
    let mut command = walnut.command();
    command.args(["run", "-d", "--name", NAME, "--memory", "600m"]);
    command.args(["--tmpfs", "/t:size=500m"]);
    process::run("walnut run -d", command.args(FOREVER), LIMIT)?;
    for (script, name) in [(FILL, metric::USED), (FREE, metric::FREED)] {
        let mut command = walnut.command();
        command.args(["exec", NAME, "sh", "-c", script]);
        process::run("walnut exec", &mut command, LIMIT)?;
        let kib = monitor_kib(walnut)?;
        row.sample(contender::WALNUT_RUN, name, Unit::Kib, kib as f64);
    }
    Ok(())
}

/// What the container's monitor holds, guest memory and all.
fn monitor_kib(walnut: &Walnut) -> Result<u64, RowError> {
    let supervisor = supervisor(walnut, NAME)?;
    monitors(supervisor, "Rss").map_err(|source| RowError::Read {
        path: format!("/proc/{supervisor}").into(),
        source,
    })
}
