// SPDX-License-Identifier: Apache-2.0
//! `walnut import`: one layer, and a configuration made here.

use serde_json::json;

use super::{VerbError, print_lines, transfer};
use crate::cli::image::ImportArgs;
use crate::events::Event;
use crate::image::{Name, NewLayer, Platform, Store, Terminal, apply_change};
use crate::paths::Paths;
use crate::times::Timestamp;

pub(super) fn import(args: &ImportArgs, store: &Store, paths: &Paths) -> Result<(), VerbError> {
    let shown = args.file.display().to_string();
    let file = match shown.as_str() {
        "-" => transfer::stdin()?,
        url if url.contains("://") => return Err(VerbError::ImportUrl(shown)),
        _ => transfer::open(&args.file)?,
    };
    let platform = Platform::wanted(args.platform.as_deref())?;
    let name: Option<Name> = args.name.as_deref().map(str::parse).transpose()?;
    let created = Timestamp::now().rfc3339();
    let mut config = json!({
        "created": created,
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
    });
    for change in &args.change {
        apply_change(&mut config, change)?;
    }
    let comment = args.message.clone();
    let layer = NewLayer {
        path: args.file.clone(),
        file,
        history: json!({
            "created": created,
            "comment": comment.unwrap_or_else(|| format!("Imported from {shown}")),
        }),
    };
    let id = store.create(
        None,
        config,
        layer,
        name.as_slice(),
        &mut Terminal::stderr(),
    )?;
    Event::image(id, id, "import").emit(paths);
    print_lines([id.to_string()])
}
