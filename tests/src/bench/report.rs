// SPDX-License-Identifier: Apache-2.0
//! What was measured: the JSON document, and the same as a table for people.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::figures::Figure;
use super::stats::Summary;

/// One run of the benchmark on one host.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub host: Host,
    pub rows: Vec<Row>,
    /// What was wanted and could not be measured.
    pub skipped: Vec<Skip>,
    pub figures: Vec<Figure>,
}

#[derive(Debug, Default, Serialize)]
pub struct Host {
    pub processor: String,
    pub kernel: String,
    pub cpus: usize,
    pub memory_mib: u64,
    /// Its processor is emulated: rates say little.
    pub emulated: bool,
    /// `name -> version line` of each peer that was found.
    pub peers: BTreeMap<String, String>,
}

/// Contenders for one question, side by side.
#[derive(Debug, Serialize)]
pub struct Row {
    pub id: &'static str,
    pub title: String,
    pub entries: Vec<Entry>,
}

/// All samples of one number.
#[derive(Debug, Serialize)]
pub struct Entry {
    pub contender: String,
    pub metric: String,
    pub unit: Unit,
    pub samples: Vec<f64>,
    #[serde(flatten)]
    pub summary: Summary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    Ms,
    Us,
    Kib,
    Mib,
    MibPerS,
    PerS,
    Count,
}

#[derive(Debug, Serialize)]
pub struct Skip {
    pub row: &'static str,
    pub what: String,
    pub why: String,
}

impl Row {
    #[must_use]
    pub fn new(id: &'static str, title: impl Into<String>) -> Self {
        Self {
            id,
            title: title.into(),
            entries: Vec::new(),
        }
    }

    /// Adds one sample to the entry it belongs to, which is made when it isn't there.
    pub fn sample(&mut self, contender: &str, metric: &str, unit: Unit, value: f64) {
        let found = self
            .entries
            .iter_mut()
            .find(|e| e.contender == contender && e.metric == metric);
        let entry = match found {
            Some(entry) => {
                entry.samples.push(value);
                entry
            }
            None => {
                let summary = Summary {
                    median: value,
                    min: value,
                    max: value,
                };
                self.entries.push(Entry {
                    contender: contender.into(),
                    metric: metric.into(),
                    unit,
                    samples: vec![value],
                    summary,
                });
                return;
            }
        };
        if let Some(summary) = Summary::of(&entry.samples) {
            entry.summary = summary;
        }
    }

    #[must_use]
    pub fn get(&self, contender: &str, metric: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|e| e.contender == contender && e.metric == metric)
    }
}

impl Report {
    /// The median of one number, where it was measured.
    #[must_use]
    pub fn median(&self, row: &str, contender: &str, metric: &str) -> Option<f64> {
        let row = self.rows.iter().find(|candidate| candidate.id == row)?;
        Some(row.get(contender, metric)?.summary.median)
    }

    pub fn skip(&mut self, row: &'static str, what: impl Into<String>, why: impl Display) {
        let skip = Skip {
            row,
            what: what.into(),
            why: why.to_string(),
        };
        eprintln!(
            "bench: {}: {} is skipped: {}",
            skip.row, skip.what, skip.why
        );
        self.skipped.push(skip);
    }
}

impl Display for Unit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ms => "ms",
            Self::Us => "µs",
            Self::Kib => "KiB",
            Self::Mib => "MiB",
            Self::MibPerS => "MiB/s",
            Self::PerS => "/s",
            Self::Count => "",
        })
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Host {
            processor,
            kernel,
            cpus,
            memory_mib,
            peers,
            ..
        } = &self.host;
        writeln!(f, "{processor}; {cpus} CPU, {memory_mib} MiB; {kernel}")?;
        for version in peers.values() {
            writeln!(f, "{version}")?;
        }
        for row in &self.rows {
            writeln!(f, "\n{}: {}", row.id, row.title)?;
            write!(f, "{}", Table(row))?;
        }
        if !self.skipped.is_empty() {
            writeln!(f, "\nskipped")?;
        }
        for Skip { row, what, why } in &self.skipped {
            writeln!(f, "  {row}: {what}: {why}")?;
        }
        if !self.figures.is_empty() {
            writeln!(f, "\nfigures")?;
        }
        for figure in &self.figures {
            writeln!(f, "  {figure}")?;
        }
        Ok(())
    }
}

/// A row as aligned columns.
struct Table<'a>(&'a Row);

impl Table<'_> {
    /// All contenders of a metric together, metrics in the order in which they first came.
    fn side_by_side(&self) -> Vec<&Entry> {
        let first = |entry: &&Entry| self.0.entries.iter().position(|e| e.metric == entry.metric);
        let mut entries: Vec<&Entry> = self.0.entries.iter().collect();
        entries.sort_by_key(first);
        entries
    }
}

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = |text: fn(&Entry) -> &str, least| {
            self.0
                .entries
                .iter()
                .map(|e| text(e).chars().count())
                .max()
                .unwrap_or(0)
                .max(least)
        };
        let contender = width(|e| &e.contender, 9);
        let metric = width(|e| &e.metric, 6);
        writeln!(
            f,
            "  {:metric$}  {:contender$}  {:>10}  {:>10}  {:>10}  {:5}  {:>3}",
            "metric", "contender", "median", "min", "max", "unit", "n"
        )?;
        for entry in self.side_by_side() {
            let Summary { median, min, max } = entry.summary;
            let [median, min, max] = [median, min, max].map(Number);
            writeln!(
                f,
                "  {:metric$}  {:contender$}  {median:>10}  {min:>10}  {max:>10}  {:5}  {:>3}",
                entry.metric,
                entry.contender,
                entry.unit.to_string(),
                entry.samples.len(),
            )?;
        }
        Ok(())
    }
}

/// As many digits as are worth reading.
pub(super) struct Number(pub(super) f64);

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            value if value >= 100.0 || value.fract() == 0.0 => 0,
            value if value >= 10.0 => 1,
            _ => 2,
        };
        f.pad(&format!("{:.digits$}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut row = Row::new("start", "exec to first byte");
        for value in [12.0, 10.0, 11.0] {
            row.sample("walnut", "first byte", Unit::Ms, value);
        }
        row.sample("podman run", "first byte", Unit::Ms, 1234.5);
        Report {
            rows: vec![row],
            ..Report::default()
        }
    }

    #[test]
    fn samples_gather_in_their_entry() {
        let report = report();
        assert_eq!(report.rows[0].entries.len(), 2);
        assert_eq!(report.median("start", "walnut", "first byte"), Some(11.0));
        assert_eq!(report.median("start", "crun", "first byte"), None);
        assert_eq!(report.median("exits", "walnut", "first byte"), None);
    }

    #[test]
    fn columns_line_up() {
        let text = report().to_string();
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.contains("first byte  "))
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].ends_with("ms       3"), "{text}");
        let ends = lines
            .iter()
            .map(|line| line.find("ms").unwrap())
            .collect::<Vec<_>>();
        assert_eq!(ends[0], ends[1], "{text}");
    }

    #[test]
    fn contenders_of_a_metric_stand_together() {
        let mut report = report();
        report.rows[0].sample("walnut", "last byte", Unit::Ms, 1.0);
        report.rows[0].sample("crun", "first byte", Unit::Ms, 1.0);
        let text = report.to_string();
        let at = |what: &str| text.find(what).unwrap();
        assert!(at("crun") < at("last byte"), "{text}");
    }

    #[test]
    fn json_has_the_summary_beside_the_samples() {
        let json = serde_json::to_value(report()).unwrap();
        let entry = &json["rows"][0]["entries"][0];
        assert_eq!(entry["median"], 11.0);
        assert_eq!(entry["samples"].as_array().unwrap().len(), 3);
        assert_eq!(entry["unit"], "ms");
    }

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [1234.56, 99.95, 9.876, 0.0].map(|value| Number(value).to_string());
        assert_eq!(shown, ["1235", "100.0", "9.88", "0"]);
    }
}
