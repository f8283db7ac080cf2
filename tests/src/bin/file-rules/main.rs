// SPDX-License-Identifier: Apache-2.0
//! `file-rules DIR`: whether DIR's file system keeps the promises that programs build on. Runs in a
//! container, on a volume; a line for each rule, the exit status says whether all hold.

#![deny(unsafe_code)]

mod data;
mod locks;
mod mapped;
mod names;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};

type Rule = fn(&Path) -> anyhow::Result<()>;

const RULES: [(&str, Rule); 16] = [
    ("owners and modes", names::owners),
    ("permissions", names::permissions),
    ("hard links", names::hard_links),
    ("symbolic links", names::symbolic_links),
    ("special files", names::special_files),
    ("extended attributes", names::attributes),
    ("flock", locks::flock),
    ("fcntl locks", locks::fcntl_locks),
    ("rename", names::rename),
    ("fsync", data::fsync),
    ("mmap", mapped::mmap),
    ("O_DIRECT", data::direct),
    ("inotify", data::notify),
    ("holes", data::holes),
    ("append and truncate", data::append),
    ("many files", names::many),
];

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let result = match args.as_slice() {
        [dir] => all(Path::new(dir)),
        [what, path] if what == "--flock" => locks::probe_flock(Path::new(path)),
        [what, path] if what == "--fcntl" => locks::probe_fcntl(Path::new(path)),
        [what, path] if what == "--read" => fs::read(path).map(drop).map_err(Into::into),
        _ => {
            eprintln!("usage: file-rules DIR");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("file-rules: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn all(dir: &Path) -> anyhow::Result<()> {
    let mut broken = 0;
    let mut out = std::io::stdout();
    for (name, rule) in RULES {
        let own = dir.join(name.replace(' ', "-"));
        fs::create_dir(&own).with_context(|| format!("make {}", own.display()))?;
        match rule(&own) {
            Ok(()) => writeln!(out, "ok {name}")?,
            Err(error) => {
                broken += 1;
                writeln!(out, "BROKEN {name}: {error:#}")?;
            }
        }
    }
    ensure!(broken == 0, "{broken} rules do not hold");
    Ok(())
}

/// This program again, with other arguments; whether it succeeds.
fn again(args: [&str; 2], user: Option<u32>) -> anyhow::Result<bool> {
    let mut command = Command::new(env::current_exe()?);
    command.args(args).stderr(Stdio::null());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    Ok(command.status()?.success())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
