// SPDX-License-Identifier: Apache-2.0
//! Applies one layer's entries to the tree (OCI image-spec, layer.md, "Applying Changesets").

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;

use crate::extents::Extent;
use crate::path::{self, PathError};
use crate::tar::{Entry, Kind, TarError, Timestamp};
use crate::tree::{Attributes, Ino, Node, ROOT, Tree};
use crate::xattr::{self, XattrError};

const WHITEOUT: &[u8] = b".wh.";
/// Marks of aufs, which wrote the first layers; of these only the opaque one has a meaning here.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// As many as the kernel follows in one path.
const MAX_SYMLINKS: usize = 40;
const MAX_TARGET: usize = 4095;

#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("layer entry \"{path}\"")]
    Entry { path: String, source: EntryError },
    #[error("can't write the image")]
    Write(#[source] io::Error),
    #[error("the image would become larger than {0} bytes")]
    TooLarge(u64),
    #[error("the layers hold more names and attributes than fit {0} bytes of memory")]
    TooManyEntries(u64),
}

#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("its hard link target \"{target}\"")]
    LinkPath { target: String, source: PathError },
    #[error("it goes through \"{0}\", which is not a directory")]
    NotADirectory(String),
    #[error("it goes through the symlink \"{0}\", which climbs above the root")]
    SymlinkEscapes(String),
    #[error("it goes through more than {MAX_SYMLINKS} symlinks")]
    TooManySymlinks,
    #[error("it names the root, but is no directory")]
    Root,
    #[error("its hard link target \"{0}\" does not exist")]
    MissingTarget(String),
    #[error("its hard link target \"{0}\" is a directory")]
    TargetIsDirectory(String),
    #[error("it removes no name")]
    Whiteout,
    #[error("its symlink target is empty")]
    EmptyTarget,
    #[error("its symlink target is longer than {MAX_TARGET} bytes")]
    TargetTooLong,
    #[error("its device number {major}:{minor} is out of range")]
    Device { major: u32, minor: u32 },
    #[error(transparent)]
    Xattr(#[from] XattrError),
}

/// One layer being applied.
pub(crate) struct LayerState {
    number: u32,
    cleared: HashSet<Ino>,
    /// Extents that lost their last name.
    pub released: Vec<Extent>,
}

/// A name in a directory, which may or may not exist.
struct Place<'a> {
    dir: Ino,
    name: &'a [u8],
}

impl LayerState {
    /// Layers count from 1; 0 is the root that was there before.
    pub(crate) fn new(number: u32) -> Self {
        LayerState {
            number,
            cleared: HashSet::new(),
            released: Vec::new(),
        }
    }

    /// Applies all of an entry but its data: for a file, returns the inode that wants it.
    pub(crate) fn apply(
        &mut self,
        tree: &mut Tree,
        entry: &Entry,
    ) -> Result<Option<Ino>, EntryError> {
        let components = path::components(&entry.path)?;
        let Some((name, parents)) = components.split_last() else {
            return Self::apply_root(tree, entry);
        };
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            self.white_out(tree, parents, name, hidden, entry.mtime)?;
            return Ok(None);
        }
        if parents
            .iter()
            .any(|parent| parent.starts_with(WHITEOUT_META))
        {
            return Ok(None);
        }
        let attributes = attributes(entry)?;
        let node = match &entry.kind {
            Kind::HardLink(target) => {
                self.hard_link(tree, parents, name, target, entry.mtime)?;
                return Ok(None);
            }
            Kind::File { size, .. } => Node::File {
                size: *size,
                extent: Extent {
                    start: 0,
                    blocks: 0,
                },
            },
            Kind::Symlink(target) => symlink(target)?,
            Kind::Char { major, minor } => Node::Char(device(*major, *minor)?),
            Kind::Block { major, minor } => Node::Block(device(*major, *minor)?),
            Kind::Fifo => Node::Fifo,
            Kind::Dir => {
                let place = self.place(tree, parents, name, entry.mtime)?;
                self.make_dir(tree, &place, attributes);
                return Ok(None);
            }
        };
        let place = self.place(tree, parents, name, entry.mtime)?;
        tree.unlink(place.dir, name, &mut self.released);
        let ino = tree.add(attributes, node);
        tree.link(place.dir, name, ino, self.number);
        Ok(matches!(entry.kind, Kind::File { .. }).then_some(ino))
    }

    fn apply_root(tree: &mut Tree, entry: &Entry) -> Result<Option<Ino>, EntryError> {
        if entry.kind != Kind::Dir {
            return Err(EntryError::Root);
        }
        tree.set_attributes(ROOT, attributes(entry)?);
        Ok(None)
    }

    fn make_dir(&mut self, tree: &mut Tree, place: &Place<'_>, attributes: Attributes) {
        let Place { dir, name } = *place;
        if let Some(dentry) = tree.child(dir, name)
            && tree.is_dir(dentry.ino)
        {
            tree.set_attributes(dentry.ino, attributes);
            tree.touch(dir, name, self.number);
            return;
        }
        tree.unlink(dir, name, &mut self.released);
        let ino = tree.add_dir(dir, attributes);
        tree.link(dir, name, ino, self.number);
    }

    fn hard_link(
        &mut self,
        tree: &mut Tree,
        parents: &[&[u8]],
        name: &[u8],
        target: &[u8],
        mtime: Timestamp,
    ) -> Result<(), EntryError> {
        let missing = || EntryError::MissingTarget(path::display(target));
        let components = path::components(target).map_err(|source| EntryError::LinkPath {
            target: path::display(target),
            source,
        })?;
        let (target_name, target_parents) = components
            .split_last()
            .ok_or_else(|| EntryError::TargetIsDirectory(path::display(target)))?;
        let target_dir = resolve(tree, target_parents, None)?.ok_or_else(missing)?;
        let ino = tree.child(target_dir, target_name).ok_or_else(missing)?.ino;
        if tree.is_dir(ino) {
            return Err(EntryError::TargetIsDirectory(path::display(target)));
        }
        let place = self.place(tree, parents, name, mtime)?;
        if tree
            .child(place.dir, name)
            .is_some_and(|old| old.ino == ino)
        {
            tree.touch(place.dir, name, self.number);
            return Ok(());
        }
        // What is replaced may be the directory that holds the target: keep the inode meanwhile.
        tree.hold(ino);
        tree.unlink(place.dir, name, &mut self.released);
        tree.link(place.dir, name, ino, self.number);
        tree.unhold(ino);
        Ok(())
    }

    fn white_out(
        &mut self,
        tree: &mut Tree,
        parents: &[&[u8]],
        name: &[u8],
        hidden: &[u8],
        mtime: Timestamp,
    ) -> Result<(), EntryError> {
        if name == OPAQUE {
            let make = Make {
                mtime,
                layer: self.number,
            };
            if let Some(dir) = resolve(tree, parents, Some(make))? {
                tree.clear_lower(dir, self.number, &mut self.cleared, &mut self.released);
            }
            return Ok(());
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(EntryError::Whiteout);
        }
        if let Some(dir) = resolve(tree, parents, None)? {
            tree.unlink_lower(
                dir,
                hidden,
                self.number,
                &mut self.cleared,
                &mut self.released,
            );
        }
        Ok(())
    }

    /// The place an entry goes to; directories that are missing on the way are made.
    fn place<'a>(
        &self,
        tree: &mut Tree,
        parents: &[&[u8]],
        name: &'a [u8],
        mtime: Timestamp,
    ) -> Result<Place<'a>, EntryError> {
        let make = Make {
            mtime,
            layer: self.number,
        };
        let dir = resolve(tree, parents, Some(make))?.unwrap_or(ROOT);
        Ok(Place { dir, name })
    }
}

/// How missing directories are made.
#[derive(Clone, Copy)]
struct Make {
    mtime: Timestamp,
    layer: u32,
}

/// The directory that a path leads to, symlinks followed inside the tree. Without `make`, `None`
/// where there is none; with it, missing directories are made and those passed are marked as the
/// layer's.
fn resolve(tree: &mut Tree, path: &[&[u8]], make: Option<Make>) -> Result<Option<Ino>, EntryError> {
    let shown = |name: &[u8]| path::display(name);
    // What is still to walk, last component first; what a symlink brings carries its name.
    let mut ahead: Vec<Cow<'_, [u8]>> =
        path.iter().rev().map(|name| Cow::Borrowed(*name)).collect();
    let mut trail = vec![ROOT];
    let mut symlinks = 0;
    let mut last_symlink = Vec::new();
    while let Some(name) = ahead.pop() {
        let dir = *trail.last().unwrap_or(&ROOT);
        if *name == *b".." {
            trail.pop();
            if trail.is_empty() {
                return Err(EntryError::SymlinkEscapes(shown(&last_symlink)));
            }
            continue;
        }
        let Some(dentry) = tree.child(dir, &name) else {
            let Some(make) = make else {
                return Ok(None);
            };
            let attributes = Attributes {
                mode: 0o755,
                mtime: make.mtime,
                ..Attributes::default()
            };
            let made = tree.add_dir(dir, attributes);
            tree.link(dir, &name, made, make.layer);
            trail.push(made);
            continue;
        };
        match &tree.inode(dentry.ino).node {
            Node::Dir { .. } => {
                if let Some(make) = make {
                    tree.touch(dir, &name, make.layer);
                }
                trail.push(dentry.ino);
            }
            Node::Symlink(target) => {
                symlinks += 1;
                if symlinks > MAX_SYMLINKS {
                    return Err(EntryError::TooManySymlinks);
                }
                if target.starts_with(b"/") {
                    trail.truncate(1);
                }
                let parts = target.rsplit(|byte| *byte == b'/');
                let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
                ahead.extend(parts.map(|part| Cow::Owned(part.to_vec())));
                last_symlink = name.into_owned();
            }
            // A lookup through a file finds nothing; putting something there is an error.
            _ if make.is_none() => return Ok(None),
            _ => return Err(EntryError::NotADirectory(shown(&name))),
        }
    }
    Ok(trail.last().copied())
}

fn attributes(entry: &Entry) -> Result<Attributes, EntryError> {
    // What Linux would not let anyone set (xattr(7)), or change (symlink(7)), isn't there.
    let holds_user_xattrs = matches!(entry.kind, Kind::File { .. } | Kind::Dir);
    let mode = match entry.kind {
        Kind::Symlink(_) => 0o777,
        _ => entry.mode,
    };
    Ok(Attributes {
        mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: xattr::encode(&entry.xattrs, holds_user_xattrs)?,
    })
}

fn symlink(target: &[u8]) -> Result<Node, EntryError> {
    match target.len() {
        0 => Err(EntryError::EmptyTarget),
        1..=MAX_TARGET => Ok(Node::Symlink(target.into())),
        _ => Err(EntryError::TargetTooLong),
    }
}

/// The kernel's 32-bit form: 12 bits of major between the minor's 8 low and 12 high ones.
fn device(major: u32, minor: u32) -> Result<u32, EntryError> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(EntryError::Device { major, minor });
    }
    Ok((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

#[cfg(test)]
mod tests;
