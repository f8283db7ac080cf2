// SPDX-License-Identifier: Apache-2.0
//! `checkpoint create`, `ls`, `rm`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use walnut_protocol::agent::ContainerRequest;

use super::{Known, VerbError, happened, refused, say};
use crate::checkpoint::Checkpoints;
use crate::cli::checkpoint::{CheckpointCommand, CreateArgs, LsArgs, RmArgs};
use crate::container::Container;
use crate::format::Columns;
use crate::paths::Paths;
use crate::record::Registry;
use crate::supervisor::client;
use crate::supervisor::wire::Request;
use crate::times::{Timestamp, human_duration};
use crate::units::human_size;
use crate::vm;

const HEADER: &str = "CHECKPOINT NAME\tCREATED\tSIZE";

pub fn checkpoint(command: &CheckpointCommand, paths: &Paths) -> Result<u8, VerbError> {
    match command {
        CheckpointCommand::Create(args) => create(args, paths),
        CheckpointCommand::Ls(args) => ls(args, paths),
        CheckpointCommand::Rm(args) => rm(args, paths),
    }
}

fn create(args: &CreateArgs, paths: &Paths) -> Result<u8, VerbError> {
    let known = Known::find(&args.container, paths)?;
    let checkpoints = Checkpoints::of(&known.entry);
    let path = checkpoints.path(&args.checkpoint)?;
    known.can_be_copied(paths)?;
    let container = &known.config.container;
    if container.remove {
        return refused(format!(
            "container {} is removed at its end (--rm), and its checkpoints with it",
            known.entry.short()
        ));
    }
    if args.leave_running
        && let Some(volume) = container.first_named()
    {
        return refused(format!(
            "volume {volume}: a container that goes on writes to it, and its checkpoint would not fit \
             it any more; do without --leave-running"
        ));
    }
    let part = checkpoints.create(&args.checkpoint)?;
    known.write_down(paths, part.dir(), Some(path), args.leave_running)?;
    happened(&known.entry, paths, "checkpoint");
    say(&args.checkpoint)?;
    Ok(0)
}

impl Known {
    /// Whether the container's machine can go on elsewhere.
    pub(super) fn can_be_copied(&self, paths: &Paths) -> Result<(), VerbError> {
        self.must_run()?;
        if let Some(place) = &self.config.container.in_vm {
            return refused(format!(
                "container {} is in the machine of {}, which has more in it",
                self.entry.short(),
                place.machine()
            ));
        }
        let all = Registry::new(paths).list();
        let tenant = all.iter().find(|(_, config, state)| {
            let place = config.container.in_vm.as_ref();
            state.is_claimed() && place.is_some_and(|place| place.host == self.entry.id())
        });
        match tenant {
            Some((_, config, _)) => refused(format!(
                "container {} is in its machine as well: stop that first",
                config.name()
            )),
            None => Ok(()),
        }
    }

    /// Has its supervisor write a checkpoint into `dir`, which then is `to`; says what whoever goes
    /// on from there will miss.
    pub(super) fn write_down(
        &self,
        paths: &Paths,
        dir: &Path,
        to: Option<PathBuf>,
        leave_running: bool,
    ) -> Result<(), VerbError> {
        let lost = self.connections(paths);
        let request = Request::Checkpoint {
            dir: dir.to_owned(),
            to,
            leave_running,
        };
        client::request(paths, &self.entry, request)?;
        if let Some(lost) = lost {
            log::warn!("{lost}");
        }
        Ok(())
    }

    /// Its connections to others, in words.
    fn connections(&self, paths: &Paths) -> Option<String> {
        let agent = vm::agent(&self.config.container.vsock(paths)).ok()?;
        let request = ContainerRequest {
            container_id: self.config.container.id.to_string(),
            ..ContainerRequest::default()
        };
        let found = agent
            .within(crate::supervisor::shared::CALL_TIMEOUT)
            .connections(&request)
            .inspect_err(|e| log::debug!("look at its connections: {e}"))
            .ok()?;
        // The guest's word: an address, or nothing that a terminal should see.
        let first: SocketAddr = found.peers.first()?.parse().ok()?;
        let count = found.established;
        Some(match count {
            1 => format!(
                "its TCP connection to {first} is not part of the checkpoint: it will break"
            ),
            count => format!(
                "its {count} TCP connections are not part of the checkpoint and will break; the first \
                 is to {first}"
            ),
        })
    }
}

impl Container {
    /// One of its volumes that is named.
    pub(super) fn first_named(&self) -> Option<&str> {
        let named = self.volumes.iter().filter(|volume| !volume.readonly);
        named.filter_map(|volume| volume.name.as_deref()).next()
    }
}

fn ls(args: &LsArgs, paths: &Paths) -> Result<u8, VerbError> {
    let entry = Registry::new(paths).find(&args.container)?;
    let all = Checkpoints::of(&entry).list();
    if args.quiet {
        for checkpoint in all {
            say(&checkpoint.name)?;
        }
        return Ok(0);
    }
    let mut columns = Columns::default();
    columns.push(HEADER);
    let now = Timestamp::now();
    for checkpoint in all {
        let age = human_duration(now.since(checkpoint.created));
        let size = human_size(checkpoint.size);
        columns.push(&format!("{}\t{age} ago\t{size}", checkpoint.name));
    }
    columns
        .write(&mut std::io::stdout())
        .map_err(VerbError::Stdout)?;
    Ok(0)
}

fn rm(args: &RmArgs, paths: &Paths) -> Result<u8, VerbError> {
    let entry = Registry::new(paths).find(&args.container)?;
    Checkpoints::of(&entry).remove(&args.checkpoint)?;
    Ok(0)
}
