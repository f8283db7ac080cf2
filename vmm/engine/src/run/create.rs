// SPDX-License-Identifier: Apache-2.0
//! From flags to a container on disk.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::{RunError, in_vm};
use crate::cli::run::{ContainerArgs, PullPolicy};
use crate::container::{Container, ContainerError, ImageDefaults};
use crate::image::{
    Image, ImageError, Platform, Progress, Quiet, Reference, Store, Stored, Terminal,
};
use crate::image_verbs;
use crate::network::{Mode, check_others};
use crate::networks::Networks;
use crate::paths::Paths;
use crate::record::{Alive, Config, Entry, Registry, State};
use crate::volumes;

/// A container that was just made, and is still ours alone.
pub struct Made {
    pub entry: Entry,
    pub alive: Alive,
    pub config: Config,
    /// Held while the container runs, so that nobody removes the image.
    pub image: Option<Image>,
}

/// Makes one. With `starting`, whoever finds it without its maker knows that it never ran.
pub fn create(args: &ContainerArgs, paths: &Paths, starting: bool) -> Result<Made, RunError> {
    let here = std::env::current_dir().map_err(RunError::WorkingDir)?;
    let mut container = Container::from_flags(args, &here)?;
    if let Some(path) = args.cidfile.as_ref().filter(|path| path.exists()) {
        return Err(RunError::CidfileExists(path.clone()));
    }
    let wanted = &mut container.network;
    let others = wanted.others.iter_mut().map(|other| &mut other.mode);
    for mode in [&mut wanted.mode].into_iter().chain(others) {
        if let Mode::Network(name) = mode {
            *name = Networks::new(paths).find(name)?.name;
        }
    }
    check_others(&wanted.mode, &wanted.others).map_err(ContainerError::from)?;
    let root = Root::find(args, paths)?;
    container.apply_image(args.entrypoint.as_deref(), root.command, &root.defaults)?;
    volumes_from(&mut container, &args.volumes_from, paths)?;
    let image_id = root.image.as_ref().map(|image| image.id);
    in_vm::settle(&mut container, args, image_id, paths)?;
    if container.in_vm.is_none() {
        let made = volumes::make_all(paths, &mut container.volumes);
        made.inspect_err(|_| volumes::remove_anonymous(paths, &container.volumes))?;
    }
    let mut config = Config::new(container, root.name, image_id, root.directory);
    let recorded = record(&mut config, args.cidfile.as_deref(), paths, starting);
    // Nobody else has them.
    let (entry, alive) = recorded.inspect_err(|_| {
        volumes::remove_anonymous(paths, &config.container.volumes);
    })?;
    Ok(Made {
        entry,
        alive,
        config,
        image: root.image,
    })
}

/// Writes it down, and its ID where that is wanted.
fn record(
    config: &mut Config,
    cidfile: Option<&Path>,
    paths: &Paths,
    starting: bool,
) -> Result<(Entry, Alive), RunError> {
    let state = State {
        starting,
        ..State::default()
    };
    let (entry, alive) = Registry::new(paths).create(config, &state)?;
    if let Some(path) = cidfile
        && let Err(error) = write_cidfile(path, entry.id())
    {
        entry.remove()?;
        return Err(error);
    }
    Ok((entry, alive))
}

/// Adds what other containers have mounted, but where this one has something itself.
fn volumes_from(
    container: &mut Container,
    others: &[String],
    paths: &Paths,
) -> Result<(), RunError> {
    for text in others {
        let (name, readonly) = match text.rsplit_once(':') {
            Some((name, "ro")) => (name, true),
            Some((name, "rw" | "z" | "Z")) => (name, false),
            _ => (text.as_str(), false),
        };
        let other = Registry::new(paths).find(name)?.config()?.container;
        for mut volume in other.volumes {
            let taken = container
                .volumes
                .iter()
                .any(|own| own.target == volume.target);
            if !taken {
                volume.readonly |= readonly;
                // It stays the other one's.
                volume.anonymous = false;
                container.volumes.push(volume);
            }
        }
    }
    Ok(())
}

fn write_cidfile(path: &Path, id: &str) -> Result<(), RunError> {
    let write = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)?
            .write_all(id.as_bytes())
    };
    write().map_err(|source| RunError::Cidfile {
        path: path.to_owned(),
        source,
    })
}

/// Where the container's files come from, and what its image says.
struct Root<'a> {
    /// As the user gave it.
    name: &'a str,
    directory: Option<PathBuf>,
    defaults: ImageDefaults,
    command: &'a [String],
    image: Option<Image>,
}

impl<'a> Root<'a> {
    fn find(args: &'a ContainerArgs, paths: &Paths) -> Result<Self, RunError> {
        if let Some(dir) = &args.rootfs {
            return Ok(Self {
                name: "",
                directory: Some(directory(dir)?),
                defaults: ImageDefaults::default(),
                command: &args.args,
                image: None,
            });
        }
        let (name, command) = args.args.split_first().ok_or(ContainerError::NoCommand)?;
        let image = find_image(name, args, paths)?;
        Ok(Self {
            name,
            directory: None,
            defaults: ImageDefaults {
                health: image.health.clone(),
                ..ImageDefaults::from(&image.config)
            },
            command,
            image: Some(image),
        })
    }
}

fn directory(path: &Path) -> Result<PathBuf, RunError> {
    let fail = |source| RunError::Rootfs {
        path: path.to_owned(),
        source,
    };
    let path = std::fs::canonicalize(path).map_err(fail)?;
    let is_dir = std::fs::metadata(&path).map_err(fail)?.is_dir();
    if is_dir {
        Ok(path)
    } else {
        Err(RunError::RootfsKind(path))
    }
}

/// From the store, or out of an archive or a registry into the store.
fn find_image(name: &str, args: &ContainerArgs, paths: &Paths) -> Result<Image, RunError> {
    let reference: Reference = name.parse()?;
    let platform = Platform::wanted(args.platform.as_deref())?;
    let store = Store::open(&paths.root)?;
    // Elsewhere stderr is the container's.
    let mut progress: Box<dyn Progress> = if io::stderr().is_terminal() && !args.quiet {
        Box::new(Terminal::stderr())
    } else {
        Box::new(Quiet)
    };
    let remote = match &reference {
        Reference::Stored(Stored::Name(name) | Stored::NameOrId { name, .. }) => Some(name),
        _ => None,
    };
    let pull = |name| image_verbs::pull_missing(&store, name, &platform, paths);
    match remote {
        Some(name) if args.pull == PullPolicy::Always => pull(name).map_err(Box::new)?,
        _ => {}
    }
    match (store.resolve(&reference, &platform, &mut *progress), remote) {
        (Err(ImageError::NotFound(_)), Some(name)) if args.pull == PullPolicy::Missing => {
            pull(name).map_err(Box::new)?;
            Ok(store.resolve(&reference, &platform, &mut *progress)?)
        }
        (resolved, _) => Ok(resolved?),
    }
}
