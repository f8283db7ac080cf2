// SPDX-License-Identifier: Apache-2.0
//! Loading an image of 100 MiB: from a gzipped archive into an empty store, beside `tar x` of the
//! same layers into an empty directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::{Bench, LONG_LIMIT, RowError, chain, milliseconds, phases, progress};
use crate::bench::image::{LOAD, LOAD_DIRECTORY};
use crate::bench::names::{contender, metric, row};
use crate::bench::peers::Podman;
use crate::bench::process::{self, Process};
use crate::bench::report::{Row, Unit};
use crate::bench::smaps;
use crate::bench::stage::Stage;
use crate::bench::walnut::Walnut;

const ROUNDS: usize = 3;
/// The phase of a start in which the image is loaded.
const PHASE: &str = "image";

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let mut row = Row::new(
        row::LOAD,
        "a 100 MiB image, layers gzipped, into an empty store",
    );
    let inputs = stage_inputs(&bench.stage, &bench.options.images);
    let (archive, layers) = match inputs {
        Ok(inputs) => inputs,
        Err(error) => {
            bench.report.skip(row::LOAD, "everybody", chain(&error));
            return Vec::new();
        }
    };
    let walnut = bench.walnut(row::LOAD);
    for round in 1..=ROUNDS {
        progress(&format!("load, round {round} of {ROUNDS}"));
        let mut skipped = Vec::new();
        if let Err(error) = tar(&bench.stage, &layers, &mut row) {
            skipped.push((contender::TAR, chain(&error)));
        }
        if let Some(walnut) = &walnut
            && let Err(error) = load(&bench.stage, walnut, &archive, &mut row)
        {
            skipped.push((contender::WALNUT_RUN, chain(&error)));
        }
        // By far the slowest, and no bar's other side: once is enough.
        match &bench.peers.podman {
            _ if round > 1 => {}
            Ok(podman) => {
                if let Err(error) = podman_load(&bench.stage, podman, &archive, &mut row) {
                    skipped.push((contender::PODMAN_LOAD, chain(&error)));
                }
            }
            Err(error) => skipped.push((contender::PODMAN_LOAD, chain(error))),
        }
        for (name, why) in skipped {
            bench.report.skip(row::LOAD, name, why);
        }
    }
    vec![row]
}

/// The archive, and its layers' files in their order.
fn stage_inputs(stage: &Stage, images: &Path) -> Result<(PathBuf, Vec<PathBuf>), RowError> {
    let archive = stage.copy(&images.join(format!("{LOAD}.tar")), "load.tar")?;
    let unpacked = images.join(LOAD_DIRECTORY);
    let read = |path: PathBuf| -> Result<Value, RowError> {
        let bytes = fs::read(&path).map_err(|source| RowError::Read {
            path: path.clone(),
            source,
        })?;
        let nonsense = |_| RowError::Nonsense {
            name: path.display().to_string(),
            said: "no JSON".into(),
        };
        serde_json::from_slice(&bytes).map_err(nonsense)
    };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        unpacked
            .join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"))
    };
    let index = read(unpacked.join("index.json"))?;
    let manifest = read(blob(&index["manifests"][0]))?;
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    let staged = layers
        .iter()
        .enumerate()
        .map(|(n, layer)| stage.copy(&blob(layer), &format!("layer-{n}.tar.gz")))
        .collect::<Result<_, _>>()?;
    Ok((archive, staged))
}

fn tar(stage: &Stage, layers: &[PathBuf], row: &mut Row) -> Result<(), RowError> {
    let directory = stage.directory("untarred")?;
    let started = Instant::now();
    for layer in layers {
        let mut command = Command::new("tar");
        command.arg("-xzf").arg(layer).arg("-C").arg(&directory);
        process::run(contender::TAR, &mut command, LONG_LIMIT)?;
    }
    row.sample(
        contender::TAR,
        metric::TIME,
        Unit::Ms,
        milliseconds(started.elapsed()),
    );
    remove(&directory)
}

/// `walnut run` of an archive that isn't in the store yet. The time is the phase's own; the memory
/// is the most that this one process had by the container's first byte, the container's start
/// included.
#[expect(clippy::cast_precision_loss, reason = "amounts far below 2^52")]
fn load(stage: &Stage, walnut: &Walnut, archive: &Path, row: &mut Row) -> Result<(), RowError> {
    let root = stage.directory("fresh")?;
    let image = format!("oci-archive:{}", archive.display());
    let script = [image.as_str(), "sh", "-c", "echo x; exec cat"];
    let mut command = walnut.run_in(&root, &["--rm", "-i", "--timings=json"], &script);
    let mut process = Process::spawn(
        contender::WALNUT_RUN,
        &mut command,
        Stdio::piped(),
        LONG_LIMIT,
    )?;
    let stdin = process.stdin();
    process.wait_for(b"x\n")?;
    let status = PathBuf::from(format!("/proc/{}/status", process.pid()));
    let peak = smaps::status_kib(process.pid(), "VmHWM").map_err(|source| RowError::Read {
        path: status,
        source,
    })?;
    drop(stdin);
    let said = process.finish()?.stderr;
    let phases = phases::parse(&said)?;
    let image = phases.iter().find(|phase| phase.phase == PHASE);
    let image = image.ok_or_else(|| RowError::Nonsense {
        name: contender::WALNUT_RUN.into(),
        said,
    })?;
    row.sample(
        contender::WALNUT_RUN,
        metric::TIME,
        Unit::Ms,
        image.us as f64 / 1000.0,
    );
    row.sample(contender::WALNUT_RUN, metric::PEAK, Unit::Kib, peak as f64);
    remove(&root)
}

fn podman_load(
    stage: &Stage,
    podman: &Podman,
    archive: &Path,
    row: &mut Row,
) -> Result<(), RowError> {
    let directory = stage.directory("fresh-podman")?;
    let mut command = podman.command_in(&directory);
    command.arg("load").arg("-i").arg(archive);
    let took = process::run(contender::PODMAN_LOAD, &mut command, LONG_LIMIT)?.took;
    row.sample(
        contender::PODMAN_LOAD,
        metric::TIME,
        Unit::Ms,
        milliseconds(took),
    );
    // Layers have read-only directories, which only root removes without further ado; so does podman.
    let mut reset = podman.command_in(&directory);
    process::run(
        "podman rmi",
        reset.args(["rmi", "--all", "--force"]),
        LONG_LIMIT,
    )?;
    Ok(())
}

pub(super) fn remove(directory: &Path) -> Result<(), RowError> {
    fs::remove_dir_all(directory).map_err(|source| RowError::Read {
        path: directory.into(),
        source,
    })
}
