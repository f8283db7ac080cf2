// SPDX-License-Identifier: Apache-2.0
//! `walnut history`.

use std::io;

use serde_json::{Value, json};

use super::VerbError;
use super::facts::Facts;
use super::list::since;
use crate::cli::image::HistoryArgs;
use crate::format::Listing;
use crate::image::Store;
use crate::units::decimal_size;

const HISTORY: Listing = Listing {
    headers: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
    ],
    table: "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    quiet: "{{.ID}}",
};
const EXACT: &str = "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const MISSING: &str = "<missing>";
/// Characters of a step's command, its ellipsis included.
const CREATED_BY: usize = 45;

pub(super) fn history(args: &HistoryArgs, store: &Store) -> Result<(), VerbError> {
    let image = store.look_up(&args.image.parse()?)?;
    let facts = Facts::read(store, image.id)?;
    let mut sizes = store.layer_sizes(image.digest)?.into_iter();
    let mut rows: Vec<Value> = Vec::new();
    for step in &facts.history {
        let size = match step.empty_layer {
            true => 0,
            false => sizes.next().unwrap_or(0),
        };
        let created = step.created.unwrap_or_default();
        rows.push(json!({
            "ID": MISSING,
            "CreatedAt": created.rfc3339(),
            "CreatedSince": match args.human {
                true => since(step.created),
                false => created.rfc3339(),
            },
            "CreatedBy": shorten(&step.created_by.replace('\t', " "), args.no_trunc),
            "Size": match args.human {
                true => decimal_size(size),
                false => size.to_string(),
            },
            "Comment": step.comment,
        }));
    }
    if let Some(last) = rows.last_mut() {
        last["ID"] = match args.no_trunc {
            true => image.id.to_string(),
            false => image.id.short(),
        }
        .into();
    }
    rows.reverse();
    let listing = match args.human {
        true => HISTORY,
        false => Listing {
            table: EXACT,
            ..HISTORY
        },
    };
    let format = listing.format(args.format.as_deref(), args.quiet)?;
    Ok(format.list(&mut io::stdout().lock(), &rows)?)
}

fn shorten(text: &str, no_trunc: bool) -> String {
    if no_trunc || text.chars().count() <= CREATED_BY {
        return text.to_owned();
    }
    let start: String = text.chars().take(CREATED_BY - 1).collect();
    format!("{start}…")
}
