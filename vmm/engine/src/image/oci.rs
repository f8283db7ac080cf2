// SPDX-License-Identifier: Apache-2.0
//! Images in an OCI layout (OCI image-spec, image-layout.md, image-index.md, manifest.md).

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::digest::Digest;
use super::error::ImageError;
use super::manifest::{Document, Draft, LayerSpec, check_config};
use super::platform::Platform;
use super::reference::Name;
use super::source::{Source, blob_path};

pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd and Docker put the whole name here.
pub(super) const FULL_NAME: &str = "io.containerd.image.name";

const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Indexes that may stand inside each other.
const MAX_DEPTH: usize = 4;

/// The manifest that was asked for, not yet read.
pub(super) struct Choice {
    pub manifest: Digest,
    pub names: Vec<Name>,
}

/// Picks an image by its reference name, or the only one there is.
pub(super) fn choose(
    source: &Source,
    image: Option<&str>,
    platform: &Platform,
) -> Result<Choice, ImageError> {
    let (what, index) = read_index(source)?;
    let named: Vec<&Descriptor> = match image {
        Some(image) => index
            .manifests()
            .iter()
            .filter(|entry| is_called(entry, image))
            .collect(),
        None => index.manifests().iter().collect(),
    };
    let choices = || names_in(&index);
    let chosen = match (&named[..], image) {
        ([], Some(image)) => {
            let (path, image) = (source.path().into(), image.into());
            return Err(ImageError::NotInArchive {
                path,
                image,
                choices: choices(),
            });
        }
        ([], None) => {
            return Err(ImageError::Malformed {
                what,
                reason: "it names no manifest",
            });
        }
        ([only], _) => pick(source, only, platform, 0)?,
        (several, _) => {
            let fitting = pick_among(source, several, platform, 0)?;
            if image.is_none() && several.iter().any(|entry| !same_image(entry, several[0])) {
                let path = source.path().into();
                return Err(ImageError::WhichImage {
                    path,
                    choices: choices(),
                });
            }
            fitting
        }
    };
    let names = named.iter().flat_map(|entry| full_names(entry)).collect();
    Ok(Choice {
        manifest: chosen,
        names,
    })
}

/// Every image there is, each once.
pub(super) fn all(source: &Source, platform: &Platform) -> Result<Vec<Choice>, ImageError> {
    let (_, index) = read_index(source)?;
    let mut left: Vec<&Descriptor> = index.manifests().iter().collect();
    let mut choices = Vec::new();
    while let Some(first) = left.first().copied() {
        // Entries of one name are one image, for several platforms.
        let (same, others) = left.into_iter().partition(|entry| same_image(entry, first));
        left = others;
        let manifest = pick_among(source, &same, platform, 0)?;
        let names = same.iter().flat_map(|entry| full_names(entry)).collect();
        choices.push(Choice { manifest, names });
    }
    Ok(choices)
}

/// With what it is called in messages.
fn read_index(source: &Source) -> Result<(String, ImageIndex), ImageError> {
    if !source.has("index.json") {
        let hint = match source.has("manifest.json") {
            true => ", so it holds no OCI image; it looks like a docker-archive",
            false => ", so it holds no OCI image",
        };
        return Err(source.missing("index.json", hint));
    }
    let what = format!("index.json of {}", source.path().display());
    let index = parse_index(&source.read("index.json")?, &what)?;
    Ok((what, index))
}

/// Reads manifest and configuration.
pub(super) fn read(
    source: &Source,
    choice: Choice,
    platform: &Platform,
    reference: &str,
) -> Result<Draft, ImageError> {
    let what = format!("manifest {}", choice.manifest);
    let manifest = Document {
        digest: choice.manifest,
        bytes: source.read_blob(&what, choice.manifest)?,
    };
    let config = |digest, what: &str| source.read_blob(what, digest);
    draft(manifest, config, choice.names, platform, reference)
}

/// What a manifest says; `read_config` gets a digest, and what it is called in messages.
pub(super) fn draft(
    manifest: Document,
    read_config: impl FnOnce(Digest, &str) -> Result<Vec<u8>, ImageError>,
    names: Vec<Name>,
    platform: &Platform,
    reference: &str,
) -> Result<Draft, ImageError> {
    let what = format!("manifest {}", manifest.digest);
    let parsed: ImageManifest =
        serde_json::from_slice(&manifest.bytes).map_err(|source| ImageError::Json {
            what: what.clone(),
            source,
        })?;
    let config_digest = digest(parsed.config(), &what)?;
    let config = Document {
        digest: config_digest,
        bytes: read_config(
            config_digest,
            &format!("image configuration {config_digest}"),
        )?,
    };
    let diff_ids = check_config(&config, parsed.layers().len(), platform, reference)?;
    let layers = parsed
        .layers()
        .iter()
        .zip(diff_ids)
        .map(|(layer, diff_id)| {
            let digest = digest(layer, &what)?;
            let size = Some(layer.size());
            Ok(LayerSpec {
                member: blob_path(digest),
                digest: Some(digest),
                size,
                diff_id,
            })
        });
    Ok(Draft {
        layers: layers.collect::<Result<_, ImageError>>()?,
        manifest: Some(manifest),
        config,
        names,
    })
}

pub(super) fn digest(descriptor: &Descriptor, what: &str) -> Result<Digest, ImageError> {
    Digest::from_oci(descriptor.digest()).map_err(|source| ImageError::Digest {
        what: what.into(),
        source,
    })
}

pub(super) fn parse_index(bytes: &[u8], what: &str) -> Result<ImageIndex, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Json {
        what: what.into(),
        source,
    })
}

/// The manifest that an entry leads to, through any indexes.
fn pick(
    source: &Source,
    entry: &Descriptor,
    platform: &Platform,
    depth: usize,
) -> Result<Digest, ImageError> {
    let digest = digest(entry, "an index entry")?;
    let is_index = match entry.media_type() {
        MediaType::ImageIndex => true,
        MediaType::ImageManifest => false,
        MediaType::Other(other) if other == DOCKER_INDEX => true,
        MediaType::Other(other) if other == DOCKER_MANIFEST => false,
        _ => {
            let what = format!("the index entry for {digest}");
            return Err(ImageError::Malformed {
                what,
                reason: "it is neither manifest nor index",
            });
        }
    };
    if !is_index {
        return Ok(digest);
    }
    let what = format!("image index {digest}");
    if depth == MAX_DEPTH {
        return Err(ImageError::Malformed {
            what,
            reason: "indexes are nested too deep",
        });
    }
    let index = parse_index(&source.read_blob(&what, digest)?, &what)?;
    let entries: Vec<&Descriptor> = index.manifests().iter().collect();
    pick_among(source, &entries, platform, depth + 1)
}

fn pick_among(
    source: &Source,
    entries: &[&Descriptor],
    platform: &Platform,
    depth: usize,
) -> Result<Digest, ImageError> {
    let entry = choose_entry(entries.iter().copied(), platform)?;
    pick(source, entry, platform, depth)
}

/// The first entry for our platform; one that doesn't say counts as fitting where nothing else
/// does, and its configuration will tell.
pub(super) fn choose_entry<'a>(
    mut entries: impl Iterator<Item = &'a Descriptor> + Clone,
    platform: &Platform,
) -> Result<&'a Descriptor, ImageError> {
    let mut unsaid = entries.clone().filter(|entry| entry.platform().is_none());
    let offers = |entry: &&Descriptor| {
        let offered = entry.platform().as_ref();
        offered.is_some_and(|offered| platform.accepts(&offered.into()))
    };
    entries
        .find(offers)
        .or_else(|| unsaid.next())
        .ok_or_else(|| ImageError::NoMatchingManifest {
            wanted: platform.clone(),
        })
}

fn annotation<'a>(entry: &'a Descriptor, key: &str) -> Option<&'a str> {
    entry.annotations().as_ref()?.get(key).map(String::as_str)
}

fn is_called(entry: &Descriptor, image: &str) -> bool {
    let wanted = image.parse::<Name>().ok();
    annotation(entry, REF_NAME) == Some(image)
        || entry.digest().as_ref() == image
        || (wanted.is_some() && full_names(entry).any(|name| Some(name) == wanted))
}

/// Names by which the store may know the image. A single word may be meant as a repository's name
/// or as a tag: nobody can tell, and so it is the repository's, as podman has it.
fn full_names(entry: &Descriptor) -> impl Iterator<Item = Name> {
    annotation(entry, FULL_NAME)
        .or_else(|| annotation(entry, REF_NAME))
        .and_then(|name| name.parse().ok())
        .into_iter()
}

fn same_image(entry: &Descriptor, other: &Descriptor) -> bool {
    // A bare tag may be that of several repositories.
    let key = match annotation(entry, FULL_NAME) {
        Some(_) => FULL_NAME,
        None => REF_NAME,
    };
    entry.digest() == other.digest()
        || (annotation(entry, key).is_some() && annotation(entry, key) == annotation(other, key))
        || (entry.platform().is_some() && other.platform().is_some() && is_unnamed(entry))
}

fn is_unnamed(entry: &Descriptor) -> bool {
    annotation(entry, REF_NAME).is_none() && annotation(entry, FULL_NAME).is_none()
}

fn names_in(index: &ImageIndex) -> Vec<String> {
    let name = |entry: &Descriptor| {
        annotation(entry, REF_NAME)
            .or_else(|| annotation(entry, FULL_NAME))
            .map_or_else(|| entry.digest().to_string(), printable)
    };
    index.manifests().iter().take(20).map(name).collect()
}

fn printable(name: &str) -> String {
    name.chars()
        .take(100)
        .flat_map(char::escape_default)
        .collect()
}
