// SPDX-License-Identifier: Apache-2.0
//! `walnut load` and `walnut save`.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::{VerbError, print_lines};
use crate::cli::image::{LoadArgs, SaveArgs};
use crate::events::Event;
use crate::image::{Platform, Progress, Quiet, Store, Stored, Terminal, write_file};
use crate::paths::Paths;

pub(super) fn load(args: &LoadArgs, store: &Store, paths: &Paths) -> Result<(), VerbError> {
    let (path, file) = match &args.input {
        Some(path) => (path.clone(), open(path)?),
        None if io::stdin().is_terminal() => return Err(VerbError::NothingToLoad),
        None => (PathBuf::from("stdin"), stdin()?),
    };
    let platform = Platform::wanted(args.platform.as_deref())?;
    let mut progress: Box<dyn Progress> = match args.quiet {
        true => Box::new(Quiet),
        false => Box::new(Terminal::stderr()),
    };
    let loaded = store.load_all(&path, file, &platform, &mut *progress)?;
    drop(progress);
    for image in &loaded {
        let name = image.names.first().map(ToString::to_string);
        let name = name.unwrap_or_else(|| image.id.to_string());
        Event::image(image.id, name, "load").emit(paths);
    }
    print_lines(loaded.iter().flat_map(|image| {
        let names = image.names.iter();
        let mut lines: Vec<String> = names.map(|name| format!("Loaded image: {name}")).collect();
        if lines.is_empty() {
            lines.push(format!("Loaded image ID: {}", image.id));
        }
        lines
    }))
}

pub(super) fn open(path: &Path) -> Result<File, VerbError> {
    File::open(path).map_err(|source| VerbError::Read {
        path: path.into(),
        source,
    })
}

pub(super) fn stdin() -> Result<File, VerbError> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

pub(super) fn save(args: &SaveArgs, store: &Store, paths: &Paths) -> Result<(), VerbError> {
    let wanted = args.images.iter().map(|text| text.parse::<Stored>());
    let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
    match &args.output {
        None if io::stdout().is_terminal() => return Err(VerbError::SaveToTerminal),
        None => {
            let out = BufWriter::with_capacity(128 << 10, io::stdout().lock());
            store.save(&wanted, out)?;
        }
        Some(path) => {
            let mut saved = Ok(());
            let written = write_file(path, |file| {
                saved = store.save(&wanted, BufWriter::with_capacity(128 << 10, file));
                saved.is_ok()
            });
            saved?;
            written.map_err(|source| VerbError::Write {
                path: path.clone(),
                source,
            })?;
        }
    }
    for wanted in &wanted {
        if let Ok(image) = store.look_up(wanted) {
            Event::image(image.id, image.id, "save").emit(paths);
        }
    }
    Ok(())
}
