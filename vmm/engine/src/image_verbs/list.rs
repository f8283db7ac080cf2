// SPDX-License-Identifier: Apache-2.0
//! `walnut images`.

use std::io;

use serde_json::{Value, json};

use super::VerbError;
use super::facts::Facts;
use super::filter::{self, For};
use super::users::users;
use crate::cli::image::ImagesArgs;
use crate::format::Listing;
use crate::image::{Listed, Name, Store};
use crate::paths::Paths;
use crate::times::{Timestamp, human_duration};
use crate::units::decimal_size;

const IMAGES: Listing = Listing {
    headers: &[
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Tag", "TAG"),
    ],
    table: "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    quiet: "{{.ID}}",
};
const WITH_DIGESTS: &str =
    "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const NONE: &str = "<none>";

/// One line: an image under one of its names.
struct Line<'a> {
    image: &'a Listed,
    facts: &'a Facts,
    repository: Option<String>,
    tag: Option<&'a str>,
    digest: Option<String>,
}

impl<'a> Line<'a> {
    fn unnamed(image: &'a Listed, facts: &'a Facts) -> Self {
        Self {
            image,
            facts,
            repository: None,
            tag: None,
            digest: None,
        }
    }
}

pub(super) fn list(args: &ImagesArgs, store: &Store, paths: &Paths) -> Result<(), VerbError> {
    let mut filter_texts = args.list.filter.clone();
    if let Some(repository) = &args.repository {
        filter_texts.push(format!("reference={repository}"));
    }
    let filters = filter::parse(&filter_texts, For::List, store)?;
    let listing = match args.digests {
        true => Listing {
            table: WITH_DIGESTS,
            ..IMAGES
        },
        false => IMAGES,
    };
    let format = listing.format(args.list.format.as_deref(), args.list.quiet)?;
    let images: Vec<(Listed, Facts)> = read(store)?;
    let mut lines = Vec::new();
    for (image, facts) in &images {
        if filter::fits(&filters, image, facts) {
            let fits = |name: &Name| filter::fits_name(&filters, name);
            lines.extend(lines_of(image, facts, &fits, args.digests));
            if image.names.is_empty()
                && image.digests.is_empty()
                && !filter::has_reference(&filters)
            {
                lines.push(Line::unnamed(image, facts));
            }
        }
    }
    if args.list.quiet && args.list.format.is_none() {
        let mut seen = std::collections::BTreeSet::new();
        lines.retain(|line| seen.insert(line.image.id));
    }
    let users = users(store, paths);
    let containers = |line: &Line| match format.needs("Containers") {
        true => users(line.image.id).len().to_string(),
        false => "N/A".into(),
    };
    let rows: Vec<Value> = lines
        .iter()
        .map(|line| row(line, args.no_trunc, containers(line)))
        .collect();
    Ok(format.list(&mut io::stdout().lock(), &rows)?)
}

/// All images, each under each of its names, for `system df -v`.
///
/// # Errors
/// The store can't be read.
pub fn rows(store: &Store, paths: &Paths) -> Result<Vec<Value>, VerbError> {
    let users = users(store, paths);
    let mut rows = Vec::new();
    for (image, facts) in read(store)? {
        let mut lines = lines_of(&image, &facts, &|_| true, false);
        if lines.is_empty() {
            lines.push(Line::unnamed(&image, &facts));
        }
        for line in lines {
            let mut row = row(&line, false, users(image.id).len().to_string());
            // Each has a file of its own.
            row["SharedSize"] = "0B".into();
            row["UniqueSize"] = row["Size"].clone();
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The newest first. One whose configuration is gone is still listed.
fn read(store: &Store) -> Result<Vec<(Listed, Facts)>, VerbError> {
    let mut images = Vec::new();
    for image in store.list()? {
        let facts = Facts::read(store, image.id).unwrap_or_else(|e| {
            log::warn!("{e}");
            Facts::default()
        });
        images.push((image, facts));
    }
    images.sort_by_key(|(image, facts)| (std::cmp::Reverse(facts.created), image.names.clone()));
    Ok(images)
}

fn lines_of<'a>(
    image: &'a Listed,
    facts: &'a Facts,
    fits: &dyn Fn(&Name) -> bool,
    digests: bool,
) -> Vec<Line<'a>> {
    let digest_of = |name: &Name| {
        let same = |other: &&Name| {
            (other.registry(), other.repository()) == (name.registry(), name.repository())
        };
        let found = image.digests.iter().find(same);
        found
            .and_then(Name::digest)
            .map(|digest| digest.to_string())
    };
    let tagged = image
        .names
        .iter()
        .filter(|name| fits(name))
        .map(|name| Line {
            image,
            facts,
            repository: Some(name.familiar_repository()),
            tag: name.tag(),
            digest: digest_of(name),
        });
    let mut lines: Vec<Line> = tagged.collect();
    // Pulled by digest: a repository, and no tag.
    for name in image.digests.iter().filter(|name| fits(name)) {
        let repository = name.familiar_repository();
        let known = |line: &Line| line.repository.as_deref() == Some(repository.as_str());
        if !lines.iter().any(known) && (digests || image.names.is_empty()) {
            lines.push(Line {
                image,
                facts,
                repository: Some(repository),
                tag: None,
                digest: name.digest().map(|digest| digest.to_string()),
            });
        }
    }
    lines
}

fn row(line: &Line, no_trunc: bool, containers: String) -> Value {
    let created = line.facts.created.unwrap_or_default();
    let size = decimal_size(line.image.size);
    json!({
        "Containers": containers,
        "CreatedAt": created.listed(),
        "CreatedSince": since(line.facts.created),
        "Digest": line.digest.as_deref().unwrap_or(NONE),
        "ID": match no_trunc {
            true => line.image.id.to_string(),
            false => line.image.id.short(),
        },
        "Repository": line.repository.as_deref().unwrap_or(NONE),
        "SharedSize": "N/A",
        "Size": size,
        "Tag": line.tag.unwrap_or(NONE),
        "UniqueSize": "N/A",
        "VirtualSize": size,
    })
}

/// `3 days ago`; Docker says N/A where nobody knows.
pub(super) fn since(time: Option<Timestamp>) -> String {
    match time {
        Some(time) if time.seconds() > 0 => {
            format!("{} ago", human_duration(Timestamp::now().since(time)))
        }
        _ => "N/A".into(),
    }
}
