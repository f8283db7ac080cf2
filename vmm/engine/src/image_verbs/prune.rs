// SPDX-License-Identifier: Apache-2.0
//! `walnut image prune`.

use std::io::{self, BufRead, Write};

use super::facts::Facts;
use super::filter::{self, Filter, For};
use super::users::users;
use super::{VerbError, print_lines};
use crate::cli::image::PruneArgs;
use crate::image::{ImageError, Removed, Store};
use crate::paths::Paths;
use crate::units::decimal_size;

/// What went, and how many bytes of disk.
#[derive(Debug, Default)]
pub struct Pruned {
    pub removed: Vec<Removed>,
    pub bytes: u64,
}

pub(super) fn prune(args: &PruneArgs, store: &Store, paths: &Paths) -> Result<(), VerbError> {
    let which = match args.all {
        true => "all images without at least one container associated to them",
        false => "all dangling images",
    };
    if !args.force && !confirmed(&format!("WARNING! This will remove {which}."))? {
        return Ok(());
    }
    let pruned = prune_images(store, paths, args.all, &args.filter)?;
    let mut lines = Vec::new();
    if !pruned.removed.is_empty() {
        lines.push("Deleted Images:".to_owned());
        lines.extend(pruned.removed.iter().map(|removed| match removed {
            Removed::Untagged(name) => format!("untagged: {name}"),
            Removed::Deleted(id) => format!("deleted: {id}"),
        }));
        lines.push(String::new());
    }
    lines.push(format!(
        "Total reclaimed space: {}",
        decimal_size(pruned.bytes)
    ));
    print_lines(lines)
}

/// Removes images that no container uses: unnamed ones, or all.
///
/// # Errors
/// A filter is none, or the store can't be changed. An image that is in use stays silently.
pub fn prune_images(
    store: &Store,
    paths: &Paths,
    all: bool,
    filters: &[String],
) -> Result<Pruned, VerbError> {
    let filters = filter::parse(filters, For::Prune, store)?;
    // `dangling=false` is another way to say --all.
    let all = all || filters.iter().any(|f| matches!(f, Filter::Dangling(false)));
    let filters: Vec<Filter> = filters
        .into_iter()
        .filter(|filter| !matches!(filter, Filter::Dangling(_)))
        .collect();
    let users = users(store, paths);
    let before = store.disk_usage(|_| true)?;
    let mut pruned = Pruned::default();
    for image in store.list()? {
        let facts = Facts::read(store, image.id).unwrap_or_default();
        let wanted = (all || image.names.is_empty()) && filter::fits(&filters, &image, &facts);
        if !wanted || !users(image.id).is_empty() {
            continue;
        }
        match store.remove_unused(image.digest, &users) {
            Ok(removed) => pruned.removed.extend(removed),
            Err(ImageError::InUseByRunning { .. } | ImageError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let after = store.disk_usage(|_| true)?;
    pruned.bytes = before.saturating_sub(after) + store.collect(true)?;
    Ok(pruned)
}

/// Docker's question; anything but a yes is a no.
fn confirmed(warning: &str) -> io::Result<bool> {
    let question = format!("{warning}\nAre you sure you want to continue? [y/N] ");
    io::stdout().write_all(question.as_bytes())?;
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
