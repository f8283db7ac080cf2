// SPDX-License-Identifier: Apache-2.0
//! Throughput of a container's standard streams: the same bytes through `cat` and back, compared
//! as they come; into a container that drops them; out of one that makes them.

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Bench, LONG_LIMIT, RowError, chain, progress};
use crate::bench::image::BUSYBOX;
use crate::bench::names::{contender, metric, row};
use crate::bench::process::{Process, ProcessError};
use crate::bench::report::{Row, Unit};
use crate::bench::stream::Pattern;

const ROUNDS: usize = 2;
/// The host's own pipes: what neither a container nor a machine stands between.
const PLAIN: &str = "cat on the host";

type Make = Box<dyn Fn(&str) -> Command>;

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let mib = bench.options.stream_mib;
    let title = format!("{mib} MiB through a container's standard streams");
    let mut row = Row::new(row::STDIO, title);
    let pattern = Pattern::new(6);
    let mut contenders = contenders(bench);
    for round in 1..=ROUNDS {
        progress(&format!("stdio, round {round} of {ROUNDS}"));
        contenders.retain(|(name, make)| {
            let done = once(&mut row, name, make, &pattern, mib);
            if let Err(error) = &done {
                bench.report.skip(row::STDIO, *name, chain(error));
            }
            done.is_ok()
        });
    }
    vec![row]
}

/// Each runs a shell's script with stdin connected.
fn contenders(bench: &mut Bench) -> Vec<(&'static str, Make)> {
    let mut contenders: Vec<(&'static str, Make)> = Vec::new();
    if let Some(walnut) = bench.walnut(row::STDIO) {
        let make = move |script: &str| walnut.run(&["--rm", "-i"], &[BUSYBOX, "sh", "-c", script]);
        contenders.push((contender::WALNUT_RUN, Box::new(make)));
    }
    match &bench.peers.podman {
        Ok(podman) => {
            let podman = podman.clone();
            let make = move |script: &str| podman.run(&["-i"], &[BUSYBOX, "sh", "-c", script]);
            contenders.push((contender::PODMAN, Box::new(make)));
        }
        Err(error) => {
            let why = chain(error);
            bench.report.skip(row::STDIO, contender::PODMAN, why);
        }
    }
    let plain = |script: &str| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    };
    contenders.push((PLAIN, Box::new(plain)));
    contenders
}

#[expect(clippy::cast_precision_loss, reason = "amounts far below 2^52")]
fn once(
    row: &mut Row,
    name: &'static str,
    make: &Make,
    pattern: &Pattern,
    mib: usize,
) -> Result<(), RowError> {
    let length = mib << 20;
    // One way says little more, and less data says as much.
    let one_way = length / 4;
    let rate = |bytes: usize, took: Duration| (bytes >> 20) as f64 / took.as_secs_f64();
    let (took, different) = both_ways(name, &mut make("exec cat"), pattern, length)?;
    row.sample(name, metric::DIFFERENT, Unit::Count, different as f64);
    if different > 0 {
        return Err(RowError::Corrupt {
            name: name.into(),
            different,
        });
    }
    row.sample(name, "both ways", Unit::MibPerS, rate(length, took));
    let mut command = make("echo go; cat > /dev/null; echo done");
    let took = one_way_in(name, &mut command, pattern, one_way)?;
    row.sample(name, "in", Unit::MibPerS, rate(one_way, took));
    let blocks = one_way >> 16;
    let mut command = make(&format!(
        "exec dd if=/dev/zero bs=65536 count={blocks} 2>/dev/null"
    ));
    let took = one_way_out(name, &mut command, one_way)?;
    row.sample(name, "out", Unit::MibPerS, rate(one_way, took));
    Ok(())
}

/// Writes on a thread of its own, since both directions are to be busy at once.
fn feed(
    process: &mut Process,
    pattern: &Pattern,
    length: usize,
) -> Option<thread::JoinHandle<io::Result<()>>> {
    let stdin = process.stdin()?;
    let pattern = pattern.clone();
    Some(thread::spawn(move || pattern.write(stdin, length)))
}

/// The time from the first byte that came back to the last, and how many were others than those
/// sent, or missing, or too many.
fn both_ways(
    name: &str,
    command: &mut Command,
    pattern: &Pattern,
    length: usize,
) -> Result<(Duration, usize), RowError> {
    let mut process = Process::spawn(name, command, Stdio::piped(), LONG_LIMIT)?;
    let writer = feed(&mut process, pattern, length);
    let mut buffer = vec![0; 256 << 10];
    let (mut seen, mut different, mut first) = (0, 0, None);
    loop {
        let n = process.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        first.get_or_insert_with(Instant::now);
        different += pattern.different(seen, buffer.get(..n).unwrap_or_default());
        seen += n;
    }
    let took = first.map_or(Duration::MAX, |first| first.elapsed());
    different += seen.abs_diff(length);
    finish(process, writer)?;
    Ok((took, different))
}

/// From the word that the container is there, to its word that it has read everything.
fn one_way_in(
    name: &str,
    command: &mut Command,
    pattern: &Pattern,
    length: usize,
) -> Result<Duration, RowError> {
    let mut process = Process::spawn(name, command, Stdio::piped(), LONG_LIMIT)?;
    process.wait_for(b"go\n")?;
    let started = Instant::now();
    let writer = feed(&mut process, pattern, length);
    process.wait_for(b"done\n")?;
    let took = started.elapsed();
    finish(process, writer)?;
    Ok(took)
}

fn one_way_out(name: &str, command: &mut Command, length: usize) -> Result<Duration, RowError> {
    let mut process = Process::spawn(name, command, Stdio::piped(), LONG_LIMIT)?;
    let mut buffer = vec![0; 256 << 10];
    let mut seen = process.read(&mut buffer)?;
    let first = Instant::now();
    while let n @ 1.. = process.read(&mut buffer)? {
        seen += n;
    }
    let took = first.elapsed();
    finish(process, None)?;
    match seen.abs_diff(length) {
        0 => Ok(took),
        different => Err(RowError::Corrupt {
            name: name.into(),
            different,
        }),
    }
}

fn finish(
    process: Process,
    writer: Option<thread::JoinHandle<io::Result<()>>>,
) -> Result<(), ProcessError> {
    process.finish()?;
    // What could not be written is missing on the other side, and counted there.
    if let Some(writer) = writer
        && let Ok(Err(error)) = writer.join()
    {
        let _ = writeln!(io::stderr(), "bench: stdin was closed early: {error}");
    }
    Ok(())
}
