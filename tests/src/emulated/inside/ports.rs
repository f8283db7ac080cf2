// SPDX-License-Identifier: Apache-2.0
//! The virtio-serial ports: their device nodes appear some time after the driver is loaded.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::path::PathBuf;

use rustix::fs::inotify;

use crate::emulated::wire::{HELLO, Port};

/// All ports, open and greeted.
pub(super) struct Ports {
    pub(super) control: File,
    pub(super) stdin: File,
    pub(super) stdout: File,
    pub(super) stderr: File,
}

impl Ports {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            control: open(Port::Control)?,
            stdin: open(Port::Stdin)?,
            stdout: open(Port::Stdout)?,
            stderr: open(Port::Stderr)?,
        })
    }
}

fn open(port: Port) -> io::Result<File> {
    let node = await_node(port)?;
    let mut file = OpenOptions::new().read(true).write(true).open(node)?;
    file.write_all(&[HELLO])?;
    Ok(file)
}

/// Returns once the port's node is in `/dev`: `vport<device>p<number>`.
fn await_node(port: Port) -> io::Result<PathBuf> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, "/dev", inotify::WatchFlags::CREATE)?;
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let ending = format!("p{}", port.number());
    loop {
        for entry in fs::read_dir("/dev")? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name
                .strip_prefix("vport")
                .is_some_and(|rest| rest.ends_with(&ending))
            {
                return Ok(entry.path());
            }
        }
        events.next()?;
    }
}
