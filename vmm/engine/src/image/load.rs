// SPDX-License-Identifier: Apache-2.0
//! `load`: every image of an archive, whichever kind of archive it is.

use std::fs::File;
use std::path::Path;

use super::digest::Digest;
use super::docker;
use super::error::ImageError;
use super::oci;
use super::platform::Platform;
use super::progress::Progress;
use super::reference::Name;
use super::source::Source;
use super::store::{Image, Store};

/// One image that was loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub id: Digest,
    /// That the archive gives it; maybe none.
    pub names: Vec<Name>,
}

impl Store {
    /// `path` is what the archive is called in messages; `file` may be a pipe.
    pub fn load_all(
        &self,
        path: &Path,
        file: File,
        platform: &Platform,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Loaded>, ImageError> {
        let source = Source::archive_file(path, file, &self.dir)?;
        let shown = path.display().to_string();
        let mut loaded = Vec::new();
        // Docker writes both; only an OCI layout says what each blob must be.
        if source.has("index.json") {
            for choice in oci::all(&source, platform)? {
                let names = choice.names.clone();
                let image = self.load_choice(&source, choice, platform, &shown, progress)?;
                loaded.push(Loaded {
                    id: image.id,
                    names,
                });
            }
        } else {
            for draft in docker::all(&source, platform, &shown)? {
                let names = draft.names.clone();
                let image = self.load_draft(&source, draft, platform, &shown, progress)?;
                loaded.push(Loaded {
                    id: image.id,
                    names,
                });
            }
        }
        Ok(loaded)
    }

    pub(super) fn load_choice(
        &self,
        source: &Source,
        choice: oci::Choice,
        platform: &Platform,
        reference: &str,
        progress: &mut dyn Progress,
    ) -> Result<Image, ImageError> {
        let table = self.table()?;
        let (manifest, names) = (choice.manifest, &choice.names);
        if let Some(image) = self.reuse(&table, manifest, names, platform, reference)? {
            return Ok(image);
        }
        let draft = oci::read(source, choice, platform, reference)?;
        self.load(source, draft, platform, reference, progress)
    }

    pub(super) fn load_draft(
        &self,
        source: &Source,
        draft: super::manifest::Draft,
        platform: &Platform,
        reference: &str,
        progress: &mut dyn Progress,
    ) -> Result<Image, ImageError> {
        let table = self.table()?;
        if let Some((manifest, _)) = table.by_config(draft.config.digest)
            && let Some(image) = self.reuse(&table, manifest, &draft.names, platform, reference)?
        {
            return Ok(image);
        }
        self.load(source, draft, platform, reference, progress)
    }
}
