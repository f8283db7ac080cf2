// SPDX-License-Identifier: Apache-2.0
//! The network, walnut's guest and QEMU's in turns on one tap, and each on a passt: streams by iperf3,
//! one byte there and back, many connections; what the device costs the monitor in memory.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{Bench, LIMIT, RowError, chain, progress, template};
use crate::bench::image::BUSYBOX;
use crate::bench::names::{contender, metric, row};
use crate::bench::net_guest::{self, ECHO_PORT, HTTP_PORT, Link, STREAM_PORT, Tap, Tree};
use crate::bench::process;
use crate::bench::report::{Row, Unit};
use crate::bench::smaps;
use crate::bench::walnut::{COLD, Walnut};

/// Long enough for TCP to find its window.
const STREAM_S: &str = "5";
const ROUND_TRIPS: usize = 500;
const CONNECTIONS: u32 = 1000;
const AT_ONCE: u32 = 50;
/// More rounds than this say nothing more about a stream.
const MOST_ROUNDS: usize = 5;

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let mut row = Row::new(
        row::NET,
        "TCP between host and guest, and the monitor's memory",
    );
    let Some(walnut) = bench.walnut(row::NET) else {
        return Vec::new();
    };
    let done = links(bench, &walnut, &mut row);
    note(bench, contender::WALNUT_TAP, done);
    for (name, network) in [
        (contender::MEMORY_NONE, "none"),
        (contender::MEMORY_USER, "user"),
    ] {
        let done = memory(&walnut, (name, network), &mut row);
        note(bench, name, done);
    }
    vec![row]
}

fn note(bench: &mut Bench, what: &str, done: Result<(), RowError>) {
    if let Err(error) = done {
        bench.report.skip(row::NET, what, chain(&error));
    }
}

fn links(bench: &mut Bench, walnut: &Walnut, row: &mut Row) -> Result<(), RowError> {
    let tree = Tree::new(&bench.stage)?;
    let boot = bench.init_boot()?;
    let _tap = Tap::new()?;
    let rounds = bench.options.runs.clamp(1, MOST_ROUNDS);
    for round in 1..=rounds {
        for (link, ours, theirs) in [
            (Link::Tap, contender::WALNUT_TAP, contender::QEMU_TAP),
            (Link::Passt, contender::WALNUT_PASST, contender::QEMU_PASST),
        ] {
            progress(&format!("net, round {round} of {rounds}: {ours}"));
            let done = net_guest::walnut(walnut, &tree, link)
                .map_err(RowError::from)
                .and_then(|_guest| talk(ours, link, row));
            note(bench, ours, done);
            progress(&format!("net, round {round} of {rounds}: {theirs}"));
            let done = match &bench.peers.qemu {
                Ok(qemu) => net_guest::qemu(&bench.stage, qemu, &boot, &tree, link)
                    .map_err(RowError::from)
                    .and_then(|_guest| talk(theirs, link, row)),
                Err(error) => {
                    let why = chain(error);
                    bench.report.skip(row::NET, theirs, why);
                    Ok(())
                }
            };
            note(bench, theirs, done);
        }
    }
    Ok(())
}

fn talk(name: &str, link: Link, row: &mut Row) -> Result<(), RowError> {
    for (what, reverse) in [(metric::IN, false), (metric::OUT, true)] {
        let rate = stream(name, link.place(STREAM_PORT), reverse)?;
        row.sample(name, what, Unit::MibPerS, rate);
    }
    let echo = link.place(ECHO_PORT);
    let failed = |place| move |source| RowError::Talk { place, source };
    for took in round_trips(echo).map_err(failed(echo))? {
        let us = took.as_secs_f64() * 1e6;
        row.sample(name, metric::ROUND_TRIP, Unit::Us, us);
    }
    let http = link.place(HTTP_PORT);
    row.sample(
        name,
        metric::CONNECTIONS,
        Unit::Count,
        connections(http).into(),
    );
    Ok(())
}

/// MiB/s that arrived.
fn stream(name: &str, place: SocketAddr, reverse: bool) -> Result<f64, RowError> {
    let (address, port) = (place.ip().to_string(), place.port().to_string());
    let mut command = Command::new("iperf3");
    command.args(["-J", "-t", STREAM_S, "-c", &address, "-p", &port]);
    command.args(reverse.then_some("-R"));
    let done = process::run("iperf3", &mut command, LIMIT)?;
    let report: Option<serde_json::Value> = serde_json::from_slice(&done.stdout).ok();
    let rate = report.and_then(|all| all["end"]["sum_received"]["bits_per_second"].as_f64());
    rate.map(|bits| bits / 8.0 / f64::from(1 << 20))
        .ok_or_else(|| RowError::Nonsense {
            name: name.into(),
            said: String::from_utf8_lossy(&done.stdout)
                .chars()
                .take(400)
                .collect(),
        })
}

fn round_trips(place: SocketAddr) -> io::Result<Vec<Duration>> {
    /// They find their buffers and their caches.
    const FIRST: usize = 20;
    let mut stream = TcpStream::connect(place)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut all = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..FIRST + ROUND_TRIPS {
        let begun = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        all.push(begun.elapsed());
    }
    Ok(all.split_off(FIRST))
}

/// How many of them were answered.
fn connections(place: SocketAddr) -> u32 {
    let (left, answered) = (AtomicU32::new(CONNECTIONS), AtomicU32::new(0));
    let one_after_the_other = || {
        let take = |left: u32| left.checked_sub(1);
        while left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .is_ok()
        {
            answered.fetch_add(u32::from(get(place).is_ok()), Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(one_after_the_other);
        }
    });
    answered.into_inner()
}

/// The client ends it.
fn get(place: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(place)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let (mut said, mut chunk) = (Vec::new(), [0; 1024]);
    while !said.ends_with(b"answered") {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => said.extend_from_slice(&chunk[..len]),
        }
    }
    Ok(())
}

/// A container that does nothing: what its monitor holds beside guest memory and files.
#[expect(clippy::cast_precision_loss, reason = "KiB far below 2^52")]
fn memory(walnut: &Walnut, (name, network): (&str, &str), row: &mut Row) -> Result<(), RowError> {
    const MEMORY_MIB: u64 = 128;
    let flags = [
        "--rm", "-i", "--cpus", "1", "--memory", "128m", COLD[0], COLD[1],
    ];
    let flags = [&flags[..], &["--network", network]].concat();
    let command = &mut walnut.run(&flags, &[BUSYBOX, "sh", "-c", "echo x; exec cat"]);
    let stdin = std::process::Stdio::piped();
    let mut process = process::Process::spawn("walnut run", command, stdin, LIMIT)?;
    let input = process.stdin();
    process.wait_for(b"x\n")?;
    let pid = template::monitor_of(process.pid()).map_err(|source| RowError::Read {
        path: "/proc".into(),
        source,
    })?;
    let failed = |source| RowError::Read {
        path: format!("/proc/{pid}/smaps").into(),
        source,
    };
    let mappings = smaps::read(pid).map_err(failed)?;
    let files = mappings.iter().map(|mapping| mapping.path.clone());
    let files: Vec<String> = files.filter(|path| path.starts_with('/')).collect();
    let split = smaps::split(&mappings, MEMORY_MIB, &files);
    let split = split.ok_or(RowError::NoGuestMemory { memory_mib: 128 })?;
    row.sample(name, metric::OWN, Unit::Kib, split.own_kib as f64);
    drop(input);
    process.finish()?;
    Ok(())
}
