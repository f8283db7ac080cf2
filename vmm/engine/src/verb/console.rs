// SPDX-License-Identifier: Apache-2.0
//! `walnut console`: what the kernel of a container's machine has said.

use std::fs;
use std::io::{self, Write};

use super::{Known, VerbError};
use crate::cli::look::ConsoleArgs;
use crate::paths::Paths;

pub fn console(args: &ConsoleArgs, paths: &Paths) -> Result<u8, VerbError> {
    let known = Known::find(&args.name, paths)?;
    known.must_run()?;
    let path = known.config.container.machine(paths).join("console");
    let text = fs::read(&path).map_err(VerbError::Stdin)?;
    // It is the guest's: it must not drive the user's terminal.
    let shown: Vec<u8> = String::from_utf8_lossy(&text)
        .replace(|c: char| c.is_control() && !matches!(c, '\n' | '\t'), "")
        .into_bytes();
    io::stdout().write_all(&shown).map_err(VerbError::Stdout)?;
    Ok(0)
}
