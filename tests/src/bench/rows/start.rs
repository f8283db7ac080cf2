// SPDX-License-Identifier: Apache-2.0
//! exec to the first byte. Contenders take turns, so that whatever else the host does in between
//! hits them alike; a first round that is not counted warms the caches.

use std::process::{Command, Stdio};

use super::{Bench, INIT_SAYS, LIMIT, RowError, chain, milliseconds, progress};
use crate::bench::image::BUSYBOX;
use crate::bench::names::{contender, metric, row};
use crate::bench::peers::{Boot, Runtime};
use crate::bench::process::Process;
use crate::bench::report::{Row, Unit};
use crate::bench::walnut::{COLD, TEMPLATE, Walnut};

struct Contender {
    name: String,
    /// What it has to say.
    marker: &'static [u8],
    /// Whether it ends by itself, and not before it has cleaned up after itself.
    ends: bool,
    command: Box<dyn Fn(usize) -> Command>,
}

const ECHO: [&str; 3] = [BUSYBOX, "echo", "x"];

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let title = "exec to first byte, image loaded, files in memory";
    let mut row = Row::new(row::START, title);
    let mut contenders = contenders(bench);
    for round in 0..=bench.options.runs {
        let mut line = format!("start, round {round} of {}:", bench.options.runs);
        contenders.retain(|contender| match once(contender, round) {
            Ok(value) => {
                line.push_str(&format!(" {} {value:.0} ms,", contender.name));
                if round > 0 {
                    row.sample(&contender.name, metric::FIRST_BYTE, Unit::Ms, value);
                }
                true
            }
            Err(error) => {
                bench
                    .report
                    .skip(row::START, &contender.name, chain(&error));
                false
            }
        });
        progress(line.trim_end_matches(','));
    }
    vec![row]
}

fn once(contender: &Contender, round: usize) -> Result<f64, RowError> {
    let command = &mut (contender.command)(round);
    let mut process = Process::spawn(&contender.name, command, Stdio::null(), LIMIT)?;
    let took = process.wait_for(contender.marker)?;
    if contender.ends {
        process.finish()?;
    }
    Ok(milliseconds(took))
}

fn contenders(bench: &mut Bench) -> Vec<Contender> {
    let walnut = bench.walnut(row::START);
    let mut contenders = Vec::new();
    if let Some(walnut) = &walnut {
        let ways = [
            (contender::WALNUT_RUN, COLD),
            (contender::WALNUT_TEMPLATE, TEMPLATE),
        ];
        for (name, [flag, mode]) in ways {
            let walnut = walnut.clone();
            contenders.push(Contender {
                name: name.into(),
                marker: b"x\n",
                ends: true,
                command: Box::new(move |_| walnut.run(&["--rm", flag, mode], &ECHO)),
            });
        }
    }
    match bench.init_boot() {
        Ok(boot) => contenders.extend(monitors(bench, walnut.as_ref(), &boot)),
        Err(error) => bench
            .report
            .skip(row::START, contender::QEMU, chain(&error)),
    }
    contenders.extend(plain_containers(bench));
    contenders.extend(named_by_the_user(&std::env::var(PEERS).unwrap_or_default()));
    contenders
}

/// QEMU and our monitor with the same kernel, command line and init.
fn monitors(bench: &mut Bench, walnut: Option<&Walnut>, boot: &Boot) -> Vec<Contender> {
    let mut contenders = Vec::new();
    match &bench.peers.qemu {
        Ok(qemu) => {
            let (qemu, boot) = (qemu.clone(), boot.clone());
            contenders.push(Contender {
                name: contender::QEMU.into(),
                marker: INIT_SAYS,
                ends: false,
                command: Box::new(move |_| qemu.command(&boot)),
            });
        }
        Err(error) => {
            let why = chain(error);
            bench.report.skip(row::START, contender::QEMU, why);
        }
    }
    if let Some(walnut) = walnut {
        let (walnut, boot) = (walnut.clone(), boot.clone());
        contenders.push(Contender {
            name: contender::WALNUT_INIT.into(),
            marker: INIT_SAYS,
            ends: false,
            command: Box::new(move |_| walnut.boot(&boot)),
        });
    }
    contenders
}

fn plain_containers(bench: &mut Bench) -> Vec<Contender> {
    let mut contenders = Vec::new();
    let runtimes = [
        (contender::CRUN, &bench.peers.crun),
        (contender::RUNC, &bench.peers.runc),
    ];
    let mut skipped = Vec::new();
    for (name, runtime) in runtimes {
        let prepared = runtime
            .as_ref()
            .map_err(|error| chain(error))
            .and_then(|runtime| {
                runtime_contender(bench, name, runtime).map_err(|error| chain(&error))
            });
        match prepared {
            Ok(contender) => contenders.push(contender),
            Err(why) => skipped.push((name, why)),
        }
    }
    match &bench.peers.podman {
        Ok(podman) => {
            let podman = podman.clone();
            contenders.push(Contender {
                name: contender::PODMAN.into(),
                marker: b"x\n",
                ends: true,
                command: Box::new(move |_| podman.run(&[], &ECHO)),
            });
        }
        Err(error) => skipped.push((contender::PODMAN, chain(error))),
    }
    for (name, why) in skipped {
        bench.report.skip(row::START, name, why);
    }
    contenders
}

/// `BENCH_PEERS="NAME=COMMAND; …"`: whatever else there is, run by the shell and timed to its first
/// byte.
const PEERS: &str = "BENCH_PEERS";

fn named_by_the_user(peers: &str) -> Vec<Contender> {
    let pairs = peers
        .split([';', '\n'])
        .filter_map(|peer| peer.split_once('='));
    let contender = |(name, command): (&str, &str)| {
        let command = command.trim().to_owned();
        Contender {
            name: name.trim().into(),
            marker: b"",
            ends: true,
            command: Box::new(move |_| {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &command]);
                shell
            }),
        }
    };
    pairs.map(contender).collect()
}

fn runtime_contender(
    bench: &Bench,
    name: &'static str,
    runtime: &Runtime,
) -> Result<Contender, RowError> {
    let bundle = runtime.bundle(&bench.stage, "echo", &["/bin/echo", "x"])?;
    let runtime = runtime.clone();
    Ok(Contender {
        name: name.into(),
        marker: b"x\n",
        ends: true,
        command: Box::new(move |round| runtime.command(&bundle, &format!("start-{round}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_names_is_run_by_the_shell() {
        let peers = named_by_the_user("mine = echo a=b; other=true\nnonsense;;");
        let names: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["mine", "other"]);
        let said = (peers[0].command)(0).output().unwrap().stdout;
        assert_eq!(said, b"a=b\n");
        assert!(once(&peers[0], 0).unwrap() > 0.0);
        assert!(once(&peers[1], 0).is_err());
        assert!(named_by_the_user("").is_empty());
    }
}
