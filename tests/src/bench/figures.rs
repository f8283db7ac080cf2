// SPDX-License-Identifier: Apache-2.0
//! The figures that the project set itself, each beside what this run measured.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::names::{contender, metric, row};
use super::report::{Number, Report};

/// One bar: at most so much.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub what: &'static str,
    pub at_most: f64,
    pub unit: &'static str,
    /// `None` where this run did not measure it.
    pub measured: Option<f64>,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Met,
    Missed,
    NotMeasured,
}

impl Figure {
    fn new(what: &'static str, at_most: f64, unit: &'static str, measured: Option<f64>) -> Self {
        let verdict = match measured {
            Some(value) if value <= at_most => Verdict::Met,
            Some(_) => Verdict::Missed,
            None => Verdict::NotMeasured,
        };
        Self {
            what,
            at_most,
            unit,
            measured,
            verdict,
        }
    }
}

/// Every bar, in the order in which they were set.
#[must_use]
pub fn figures(report: &Report) -> Vec<Figure> {
    let ratio = |over: Option<f64>, under: Option<f64>| Some(over? / under?);
    let start = |who| report.median(row::START, who, metric::FIRST_BYTE);
    let ready = |what| report.median(row::EXITS, contender::WALNUT_READY, what);
    let size = |what| report.median(row::SIZES, what, metric::SIZE);
    let load = |who, what| report.median(row::LOAD, who, what);
    let mib = |kib: Option<f64>| Some(kib? / 1024.0);
    vec![
        Figure::new(
            "walnut run --rm, exec to first byte, cold, beside QEMU microvm to init",
            0.85,
            "×",
            ratio(start(contender::WALNUT_RUN), start(contender::QEMU)),
        ),
        Figure::new(
            "monitor's PSS beyond guest memory, one vCPU, after boot",
            4.0,
            "MiB",
            mib(report.median(row::MEMORY, contender::WALNUT_READY, metric::PSS)),
        ),
        Figure::new(
            "monitor's stripped static binary",
            6.0,
            "MiB",
            mib(size("walnut-vmm")),
        ),
        Figure::new(
            "KVM exits, monitor start to agent ready, cold",
            2500.0,
            "",
            ready("exits"),
        ),
        Figure::new("of which port I/O", 100.0, "", ready("io_exits")),
        Figure::new(
            "agent and its root file system",
            6.0,
            "MiB",
            mib(size("guest.erofs")),
        ),
        Figure::new(
            "bytes that differ in 256 MiB through walnut run -i … cat, both ways",
            0.0,
            "",
            report.median(row::STDIO, contender::WALNUT_RUN, metric::DIFFERENT),
        ),
        Figure::new(
            "peak memory while a 100 MiB image is loaded",
            64.0,
            "MiB",
            mib(load(contender::WALNUT_RUN, metric::PEAK)),
        ),
        Figure::new(
            "time to load it, beside tar x of its layers",
            2.0,
            "×",
            ratio(
                load(contender::WALNUT_RUN, metric::TIME),
                load(contender::TAR, metric::TIME),
            ),
        ),
    ]
    .into_iter()
    .chain(templates(report))
    .chain(life(report))
    .chain(network(report))
    .collect()
}

/// Those about starts from a template.
fn templates(report: &Report) -> Vec<Figure> {
    let ratio = |over: Option<f64>, under: Option<f64>| Some(over? / under?);
    let start = |who| report.median(row::START, who, metric::FIRST_BYTE);
    let template = |what| report.median(row::TEMPLATE, contender::WALNUT_TEMPLATE, what);
    let to_agent = |who| report.median(row::PHASES, who, metric::TO_AGENT);
    let clone_mib = template(metric::CLONE).map(|kib| kib / 1024.0);
    vec![
        Figure::new(
            "walnut run --rm, exec to first byte, cold, as far as it was to go",
            0.72,
            "×",
            ratio(start(contender::WALNUT_RUN), start(contender::QEMU)),
        ),
        Figure::new(
            "walnut run --rm from a template, exec to first byte, beside podman run",
            0.35,
            "×",
            ratio(start(contender::WALNUT_TEMPLATE), start(contender::PODMAN)),
        ),
        Figure::new(
            "the same beside crun run, as far as it was to go",
            1.0,
            "×",
            ratio(start(contender::WALNUT_TEMPLATE), start(contender::CRUN)),
        ),
        Figure::new(
            "restore, exec of the monitor to the agent's first answer, beside a cold start's",
            0.1,
            "×",
            ratio(
                to_agent(contender::WALNUT_TEMPLATE),
                to_agent(contender::WALNUT_RUN),
            ),
        ),
        Figure::new(
            "KVM exits, template start to first byte",
            1500.0,
            "",
            report.median(row::EXITS, contender::WALNUT_TEMPLATE, "exits"),
        ),
        Figure::new(
            "PSS of the 2nd and later idle clones, monitor included",
            6.0,
            "MiB",
            clone_mib,
        ),
        Figure::new(
            "16 template starts at once: p99, beside p50 of one at a time",
            16.0,
            "×",
            ratio(
                template("p99 of 16 at once"),
                template("p50 of 50 in a row"),
            ),
        ),
    ]
}

/// Those about images and the life of containers.
fn life(report: &Report) -> Vec<Figure> {
    let ratio = |over: Option<f64>, under: Option<f64>| Some(over? / under?);
    let mib = |kib: Option<f64>| Some(kib? / 1024.0);
    let exec = |who| report.median(row::EXEC, who, metric::FIRST_BYTE);
    let ps = |who| report.median(row::PS, who, metric::TIME);
    let pull = |who| report.median(row::PULL, who, metric::TIME);
    let idle = |who, what| report.median(row::IDLE, who, what);
    let silent = |answers: Option<f64>| Some(16.0 - answers?);
    let logs = report.median(row::LOGS, contender::WALNUT_LOGS, metric::RATE);
    let logs = logs.filter(|_| !report.host.emulated);
    vec![
        Figure::new(
            "walnut exec, exec to first byte, beside podman exec",
            1.0,
            "×",
            ratio(exec(contender::WALNUT_EXEC), exec(contender::PODMAN_EXEC)),
        ),
        Figure::new(
            "walnut ps of 50 containers, beside podman ps",
            0.5,
            "×",
            ratio(ps(contender::WALNUT_PS), ps(contender::PODMAN_PS)),
        ),
        Figure::new(
            "a 200 MiB image pulled, beside podman pull",
            1.0,
            "×",
            ratio(pull(contender::WALNUT_PULL), pull(contender::PODMAN_PULL)),
        ),
        Figure::new(
            "peak memory while it is pulled",
            96.0,
            "MiB",
            mib(report.median(row::PULL, contender::WALNUT_PULL, metric::PEAK)),
        ),
        Figure::new(
            "walnut logs of 100 MiB, outside the emulated host, 200 MiB/s beside it",
            1.0,
            "×",
            ratio(Some(200.0), logs),
        ),
        Figure::new(
            "PSS of a supervisor",
            4.0,
            "MiB",
            mib(idle(contender::SUPERVISOR, metric::ALL_PSS)),
        ),
        Figure::new(
            "of 16 containers at once, those that do not answer",
            0.0,
            "",
            silent(idle(contender::CROWD, metric::ANSWER)),
        ),
    ]
}

/// Those about the network; a rate is QEMU's over ours.
fn network(report: &Report) -> Vec<Figure> {
    let ratio = |over: Option<f64>, under: Option<f64>| Some(over? / under?);
    let net = |who, what| report.median(row::NET, who, what);
    let start = |who| report.median(row::NET_START, who, metric::FIRST_BYTE);
    let links = [
        (contender::WALNUT_TAP, contender::QEMU_TAP),
        (contender::WALNUT_PASST, contender::QEMU_PASST),
    ];
    let [tap, passt] = links.map(|(ours, theirs)| {
        let slower = |what| ratio(net(theirs, what), net(ours, what));
        let trip = |who| net(who, metric::ROUND_TRIP);
        let latency = ratio(trip(ours), trip(theirs));
        [slower(metric::IN), slower(metric::OUT), latency]
    });
    let mib = |network| Some(net(network, metric::OWN)? / 1024.0);
    let more = |with: Option<f64>, without: Option<f64>| Some((with? - without?).max(0.0));
    let silent = |answered: Option<f64>| Some(1000.0 - answered?);
    let bars = [
        (
            "TCP stream to the guest over tap, QEMU microvm's rate beside ours",
            tap[0],
        ),
        ("the same from the guest", tap[1]),
        (
            "one byte there and back over tap, beside QEMU microvm's",
            tap[2],
        ),
        (
            "TCP stream to the guest over passt, QEMU microvm's rate beside ours",
            passt[0],
        ),
        ("the same from the guest", passt[1]),
        (
            "one byte there and back over passt, beside QEMU microvm's",
            passt[2],
        ),
    ];
    let mut figures: Vec<Figure> = bars
        .into_iter()
        .map(|(what, measured)| Figure::new(what, 1.0, "×", measured))
        .collect();
    figures.extend([
        Figure::new(
            "of 1,000 connections through a published port, those without an answer",
            0.0,
            "",
            silent(net(contender::WALNUT_PASST, metric::CONNECTIONS)),
        ),
        Figure::new(
            "the monitor's memory with a network, beyond that without",
            0.5,
            "MiB",
            more(mib(contender::MEMORY_USER), mib(contender::MEMORY_NONE)),
        ),
        Figure::new(
            "exec to first byte with --network user, beside none, cold",
            1.03,
            "×",
            ratio(start(contender::COLD_USER), start(contender::COLD_NONE)),
        ),
        Figure::new(
            "the same from a template",
            1.03,
            "×",
            ratio(
                start(contender::TEMPLATE_USER),
                start(contender::TEMPLATE_NONE),
            ),
        ),
    ]);
    figures
}

impl Display for Figure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            at_most,
            unit,
            measured,
            verdict,
        } = self;
        let word = match verdict {
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::NotMeasured => "not measured",
        };
        let measured = measured.map_or_else(|| "-".into(), |value| Number(value).to_string());
        let bar = Number(*at_most);
        write!(f, "{word:12}  {measured:>8} (at most {bar} {unit})  {what}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{Row, Unit};

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let figures = figures(&Report::default());
        assert!(
            figures
                .iter()
                .all(|figure| figure.verdict == Verdict::NotMeasured)
        );
    }

    #[test]
    fn a_ratio_needs_both_sides() {
        let mut row = Row::new(row::START, "");
        row.sample(contender::WALNUT_RUN, metric::FIRST_BYTE, Unit::Ms, 800.0);
        let mut report = Report {
            rows: vec![row],
            ..Report::default()
        };
        assert_eq!(figures(&report)[0].measured, None);
        report.rows[0].sample(contender::QEMU, metric::FIRST_BYTE, Unit::Ms, 1000.0);
        let figure = &figures(&report)[0];
        assert_eq!((figure.measured, figure.verdict), (Some(0.8), Verdict::Met));
        assert!(figure.to_string().starts_with("met"), "{figure}");
    }

    #[test]
    fn a_rate_is_a_real_processors() {
        let mut row = Row::new(row::LOGS, "");
        row.sample(contender::WALNUT_LOGS, metric::RATE, Unit::MibPerS, 400.0);
        let mut report = Report {
            rows: vec![row],
            ..Report::default()
        };
        let logs = |report: &Report| {
            let all = figures(report);
            let logs = all.iter().find(|figure| figure.what.contains("logs"));
            logs.map(|figure| (figure.measured, figure.verdict))
        };
        assert_eq!(logs(&report), Some((Some(0.5), Verdict::Met)));
        report.host.emulated = true;
        assert_eq!(logs(&report), Some((None, Verdict::NotMeasured)));
    }

    #[test]
    fn the_bar_itself_is_met_and_more_is_missed() {
        let verdict = |measured| Figure::new("", 4.0, "MiB", Some(measured)).verdict;
        assert_eq!(verdict(4.0), Verdict::Met);
        assert_eq!(verdict(4.01), Verdict::Missed);
    }
}
