// SPDX-License-Identifier: Apache-2.0
//! A command in a container that runs already: exec to the first byte, in turns.

use std::process::{Command, Stdio};

use super::{Bench, LIMIT, RowError, chain, milliseconds, progress};
use crate::bench::image::BUSYBOX;
use crate::bench::names::{contender, metric, row};
use crate::bench::process::{self, Process};
use crate::bench::report::{Row, Unit};

pub(super) const NAME: &str = "bench";
/// Until somebody removes it.
pub(super) const FOREVER: [&str; 3] = [BUSYBOX, "sleep", "1000000"];

type Make = Box<dyn Fn() -> Command>;

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let mut row = Row::new(row::EXEC, "exec in a running container, exec to first byte");
    let mut contenders: Vec<(&str, Make)> = Vec::new();
    if let Some(walnut) = bench.walnut(row::EXEC) {
        contenders.push((contender::WALNUT_EXEC, Box::new(move || walnut.command())));
    }
    match &bench.peers.podman {
        Ok(podman) => {
            let podman = podman.clone();
            contenders.push((contender::PODMAN_EXEC, Box::new(move || podman.command())));
        }
        Err(error) => {
            let why = chain(error);
            bench.report.skip(row::EXEC, contender::PODMAN_EXEC, why);
        }
    }
    let mut running = Vec::new();
    for (name, make) in contenders {
        match start(name, &make) {
            Ok(()) => running.push((name, make)),
            Err(error) => bench.report.skip(row::EXEC, name, chain(&error)),
        }
    }
    // The first round warms the caches.
    for round in 0..=bench.options.runs {
        progress(&format!("exec, round {round} of {}", bench.options.runs));
        running.retain(|(name, make)| match once(name, make) {
            Ok(took) => {
                if round > 0 {
                    row.sample(name, metric::FIRST_BYTE, Unit::Ms, took);
                }
                true
            }
            Err(error) => {
                bench.report.skip(row::EXEC, *name, chain(&error));
                false
            }
        });
    }
    for (name, make) in running {
        if let Err(error) = process::run(name, make().args(["rm", "-f", NAME]), LIMIT) {
            bench.report.skip(row::EXEC, name, chain(&error));
        }
    }
    vec![row]
}

fn start(name: &str, make: &Make) -> Result<(), RowError> {
    let mut command = make();
    command.args(["run", "-d", "--name", NAME, "--network", "none"]);
    process::run(name, command.args(FOREVER), LIMIT)?;
    Ok(())
}

fn once(name: &str, make: &Make) -> Result<f64, RowError> {
    let mut command = make();
    command.args(["exec", NAME, "echo", "x"]);
    let mut process = Process::spawn(name, &mut command, Stdio::null(), LIMIT)?;
    let took = process.wait_for(b"x\n")?;
    process.finish()?;
    Ok(milliseconds(took))
}
