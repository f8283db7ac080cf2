// SPDX-License-Identifier: Apache-2.0
//! How users name images: `TRANSPORT:PATH[:REF]`, or a name in Docker's grammar (the
//! distribution project's reference package).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::digest::{Digest, DigestError};

/// Where a name without a registry belongs.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Docker Hub's old name.
const OLD_DEFAULT_REGISTRY: &str = "index.docker.io";
/// Where a name on Docker Hub without a user belongs.
const OFFICIAL: &str = "library";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    #[error("invalid reference format: \"{0}\"")]
    Format(String),
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    #[error("invalid reference format: {0}")]
    Digest(#[from] DigestError),
    #[error("\"{0}:\" names no file: write {0}:PATH[:REF]")]
    NoPath(&'static str),
}

/// What follows `walnut run`. Up to the first colon it is a transport, if it is one we know;
/// a path ends at its first colon, as containers-transports(5) has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A tar file that holds an OCI layout.
    OciArchive {
        file: PathBuf,
        image: Option<String>,
    },
    /// What `docker save` writes.
    DockerArchive {
        file: PathBuf,
        image: Option<String>,
    },
    /// A directory in OCI layout.
    OciDir { dir: PathBuf, image: Option<String> },
    /// Something that is in the store.
    Stored(Stored),
}

/// The ways to name what is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    Name(Name),
    /// `sha256:HEX` or 64 digits: an image ID or a manifest's digest.
    Digest(Digest),
    /// A name that could as well be the start of an ID: the name counts first.
    NameOrId {
        name: Name,
        id: String,
    },
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let Some((transport, rest)) = text.split_once(':') else {
            return Ok(Reference::Stored(text.parse()?));
        };
        let path = |transport| -> Result<(PathBuf, Option<String>), ReferenceError> {
            let (path, image) = match rest.split_once(':') {
                Some((path, image)) => (path, Some(image)),
                None => (rest, None),
            };
            if path.is_empty() {
                return Err(ReferenceError::NoPath(transport));
            }
            Ok((
                path.into(),
                image.filter(|image| !image.is_empty()).map(String::from),
            ))
        };
        match transport {
            "oci-archive" => {
                let (file, image) = path("oci-archive")?;
                Ok(Reference::OciArchive { file, image })
            }
            "docker-archive" => {
                let (file, image) = path("docker-archive")?;
                Ok(Reference::DockerArchive { file, image })
            }
            "oci" => {
                let (dir, image) = path("oci")?;
                Ok(Reference::OciDir { dir, image })
            }
            _ => Ok(Reference::Stored(text.parse()?)),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, image) = match self {
            Reference::OciArchive { file, image } => ("oci-archive", file, image),
            Reference::DockerArchive { file, image } => ("docker-archive", file, image),
            Reference::OciDir { dir, image } => ("oci", dir, image),
            Reference::Stored(stored) => return stored.fmt(f),
        };
        write!(f, "{transport}:{}", path.display())?;
        image.iter().try_for_each(|image| write!(f, ":{image}"))
    }
}

impl FromStr for Stored {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if let Some(digest) = Digest::from_hex(text) {
            return Ok(Stored::Digest(digest));
        }
        if text
            .strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64)
        {
            return Ok(Stored::Digest(text.parse()?));
        }
        let name: Name = text.parse()?;
        let is_hex = text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        Ok(if is_hex {
            Stored::NameOrId {
                name,
                id: text.into(),
            }
        } else {
            Stored::Name(name)
        })
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stored::Name(name) => name.fmt(f),
            Stored::Digest(digest) => digest.fmt(f),
            Stored::NameOrId { id, .. } => f.write_str(id),
        }
    }
}

/// A normalised name: `busybox` is `docker.io/library/busybox:latest`. Shown in its short form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    registry: String,
    repository: String,
    /// At least one of the two.
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Name {
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// With `library/` where Docker Hub wants it.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What of the repository: a digest, or a tag.
    pub fn version(&self) -> String {
        match (self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_default(),
        }
    }

    /// Registry and repository as the user would write them.
    pub fn familiar_repository(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.repository);
        }
        let official = self
            .repository
            .strip_prefix(OFFICIAL)
            .and_then(|r| r.strip_prefix('/'));
        official
            .filter(|rest| !rest.contains('/'))
            .unwrap_or(&self.repository)
            .into()
    }

    /// Nothing left out; what the store keeps.
    pub fn canonical(&self) -> String {
        let mut name = format!("{}/{}", self.registry, self.repository);
        self.push_version(&mut name);
        name
    }

    /// The same without a digest, if there is a tag.
    pub(super) fn canonical_tag(&self) -> String {
        match self.tag {
            Some(_) => self.without_digest().canonical(),
            None => self.canonical(),
        }
    }

    /// Only its digest counts. For a name that has one.
    pub fn without_tag(&self) -> Self {
        Name {
            tag: None,
            ..self.clone()
        }
    }

    pub fn without_digest(&self) -> Self {
        Name {
            digest: None,
            ..self.clone()
        }
    }

    /// The same repository at a digest.
    pub fn at(&self, digest: Digest) -> Self {
        Name {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    fn push_version(&self, name: &mut String) {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = self.familiar_repository();
        self.push_version(&mut name);
        f.write_str(&name)
    }
}

impl FromStr for Name {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let format = || ReferenceError::Format(text.chars().take(MAX_NAME).collect());
        if Digest::from_hex(text).is_some() {
            return Err(ReferenceError::LooksLikeId(text.into()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            // A colon further left belongs to a registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(format());
        }
        let (registry, path) = split_registry(rest);
        if !is_registry(registry) {
            return Err(format());
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(
                path.chars().take(MAX_NAME).collect(),
            ));
        }
        if !path.split('/').all(is_path_component) {
            return Err(format());
        }
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{OFFICIAL}/{path}")
        } else {
            path.into()
        };
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        let tag = tag.or(if digest.is_none() {
            Some(DEFAULT_TAG)
        } else {
            None
        });
        Ok(Name {
            registry: registry.into(),
            repository,
            tag: tag.map(String::from),
            digest,
        })
    }
}

/// What is in front of the first slash is a registry where it could be no user on Docker Hub.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((OLD_DEFAULT_REGISTRY, path)) => (DEFAULT_REGISTRY, path),
        Some((first, path))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, path)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

/// `host[:port]`; host is a DNS name, an IPv4 address, or an IPv6 one in brackets.
fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let port_fits =
        port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let host_fits = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|label| {
            let bytes = label.as_bytes();
            !label.is_empty()
                && bytes
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        }),
    };
    host_fits && port_fits
}

/// Alphanumerics, between them single `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_alnum = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_fit = bytes.first().is_some_and(is_alnum) && bytes.last().is_some_and(is_alnum);
    ends_fit
        && bytes.split(is_alnum).all(|separator| match separator {
            b"" | b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|byte| *byte == b'-'),
        })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts_well = tag.bytes().next().is_some_and(is_word);
    starts_well
        && tag.len() <= MAX_TAG
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests;
