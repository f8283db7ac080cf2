// SPDX-License-Identifier: Apache-2.0
//! A row as a picture: one bar a contender, as long as its median, whiskers from least to most.

use std::fmt::Write;

use super::report::{Number, Row};

const BAR: usize = 22;
const GAP: usize = 12;
const LEFT: usize = 190;
const PLOT: usize = 440;
const RIGHT: usize = 90;
const TOP: usize = 40;

/// An SVG document with the entries of one metric, in their order.
#[must_use]
pub fn bars(row: &Row, metric: &str) -> String {
    let entries: Vec<_> = row
        .entries
        .iter()
        .filter(|entry| entry.metric == metric)
        .collect();
    let most = entries
        .iter()
        .map(|entry| entry.summary.max)
        .fold(f64::MIN_POSITIVE, f64::max);
    let height = TOP + entries.len() * (BAR + GAP) + GAP;
    let width = LEFT + PLOT + RIGHT;
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    let x = |value: f64| LEFT as f64 + value / most * PLOT as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{GAP}\" y=\"24\" font-weight=\"bold\">{}</text>\n",
        escape(&row.title)
    );
    for (n, entry) in entries.iter().enumerate() {
        let y = TOP + n * (BAR + GAP);
        let (text, middle) = (y + BAR - 6, y + BAR / 2);
        let summary = entry.summary;
        let [from, to, end] = [summary.min, summary.max, summary.median].map(x);
        let colour = if entry.contender.starts_with("walnut") {
            "#8a5a2b"
        } else {
            "#9aa5b1"
        };
        // Writing to a String can't fail.
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n\
             <path d=\"M{from:.1} {middle}H{to:.1}\" stroke=\"#222\" stroke-width=\"1.5\"/>\n\
             <text x=\"{:.1}\" y=\"{text}\">{} {}</text>\n",
            LEFT - 8,
            escape(&entry.contender),
            (end - x(0.0)).max(1.0),
            to.max(end) + 6.0,
            Number(summary.median),
            entry.unit,
        );
    }
    out.push_str("</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Unit;

    #[test]
    fn each_contender_has_a_bar_in_proportion() {
        let mut row = Row::new("start", "A < B & C");
        row.sample("walnut run", "first byte", Unit::Ms, 100.0);
        row.sample("podman run", "first byte", Unit::Ms, 400.0);
        row.sample("podman run", "something else", Unit::Ms, 9000.0);
        let svg = bars(&row, "first byte");
        assert!(svg.contains("A &lt; B &amp; C"), "{svg}");
        assert!(
            svg.contains("width=\"110.0\"") && svg.contains("width=\"440.0\""),
            "{svg}"
        );
        assert_eq!(svg.matches("<path").count(), 2);
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn an_empty_row_is_an_empty_picture() {
        let svg = bars(&Row::new("start", ""), "first byte");
        assert!(
            svg.starts_with("<svg") && !svg.contains("NaN") && !svg.contains("inf"),
            "{svg}"
        );
    }
}
