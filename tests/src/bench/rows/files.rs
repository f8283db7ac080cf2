// SPDX-License-Identifier: Apache-2.0
//! File systems: the same work (`bench guest-io`) on each device of a machine, in a plain
//! container, and on the host's tmpfs below all of them.

use std::path::Path;
use std::process::Command;

use super::{Bench, LONG_LIMIT, RowError, chain, progress};
use crate::bench::guest_io::{IoUnit, Measured};
use crate::bench::image::{BENCH, LARGE_FILE, OTHER_FILE, PROGRAM, TREE};
use crate::bench::names::row;
use crate::bench::process;
use crate::bench::report::{Row, Unit};

/// A directory of the host in which containers work.
const VOLUME: &str = "/volume";

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let title = format!(
        "file systems: a file of {} MiB, {} files of 1 KiB",
        bench.options.size_mib, bench.options.files
    );
    let mut row = Row::new(row::FILES, title);
    let commands = commands(bench);
    match commands {
        Err(error) => bench.report.skip(row::FILES, "everybody", chain(&error)),
        Ok(commands) => {
            for (name, mut command) in commands {
                progress(&format!("files, {name}"));
                if let Err(error) = once(&mut row, name, &mut command) {
                    bench.report.skip(row::FILES, name, chain(&error));
                }
            }
        }
    }
    vec![row]
}

fn once(row: &mut Row, name: &str, command: &mut Command) -> Result<(), RowError> {
    let done = process::run(name, command, LONG_LIMIT)?;
    let measured: Vec<Measured> = serde_json::from_slice(&done.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        RowError::Nonsense {
            name: name.into(),
            said,
        }
    })?;
    for Measured {
        metric,
        unit,
        value,
    } in measured
    {
        let unit = match unit {
            IoUnit::MibPerS => Unit::MibPerS,
            IoUnit::PerS => Unit::PerS,
        };
        row.sample(name, &metric, unit, value);
    }
    Ok(())
}

fn commands(bench: &mut Bench) -> Result<Vec<(&'static str, Command)>, RowError> {
    let archive = bench.options.images.join(format!("{BENCH}.tar"));
    let volume = bench.stage.directory("volume")?;
    let bind = format!("{}:{VOLUME}", volume.display());
    let size = bench.options.size_mib.to_string();
    let files = bench.options.files.to_string();
    let write = |directory: &'static str| {
        [
            BENCH,
            PROGRAM,
            "guest-io",
            "--directory",
            directory,
            "--size-mib",
            &size,
            "--files",
            &files,
        ]
        .map(String::from)
    };
    let read = [
        [BENCH, PROGRAM, "guest-io"].as_slice(),
        &[
            "--random",
            OTHER_FILE,
            "--sequential",
            LARGE_FILE,
            "--tree",
            TREE,
        ],
    ]
    .concat();
    let mut commands = Vec::new();
    if let Some(walnut) = bench.walnut(row::FILES) {
        progress("files, loading the image");
        walnut.load(&bench.stage, &archive)?;
        let run = |flags: &[&str], command: &[String]| {
            walnut.run(
                flags,
                &command.iter().map(String::as_str).collect::<Vec<_>>(),
            )
        };
        commands.push(("walnut, image (pmem)", walnut.run(&["--rm"], &read)));
        // Without --rm the container's files are on a disk of its own.
        commands.push(("walnut, disk (blk)", run(&[], &write("/var/tmp/io"))));
        commands.push((
            "walnut, volume (virtio-fs)",
            run(&["--rm", "-v", &bind], &write(VOLUME)),
        ));
    }
    match &bench.peers.podman {
        Ok(podman) => {
            podman.load(&archive)?;
            let run = |flags: &[&str], command: &[String]| {
                podman.run(
                    flags,
                    &command.iter().map(String::as_str).collect::<Vec<_>>(),
                )
            };
            commands.push(("podman, image", podman.run(&[], &read)));
            commands.push(("podman, overlay", run(&[], &write("/var/tmp/io"))));
            commands.push(("podman, volume", run(&["-v", &bind], &write(VOLUME))));
        }
        Err(error) => {
            let why = chain(error);
            bench.report.skip(row::FILES, "podman", why);
        }
    }
    commands.push((
        "host, tmpfs",
        on_host(&bench.stage.directory("host")?, &size, &files),
    ));
    Ok(commands)
}

fn on_host(directory: &Path, size: &str, files: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("guest-io")
        .arg("--directory")
        .arg(directory.join("io"));
    command.args(["--size-mib", size, "--files", files]);
    command
}
