// SPDX-License-Identifier: Apache-2.0
//! The machine that the engine makes, recorded: this program stands in for the monitor, writes
//! down the configuration that it is given and ends. So the monitor can be measured alone, with
//! just what `walnut run` boots, whatever that is.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use walnut_vmm_config::VmConfig;

use super::process;
use super::rows::LIMIT;
use super::stage::{Stage, StageError};
use super::walnut::{FILES, Walnut};

/// The name under which the engine starts the monitor.
pub const MONITOR: &str = "walnut-vmm";
const RECORD: &str = "machine.json";

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error("can't find this program's own file")]
    Executable(#[source] io::Error),
    #[error("the engine started no monitor: {said}")]
    NoMonitor { said: String, source: io::Error },
    #[error("the engine's machine is malformed")]
    Malformed(#[source] serde_json::Error),
}

/// What the engine tells the monitor for `walnut run FLAGS IMAGE COMMAND…`.
///
/// # Errors
/// The engine failed before it started a monitor, or speaks another language.
pub fn record(
    stage: &Stage,
    walnut: &Walnut,
    flags: &[&str],
    image_and_command: &[&str],
) -> Result<VmConfig, RecordError> {
    let libexec = stage.directory("record")?;
    for name in FILES.iter().filter(|name| **name != MONITOR) {
        let _ = fs::remove_file(libexec.join(name));
        stage.link(&walnut.file(name), &format!("record/{name}"))?;
    }
    let own = std::env::current_exe().map_err(RecordError::Executable)?;
    stage.copy(&own, &format!("record/{MONITOR}"))?;
    let mut command = walnut.run(flags, image_and_command);
    command.env("WALNUT_LIBEXEC", &libexec);
    // It fails: its monitor is none.
    let said = process::run("walnut run", &mut command, LIMIT).err();
    let said = said.map_or_else(String::new, |error| error.to_string());
    let document =
        fs::read(libexec.join(RECORD)).map_err(|source| RecordError::NoMonitor { said, source })?;
    let mut config: VmConfig = serde_json::from_slice(&document).map_err(RecordError::Malformed)?;
    config.kernel = walnut.file("vmlinux");
    if let Some(guest) = config.pmem.first_mut() {
        guest.path = walnut.file("guest.erofs");
    }
    Ok(config)
}

/// Whether this program was started as the monitor, and by which path.
#[must_use]
pub fn invoked_as_monitor() -> Option<PathBuf> {
    let name = PathBuf::from(std::env::args_os().next()?);
    (name.file_name()? == MONITOR).then_some(name)
}

/// Plays the monitor: `--config-fd N`.
///
/// # Errors
/// The configuration can't be read, or the record not be written.
pub fn play_monitor(own_path: &Path) -> io::Result<()> {
    let mut args = std::env::args().skip_while(|arg| arg != "--config-fd");
    let fd: Option<RawFd> = args.nth(1).and_then(|number| number.parse().ok());
    let fd = fd.filter(|fd| *fd > 2).ok_or(io::ErrorKind::InvalidInput)?;
    let mut document = Vec::new();
    inherited(fd).read_to_end(&mut document)?;
    let directory = own_path.parent().ok_or(io::ErrorKind::NotFound)?;
    fs::write(directory.join(RECORD), document)
}

#[expect(
    unsafe_code,
    reason = "a descriptor's number is all that comes by command line"
)]
fn inherited(fd: RawFd) -> File {
    // SAFETY: the caller of this program passes the descriptor on for this one use; nothing else
    // here knows its number.
    File::from(unsafe { OwnedFd::from_raw_fd(fd) })
}
