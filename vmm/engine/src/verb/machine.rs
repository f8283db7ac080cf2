// SPDX-License-Identifier: Apache-2.0
//! `walnut exec --vm`: a process beside the container, in a machine that has no programs. The host's
//! static busybox is brought in.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Command;

use walnut_archive::Packer;

use super::{Known, VerbError, refused};
use crate::files::Files;
use crate::paths::Paths;
use crate::vm;

/// Where the tools are in the guest.
const TOOLS: &str = "/run/walnut/tools";
pub(super) const ENV: [&str; 2] = ["PATH=/run/walnut/tools", "HOME=/"];
const BUSYBOX: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox"];
const SHELL: &str = "sh";

/// Brings the tools in; what to run.
pub(super) fn prepare(
    known: &Known,
    paths: &Paths,
    command: &[String],
) -> Result<Vec<String>, VerbError> {
    let mut candidates = BUSYBOX.iter().map(Path::new);
    let Some(busybox) = candidates.find(|path| is_static(path)) else {
        return refused(
            "exec --vm: no static busybox on this machine; `apt-get install busybox-static` brings it",
        );
    };
    let vsock = known.config.container.vsock(paths);
    let files = Files {
        agent: vm::agent(&vsock)?,
        vsock,
        container: &known.config.container,
    };
    files.unpack_in_machine(Path::new(TOOLS), |to| bring(busybox, to))?;
    match command {
        [] => Ok(vec![SHELL.to_owned()]),
        command => Ok(command.to_vec()),
    }
}

/// The program, and a name for each of its applets.
fn bring(busybox: &Path, to: impl Write) -> Result<(), VerbError> {
    let list = Command::new(busybox).arg("--list").output();
    let list = list.map_err(VerbError::Stdin)?;
    let names = String::from_utf8_lossy(&list.stdout).into_owned();
    let mut packer = Packer::new(io::BufWriter::with_capacity(64 << 10, to), false);
    packer.add(busybox, Path::new("busybox"))?;
    for name in names.lines().chain([SHELL]) {
        let is_plain = !name.is_empty() && !name.contains('/') && name != "busybox";
        if is_plain {
            packer.add_link(Path::new(name), Path::new("busybox"))?;
        }
    }
    let mut out = packer.finish()?;
    out.flush().map_err(VerbError::Stdout)
}

/// An ELF program that names no interpreter (elf(5)): nothing else has to be there for it.
fn is_static(path: &Path) -> bool {
    const HEADER: usize = 64;
    const ENTRY: usize = 56;
    const MAX_ENTRIES: usize = 64;
    const PT_INTERP: [u8; 4] = [3, 0, 0, 0];
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let most = HEADER + ENTRY * MAX_ENTRIES;
        File::open(path)?
            .take(most as u64)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let Ok(bytes) = read() else { return false };
    // 64 bits, little endian; the program headers stand right behind the file's own.
    let is_elf = bytes.starts_with(b"\x7fELF\x02\x01") && bytes.get(32) == Some(&64);
    let count = bytes.get(56).copied().map_or(0, usize::from);
    let headers = bytes.get(HEADER..).unwrap_or_default();
    let mut headers = headers.chunks_exact(ENTRY).take(count);
    is_elf && count > 0 && !headers.any(|header| header.starts_with(&PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_programs() {
        // The tests' own is one, as all programs here.
        assert!(is_static(&std::env::current_exe().unwrap()));
        assert!(!is_static(Path::new("/bin/ls")));
        assert!(!is_static(Path::new("/etc/passwd")));
        assert!(!is_static(Path::new("/nonexistent")));
    }
}
