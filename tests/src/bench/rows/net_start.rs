// SPDX-License-Identifier: Apache-2.0
//! What a network costs a start: with one and without, in turns, and the difference within each pair.

use std::process::Stdio;

use super::{Bench, LIMIT, RowError, chain, milliseconds, progress};
use crate::bench::image::BUSYBOX;
use crate::bench::names::{contender, metric, row};
use crate::bench::process::Process;
use crate::bench::report::{Row, Unit};
use crate::bench::walnut::{COLD, TEMPLATE, Walnut};

const CONTENDERS: [(&str, [&str; 2], &str); 4] = [
    (contender::COLD_NONE, COLD, "none"),
    (contender::COLD_USER, COLD, "user"),
    (contender::TEMPLATE_NONE, TEMPLATE, "none"),
    (contender::TEMPLATE_USER, TEMPLATE, "user"),
];

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let title = "exec to first byte, without a network and with --network user";
    let mut row = Row::new(row::NET_START, title);
    let Some(walnut) = bench.walnut(row::NET_START) else {
        return Vec::new();
    };
    for round in 0..=bench.options.runs {
        let mut line = format!("net-start, round {round} of {}:", bench.options.runs);
        // Who is first gains or loses by it: now one, now the other.
        let mut order = CONTENDERS;
        if round % 2 == 1 {
            order.reverse();
        }
        for (name, start, network) in order {
            match once(&walnut, start, network) {
                Ok(took) => {
                    line.push_str(&format!(" {name} {took:.0} ms,"));
                    if round > 0 {
                        row.sample(name, metric::FIRST_BYTE, Unit::Ms, took);
                    }
                }
                Err(error) => bench.report.skip(row::NET_START, name, chain(&error)),
            }
        }
        progress(line.trim_end_matches(','));
    }
    vec![row]
}

fn once(walnut: &Walnut, start: [&str; 2], network: &str) -> Result<f64, RowError> {
    let flags = ["--rm", start[0], start[1], "--network", network];
    let command = &mut walnut.run(&flags, &[BUSYBOX, "echo", "x"]);
    let mut process = Process::spawn("walnut run", command, Stdio::null(), LIMIT)?;
    let took = process.wait_for(b"x\n")?;
    process.finish()?;
    Ok(milliseconds(took))
}
