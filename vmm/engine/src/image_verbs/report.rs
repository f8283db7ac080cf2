// SPDX-License-Identifier: Apache-2.0
//! What users see of a pull or push: a line for each step of a layer, or, on a terminal, one for
//! each layer, drawn over as it goes on.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::termios::tcgetwinsize;

use crate::image::{Digest, Step, Tell};
use crate::units::decimal_size;

/// Where it is told; from any thread.
pub(super) struct Report(Mutex<Out>);

struct Out {
    /// `None`: nothing is told.
    to: Option<Box<dyn Write + Send>>,
    /// Lines that wait for another one.
    held: Vec<String>,
    bars: Option<Bars>,
}

/// The terminal's lines about layers, the uppermost first.
struct Bars {
    width: usize,
    height: usize,
    lines: Vec<(Digest, String)>,
}

impl Report {
    pub(super) fn quiet() -> Self {
        Self::new(None, None)
    }

    pub(super) fn to_stdout() -> Self {
        let bars = Bars::on(&io::stdout());
        Self::new(Some(Box::new(io::stdout())), bars)
    }

    pub(super) fn to_stderr() -> Self {
        let bars = Bars::on(&io::stderr());
        Self::new(Some(Box::new(io::stderr())), bars)
    }

    fn new(to: Option<Box<dyn Write + Send>>, bars: Option<Bars>) -> Self {
        let held = Vec::new();
        Self(Mutex::new(Out { to, held, bars }))
    }

    fn out(&self) -> std::sync::MutexGuard<'_, Out> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told together with the next line, or never.
    pub(super) fn hold(&self, line: String) {
        self.out().held.push(line);
    }

    pub(super) fn line(&self, line: &str) {
        self.out().line(line);
    }

    pub(super) fn of_layers(self: Arc<Self>) -> Tell {
        Arc::new(move |layer, step| self.out().layer(layer, step))
    }
}

impl Out {
    fn line(&mut self, line: &str) {
        self.write(&format!("{line}\n"));
    }

    fn layer(&mut self, layer: Digest, step: Step<'_>) {
        if let Some(bars) = &mut self.bars {
            let text = bars.draw(layer, step);
            self.write(&text);
        } else if let Step::Said(what) = step {
            self.line(&format!("{}: {what}", layer.short()));
        }
    }

    /// At once, with what waited for it; nobody may be left to tell.
    fn write(&mut self, text: &str) {
        if let (Some(to), false) = (&mut self.to, text.is_empty()) {
            let mut all: String = self.held.drain(..).map(|line| line + "\n").collect();
            all.push_str(text);
            let _ = to.write_all(all.as_bytes()).and_then(|()| to.flush());
        }
    }
}

impl Bars {
    fn on(out: &(impl AsFd + IsTerminal)) -> Option<Self> {
        if !out.is_terminal() {
            return None;
        }
        let size = tcgetwinsize(out).ok();
        let or = |cells: u16, default| match cells {
            0 => default,
            cells => usize::from(cells),
        };
        Some(Self {
            width: size.map_or(80, |size| or(size.ws_col, 80)),
            height: size.map_or(24, |size| or(size.ws_row, 24)),
            lines: Vec::new(),
        })
    }

    /// What to write, so that the layer's line says it; nothing if it does already.
    fn draw(&mut self, layer: Digest, step: Step<'_>) -> String {
        let text = self.text(layer, step);
        let Some(at) = self.lines.iter().position(|(known, _)| *known == layer) else {
            self.lines.push((layer, text.clone()));
            return text + "\n";
        };
        let up = self.lines.len() - at;
        let line = &mut self.lines[at].1;
        // What has scrolled away can't be drawn over.
        if *line == text || up >= self.height {
            return String::new();
        }
        line.clone_from(&text);
        // Cursor up, erase the line; cursor down.
        format!("\x1b[{up}A\r\x1b[2K{text}\r\x1b[{up}B")
    }

    fn text(&self, layer: Digest, step: Step<'_>) -> String {
        let (what, done, total) = match step {
            Step::Said(what) => return format!("{}: {what}", layer.short()),
            Step::Downloading(done, total) => ("Downloading", done, total),
            Step::Extracting(done, total) => ("Extracting", done, total),
            Step::Pushing(done, total) => ("Pushing", done, total),
        };
        let (done, total) = (done.min(total), total.max(1));
        // Docker's is 50 long; the rest of the line takes less than 48.
        let length = self.width.saturating_sub(48).min(50);
        let part = |of: u64| {
            let part = u128::from(done) * u128::from(of) / u128::from(total);
            u64::try_from(part).unwrap_or(of)
        };
        let filled = usize::try_from(part(length as u64)).unwrap_or(length);
        // In steps of a hundredth: who reads along can't follow more.
        let shown = match done == total {
            true => total,
            false => total.div_ceil(100) * part(100),
        };
        let amounts = format!("{:>7}/{}", decimal_size(shown), decimal_size(total));
        let bar = match length {
            0..10 => String::new(),
            _ => format!("[{}>{}] ", "=".repeat(filled), " ".repeat(length - filled)),
        };
        format!("{}: {what:<11} {bar}{amounts}", layer.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> [Digest; 2] {
        ["a", "b"].map(|text| format!("sha256:{}", text.repeat(64)).parse().unwrap())
    }

    fn bars(width: usize, height: usize) -> Bars {
        Bars {
            width,
            height,
            lines: Vec::new(),
        }
    }

    #[test]
    fn a_line_for_each_layer_is_drawn_over() {
        let [a, b] = layers();
        let (a_id, b_id) = (a.short(), b.short());
        let mut bars = bars(70, 24);
        let said = Step::Said("Pulling fs layer");
        assert_eq!(bars.draw(a, said), format!("{a_id}: Pulling fs layer\n"));
        assert_eq!(bars.draw(b, said), format!("{b_id}: Pulling fs layer\n"));
        let bar = "[===========>           ]    25MB/50MB";
        assert_eq!(
            bars.draw(a, Step::Downloading(25_000_000, 50_000_000)),
            format!("\x1b[2A\r\x1b[2K{a_id}: Downloading {bar}\r\x1b[2B")
        );
        assert_eq!(bars.draw(a, Step::Downloading(25_000_001, 50_000_000)), "");
        assert_eq!(
            bars.draw(b, Step::Said("Pull complete")),
            format!("\x1b[1A\r\x1b[2K{b_id}: Pull complete\r\x1b[1B")
        );
    }

    #[test]
    fn on_small_terminals() {
        let [a, b] = layers();
        let text = bars(40, 24).text(a, Step::Extracting(1000, 1000));
        assert_eq!(text, format!("{}: Extracting      1kB/1kB", a.short()));
        for width in 48..200 {
            let text = bars(width, 24).text(a, Step::Downloading(999_000_000, 1_999_000_000));
            assert!(text.len() < width, "{width}: {text}");
        }
        let mut bars = bars(80, 2);
        let said = Step::Said("Pulling fs layer");
        bars.draw(a, said);
        bars.draw(b, said);
        assert_eq!(bars.draw(a, Step::Said("Pull complete")), "");
        assert_ne!(bars.draw(b, Step::Said("Pull complete")), "");
    }

    #[test]
    fn an_empty_layer_has_a_bar_too() {
        let [a, _] = layers();
        let text = bars(200, 24).text(a, Step::Downloading(0, 0));
        assert!(text.ends_with("0B/1B"), "{text}");
    }
}
