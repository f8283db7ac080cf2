// SPDX-License-Identifier: Apache-2.0
//! What the images of a store are called: listed, given, taken away.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::digest::Digest;
use super::error::ImageError;
use super::publish;
use super::reference::{Name, Stored};
use super::store::{Store, failed};
use super::table::{Listed, Record, Table};

/// (OCI image-spec, manifest.md), where a manifest does not say what it is.
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A container that needs an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub container: String,
    pub running: bool,
}

/// What `rmi` did, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name, or a name with a digest.
    Untagged(String),
    /// An image ID.
    Deleted(Digest),
}

/// What is behind an image's name.
#[derive(Clone, Debug)]
pub struct Details {
    pub erofs: PathBuf,
    /// The lowest layer's first.
    pub diff_ids: Vec<Digest>,
    /// Of the manifest, and its length in bytes.
    pub media_type: String,
    pub manifest_size: u64,
}

/// By which an image is removed.
enum Given {
    Name(Name),
    /// The ID as it was typed.
    Id,
}

impl Store {
    pub fn list(&self) -> Result<Vec<Listed>, ImageError> {
        Ok(self.table()?.list())
    }

    /// An image without opening it.
    pub fn look_up(&self, wanted: &Stored) -> Result<Listed, ImageError> {
        let table = self.table()?;
        let not_found = || ImageError::NotFound(wanted.to_string());
        let manifest = table.find(wanted)?.ok_or_else(not_found)?;
        let mut listed = table.list().into_iter();
        listed
            .find(|image| image.digest == manifest)
            .ok_or_else(not_found)
    }

    /// Bytes of each layer's tar, the lowest first.
    pub fn layer_sizes(&self, manifest: Digest) -> Result<Vec<u64>, ImageError> {
        let table = self.table()?;
        let layers = table.get(manifest).map(|record| &record.layers[..]);
        let layers = layers.unwrap_or_default().iter();
        Ok(layers.map(|layer| layer.unpacked).collect())
    }

    /// What only `inspect` wants to know.
    pub fn details(&self, manifest: Digest) -> Result<Details, ImageError> {
        let table = self.table()?;
        let not_found = || ImageError::NotFound(manifest.to_string());
        let record = table.get(manifest).ok_or_else(not_found)?;
        let bytes = self.blobs.read(manifest)?.unwrap_or_default();
        let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let media_type = said["mediaType"].as_str();
        Ok(Details {
            erofs: self.erofs_path(record.rootfs),
            diff_ids: record.layers.iter().map(|layer| layer.diff_id).collect(),
            media_type: media_type.unwrap_or(OCI_MANIFEST).to_owned(),
            manifest_size: bytes.len() as u64,
        })
    }

    /// As [`Self::remove`] by ID with force, for an image that nobody uses.
    pub fn remove_unused(
        &self,
        manifest: Digest,
        users: &dyn Fn(Digest) -> Vec<User>,
    ) -> Result<Vec<Removed>, ImageError> {
        self.remove(&Stored::Digest(manifest), true, users)
    }

    /// `target` names the image of `source` from now on, and no other.
    pub fn tag(&self, source: &Stored, target: &Name) -> Result<(), ImageError> {
        if target.digest().is_some() {
            return Err(ImageError::TagDigest);
        }
        self.change(|table| {
            let manifest = table.find(source)?;
            let manifest = manifest.ok_or_else(|| ImageError::NotFound(source.to_string()))?;
            table.add_names(manifest, std::slice::from_ref(target));
            Ok(())
        })
    }

    /// Takes a name away, and the image with its last one; all of its names where it is given by
    /// its ID. `users` knows who needs the image with an ID. The image of a container stays, without
    /// a name.
    ///
    /// # Errors
    /// In Docker's words, where `force` would help or not.
    pub fn remove(
        &self,
        wanted: &Stored,
        force: bool,
        users: &dyn Fn(Digest) -> Vec<User>,
    ) -> Result<Vec<Removed>, ImageError> {
        let removed = self.change(|table| {
            let manifest = table.find(wanted)?;
            let manifest = manifest.ok_or_else(|| ImageError::NotFound(wanted.to_string()))?;
            let record = table.get(manifest).cloned();
            let record = record.ok_or_else(|| ImageError::NotFound(wanted.to_string()))?;
            let given = given(wanted, &record);
            let mut removed = Vec::new();
            let last = match &given {
                Given::Id => true,
                Given::Name(name) => is_last(&record, name),
            };
            if last {
                let in_use = self.in_use(&record, users(record.config))?;
                check(wanted, &given, &record, force, &in_use)?;
                untag(table, manifest, None, &mut removed);
                if in_use.is_empty() {
                    table.remove(manifest);
                    removed.push(Removed::Deleted(record.config));
                }
            } else if let Given::Name(name) = &given {
                untag(table, manifest, Some(name), &mut removed);
            }
            Ok(removed)
        })?;
        if removed.iter().any(|r| matches!(r, Removed::Deleted(_))) {
            self.collect(false)?;
        }
        Ok(removed)
    }

    /// A machine that runs holds its image locked, whether it has a record or not.
    fn in_use(&self, record: &Record, mut users: Vec<User>) -> Result<Vec<User>, ImageError> {
        if users.iter().any(|user| user.running) {
            return Ok(users);
        }
        let path = self.erofs_path(record.rootfs);
        let locked = match publish::try_alone(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            result => result.map_err(failed("lock", &path))?.is_none(),
        };
        if locked {
            users.push(User {
                container: String::new(),
                running: true,
            });
        }
        Ok(users)
    }
}

fn given(wanted: &Stored, record: &Record) -> Given {
    match wanted {
        Stored::Name(name) => Given::Name(name.clone()),
        Stored::NameOrId { name, .. } if record.names.contains(&name.canonical_tag()) => {
            Given::Name(name.clone())
        }
        Stored::Digest(_) | Stored::NameOrId { .. } => Given::Id,
    }
}

/// Whether nothing would be left but names of the same repository with digests.
fn is_last(record: &Record, name: &Name) -> bool {
    match name.tag() {
        Some(_) => record
            .names
            .iter()
            .all(|other| *other == name.canonical_tag()),
        None => record.names.is_empty(),
    }
}

fn check(
    wanted: &Stored,
    given: &Given,
    record: &Record,
    force: bool,
    users: &[User],
) -> Result<(), ImageError> {
    let image = record.config.short();
    let short = |user: &User| user.container.chars().take(12).collect::<String>();
    let running = users.iter().find(|user| user.running);
    if let Some(user) = running
        && (force || matches!(given, Given::Id))
    {
        return Err(ImageError::InUseByRunning {
            image,
            container: short(user),
        });
    }
    let repositories: BTreeSet<&str> = record
        .names
        .iter()
        .filter_map(|name| Some(name.rsplit_once(':')?.0))
        .collect();
    match (given, users.first()) {
        _ if force => Ok(()),
        (Given::Id, _) if repositories.len() > 1 => Err(ImageError::SeveralRepositories { image }),
        (Given::Id, Some(user)) => Err(ImageError::InUseByStopped {
            image,
            container: short(user),
        }),
        (Given::Name(_), Some(user)) => Err(ImageError::NameInUse {
            name: wanted.to_string(),
            container: short(user),
            image,
        }),
        (_, None) => Ok(()),
    }
}

/// One name, or all of them with those that have digests.
fn untag(table: &mut Table, manifest: Digest, name: Option<&Name>, removed: &mut Vec<Removed>) {
    let Some(record) = table.get_mut(manifest) else {
        return;
    };
    let gone: Vec<String> = match name {
        Some(name) if name.tag().is_some() => {
            let name = name.canonical_tag();
            record.names.take(&name).into_iter().collect()
        }
        Some(name) => record.digests.take(&name.canonical()).into_iter().collect(),
        None => {
            let names = std::mem::take(&mut record.names).into_iter();
            names.chain(std::mem::take(&mut record.digests)).collect()
        }
    };
    let familiar = gone.iter().filter_map(|name| name.parse::<Name>().ok());
    removed.extend(familiar.map(|name| Removed::Untagged(name.to_string())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::platform::Platform;
    use crate::image::progress::Quiet;
    use crate::image::testing::{small, to_tar};

    fn store(dir: &std::path::Path) -> Store {
        let archive = dir.join("a.tar");
        std::fs::write(&archive, to_tar(&small().layout())).unwrap();
        let store = Store::open(dir).unwrap();
        let reference = format!("oci-archive:{}", archive.display());
        let reference = reference.parse().unwrap();
        store
            .resolve(&reference, &Platform::guest(), &mut Quiet)
            .unwrap();
        store
    }

    fn nobody(_: Digest) -> Vec<User> {
        Vec::new()
    }

    fn files(store: &Store) -> usize {
        let count = |dir: &std::path::Path| std::fs::read_dir(dir).unwrap().count();
        count(store.blobs.dir()) + count(&store.erofs_dir())
    }

    #[test]
    fn the_last_name_takes_the_image_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.list().unwrap()[0].id;
        let source = "test".parse().unwrap();
        store.tag(&source, &"other:1".parse().unwrap()).unwrap();
        // Two layers, configuration, manifest, EROFS image.
        assert_eq!(files(&store), 5);
        let removed = store.remove(&source, false, &nobody).unwrap();
        assert_eq!(removed, [Removed::Untagged("test:latest".into())]);
        assert!(matches!(
            store.remove(&source, false, &nobody),
            Err(ImageError::NotFound(_))
        ));
        let removed = store
            .remove(&"other:1".parse().unwrap(), false, &nobody)
            .unwrap();
        let expected = [Removed::Untagged("other:1".into()), Removed::Deleted(id)];
        assert_eq!(removed, expected);
        assert_eq!(files(&store), 0);
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn an_id_takes_all_names_of_one_repository() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let by_id: Stored = store.list().unwrap()[0].id.hex()[..12].parse().unwrap();
        let source = "test".parse().unwrap();
        store.tag(&source, &"test:2".parse().unwrap()).unwrap();
        store.tag(&source, &"other".parse().unwrap()).unwrap();
        let error = store.remove(&by_id, false, &nobody).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("referenced in multiple repositories")
        );
        store
            .remove(&"other".parse().unwrap(), false, &nobody)
            .unwrap();
        assert_eq!(store.remove(&by_id, false, &nobody).unwrap().len(), 3);
    }

    #[test]
    fn an_image_in_use_is_refused_or_loses_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.list().unwrap()[0].id;
        let name: Stored = "test".parse().unwrap();
        let by_id: Stored = id.hex().parse().unwrap();
        let user = |running| {
            move |_| {
                vec![User {
                    container: "0123456789abcdef".into(),
                    running,
                }]
            }
        };
        let words = |wanted: &Stored, force, running| {
            let error = store.remove(wanted, force, &user(running)).unwrap_err();
            error.to_string()
        };
        let short = id.short();
        assert_eq!(
            words(&name, false, false),
            format!(
                "conflict: unable to remove repository reference \"test:latest\" (must force) - \
                 container 0123456789ab is using its referenced image {short}"
            )
        );
        assert_eq!(
            words(&by_id, false, false),
            format!(
                "conflict: unable to delete {short} (must be forced) - image is being used by \
                 stopped container 0123456789ab"
            )
        );
        assert_eq!(
            words(&by_id, true, true),
            format!(
                "conflict: unable to delete {short} (cannot be forced) - image is being used by \
                 running container 0123456789ab"
            )
        );
        let removed = store.remove(&name, true, &user(false)).unwrap();
        assert_eq!(removed, [Removed::Untagged("test:latest".into())]);
        assert_eq!((store.list().unwrap().len(), files(&store)), (1, 5));
    }

    #[test]
    fn an_image_that_runs_without_a_record_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let name: Stored = "test".parse().unwrap();
        let reference = "test".parse().unwrap();
        let image = store
            .resolve(&reference, &Platform::guest(), &mut Quiet)
            .unwrap();
        assert!(matches!(
            store.remove(&name, true, &nobody),
            Err(ImageError::InUseByRunning { .. })
        ));
        drop(image);
        store.remove(&name, false, &nobody).unwrap();
    }
}
