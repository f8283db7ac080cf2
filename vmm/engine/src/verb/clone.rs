// SPDX-License-Identifier: Apache-2.0
//! `walnut clone`: others that go on where a running container is.

use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Known, VerbError, complain, refused, say};
use crate::checkpoint::Checkpoints;
use crate::cli::checkpoint::CloneArgs;
use crate::container::ContainerId;
use crate::events::Event;
use crate::network::Mode;
use crate::paths::Paths;
use crate::record::{Config, Entry, Registry, State};
use crate::run::started;
use crate::supervisor::background::{First, gave_up, spawn};

pub fn clone(args: &CloneArgs, paths: &Paths) -> Result<u8, VerbError> {
    if args.name.is_some() && args.count > 1 {
        return refused("conflicting options: --name and --count");
    }
    let known = Known::find(&args.container, paths)?;
    known.can_be_copied(paths)?;
    let container = &known.config.container;
    if let Some(volume) = container.first_named() {
        return refused(format!(
            "volume {volume} is for one container at a time: a clone can't have it"
        ));
    }
    let is_shared = |mode: &&Mode| !matches!(mode, Mode::Default | Mode::User | Mode::None);
    if let Some(mode) = container.network.modes().find(is_shared) {
        return refused(format!(
            "network {}: a clone would have the container's address there",
            mode.name()
        ));
    }
    let checkpoint = Checkpoints::of(&known.entry).create_unnamed()?;
    known.write_down(paths, checkpoint.dir(), None, true)?;
    // All of them at once; then each is waited for.
    let begun: Vec<_> = (0..args.count)
        .map(|_| begin(&known.config, args.name.clone(), checkpoint.dir(), paths))
        .collect();
    let mut code = 0;
    for clone in begun {
        let done = clone.and_then(|(entry, mut stream)| {
            started(&mut stream)?;
            say(entry.id())
        });
        if let Err(error) = done {
            complain(&error);
            code = 1;
        }
    }
    Ok(code)
}

/// Its record, and a supervisor that brings it up.
fn begin(
    of: &Config,
    name: Option<String>,
    checkpoint: &Path,
    paths: &Paths,
) -> Result<(Entry, UnixStream), VerbError> {
    let mut container = of.container.clone();
    container.id = ContainerId::random().map_err(VerbError::Id)?;
    container.name = name;
    // One port of the host is one container's.
    let is_free = |host: Option<(u16, u16)>| host.is_none_or(|(first, last)| first < last);
    container.network.publish.retain(|port| is_free(port.host));
    let (image, rootfs) = (of.image.as_str(), of.rootfs.clone());
    let mut config = Config::new(container, image, of.image_id, rootfs);
    let state = State {
        starting: true,
        ..State::default()
    };
    let (entry, alive) = Registry::new(paths).create(&mut config, &state)?;
    Event::container(&entry, &config, "create").emit(paths);
    let first = First {
        checkpoint: Some(checkpoint.to_owned()),
        ..First::default()
    };
    match spawn(paths, &entry, &alive, first) {
        Ok(stream) => Ok((entry, stream)),
        Err(error) => {
            gave_up(&entry, config.container.remove, paths, &error);
            Err(error.into())
        }
    }
}
