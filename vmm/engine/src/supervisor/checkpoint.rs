// SPDX-License-Identifier: Apache-2.0
//! A checkpoint of the container that this process runs: its machine stands still while it is
//! written, and then goes on, or not.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walnut_protocol::chain;
use walnut_vmm_config::Command;

use super::networking::Networking;
use super::process::Ports;
use super::shared::Shared;
use crate::checkpoint::{CheckpointError, Record, Writer};
use crate::paths::Artifacts;
use crate::record::Status;
use crate::template::{Made, Stamp};
use crate::times::Timestamp;
use crate::vm::Handle;

/// The machine that a container has for itself.
#[derive(Debug)]
pub struct OwnMachine {
    pub vm: Handle,
    pub streams: Ports,
    /// Named volumes that it may write to, and their files.
    pub volumes: Vec<(String, PathBuf)>,
    pub network: Arc<Networking>,
}

impl Shared {
    /// Writes a checkpoint's files into `dir`.
    pub fn checkpoint(&self, dir: &Path, leave_running: bool, durable: bool) -> Result<(), String> {
        let machine = self.running()?;
        // One at a time: the machine stands still for one of them only.
        let _alone = self.checkpointing();
        let writer = Writer::new(dir, durable);
        let artifacts = Artifacts::find().map_err(|e| chain(&e))?;
        let made = Made::of(&artifacts).map_err(|e| chain(&e))?;
        // It is forgotten with the machine's end.
        let network = machine.network.hold().attachment();
        let written = self.write_files(&machine, &writer);
        if leave_running || written.is_err() {
            let resumed = machine.vm.control.tell(&Command::Resume, &[]);
            written?;
            resumed.map_err(|e| chain(&e))?;
        } else {
            self.ends_for_checkpoint();
            machine.vm.kill().map_err(|e| chain(&e))?;
        }
        let volumes = machine.volumes.iter();
        let volumes = volumes.map(|(name, path)| Ok((name.clone(), Stamp::of(path)?)));
        let sealed = || -> Result<(), CheckpointError> {
            writer.record(&Record {
                made,
                created: Timestamp::now(),
                container_id: self.container_id.clone(),
                hardware: machine.vm.hardware.clone(),
                streams: machine.streams,
                network,
                volumes: volumes.collect::<Result<_, CheckpointError>>()?,
            })
        };
        let done = sealed().map_err(|e| chain(&e));
        if !leave_running {
            // Whoever asked may want to start it again at once.
            self.wait_over();
        }
        done
    }

    fn running(&self) -> Result<Arc<OwnMachine>, String> {
        let short = self.entry.short();
        match self.state().status {
            Status::Running => {}
            Status::Paused => {
                return Err(format!("container {short} is paused: unpause it first"));
            }
            _ => return Err(format!("container {short} is not running")),
        }
        self.machine()
            .ok_or_else(|| format!("container {short} is not running"))
    }

    /// The machine stands still from here on.
    fn write_files(&self, machine: &OwnMachine, writer: &Writer<'_>) -> Result<(), String> {
        let files = writer.files().map_err(|e| chain(&e))?;
        let control = &machine.vm.control;
        control
            .tell(&Command::Snapshot, &files.each_ref().map(AsFd::as_fd))
            .map_err(|e| format!("write the machine down: {}", chain(&e)))?;
        let copied = writer.copy_disk(&self.entry.disk());
        copied.and_then(|()| writer.seal()).map_err(|e| chain(&e))
    }
}
