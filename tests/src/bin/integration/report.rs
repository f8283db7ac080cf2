// SPDX-License-Identifier: Apache-2.0
//! What came of a test program: a line of JSON from the inside, and the sum of them at the end.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What one test program counted.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) program: PathBuf,
    /// It exited with 0.
    pub(crate) ok: bool,
    pub(crate) counts: Counts,
    /// A line for each test that was skipped: they count among the passed as well.
    pub(crate) skipped: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Counts {
    /// `ok. 3 passed; 0 failed; 1 ignored; …`
    pub(crate) fn parse(result: &str) -> Self {
        let words = result.split([' ', ';']).filter(|word| !word.is_empty());
        let words: Vec<&str> = words.collect();
        let count = |what: &str| {
            let at = words.iter().position(|word| *word == what);
            at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok())
                .unwrap_or(0)
        };
        Self {
            passed: count("passed"),
            failed: count("failed"),
            ignored: count("ignored"),
        }
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Sum {
    counts: Counts,
    skipped: Vec<String>,
    broken: Vec<String>,
}

impl Sum {
    pub(crate) fn add(&mut self, report: Report) {
        self.counts.passed += report.counts.passed.saturating_sub(report.skipped.len());
        self.counts.failed += report.counts.failed;
        self.counts.ignored += report.counts.ignored;
        self.skipped.extend(report.skipped);
        if !report.ok {
            let name = report.program.file_name().unwrap_or_default();
            self.fail(format!("FAILED in {}", name.display()));
        }
    }

    /// For what has no report.
    pub(crate) fn fail(&mut self, how: String) {
        self.broken.push(how);
    }

    pub(crate) fn is_good(&self) -> bool {
        self.broken.is_empty()
    }
}

impl Display for Sum {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Counts {
            passed,
            failed,
            ignored,
        } = self.counts;
        let skipped = self.skipped.len();
        write!(
            f,
            "{passed} passed, {failed} failed, {skipped} skipped, {ignored} ignored"
        )
    }
}

impl Sum {
    /// What a reader looks for after the counts.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        let skipped = self.skipped.iter().map(|line| format!("skipped {line}"));
        skipped.chain(self.broken.iter().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ok: bool, result: &str, skipped: &[&str]) -> Report {
        Report {
            program: "/somewhere/run-0123".into(),
            ok,
            counts: Counts::parse(result),
            skipped: skipped.iter().map(|line| (*line).into()).collect(),
        }
    }

    #[test]
    fn sums_up_what_test_programs_counted() {
        let mut sum = Sum::default();
        let result = "FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out";
        sum.add(report(false, result, &[]));
        sum.add(report(
            true,
            "ok. 2 passed; 0 failed; 0 ignored",
            &["one: no tun"],
        ));
        sum.fail("no host".into());
        assert_eq!(sum.to_string(), "4 passed, 2 failed, 1 skipped, 1 ignored");
        let lines: Vec<String> = sum.lines().collect();
        let expected = ["skipped one: no tun", "FAILED in run-0123", "no host"];
        assert_eq!(lines, expected);
        assert!(!sum.is_good());
    }

    #[test]
    fn a_crash_is_not_good() {
        let mut sum = Sum::default();
        sum.add(report(false, "", &[]));
        assert!(!sum.is_good());
    }
}
