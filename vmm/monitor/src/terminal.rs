// SPDX-License-Identifier: Apache-2.0
//! The user's terminal as the guest's serial console: bytes go through one by one and unechoed, but
//! ^C still ends the monitor.

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use walnut_vmm_config::Console;

/// Returns what [`restore`] needs, when there is a terminal to restore.
pub fn prepare(console: &Console) -> Option<Termios> {
    if *console != Console::Stdio {
        return None;
    }
    let saved = tcgetattr(rustix::stdio::stdin()).ok()?;
    let mut modes = saved.clone();
    modes.local_modes &= !(LocalModes::ICANON | LocalModes::ECHO);
    tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &modes).ok()?;
    Some(saved)
}

pub fn restore(saved: Option<Termios>) {
    if let Some(saved) = saved {
        // The terminal may be gone, and then there is nothing to restore.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &saved);
    }
}
