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

impl OwnMachine {
    fn resume(&self) -> Result<(), String> {
        let resumed = self.vm.control.tell(&Command::Resume, &[]);
        resumed.map_err(|e| format!("let the machine go on: {}", chain(&e)))
    }
}

impl Shared {
    /// Writes a checkpoint into `dir`, which becomes `to` when it is whole; without `to` it is used
    /// where it is, and not for long. Only then does the container go on, or end.
    pub fn checkpoint(
        &self,
        dir: &Path,
        to: Option<&Path>,
        leave_running: bool,
    ) -> Result<(), String> {
        // One at a time: the machine stands still for one of them only.
        let _alone = self.checkpointing();
        let machine = self.running()?;
        if let Some(to) = to.filter(|to| to.exists()) {
            let name = to.file_name().unwrap_or_default().to_string_lossy();
            return Err(chain(&CheckpointError::Exists {
                name: name.into_owned(),
                container: self.entry.short().to_owned(),
            }));
        }
        let writer = Writer::new(dir, to.is_some()).map_err(|e| chain(&e))?;
        let finish = |record: Record| {
            let recorded = writer.record(&record);
            let published = recorded.and_then(|()| to.map_or(Ok(()), |to| writer.publish(to)));
            published.map_err(|e| chain(&e))
        };
        let written = self.write_down(&machine, &writer);
        if leave_running {
            // What is left takes its time, and nothing of it is the machine's.
            let resumed = machine.resume();
            return written.and_then(finish).and(resumed);
        }
        let finished = written.and_then(finish);
        if finished.is_err() {
            return finished.and(machine.resume());
        }
        self.end_machine(&machine)?;
        // Whoever asked may want to start it again at once.
        self.wait_over();
        Ok(())
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

    /// The machine stands still from here on, and with it what it writes to.
    fn write_down(&self, machine: &OwnMachine, writer: &Writer<'_>) -> Result<Record, String> {
        let artifacts = Artifacts::find().map_err(|e| chain(&e))?;
        let made = Made::of(&artifacts).map_err(|e| chain(&e))?;
        let files = writer.files().map_err(|e| chain(&e))?;
        let control = &machine.vm.control;
        control
            .tell(&Command::Snapshot, &files.each_ref().map(AsFd::as_fd))
            .map_err(|e| format!("write the machine down: {}", chain(&e)))?;
        let volumes = machine.volumes.iter();
        let volumes = volumes.map(|(name, path)| Ok((name.clone(), Stamp::of(path)?)));
        let record = || -> Result<Record, CheckpointError> {
            Ok(Record {
                made,
                created: Timestamp::now(),
                container_id: self.container_id.clone(),
                hardware: machine.vm.hardware.clone(),
                streams: machine.streams,
                disk: writer.copy_disk(&self.entry.disk())?,
                network: machine.network.hold().attachment(),
                volumes: volumes.collect::<Result<_, CheckpointError>>()?,
            })
        };
        record().map_err(|e| chain(&e))
    }
}
