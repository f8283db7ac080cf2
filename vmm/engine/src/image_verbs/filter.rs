// SPDX-License-Identifier: Apache-2.0
//! `--filter` of `images` and `image prune`: filters of one kind are alternatives but for labels,
//! and all kinds must fit.

use super::VerbError;
use super::facts::Facts;
use crate::image::{Listed, Name, Store};
use crate::times::Timestamp;

#[derive(Debug)]
pub(super) enum Filter {
    Dangling(bool),
    Label {
        key: String,
        value: Option<String>,
        /// `label!=`.
        not: bool,
    },
    Before(Timestamp),
    Since(Timestamp),
    Reference(String),
}

/// Which filters a verb takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    List,
    Prune,
}

pub(super) fn parse(texts: &[String], verb: For, store: &Store) -> Result<Vec<Filter>, VerbError> {
    texts
        .iter()
        .map(|text| parse_one(text, verb, store))
        .collect()
}

fn parse_one(text: &str, verb: For, store: &Store) -> Result<Filter, VerbError> {
    let invalid = || VerbError::Filter(text.to_owned());
    let (key, value) = text.split_once('=').ok_or_else(invalid)?;
    let created = |name: &str| -> Result<Timestamp, VerbError> {
        let id = store.look_up(&name.parse()?)?.id;
        Ok(Facts::read(store, id)?.created.unwrap_or_default())
    };
    let label = |not| {
        let (key, value) = match value.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (value, None),
        };
        Filter::Label {
            key: key.to_owned(),
            value,
            not,
        }
    };
    Ok(match (key, verb) {
        ("label", _) => label(false),
        ("label!", For::Prune) => label(true),
        ("until", _) => Filter::Before(Timestamp::parse_flag("until", value, Timestamp::now())?),
        ("dangling", _) => Filter::Dangling(match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => true,
            "false" | "0" | "f" => false,
            _ => return Err(VerbError::FilterBool(value.to_owned())),
        }),
        ("before", For::List) => Filter::Before(created(value)?),
        ("since" | "after", For::List) => Filter::Since(created(value)?),
        ("reference", For::List) => Filter::Reference(value.to_owned()),
        _ => return Err(invalid()),
    })
}

/// Whether all but the references fit an image.
pub(super) fn fits(filters: &[Filter], image: &Listed, facts: &Facts) -> bool {
    let created = facts.created.unwrap_or_default();
    let labels = facts.labels();
    filters.iter().all(|filter| match filter {
        Filter::Dangling(wanted) => image.names.is_empty() == *wanted,
        Filter::Before(time) => created < *time,
        Filter::Since(time) => created > *time,
        Filter::Label { key, value, not } => {
            let has = match (labels.get(key.as_str()), value) {
                (Some(has), Some(wanted)) => has == wanted,
                (Some(_), None) => true,
                (None, _) => false,
            };
            has != *not
        }
        Filter::Reference(_) => true,
    })
}

/// Whether one of the references fits a name, if there are any.
pub(super) fn fits_name(filters: &[Filter], name: &Name) -> bool {
    let mut patterns = filters
        .iter()
        .filter_map(|filter| match filter {
            Filter::Reference(pattern) => Some(pattern.as_str()),
            _ => None,
        })
        .peekable();
    patterns.peek().is_none() || patterns.any(|pattern| matches(pattern, name))
}

pub(super) fn has_reference(filters: &[Filter]) -> bool {
    filters
        .iter()
        .any(|filter| matches!(filter, Filter::Reference(_)))
}

/// With a tag or without, as the user or the store would write the name.
fn matches(pattern: &str, name: &Name) -> bool {
    let canonical = format!("{}/{}", name.registry(), name.repository());
    [name.familiar_repository(), canonical]
        .iter()
        .any(|repository| {
            let with_tag = format!("{repository}:{}", name.tag().unwrap_or_default());
            glob(pattern.as_bytes(), with_tag.as_bytes())
                || glob(pattern.as_bytes(), repository.as_bytes())
        })
}

/// Go's path.Match without ranges: `*` and `?` stop at slashes.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and up to where it has eaten.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') if text[t] != b'/' => (p, t) = (p + 1, t + 1),
            Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, eaten)) if text[eaten] != b'/' => {
                    star = Some((at, eaten + 1));
                    (p, t) = (at + 1, eaten + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_pattern() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        for (pattern, text, fits) in [
            ("busybox", "busybox:1", true),
            ("busy*", "busybox", true),
            ("*:1", "busybox:1", true),
            ("*:1", "busybox:2", false),
            ("b?sybox:l*", "busybox", true),
            ("*", "example.org/a/b", false),
            ("example.org/*/*", "example.org/a/b", true),
            ("docker.io/library/busybox", "busybox", true),
            ("box", "busybox", false),
        ] {
            assert_eq!(matches(pattern, &name(text)), fits, "{pattern} {text}");
        }
    }
}
