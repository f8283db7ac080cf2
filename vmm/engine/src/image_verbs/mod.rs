// SPDX-License-Identifier: Apache-2.0
//! What users do with images: `images`, `load`, `save`, `rmi` and the rest, from flags to what is
//! printed. The work is done in [`crate::image`].

mod facts;
mod filter;
mod history;
mod import;
mod inspect;
mod list;
mod prune;
mod registry;
mod report;
mod transfer;
mod users;

use std::io;

use thiserror::Error;
use walnut_protocol::chain;

use crate::cli::image::{ImageCommand, ImageVerb, RmiArgs, TagArgs};
use crate::events::Event;
use crate::format::FormatError;
use crate::image::{ImageError, Name, PlatformError, ReferenceError, Removed, Store, Stored};
use crate::logger;
use crate::paths::Paths;
use crate::times::TimeError;

pub use inspect::{Document, document};
pub use list::rows;
pub use prune::{Pruned, prune_images};
pub use registry::pull_missing;
pub use users::{Usage, usage, users};

#[derive(Debug, Error)]
pub enum VerbError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Time(#[from] TimeError),
    #[error("invalid filter '{0}'")]
    Filter(String),
    #[error("invalid filter: {0} is no true or false")]
    FilterBool(String),
    #[error("cowardly refusing to save to a terminal. Use the -o flag or redirect")]
    SaveToTerminal,
    #[error("requested load from stdin, but stdin is empty")]
    NothingToLoad,
    #[error("write {path}")]
    Write {
        path: std::path::PathBuf,
        source: io::Error,
    },
    #[error("read {path}")]
    Read {
        path: std::path::PathBuf,
        source: io::Error,
    },
    #[error("{0} is a URL: fetch it first, and import the file")]
    ImportUrl(String),
    #[error(transparent)]
    Registry(#[from] walnut_registry::RegistryError),
    #[error(transparent)]
    Credentials(#[from] walnut_registry::credentials::CredentialError),
    #[error("cannot perform an interactive login from a non TTY device: give -u USER")]
    NoUser,
    #[error("cannot perform an interactive login from a non TTY device: give --password-stdin")]
    NoPassword,
    #[error("--password and --password-stdin are mutually exclusive")]
    TwoPasswords,
    #[error("write the output")]
    Output(#[from] io::Error),
    /// Of several; each has been told already.
    #[error("some images failed")]
    Told,
}

impl VerbError {
    /// What was said of each image is enough.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Told)
    }

    /// Docker's, for everything but `run`.
    pub const EXIT_CODE: u8 = 1;
}

/// # Errors
/// In Docker's words where it has some.
pub fn run(verb: ImageVerb, paths: &Paths) -> Result<u8, VerbError> {
    match &verb {
        ImageVerb::Login(args) => return registry::login(args).map(|()| 0),
        ImageVerb::Logout(args) => return registry::logout(args).map(|()| 0),
        _ => {}
    }
    let store = Store::open(&paths.root)?;
    match verb {
        ImageVerb::Login(_) | ImageVerb::Logout(_) => {}
        ImageVerb::Pull(args) => registry::pull(&args, &store, paths)?,
        ImageVerb::Push(args) => registry::push(&args, &store, paths)?,
        ImageVerb::History(args) => history::history(&args, &store)?,
        ImageVerb::Images(args) => list::list(&args, &store, paths)?,
        ImageVerb::Import(args) => import::import(&args, &store, paths)?,
        ImageVerb::Load(args) => transfer::load(&args, &store, paths)?,
        ImageVerb::Rmi(args) => remove(&args, &store, paths)?,
        ImageVerb::Save(args) => transfer::save(&args, &store, paths)?,
        ImageVerb::Tag(args) => tag(&args, &store, paths)?,
        ImageVerb::Image(command) => match *command {
            ImageCommand::Inspect(args) => inspect::inspect(&args, &store)?,
            ImageCommand::Prune(args) => prune::prune(&args, &store, paths)?,
            other => return run(other.into(), paths),
        },
    }
    Ok(0)
}

fn tag(args: &TagArgs, store: &Store, paths: &Paths) -> Result<(), VerbError> {
    let source: Stored = args.source.parse()?;
    let target: Name = args.target.parse()?;
    store.tag(&source, &target)?;
    if let Ok(image) = store.look_up(&source) {
        Event::image(image.id, &target, "tag").emit(paths);
    }
    Ok(())
}

/// Writes down what became of the image with this ID.
fn removed(id: &str, removed: &[Removed], paths: &Paths) {
    for removed in removed {
        match removed {
            Removed::Untagged(name) => Event::image(id, name, "untag").emit(paths),
            Removed::Deleted(id) => Event::image(id, id, "delete").emit(paths),
        }
    }
}

fn remove(args: &RmiArgs, store: &Store, paths: &Paths) -> Result<(), VerbError> {
    let users = users(store, paths);
    let remove = |text: &String| -> Result<(), VerbError> {
        let wanted: Stored = text.parse()?;
        let id = store.look_up(&wanted).map(|image| image.id.to_string());
        let gone = store.remove(&wanted, args.force, &users)?;
        removed(id.as_deref().unwrap_or(text), &gone, paths);
        print_lines(gone.iter().map(|removed| match removed {
            Removed::Untagged(name) => format!("Untagged: {name}"),
            Removed::Deleted(id) => format!("Deleted: {id}"),
        }))
    };
    each(&args.images, remove)
}

/// All are tried; what fails is told at once.
fn each<T>(
    texts: &[String],
    mut work: impl FnMut(&String) -> Result<T, VerbError>,
) -> Result<(), VerbError> {
    let mut failed = false;
    for text in texts {
        if let Err(error) = work(text) {
            failed = true;
            tell(&error);
        }
    }
    match failed {
        false => Ok(()),
        true => Err(VerbError::Told),
    }
}

fn tell(error: &VerbError) {
    logger::say(&chain(error));
}

fn print_lines(lines: impl IntoIterator<Item = String>) -> Result<(), VerbError> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    Ok(io::Write::write_all(&mut io::stdout(), text.as_bytes())?)
}
