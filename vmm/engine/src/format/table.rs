// SPDX-License-Identifier: Apache-2.0
//! Cells under each other: tabs in lines become blanks, as wide as the widest cell and three.

use std::io::{self, Write};

/// Docker's: no column is narrower, and this much stands between two.
const MIN_WIDTH: usize = 10;
const PADDING: usize = 3;

/// Lines that wait until it is known how wide their columns are.
#[derive(Debug, Default)]
pub struct Columns {
    lines: Vec<Vec<String>>,
}

impl Columns {
    /// Cells are separated by tabs. The last one has no end to be lined up.
    pub fn push(&mut self, text: &str) {
        for line in text.split('\n') {
            self.lines
                .push(line.split('\t').map(String::from).collect());
        }
    }

    /// # Errors
    /// Nobody reads the output.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut widths: Vec<usize> = Vec::new();
        for line in &self.lines {
            let (_last, cells) = line.split_last().unwrap_or((&EMPTY, &[]));
            for (column, cell) in cells.iter().enumerate() {
                let width = (cell.chars().count() + PADDING).max(MIN_WIDTH);
                match widths.get_mut(column) {
                    Some(known) => *known = width.max(*known),
                    None => widths.push(width),
                }
            }
        }
        let mut text = String::new();
        for line in &self.lines {
            for (column, cell) in line.iter().enumerate() {
                text.push_str(cell);
                if column + 1 < line.len() {
                    let blanks = widths[column] - cell.chars().count();
                    text.extend(std::iter::repeat_n(' ', blanks));
                }
            }
            text.push('\n');
        }
        out.write_all(text.as_bytes())
    }
}

const EMPTY: String = String::new();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_cell_counts_and_the_last_one_does_not() {
        let mut columns = Columns::default();
        columns.push("A\tB\tC");
        columns.push("äöüäöüäöü\t1\tand this is long");
        columns.push("");
        let mut out = Vec::new();
        columns.write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "A           B         C\näöüäöüäöü   1         and this is long\n\n"
        );
    }
}
