// SPDX-License-Identifier: Apache-2.0
//! What an image's own configuration says, for lists and `inspect`. Read as plain JSON: Docker's
//! configurations hold more than the OCI's.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::image::{Digest, ImageError, Store};
use crate::times::Timestamp;

/// Everything in it comes from outside, and any of it may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Facts {
    #[serde(deserialize_with = "time")]
    pub created: Option<Timestamp>,
    #[serde(deserialize_with = "or_default")]
    pub author: String,
    #[serde(deserialize_with = "or_default")]
    pub comment: String,
    #[serde(deserialize_with = "or_default")]
    pub docker_version: String,
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    #[serde(deserialize_with = "or_default")]
    pub variant: String,
    #[serde(deserialize_with = "or_default")]
    pub os: String,
    /// What a container starts with.
    pub config: Value,
    #[serde(deserialize_with = "or_default")]
    pub history: Vec<Step>,
}

/// One step of an image's history; the oldest is first.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Step {
    #[serde(deserialize_with = "time")]
    pub created: Option<Timestamp>,
    #[serde(deserialize_with = "or_default")]
    pub created_by: String,
    #[serde(deserialize_with = "or_default")]
    pub comment: String,
    #[serde(deserialize_with = "or_default")]
    pub empty_layer: bool,
}

/// `null`, too, stands for nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    Ok(text.and_then(|text| Timestamp::parse_rfc3339(&text)))
}

impl Facts {
    pub(super) fn read(store: &Store, id: Digest) -> Result<Self, ImageError> {
        let bytes = store.configuration(id)?;
        serde_json::from_slice(&bytes).map_err(|source| ImageError::Json {
            what: format!("image configuration {id}"),
            source,
        })
    }

    pub(super) fn labels(&self) -> BTreeMap<&str, &str> {
        let labels = self.config["Labels"].as_object().into_iter().flatten();
        labels
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
            .collect()
    }
}
