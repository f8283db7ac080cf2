// SPDX-License-Identifier: Apache-2.0
//! Images in an archive of `docker save`: a `manifest.json` that names a configuration and its
//! layers (moby, image/spec/v1.2.md).

use serde::Deserialize;

use super::digest::Digest;
use super::error::ImageError;
use super::manifest::{Document, Draft, LayerSpec, check_config};
use super::platform::Platform;
use super::reference::Name;
use super::source::Source;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Picks an image by name (or `@N`, the Nth one), or the only one there is; reads its
/// configuration.
pub(super) fn read(
    source: &Source,
    image: Option<&str>,
    platform: &Platform,
    reference: &str,
) -> Result<Draft, ImageError> {
    let (what, entries) = entries(source)?;
    let entry = choose(source, &what, &entries, image)?;
    draft(source, entry, platform, reference)
}

/// All images there are.
pub(super) fn all(
    source: &Source,
    platform: &Platform,
    reference: &str,
) -> Result<Vec<Draft>, ImageError> {
    let (_, entries) = entries(source)?;
    entries
        .iter()
        .map(|entry| draft(source, entry, platform, reference))
        .collect()
}

/// With what they are called in messages.
fn entries(source: &Source) -> Result<(String, Vec<Entry>), ImageError> {
    if !source.has("manifest.json") {
        let hint = match source.has("index.json") {
            true => ", so it is no docker-archive; it looks like an oci-archive",
            false => ", so it is no docker-archive",
        };
        return Err(source.missing("manifest.json", hint));
    }
    let what = format!("manifest.json of {}", source.path().display());
    match serde_json::from_slice(&source.read("manifest.json")?) {
        Ok(entries) => Ok((what, entries)),
        Err(source) => Err(ImageError::Json { what, source }),
    }
}

fn draft(
    source: &Source,
    entry: &Entry,
    platform: &Platform,
    reference: &str,
) -> Result<Draft, ImageError> {
    let bytes = source.read(&entry.config)?;
    let config = Document {
        digest: Digest::of(&bytes),
        bytes,
    };
    check_name(&entry.config, config.digest)?;
    let members = entry.layers.as_deref().unwrap_or_default();
    let diff_ids = check_config(&config, members.len(), platform, reference)?;
    let layer = |(member, diff_id): (&String, Digest)| LayerSpec {
        member: member.clone(),
        digest: None,
        size: None,
        diff_id,
    };
    Ok(Draft {
        manifest: None,
        config,
        layers: members.iter().zip(diff_ids).map(layer).collect(),
        names: names(entry).collect(),
    })
}

fn choose<'a>(
    source: &Source,
    what: &str,
    entries: &'a [Entry],
    image: Option<&str>,
) -> Result<&'a Entry, ImageError> {
    let choices = || {
        entries
            .iter()
            .flat_map(names)
            .take(20)
            .map(|name| name.to_string())
            .collect()
    };
    let path = || source.path().into();
    match (entries, image) {
        ([], _) => Err(ImageError::Malformed {
            what: what.into(),
            reason: "it names no image",
        }),
        ([only], None) => Ok(only),
        (_, None) => Err(ImageError::WhichImage {
            path: path(),
            choices: choices(),
        }),
        (entries, Some(image)) => {
            let wanted = image.parse::<Name>().ok();
            let by_name = || {
                entries
                    .iter()
                    .find(|entry| names(entry).any(|name| Some(name) == wanted))
            };
            let found = match image.strip_prefix('@') {
                Some(index) => index
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| entries.get(index)),
                None => by_name(),
            };
            let image = || image.into();
            found.ok_or_else(|| ImageError::NotInArchive {
                path: path(),
                image: image(),
                choices: choices(),
            })
        }
    }
}

/// A configuration is called by its digest, in old archives with `.json` behind it.
fn check_name(member: &str, got: Digest) -> Result<(), ImageError> {
    let file = member.rsplit('/').next().unwrap_or(member);
    match Digest::from_hex(file.strip_suffix(".json").unwrap_or(file)) {
        Some(expected) if expected != got => Err(ImageError::DigestMismatch {
            what: format!("image configuration {expected}"),
            expected,
            got,
        }),
        _ => Ok(()),
    }
}

fn names(entry: &Entry) -> impl Iterator<Item = Name> {
    entry
        .repo_tags
        .iter()
        .flatten()
        .filter_map(|name| name.parse().ok())
}
