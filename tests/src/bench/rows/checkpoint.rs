// SPDX-License-Identifier: Apache-2.0
//! A running container written down, gone on with, and forked: each verb from its exec to its end, by
//! which the containers run.

use super::exec::{FOREVER, NAME};
use super::{Bench, LIMIT, RowError, chain, milliseconds, progress};
use crate::bench::names::{contender, row};
use crate::bench::process;
use crate::bench::report::{Row, Unit};
use crate::bench::walnut::{TEMPLATE, Walnut};

const CLONES: &str = "8";

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let Some(walnut) = bench.walnut(row::CHECKPOINT) else {
        return Vec::new();
    };
    let title = "a running container to disk, back, and forked: exec to end of the verb";
    let mut row = Row::new(row::CHECKPOINT, title);
    let mut rounds = || -> Result<(), RowError> {
        let line = ["run", "-d", "--name", NAME, TEMPLATE[0], TEMPLATE[1]];
        timed(&walnut, &[&line, &FOREVER[..]].concat())?;
        // The first round warms the caches.
        for round in 0..=bench.options.runs {
            progress(&format!(
                "checkpoint, round {round} of {}",
                bench.options.runs
            ));
            let took = once(&walnut)?;
            for (verb, took) in took.into_iter().filter(|_| round > 0) {
                row.sample(contender::WALNUT, verb, Unit::Ms, took);
            }
        }
        Ok(())
    };
    let measured = rounds();
    let removed = process::run(NAME, walnut.command().args(["rm", "-f", NAME]), LIMIT);
    let errors = [measured.err(), removed.err().map(RowError::from)];
    for error in errors.iter().flatten() {
        let why = chain(error);
        bench.report.skip(row::CHECKPOINT, contender::WALNUT, why);
    }
    vec![row]
}

fn once(walnut: &Walnut) -> Result<[(&'static str, f64); 4], RowError> {
    let (one, first) = timed(walnut, &["clone", NAME])?;
    let (eight, others) = timed(walnut, &["clone", "--count", CLONES, NAME])?;
    let clones: Vec<&str> = first.lines().chain(others.lines()).collect();
    timed(walnut, &[&["rm", "-f"], &clones[..]].concat())?;
    let (create, _) = timed(walnut, &["checkpoint", "create", NAME, "now"])?;
    let (start, _) = timed(walnut, &["start", "--checkpoint", "now", NAME])?;
    timed(walnut, &["checkpoint", "rm", NAME, "now"])?;
    Ok([
        ("clone", one),
        ("clone --count 8", eight),
        ("checkpoint create", create),
        ("start --checkpoint", start),
    ])
}

/// How long a command took, and what it said.
fn timed(walnut: &Walnut, line: &[&str]) -> Result<(f64, String), RowError> {
    let command = &mut walnut.command();
    let done = process::run(contender::WALNUT, command.args(line), LIMIT)?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    Ok((milliseconds(done.took), said))
}
