// SPDX-License-Identifier: Apache-2.0
//! Which containers need which images: what their records say.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::image::{Digest, ImageError, Store, User};
use crate::paths::Paths;

/// As much of `container.json` as every version of it has.
#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    image: String,
    #[serde(default)]
    image_id: Option<Digest>,
}

#[derive(Default, Deserialize)]
struct State {
    #[serde(default)]
    status: String,
}

/// Answers which containers need the image with an ID.
pub fn users<'a>(store: &'a Store, paths: &'a Paths) -> impl Fn(Digest) -> Vec<User> + 'a {
    move |id| {
        let entries = fs::read_dir(paths.containers()).into_iter().flatten();
        let containers = entries.flatten().filter_map(|entry| {
            let container = entry.file_name().into_string().ok()?;
            let record: Record = read(&entry.path().join("container.json"))?;
            let image = record.image_id.or_else(|| by_name(store, &record.image))?;
            let state: State = read(&entry.path().join("state.json")).unwrap_or_default();
            let running = matches!(state.status.as_str(), "running" | "paused" | "restarting");
            (image == id).then_some(User { container, running })
        });
        containers.collect()
    }
}

fn by_name(store: &Store, name: &str) -> Option<Digest> {
    Some(store.look_up(&name.parse().ok()?).ok()?.id)
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The line of `system df` about images. Sizes are bytes of disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub total: usize,
    /// Those that a container uses.
    pub active: usize,
    /// Blobs and EROFS images, each counted once.
    pub size: u64,
    /// What `image prune -a` would free.
    pub reclaimable: u64,
}

pub fn usage(store: &Store, paths: &Paths) -> Result<Usage, ImageError> {
    let users = users(store, paths);
    let images = store.list()?;
    let is_active = |image: &&crate::image::Listed| !users(image.id).is_empty();
    let active: BTreeSet<Digest> = images.iter().filter(is_active).map(|i| i.digest).collect();
    let size = store.disk_usage(|_| true)?;
    let needed = store.disk_usage(|manifest| active.contains(&manifest))?;
    Ok(Usage {
        total: images.len(),
        active: active.len(),
        size,
        reclaimable: size.saturating_sub(needed),
    })
}
