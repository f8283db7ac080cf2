// SPDX-License-Identifier: Apache-2.0
//! A row as a picture: one bar a contender. Either as long as one metric's median, with whiskers from
//! least to most, or made of several metrics' medians, end to end.

use std::fmt::Write;

use super::report::{Entry, Number, Row};

const BAR: usize = 22;
const GAP: usize = 12;
const LEFT: usize = 190;
const PLOT: usize = 440;
const RIGHT: usize = 90;
const TOP: usize = 40;

/// An SVG document with the entries of each metric, in their order and on a scale of its own, below its
/// name where there are several.
#[must_use]
pub fn bars(row: &Row, metrics: &[&str]) -> String {
    let mut y = TOP;
    let mut body = String::new();
    for metric in metrics {
        if metrics.len() > 1 {
            // Writing to a String can't fail.
            let _ = writeln!(
                body,
                "<text x=\"{LEFT}\" y=\"{}\" font-style=\"italic\">{}</text>",
                y + BAR - 6,
                escape(metric)
            );
            y += BAR;
        }
        let entries = row.entries.iter().filter(|entry| entry.metric == *metric);
        y = on_one_scale(&entries.collect::<Vec<_>>(), y, &mut body);
    }
    format!("{}{body}</svg>\n", head(&row.title, y + GAP))
}

/// From `y` down; where it ends.
fn on_one_scale(entries: &[&Entry], mut y: usize, out: &mut String) -> usize {
    let most = entries
        .iter()
        .map(|entry| entry.summary.max)
        .fold(f64::MIN_POSITIVE, f64::max);
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    let x = |value: f64| LEFT as f64 + value / most * PLOT as f64;
    for entry in entries {
        let (text, middle) = (y + BAR - 6, y + BAR / 2);
        let summary = entry.summary;
        let [from, to, end] = [summary.min, summary.max, summary.median].map(x);
        let colour = if entry.contender.starts_with("walnut") {
            "#8a5a2b"
        } else {
            "#9aa5b1"
        };
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
        y += BAR + GAP;
    }
    y
}

/// The colours of pieces, in turns: neighbours differ.
const PIECES: [&str; 6] = [
    "#8a5a2b", "#c9a27a", "#5b7f95", "#a8c0cc", "#7a8f4e", "#c3cf9f",
];
/// A piece that is narrower has no room for its name.
const NAMED: f64 = 46.0;

/// An SVG document with a bar for each contender: all its metrics but `without`, in their order.
#[must_use]
pub fn stacked(row: &Row, without: &[&str]) -> String {
    let mut contenders: Vec<(&str, Vec<&Entry>)> = Vec::new();
    for entry in &row.entries {
        if without.contains(&entry.metric.as_str()) {
            continue;
        }
        match contenders
            .iter_mut()
            .find(|(name, _)| *name == entry.contender)
        {
            Some((_, pieces)) => pieces.push(entry),
            None => contenders.push((&entry.contender, vec![entry])),
        }
    }
    let sum = |pieces: &[&Entry]| pieces.iter().map(|piece| piece.summary.median).sum::<f64>();
    let most = contenders
        .iter()
        .map(|(_, pieces)| sum(pieces))
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut names: Vec<&str> = Vec::new();
    for entry in contenders.iter().flat_map(|(_, pieces)| pieces) {
        if !names.contains(&entry.metric.as_str()) {
            names.push(&entry.metric);
        }
    }
    let height = TOP + contenders.len() * (BAR + 2 * GAP) + GAP;
    let mut out = head(&row.title, height);
    for (n, (contender, pieces)) in contenders.iter().enumerate() {
        let y = TOP + n * (BAR + 2 * GAP);
        let text = y + BAR - 6;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>",
            LEFT - 8,
            escape(contender)
        );
        #[expect(clippy::cast_precision_loss, reason = "pixels")]
        let (mut x, scale) = (LEFT as f64, PLOT as f64 / most);
        for piece in pieces {
            let width = piece.summary.median * scale;
            let which = names.iter().position(|name| *name == piece.metric);
            let colour = PIECES[which.unwrap_or(0) % PIECES.len()];
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" \
                 fill=\"{colour}\"><title>{}: {} {}</title></rect>",
                escape(&piece.metric),
                Number(piece.summary.median),
                piece.unit,
            );
            if width >= NAMED {
                let _ = writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{text}\" font-size=\"11\">{}</text>",
                    x + 3.0,
                    escape(&piece.metric)
                );
            }
            x += width;
        }
        let unit = pieces.first().map(|piece| piece.unit.to_string());
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{text}\">{} {}</text>",
            x + 6.0,
            Number(sum(pieces)),
            unit.unwrap_or_default(),
        );
    }
    out.push_str("</svg>\n");
    out
}

/// A document's beginning, up to its title.
fn head(title: &str, height: usize) -> String {
    let width = LEFT + PLOT + RIGHT;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{GAP}\" y=\"24\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    )
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
        let svg = bars(&row, &["first byte"]);
        assert!(svg.contains("A &lt; B &amp; C"), "{svg}");
        assert!(
            svg.contains("width=\"110.0\"") && svg.contains("width=\"440.0\""),
            "{svg}"
        );
        assert_eq!(svg.matches("<path").count(), 2);
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn each_metric_has_a_scale_of_its_own() {
        let mut row = Row::new("net", "");
        row.sample("walnut", "there", Unit::MibPerS, 100.0);
        row.sample("walnut", "back", Unit::Us, 9.0);
        row.sample("QEMU", "back", Unit::Us, 4.5);
        let svg = bars(&row, &["there", "back"]);
        assert_eq!(svg.matches("width=\"440.0\"").count(), 2, "{svg}");
        assert!(svg.contains("width=\"220.0\""), "{svg}");
        assert!(svg.contains(">there<") && svg.contains(">back<"), "{svg}");
    }

    #[test]
    fn a_bar_of_pieces_is_as_long_as_all_of_them() {
        let mut row = Row::new("phases", "where the time goes");
        for (contender, phase, us) in [
            ("cold", "kernel", 300.0),
            ("cold", "create", 100.0),
            ("cold", "all", 400.0),
            ("template", "create", 50.0),
        ] {
            row.sample(contender, phase, Unit::Us, us);
        }
        let svg = stacked(&row, &["all"]);
        for width in ["330.0", "110.0", "55.0"] {
            assert!(svg.contains(&format!("width=\"{width}\"")), "{svg}");
        }
        // One colour a phase, whoever's it is.
        let colour = PIECES[1];
        assert_eq!(svg.matches(colour).count(), 2, "{svg}");
        assert!(svg.contains("<title>kernel: 300"), "{svg}");
    }

    #[test]
    fn an_empty_row_is_an_empty_picture() {
        let empty = Row::new("start", "");
        for svg in [bars(&empty, &["first byte"]), stacked(&empty, &[])] {
            assert!(
                svg.starts_with("<svg") && !svg.contains("NaN") && !svg.contains("inf"),
                "{svg}"
            );
        }
    }
}
