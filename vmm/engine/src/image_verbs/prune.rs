// SPDX-License-Identifier: Apache-2.0
//! `walnut image prune`.

use super::facts::Facts;
use super::filter::{self, Filter, For};
use super::users::users;
use super::{VerbError, print_lines, removed};
use crate::cli::image::ImagePruneArgs;
use crate::image::{ImageError, Removed, Store};
use crate::paths::Paths;
use crate::units::decimal_size;
use crate::verb::{gone, is_confirmed};

/// What went, and how many bytes of disk.
#[derive(Debug, Default)]
pub struct Pruned {
    pub removed: Vec<Removed>,
    pub bytes: u64,
}

impl Pruned {
    /// As they are listed.
    pub fn lines(&self) -> Vec<String> {
        let line = |removed: &Removed| match removed {
            Removed::Untagged(name) => format!("untagged: {name}"),
            Removed::Deleted(id) => format!("deleted: {id}"),
        };
        self.removed.iter().map(line).collect()
    }
}

pub(super) fn prune(args: &ImagePruneArgs, store: &Store, paths: &Paths) -> Result<(), VerbError> {
    let which = match args.all {
        true => "all images without at least one container associated to them",
        false => "all dangling images",
    };
    if !args.prune.force && !is_confirmed(&format!("WARNING! This will remove {which}."))? {
        return Ok(());
    }
    let pruned = prune_images(store, paths, args.all, &args.prune.filter)?;
    let gone = gone("Images", &pruned.lines());
    let freed = decimal_size(pruned.bytes);
    print_lines([format!("{gone}Total reclaimed space: {freed}")])
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
            Ok(gone) => {
                removed(&image.id.to_string(), &gone, paths);
                pruned.removed.extend(gone);
            }
            Err(ImageError::InUseByRunning { .. } | ImageError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let after = store.disk_usage(|_| true)?;
    pruned.bytes = before.saturating_sub(after) + store.collect(true)?;
    Ok(pruned)
}
