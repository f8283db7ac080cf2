// SPDX-License-Identifier: Apache-2.0
//! Starts from a template: one after the other, with a cold page cache, many at once, and what clones
//! that do nothing hold.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Bench, LIMIT, RowError, chain, milliseconds, progress};
use crate::bench::image::BUSYBOX;
use crate::bench::names::{contender, metric, row};
use crate::bench::process::{self, Process};
use crate::bench::report::{Row, Unit};
use crate::bench::smaps::kib_field;
use crate::bench::stage::Stage;
use crate::bench::walnut::{TEMPLATE, Walnut};

const IN_A_ROW: usize = 50;
const COLD_ROUNDS: usize = 10;
const AT_ONCE: usize = 16;
/// The first pays for the pages that all share; measured when all are there.
const IDLE: usize = 32;

const NAME: &str = contender::WALNUT_TEMPLATE;

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let Some(walnut) = bench.walnut(row::TEMPLATE) else {
        return Vec::new();
    };
    let title = "starts from a template, and clones that do nothing";
    let mut row = Row::new(row::TEMPLATE, title);
    type Part = fn(&Bench, &Walnut, &mut Row) -> Result<(), RowError>;
    let parts: [(&str, Part); 4] = [
        ("in a row", in_a_row),
        ("cold page cache", cold_cache),
        ("at once", at_once),
        ("idle", idle),
    ];
    for (what, part) in parts {
        progress(&format!("template, {what}"));
        if let Err(error) = part(bench, &walnut, &mut row) {
            bench
                .report
                .skip(row::TEMPLATE, format!("{NAME}, {what}"), chain(&error));
        }
    }
    vec![row]
}

fn echo(walnut: &Walnut) -> Result<Process, RowError> {
    let flags = ["--rm", TEMPLATE[0], TEMPLATE[1]];
    let command = &mut walnut.run(&flags, &[BUSYBOX, "echo", "x"]);
    Ok(Process::spawn(NAME, command, Stdio::null(), LIMIT)?)
}

fn in_a_row(_: &Bench, walnut: &Walnut, row: &mut Row) -> Result<(), RowError> {
    let mut samples = Vec::with_capacity(IN_A_ROW);
    // The first makes the template.
    for round in 0..=IN_A_ROW {
        let mut process = echo(walnut)?;
        let took = process.wait_for(b"x\n")?;
        process.finish()?;
        if round > 0 {
            samples.push(milliseconds(took));
        }
    }
    percentiles(row, "of 50 in a row", &mut samples);
    Ok(())
}

/// The template's files and the image's on a file system of their own, of which nothing is in memory
/// when a start begins. What is read there comes from a tmpfs below: no disk's time is in it.
fn cold_cache(bench: &Bench, walnut: &Walnut, row: &mut Row) -> Result<(), RowError> {
    let disk = LoopDisk::new(&bench.stage)?;
    for entry in fs::read_dir(walnut.root()).map_err(read_error(walnut.root()))? {
        let path = entry.map_err(read_error(walnut.root()))?.path();
        process::run(
            "cp",
            Command::new("cp").arg("-a").arg(&path).arg(&disk.mounted),
            LIMIT,
        )?;
    }
    let flags = ["--rm", TEMPLATE[0], TEMPLATE[1]];
    let caches = Path::new("/proc/sys/vm/drop_caches");
    for _ in 0..COLD_ROUNDS {
        rustix::fs::sync();
        fs::write(caches, "3").map_err(read_error(caches))?;
        let command = &mut walnut.run_in(&disk.mounted, &flags, &[BUSYBOX, "echo", "x"]);
        let mut process = Process::spawn(NAME, command, Stdio::null(), LIMIT)?;
        let took = process.wait_for(b"x\n")?;
        process.finish()?;
        let name = contender::WALNUT_COLD_CACHE;
        row.sample(name, metric::FIRST_BYTE, Unit::Ms, milliseconds(took));
    }
    Ok(())
}

/// An ext4 in a file of the stage.
struct LoopDisk {
    mounted: PathBuf,
}

impl LoopDisk {
    fn new(stage: &Stage) -> Result<Self, RowError> {
        let file = stage.path("disk.ext4");
        let mounted = stage.directory("disk")?;
        let size = File::create(&file).and_then(|file| file.set_len(1 << 30));
        size.map_err(read_error(&file))?;
        process::run(
            "mkfs.ext4",
            Command::new("mkfs.ext4").arg("-q").arg(&file),
            LIMIT,
        )?;
        let mount = &mut Command::new("mount");
        process::run(
            "mount",
            mount.args(["-o", "loop"]).arg(&file).arg(&mounted),
            LIMIT,
        )?;
        Ok(Self { mounted })
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // It goes with the stage's file system at the latest.
        let _ = Command::new("umount").arg(&self.mounted).status();
    }
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> RowError {
    let path = path.to_owned();
    move |source| RowError::Read {
        path: path.clone(),
        source,
    }
}

fn at_once(_: &Bench, walnut: &Walnut, row: &mut Row) -> Result<(), RowError> {
    let mut all = Vec::with_capacity(AT_ONCE);
    for _ in 0..AT_ONCE {
        all.push(echo(walnut)?);
    }
    let mut samples = Vec::with_capacity(AT_ONCE);
    // Each counts from its own start; when this one hears of it is when it came, or a little later.
    for mut process in all {
        samples.push(milliseconds(process.wait_for(b"x\n")?));
        process.finish()?;
    }
    percentiles(row, "of 16 at once", &mut samples);
    Ok(())
}

fn percentiles(row: &mut Row, of: &str, samples: &mut [f64]) {
    samples.sort_by(f64::total_cmp);
    for (name, percent) in [("p50", 50), ("p99", 99)] {
        let rank = (samples.len() * percent).div_ceil(100).max(1);
        if let Some(value) = samples.get(rank - 1) {
            row.sample(NAME, &format!("{name} {of}"), Unit::Ms, *value);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "KiB far below 2^52")]
fn idle(_: &Bench, walnut: &Walnut, row: &mut Row) -> Result<(), RowError> {
    let flags = ["--rm", "-i", TEMPLATE[0], TEMPLATE[1]];
    let script = [BUSYBOX, "sh", "-c", "echo x; exec cat"];
    let mut clones = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        let command = &mut walnut.run(&flags, &script);
        let mut process = Process::spawn(NAME, command, Stdio::piped(), LIMIT)?;
        let stdin = process.stdin();
        process.wait_for(b"x\n")?;
        clones.push((process, stdin));
    }
    let failed = |source| RowError::Read {
        path: "/proc".into(),
        source,
    };
    for (process, _) in clones.iter().skip(1) {
        let kib = monitors(process.pid(), "Pss").map_err(failed)?;
        row.sample(NAME, metric::CLONE, Unit::Kib, kib as f64);
    }
    for (process, stdin) in clones {
        drop(stdin);
        process.finish()?;
    }
    Ok(())
}

/// The monitor that is a child of `engine`.
pub(super) fn monitor_of(engine: u32) -> io::Result<u32> {
    let children = fs::read_to_string(format!("/proc/{engine}/task/{engine}/children"))?;
    let first = children.split_whitespace().next();
    let pid = first.and_then(|pid| pid.parse().ok());
    pid.ok_or_else(|| io::Error::other("the engine has no child"))
}

/// A field of smaps_rollup, of the monitor that is a child of `engine`: guest memory, image and itself.
pub(super) fn monitors(engine: u32, field: &str) -> io::Result<u64> {
    let monitor = monitor_of(engine)?;
    let text = fs::read_to_string(format!("/proc/{monitor}/smaps_rollup"))?;
    kib_field(&text, field).ok_or_else(|| io::Error::other(format!("no {field}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hundredth_is_the_worst_and_the_fiftieth_the_middle() {
        let mut row = Row::new("", "");
        let mut samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        percentiles(&mut row, "of it", &mut samples);
        let value = |name| row.get(NAME, name).map(|entry| entry.samples[0]);
        assert_eq!(value("p50 of it"), Some(50.0));
        assert_eq!(value("p99 of it"), Some(99.0));
    }
}
