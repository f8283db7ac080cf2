// SPDX-License-Identifier: Apache-2.0
//! How large the files are that are copied to a machine.

use std::fs;

use super::Bench;
use crate::bench::names::{metric, row};
use crate::bench::report::{Row, Unit};
use crate::bench::walnut;

pub(super) fn measure(bench: &mut Bench) -> Vec<Row> {
    let mut row = Row::new(row::SIZES, "files");
    for name in walnut::FILES {
        let path = bench.options.staged.join(name);
        match fs::metadata(&path) {
            #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
            Ok(found) => row.sample(name, metric::SIZE, Unit::Kib, found.len() as f64 / 1024.0),
            Err(error) => bench.report.skip(row::SIZES, name, error),
        }
    }
    vec![row]
}
