// SPDX-License-Identifier: Apache-2.0
//! What needs no machine: a list of 50 containers, and 100 MiB of one's log.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use super::exec::{FOREVER, NAME};
use super::{Bench, LIMIT, LONG_LIMIT, RowError, chain, milliseconds, progress};
use crate::bench::names::{contender, metric, row};
use crate::bench::process::{self, Process};
use crate::bench::report::{Row, Unit};
use crate::bench::walnut::Walnut;

const CONTAINERS: usize = 50;
const LOG_MIB: usize = 100;
const ROUNDS: usize = 3;

type Make = Box<dyn Fn() -> Command>;

pub(super) fn ps(bench: &mut Bench) -> Vec<Row> {
    let mut row = Row::new(row::PS, format!("a list of {CONTAINERS} containers"));
    let mut contenders: Vec<(&str, Make)> = Vec::new();
    if let Some(walnut) = bench.walnut(row::PS) {
        contenders.push((contender::WALNUT_PS, Box::new(move || walnut.command())));
    }
    match &bench.peers.podman {
        Ok(podman) => {
            let podman = podman.clone();
            contenders.push((contender::PODMAN_PS, Box::new(move || podman.command())));
        }
        Err(error) => {
            let why = chain(error);
            bench.report.skip(row::PS, contender::PODMAN_PS, why);
        }
    }
    let mut ready = Vec::new();
    for (name, make) in contenders {
        progress(&format!("ps: making containers for {name}"));
        match create(name, &make) {
            Ok(ids) => ready.push((name, make, ids)),
            Err(error) => bench.report.skip(row::PS, name, chain(&error)),
        }
    }
    for round in 0..=bench.options.runs {
        for (name, make, _) in &ready {
            match process::run(name, make().args(["ps", "-a"]), LIMIT) {
                Ok(_) if round == 0 => {}
                Ok(done) => {
                    row.sample(name, metric::TIME, Unit::Ms, milliseconds(done.took));
                }
                Err(error) => bench.report.skip(row::PS, *name, chain(&error)),
            }
        }
    }
    for (name, make, ids) in ready {
        if let Err(error) = process::run(name, make().arg("rm").args(ids), LONG_LIMIT) {
            bench.report.skip(row::PS, name, chain(&error));
        }
    }
    vec![row]
}

fn create(name: &str, make: &Make) -> Result<Vec<String>, RowError> {
    let one = |_| -> Result<String, RowError> {
        let mut command = make();
        command.args(["create", "--network", "none"]).args(FOREVER);
        let done = process::run(name, &mut command, LIMIT)?;
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    };
    (0..CONTAINERS).map(one).collect()
}

pub(super) fn logs(bench: &mut Bench) -> Vec<Row> {
    let mut row = Row::new(row::LOGS, format!("{LOG_MIB} MiB of a container's log"));
    let Some(walnut) = bench.walnut(row::LOGS) else {
        return Vec::new();
    };
    if let Err(error) = logs_of(&walnut, &mut row) {
        let why = chain(&error);
        bench.report.skip(row::LOGS, contender::WALNUT_LOGS, why);
    }
    vec![row]
}

/// The log is written here, in the form in which a supervisor writes it.
#[expect(clippy::cast_precision_loss, reason = "amounts far below 2^52")]
fn logs_of(walnut: &Walnut, row: &mut Row) -> Result<(), RowError> {
    let mut command = walnut.command();
    command.args(["create", "--name", NAME]).args(FOREVER);
    let id = process::run("walnut create", &mut command, LIMIT)?.stdout;
    let id = String::from_utf8_lossy(&id).trim().to_owned();
    let path = walnut
        .root()
        .join("containers")
        .join(id)
        .join("container.log");
    let text = "a line of some eighty characters, as programs write them all day long, and more";
    let entry = format!(
        "{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00.123456789Z\"}}\n"
    );
    let lines = (LOG_MIB << 20) / (text.len() + 1);
    let write = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(fs::File::create(&path)?);
        (0..lines).try_for_each(|_| file.write_all(entry.as_bytes()))?;
        file.flush()
    };
    write().map_err(|source| RowError::Read {
        path: path.clone(),
        source,
    })?;
    for round in 1..=ROUNDS {
        progress(&format!("logs, round {round} of {ROUNDS}"));
        let mut command = walnut.command();
        command.args(["logs", NAME]);
        let name = contender::WALNUT_LOGS;
        let mut process = Process::spawn(name, &mut command, Stdio::null(), LONG_LIMIT)?;
        let (mut buffer, mut seen) = (vec![0; 256 << 10], 0);
        while let n @ 1.. = process.read(&mut buffer)? {
            seen += n;
        }
        let took = process.started.elapsed();
        process.finish()?;
        if seen != lines * (text.len() + 1) {
            let said = format!("{seen} bytes");
            return Err(RowError::Nonsense {
                name: name.into(),
                said,
            });
        }
        let rate = seen as f64 / f64::from(1 << 20) / took.as_secs_f64();
        row.sample(name, metric::RATE, Unit::MibPerS, rate);
    }
    process::run("walnut rm", walnut.command().args(["rm", NAME]), LIMIT)?;
    Ok(())
}
