// SPDX-License-Identifier: Apache-2.0
//! This process's terminal: raw while a shell runs in the emulated host, and as it was afterwards.

use std::io;
use std::process;
use std::thread;

use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use super::wire::Size;

/// The terminal's size now.
pub(super) fn size() -> io::Result<Size> {
    let size = tcgetwinsize(stdin())?;
    Ok(Size {
        columns: size.ws_col,
        rows: size.ws_row,
    })
}

/// A raw terminal; dropping it restores it.
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// `resized` is called with each new size until it returns false.
    pub(super) fn new(resized: impl Fn(Size) -> bool + Send + 'static) -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        let mut signals = Signals::new([SIGWINCH, SIGTERM, SIGHUP])?;
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        let restore = before.clone();
        thread::spawn(move || {
            for signal in signals.forever() {
                if signal != SIGWINCH {
                    let _ = tcsetattr(stdin(), OptionalActions::Now, &restore);
                    process::exit(128 + signal);
                }
                if !size().is_ok_and(&resized) {
                    return;
                }
            }
        });
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone by now; then there is nothing to restore.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}
