// SPDX-License-Identifier: Apache-2.0
//! The user's terminal: raw while the container has it, as it was afterwards, whatever happens.

use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::stdio::stdin;
use rustix::termios::{
    OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr,
};

/// What the terminal was like; here, so that a panic's hook finds it too.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Restores the terminal when dropped.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Standard input's terminal, if it is one.
    pub fn enter() -> io::Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let saved = tcgetattr(stdin())?;
        let mut raw = saved.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        // A release build aborts on a panic, without dropping anything.
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            report(panic);
        }));
        tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(saved) = saved {
        // A terminal that has gone needs nothing.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &saved);
    }
}

/// Width and height of the terminal, from whichever standard stream is one.
pub fn size() -> Option<(u32, u32)> {
    let of = |size: Winsize| (u32::from(size.ws_col), u32::from(size.ws_row));
    let sizes = [
        tcgetwinsize(rustix::stdio::stdout()),
        tcgetwinsize(stdin()),
        tcgetwinsize(rustix::stdio::stderr()),
    ];
    sizes
        .into_iter()
        .flatten()
        .map(of)
        .find(|(width, height)| *width > 0 && *height > 0)
}

pub fn stdin_is_terminal() -> bool {
    isatty(stdin())
}
