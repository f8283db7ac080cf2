// SPDX-License-Identifier: Apache-2.0
//! Pulling an image of 200 MiB from a registry on this machine into an empty store, up to where it
//! can be run.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::{Bench, LONG_LIMIT, RowError, chain, load, milliseconds, progress};
use crate::bench::image::{PULL, REGISTRY};
use crate::bench::names::{contender, metric, row};
use crate::bench::process;
use crate::bench::registry::{self, Registry};
use crate::bench::report::{Row, Unit};
use crate::bench::stage::{Stage, StageError};

const ROUNDS: usize = 3;

/// What `bench peak` says at the end of its stderr.
#[derive(Debug, Deserialize)]
struct Peak {
    peak_kib: u64,
}

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let title = "a 200 MiB image, layers gzipped, from a loopback registry into an empty store";
    let mut row = Row::new(row::PULL, title);
    let registry = match start(&bench.stage, &bench.options.images) {
        Ok(registry) => registry,
        Err(error) => {
            bench.report.skip(row::PULL, "everybody", chain(&error));
            return Vec::new();
        }
    };
    let image = format!("{}/{PULL}:1", registry.host());
    let walnut = bench.walnut(row::PULL);
    for round in 1..=ROUNDS {
        progress(&format!("pull, round {round} of {ROUNDS}"));
        if let Some(walnut) = &walnut {
            let done = fresh(&bench.stage, |root| {
                let mut command = walnut.command_in(root);
                command.args(["pull", "-q", &image]);
                pull(contender::WALNUT_PULL, &command, &mut row)
            });
            if let Err(error) = done {
                let why = chain(&error);
                bench.report.skip(row::PULL, contender::WALNUT_PULL, why);
            }
        }
        // By far the slowest: once is enough.
        let done = match &bench.peers.podman {
            _ if round > 1 => Ok(()),
            Ok(podman) => fresh(&bench.stage, |root| {
                let mut command = podman.command_in(root);
                command.args(["pull", "-q", "--tls-verify=false", &image]);
                pull(contender::PODMAN_PULL, &command, &mut row)?;
                let mut reset = podman.command_in(root);
                let reset = reset.args(["rmi", "--all", "--force"]);
                process::run("podman rmi", reset, LONG_LIMIT)?;
                Ok(())
            })
            .map_err(|error| chain(&error)),
            Err(error) => Err(chain(error)),
        };
        if let Err(why) = done {
            bench.report.skip(row::PULL, contender::PODMAN_PULL, why);
        }
    }
    vec![row]
}

/// With the image that was made before, in memory.
fn start(stage: &Stage, images: &Path) -> Result<Registry, RowError> {
    let filled = images.join(REGISTRY);
    if !filled.exists() {
        let name = "a registry's directory with an image".into();
        return Err(StageError::Missing { name }.into());
    }
    let program = stage.program(registry::PROGRAM)?;
    let directory = stage.path(REGISTRY);
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(&filled).arg(&directory);
    process::run("cp", &mut copy, LONG_LIMIT)?;
    Ok(Registry::start(program.command(), &directory)?)
}

fn fresh(stage: &Stage, pull: impl FnOnce(&Path) -> Result<(), RowError>) -> Result<(), RowError> {
    let root = stage.directory("pulled")?;
    let pulled = pull(&root);
    load::remove(&root)?;
    pulled
}

/// Through `bench peak`, which says how much memory it took.
#[expect(clippy::cast_precision_loss, reason = "amounts far below 2^52")]
fn pull(name: &str, command: &Command, row: &mut Row) -> Result<(), RowError> {
    let own = std::env::current_exe().map_err(|source| RowError::Read {
        path: "/proc/self/exe".into(),
        source,
    })?;
    let mut peak = Command::new(own);
    peak.args(["peak", "--"]).arg(command.get_program());
    peak.args(command.get_args());
    for (variable, value) in command.get_envs() {
        match value {
            Some(value) => peak.env(variable, value),
            None => peak.env_remove(variable),
        };
    }
    let done = process::run(name, &mut peak, LONG_LIMIT)?;
    let said = done.stderr.lines().last().unwrap_or_default();
    let peak: Peak = serde_json::from_str(said).map_err(|_| RowError::Nonsense {
        name: name.into(),
        said: done.stderr.clone(),
    })?;
    row.sample(name, metric::TIME, Unit::Ms, milliseconds(done.took));
    row.sample(name, metric::PEAK, Unit::Kib, peak.peak_kib as f64);
    Ok(())
}
