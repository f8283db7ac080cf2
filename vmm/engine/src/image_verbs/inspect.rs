// SPDX-License-Identifier: Apache-2.0
//! `walnut image inspect`: what is known of an image, in Docker's fields.

use std::io;

use serde::Serialize;
use serde_json::{Value, json};

use super::facts::Facts;
use super::{VerbError, tell};
use crate::cli::shared::InspectArgs;
use crate::format::Inspect;
use crate::image::{Name, Store, Stored};
use crate::times::or_never;

/// What `inspect` prints of one image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Document {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: String,
    comment: String,
    created: String,
    docker_version: String,
    author: String,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    size: u64,
    config: Value,
    graph_driver: Value,
    #[serde(rename = "RootFS")]
    root_fs: Value,
    metadata: Value,
    descriptor: Value,
}

/// # Errors
/// There is no such image, or what is kept of it can't be read.
pub fn document(store: &Store, wanted: &Stored) -> Result<Document, VerbError> {
    let image = store.look_up(wanted)?;
    let facts = Facts::read(store, image.id)?;
    let details = store.details(image.digest)?;
    Ok(Document {
        id: image.id.to_string(),
        repo_tags: image.names.iter().map(Name::to_string).collect(),
        repo_digests: image.digests.iter().map(Name::to_string).collect(),
        parent: String::new(),
        comment: facts.comment,
        created: or_never(facts.created),
        docker_version: facts.docker_version,
        author: facts.author,
        architecture: facts.architecture,
        variant: facts.variant,
        os: facts.os,
        size: image.size,
        config: facts.config,
        graph_driver: json!({"Name": "erofs", "Data": {"Image": details.erofs}}),
        root_fs: json!({"Type": "layers", "Layers": details.diff_ids}),
        metadata: json!({
            "LastTagTime": crate::times::Timestamp::from_seconds(image.loaded).rfc3339(),
        }),
        descriptor: json!({
            "mediaType": details.media_type,
            "digest": image.digest,
            "size": details.manifest_size,
        }),
    })
}

pub(super) fn inspect(args: &InspectArgs, store: &Store) -> Result<(), VerbError> {
    let format = Inspect::parse(args.format.as_deref())?;
    let mut documents = Vec::new();
    let mut failed = Vec::new();
    for text in &args.names {
        let found = text
            .parse()
            .map_err(VerbError::from)
            .and_then(|wanted| document(store, &wanted));
        match found {
            Ok(document) => documents.push(document),
            Err(error) => failed.push(error),
        }
    }
    format.write(&mut io::stdout().lock(), &documents)?;
    failed.iter().for_each(tell);
    match failed.is_empty() {
        true => Ok(()),
        false => Err(VerbError::Told),
    }
}
