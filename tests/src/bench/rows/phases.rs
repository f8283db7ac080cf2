// SPDX-License-Identifier: Apache-2.0
//! Where the time of a start goes, by `walnut run --timings=json`.

use serde::Deserialize;

use super::{Bench, LIMIT, RowError, chain, progress};
use crate::bench::image::BUSYBOX;
use crate::bench::names::{contender, metric, row};
use crate::bench::process;
use crate::bench::report::{Row, Unit};
use crate::bench::walnut::{COLD, TEMPLATE, Walnut};

/// What `--timings=json` prints on stderr, as one line.
#[derive(Debug, Deserialize)]
struct Timings {
    phases: Vec<Phase>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Phase {
    pub(super) phase: String,
    pub(super) us: u64,
    /// From the beginning of the program to the end of this phase.
    at_us: u64,
}

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let Some(walnut) = bench.walnut(row::PHASES) else {
        return Vec::new();
    };
    let mut row = Row::new(row::PHASES, "walnut run --rm busybox echo, phase by phase");
    let ways = [
        (contender::WALNUT_RUN, COLD),
        (contender::WALNUT_TEMPLATE, TEMPLATE),
    ];
    for round in 0..=bench.options.runs {
        progress(&format!("phases, round {round} of {}", bench.options.runs));
        for (name, way) in ways {
            match once(&walnut, way) {
                Ok(_) if round == 0 => {}
                Ok(phases) => add(&mut row, name, &phases),
                Err(error) => {
                    bench.report.skip(row::PHASES, name, chain(&error));
                    return vec![row];
                }
            }
        }
    }
    vec![row]
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a few seconds")]
fn add(row: &mut Row, name: &str, phases: &[Phase]) {
    for phase in phases {
        row.sample(name, &phase.phase, Unit::Us, phase.us as f64);
    }
    let end_of = |name: &str| phases.iter().find(|phase| phase.phase == name);
    if let (Some(cli), Some(agent)) = (end_of("cli"), end_of("agent")) {
        let us = agent.at_us.saturating_sub(cli.at_us);
        row.sample(name, metric::TO_AGENT, Unit::Us, us as f64);
    }
    if let Some(last) = phases.last() {
        row.sample(name, metric::ALL, Unit::Us, last.at_us as f64);
    }
}

fn once(walnut: &Walnut, [flag, mode]: [&str; 2]) -> Result<Vec<Phase>, RowError> {
    let flags = ["--rm", "--timings=json", flag, mode];
    let command = &mut walnut.run(&flags, &[BUSYBOX, "echo", "x"]);
    parse(&process::run(contender::WALNUT_RUN, command, LIMIT)?.stderr)
}

/// The phases in what was said on stderr.
pub(super) fn parse(stderr: &str) -> Result<Vec<Phase>, RowError> {
    let found = stderr
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str::<Timings>(line).ok());
    let nonsense = || RowError::Nonsense {
        name: "walnut run --timings=json".into(),
        said: stderr.trim().into(),
    };
    found.map(|timings| timings.phases).ok_or_else(nonsense)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_line_among_others() {
        let stderr = "a warning\n{\"begin_us\":5,\"phases\":[\
                      {\"phase\":\"cli\",\"us\":10,\"at_us\":10},\
                      {\"phase\":\"kernel\",\"us\":20,\"at_us\":30},\
                      {\"phase\":\"agent\",\"us\":5,\"at_us\":35}]}\n";
        let phases = parse(stderr).unwrap();
        assert_eq!(phases[1].phase, "kernel");
        let mut row = Row::new("", "");
        add(&mut row, contender::WALNUT_RUN, &phases);
        assert_eq!(
            row.get(contender::WALNUT_RUN, "all")
                .unwrap()
                .summary
                .median,
            35.0
        );
        let to_agent = row.get(contender::WALNUT_RUN, metric::TO_AGENT).unwrap();
        assert_eq!(to_agent.samples, [25.0]);
        assert_eq!(
            row.get(contender::WALNUT_RUN, "cli").unwrap().samples,
            [10.0]
        );
    }

    #[test]
    fn no_timings_are_an_error_that_quotes() {
        let error = parse("walnut: what?\n").unwrap_err().to_string();
        assert!(error.ends_with("walnut: what?"), "{error}");
    }
}
