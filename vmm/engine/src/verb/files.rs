// SPDX-License-Identifier: Apache-2.0
//! `diff`, `export` and `commit`, and the way of all verbs to a container's files.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Known, VerbError, refused, say};
use crate::cli::files::{CommitArgs, DiffArgs, ExportArgs};
use crate::container::Container;
use crate::files::{Files, copy};
use crate::image::{Name, NewLayer, Store, Terminal, apply_change};
use crate::paths::{Artifacts, Paths};
use crate::record::{Config, Status};
use crate::run::RunError;
use crate::supervisor::client;
use crate::supervisor::wire::Request;
use crate::supervisor::{Supervisor, image_of};
use crate::times::Timestamp;
use crate::vm;

/// A path in a container: relative ones are the root's.
pub(super) fn at(path: &str) -> String {
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    }
}

/// Has `work` done with a container's files: by the machine it runs in, or one that is started for
/// that.
pub(super) fn with_files<T>(
    name: &str,
    paths: &Paths,
    work: impl FnOnce(&Files<'_>) -> Result<T, VerbError>,
) -> Result<T, VerbError> {
    let known = Known::find(name, paths)?;
    if known.state.is_up() {
        let vsock = known.config.container.vsock(paths);
        return work(&Files {
            agent: vm::agent(&vsock)?,
            vsock,
            container: &known.config.container,
        });
    }
    if known.config.container.in_vm.is_some() {
        return refused(format!(
            "container {} is not running, and its files were in the memory of another one's machine",
            known.entry.short()
        ));
    }
    walnut_vmm_host::check().map_err(RunError::from)?;
    let artifacts = Artifacts::find().map_err(RunError::from)?;
    let _visit = known.entry.visit()?;
    let change = known.entry.change()?;
    let state = known.entry.correct(&change)?;
    if state.is_claimed() {
        return refused(format!(
            "container {} is just being started",
            known.entry.short()
        ));
    }
    // Nor does another command visit it: whoever still has it has written its end, and is about to go.
    let alive = known.entry.claim_ended(&change)?;
    // The work takes as long as somebody likes. Others find the container in use meanwhile.
    drop(change);
    let image = image_of(&known.config, paths).map_err(RunError::from)?;
    let supervisor = Supervisor {
        checkpoint: None,
        paths,
        artifacts: &artifacts,
        config: known.config,
        entry: known.entry,
        alive,
        image,
        own_streams: false,
        tty_size: None,
    };
    supervisor.visit(work)
}

/// What lies over an image can be told from it.
fn must_have_image(config: &Config, what: &str) -> Result<(), VerbError> {
    match config.image_id {
        Some(_) => Ok(()),
        None => refused(format!(
            "{what}: the container has no image; what it writes is in its directory"
        )),
    }
}

pub fn diff(args: &DiffArgs, paths: &Paths) -> Result<u8, VerbError> {
    must_have_image(&Known::find(&args.name, paths)?.config, "diff")?;
    let changes = with_files(&args.name, paths, |files| Ok(files.changes()?))?;
    for change in changes {
        say(&format!("{} {}", change.kind, change.path))?;
    }
    Ok(0)
}

pub fn export(args: &ExportArgs, paths: &Paths) -> Result<u8, VerbError> {
    if args.output.is_none() && io::stdout().is_terminal() {
        return refused("cowardly refusing to save to a terminal. Use the -o flag or redirect");
    }
    let Some(path) = &args.output else {
        with_files(&args.name, paths, |files| {
            files.export(|from| copy(from, io::stdout()).map_err(VerbError::Stdout))
        })?;
        return Ok(0);
    };
    // Whole or not at all.
    let new = PathBuf::from(format!("{}.new", path.display()));
    let failed = |source| VerbError::Output {
        path: path.clone(),
        source,
    };
    let written = with_files(&args.name, paths, |files| {
        let file = File::create(&new).map_err(failed)?;
        files.export(|from| copy(from, &file).map_err(failed))
    });
    let written = written.and_then(|_| std::fs::rename(&new, path).map_err(failed));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&new);
    }
    written.map(|()| 0)
}

pub fn commit(args: &CommitArgs, paths: &Paths) -> Result<u8, VerbError> {
    let known = Known::find(&args.container, paths)?;
    must_have_image(&known.config, "commit")?;
    let image = image_of(&known.config, paths).map_err(RunError::from)?;
    let Some(image) = image else {
        return refused("commit: the container has no image");
    };
    let store = Store::open(&paths.root).map_err(RunError::from)?;
    let name: Option<Name> = args
        .name
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(RunError::from)?;
    let base = store.look_up(&image.id.to_string().parse().map_err(RunError::from)?);
    let base = base.map_err(RunError::from)?.digest;
    let config = configuration(args, &known.config.container, &store, image.id)?;
    let pauses = args.pause && known.state.status == Status::Running;
    let pause = |request| client::request(paths, &known.entry, request);
    if pauses {
        pause(Request::Pause)?;
    }
    let layer = with_files(&args.container, paths, |files| {
        files.layer(|from| {
            let mut file = tempfile(paths)?;
            copy(from, &mut file).map_err(VerbError::Stdout)?;
            Ok(file)
        })
    });
    if pauses {
        pause(Request::Unpause)?;
    }
    let layer = NewLayer {
        path: PathBuf::from(known.entry.short()),
        file: layer?,
        history: json!({
            "created": Timestamp::now().rfc3339(),
            "author": args.author.clone().unwrap_or_default(),
            "created_by": known.config.container.args.join(" "),
            "comment": args.message.clone().unwrap_or_default(),
        }),
    };
    let id = store
        .create(
            Some(base),
            config,
            layer,
            name.as_slice(),
            &mut Terminal::stderr(),
        )
        .map_err(RunError::from)?;
    say(&id.to_string())?;
    Ok(0)
}

/// A file without a name, beside what it becomes.
fn tempfile(paths: &Paths) -> Result<File, VerbError> {
    crate::image::unnamed_file(&paths.root).map_err(|e| RunError::from(e).into())
}

/// The image's, as the container's flags and `--change` have it.
fn configuration(
    args: &CommitArgs,
    container: &Container,
    store: &Store,
    id: crate::image::Digest,
) -> Result<Value, VerbError> {
    let bytes = store.configuration(id).map_err(RunError::from)?;
    let broken = |source| {
        RunError::from(crate::image::ImageError::Json {
            what: "the image's configuration".into(),
            source,
        })
    };
    let mut config: Value = serde_json::from_slice(&bytes).map_err(broken)?;
    config["created"] = Timestamp::now().rfc3339().into();
    if let Some(author) = &args.author {
        config["author"] = author.clone().into();
    }
    let own = &mut config["config"];
    // What the agent sets for each container is no part of the image.
    let env: Vec<&String> = container
        .env
        .iter()
        .filter(|line| !line.starts_with("HOSTNAME=") && !line.starts_with("HOME="))
        .filter(|line| !container.tty || !line.starts_with("TERM="))
        .collect();
    own["Env"] = json!(env);
    own["WorkingDir"] = container.cwd.clone().into();
    own["User"] = container.user.clone().into();
    own["Entrypoint"] = Value::Null;
    own["Cmd"] = json!(container.args);
    if !container.labels.is_empty() {
        if !own["Labels"].is_object() {
            own["Labels"] = json!({});
        }
        for (name, value) in &container.labels {
            own["Labels"][name] = value.clone().into();
        }
    }
    for change in &args.change {
        apply_change(&mut config, change).map_err(RunError::from)?;
    }
    Ok(config)
}
