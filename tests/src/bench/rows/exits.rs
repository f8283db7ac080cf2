// SPDX-License-Identifier: Apache-2.0
//! Two rows from the same boots: KVM's exits, and the monitor's memory beyond the guest's. Both are
//! looked at in a moment that every run has: the agent's hello, init's word, a container's first
//! byte.

use super::{Bench, INIT_SAYS, LIMIT, RowError, chain, progress};
use crate::bench::image::BUSYBOX;
use crate::bench::machine::{self, MachineError, Observed};
use crate::bench::names::{contender, metric, row};
use crate::bench::peers::{Boot, Qemu};
use crate::bench::process;
use crate::bench::report::{Row, Unit};
use crate::bench::trace::Trace;
use crate::bench::walnut::{COLD, TEMPLATE, Walnut};
use walnut_vmm_config::VmConfig;

/// Enough to see that the counts repeat.
const ROUNDS: usize = 3;

/// KVM has more, most of them about how and not how often.
const COUNTERS: [&str; 13] = [
    "exits",
    "halt_exits",
    "hypercalls",
    "insn_emulation",
    "io_exits",
    "irq_exits",
    "irq_injections",
    "irq_window_exits",
    "mmio_exits",
    "nmi_window_exits",
    "pf_taken",
    "signal_exits",
    "tlb_flush",
];

struct Rows {
    exits: Row,
    memory: Row,
}

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let mut rows = Rows {
        exits: Row::new(row::EXITS, "KVM's counters, from the monitor's start, cold"),
        memory: Row::new(row::MEMORY, "the monitor's memory at the same moments"),
    };
    let walnut = bench.walnut(row::EXITS);
    let machine = walnut
        .as_ref()
        .and_then(|walnut| match bench.machine(walnut) {
            Ok(machine) => Some(machine),
            Err(error) => {
                bench
                    .report
                    .skip(row::EXITS, contender::WALNUT_READY, chain(&error));
                None
            }
        });
    for round in 1..=ROUNDS {
        progress(&format!("exits and memory, round {round} of {ROUNDS}"));
        if let (Some(walnut), Some(machine)) = (&walnut, &machine) {
            let done = ready(bench, walnut, machine, &mut rows);
            note(bench, contender::WALNUT_READY, done);
            let done = first_byte(walnut, machine, &mut rows);
            note(bench, contender::WALNUT_RUN, done);
            let done = cloned(walnut, &mut rows);
            note(bench, contender::WALNUT_TEMPLATE, done);
        }
        let boot = bench.init_boot();
        let done = boot.map_err(RowError::from).and_then(|boot| {
            if let Some(walnut) = &walnut {
                init(
                    contender::WALNUT_INIT,
                    &mut walnut.boot(&boot),
                    &boot,
                    &mut rows,
                )?;
            }
            let qemu = bench.peers.qemu.as_ref().ok();
            qemu.map_or(Ok(()), |qemu: &Qemu| {
                init(contender::QEMU, &mut qemu.command(&boot), &boot, &mut rows)
            })
        });
        note(bench, "monitors to init", done);
    }
    let mut reasons = Row::new(
        row::REASONS,
        "why machines exit: trace events of one more boot",
    );
    if let (Some(walnut), Some(machine)) = (&walnut, &machine) {
        let done = traced(&mut reasons, contender::WALNUT_READY, || {
            machine::until_ready(&bench.stage, &walnut.monitor(), machine)
        });
        note(bench, row::REASONS, done);
    }
    if let (Ok(boot), Ok(qemu)) = (bench.init_boot(), &bench.peers.qemu) {
        let done = traced(&mut reasons, contender::QEMU, || {
            machine::until_said(contender::QEMU, &mut qemu.command(&boot), INIT_SAYS)
        });
        note(bench, row::REASONS, done);
    }
    vec![rows.exits, reasons, rows.memory]
}

/// Boots with KVM's events counted, which makes it slower: nothing else is taken from it.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn traced(
    row: &mut Row,
    name: &str,
    boot: impl FnOnce() -> Result<Observed, MachineError>,
) -> Result<(), RowError> {
    /// Fewer are not worth a line.
    const LEAST: u64 = 5;
    let trace = Trace::start()?;
    boot()?;
    let mut counts: Vec<_> = trace
        .counts()?
        .into_iter()
        .filter(|(_, n)| *n >= LEAST)
        .collect();
    counts.sort_by_key(|(_, hits)| std::cmp::Reverse(*hits));
    for (what, hits) in counts {
        row.sample(name, &what, Unit::Count, hits as f64);
    }
    Ok(())
}

fn note(bench: &mut Bench, what: &str, done: Result<(), RowError>) {
    let known = |skip: &crate::bench::report::Skip| skip.row == row::EXITS && skip.what == what;
    if let Err(error) = done
        && !bench.report.skipped.iter().any(known)
    {
        bench.report.skip(row::EXITS, what, chain(&error));
    }
}

/// The monitor alone, with the engine's machine, up to the agent's hello.
fn ready(
    bench: &Bench,
    walnut: &Walnut,
    machine: &VmConfig,
    rows: &mut Rows,
) -> Result<(), RowError> {
    let observed = machine::until_ready(&bench.stage, &walnut.monitor(), machine)?;
    rows.add(
        contender::WALNUT_READY,
        &observed,
        machine.memory_mib,
        &images(machine),
    )
}

/// `walnut run`, up to the container's first byte.
fn first_byte(walnut: &Walnut, machine: &VmConfig, rows: &mut Rows) -> Result<(), RowError> {
    let script = [BUSYBOX, "sh", "-c", "echo x; exec cat"];
    let flags = ["--rm", "-i", "--cpus", "1", COLD[0], COLD[1]];
    let command = &mut walnut.run(&flags, &script);
    let observed = machine::until_said(contender::WALNUT_RUN, command, b"x\n")?;
    rows.add(
        contender::WALNUT_RUN,
        &observed,
        machine.memory_mib,
        &images(machine),
    )
}

/// The same from a template; what its memory is, the row of templates says.
fn cloned(walnut: &Walnut, rows: &mut Rows) -> Result<(), RowError> {
    let flags = ["--rm", "-i", "--cpus", "1", TEMPLATE[0], TEMPLATE[1]];
    // Its template is there.
    let command = &mut walnut.run(&flags, &[BUSYBOX, "true"]);
    process::run(contender::WALNUT_TEMPLATE, command, LIMIT)?;
    let script = [BUSYBOX, "sh", "-c", "echo x; exec cat"];
    let command = &mut walnut.run(&flags, &script);
    let observed = machine::until_said(contender::WALNUT_TEMPLATE, command, b"x\n")?;
    rows.count(contender::WALNUT_TEMPLATE, &observed);
    Ok(())
}

fn init(
    name: &'static str,
    command: &mut std::process::Command,
    boot: &Boot,
    rows: &mut Rows,
) -> Result<(), RowError> {
    let observed = machine::until_said(name, command, INIT_SAYS)?;
    let kernel = boot.kernel.display().to_string();
    rows.add(name, &observed, boot.memory_mib, &[kernel])
}

/// The files that are mapped into the guest.
fn images(machine: &VmConfig) -> Vec<String> {
    let pmem = machine.pmem.iter().map(|pmem| &pmem.path);
    pmem.chain([&machine.kernel])
        .map(|path| path.display().to_string())
        .collect()
}

impl Rows {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn count(&mut self, name: &'static str, observed: &Observed) {
        for (counter, value) in &observed.counters {
            if COUNTERS.contains(&counter.as_str()) {
                self.exits.sample(name, counter, Unit::Count, *value as f64);
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn add(
        &mut self,
        name: &'static str,
        observed: &Observed,
        memory_mib: u32,
        images: &[String],
    ) -> Result<(), RowError> {
        self.count(name, observed);
        let footprint = observed
            .footprint(memory_mib, images)
            .ok_or(RowError::NoGuestMemory { memory_mib })?;
        for (what, kib) in [
            (metric::PSS, footprint.own_kib),
            ("PSS of guest memory", footprint.guest_kib),
            ("its page tables", observed.page_tables_kib),
            ("KVM's page tables", observed.nested_tables_kib),
        ] {
            self.memory.sample(name, what, Unit::Kib, kib as f64);
        }
        Ok(())
    }
}
