// SPDX-License-Identifier: Apache-2.0
//! All names and attributes of the image to be, in memory.

use std::collections::{BTreeMap, HashSet};

use crate::extents::Extent;
use crate::tar::Timestamp;
use crate::xattr::Encoded;

/// Index of an inode in its [`Tree`].
pub(crate) type Ino = u32;

pub(crate) const ROOT: Ino = 0;

/// What one inode is charged with beyond its variable parts: itself, its map slot, allocator
/// overhead.
const INODE_COST: u64 = 192;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permissions, set-id and sticky bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub xattrs: Encoded,
}

#[derive(Debug)]
pub(crate) enum Node {
    Dir {
        parent: Ino,
        entries: BTreeMap<Box<[u8]>, Dentry>,
    },
    File {
        size: u64,
        extent: Extent,
    },
    Symlink(Box<[u8]>),
    Char(u32),
    Block(u32),
    Fifo,
    /// A slot to be used again.
    Free,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dentry {
    pub ino: Ino,
    /// The layer that last named it, or anything below it.
    pub layer: u32,
}

#[derive(Debug)]
pub(crate) struct Inode {
    pub attributes: Attributes,
    pub node: Node,
    /// Names that refer to it; `.` and `..` are not counted.
    pub names: u32,
}

#[derive(Debug)]
pub(crate) struct Tree {
    inodes: Vec<Inode>,
    free: Vec<Ino>,
    /// An estimate of the bytes held.
    cost: u64,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let attributes = Attributes {
            mode: 0o755,
            ..Attributes::default()
        };
        let node = Node::Dir {
            parent: ROOT,
            entries: BTreeMap::new(),
        };
        Tree {
            inodes: vec![Inode {
                attributes,
                node,
                names: 1,
            }],
            free: Vec::new(),
            cost: 0,
        }
    }

    pub(crate) fn inode(&self, ino: Ino) -> &Inode {
        &self.inodes[ino as usize]
    }

    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    /// Live inodes.
    pub(crate) fn len(&self) -> usize {
        self.inodes.len() - self.free.len()
    }

    /// One more than the largest [`Ino`] in use.
    pub(crate) fn slots(&self) -> usize {
        self.inodes.len()
    }

    pub(crate) fn set_attributes(&mut self, ino: Ino, attributes: Attributes) {
        let inode = &mut self.inodes[ino as usize];
        self.cost += attributes.xattrs.len() as u64;
        self.cost -= inode.attributes.xattrs.len() as u64;
        inode.attributes = attributes;
    }

    /// The entries of a directory; `None` for anything else.
    pub(crate) fn entries(&self, dir: Ino) -> Option<&BTreeMap<Box<[u8]>, Dentry>> {
        match &self.inode(dir).node {
            Node::Dir { entries, .. } => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn child(&self, dir: Ino, name: &[u8]) -> Option<Dentry> {
        self.entries(dir)?.get(name).copied()
    }

    pub(crate) fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.inode(ino).node, Node::Dir { .. })
    }

    /// A new inode without a name yet.
    pub(crate) fn add(&mut self, attributes: Attributes, node: Node) -> Ino {
        let inode = Inode {
            attributes,
            node,
            names: 0,
        };
        self.cost += cost(&inode);
        if let Some(ino) = self.free.pop() {
            self.inodes[ino as usize] = inode;
            return ino;
        }
        self.inodes.push(inode);
        Ino::try_from(self.inodes.len() - 1).expect("the cost limit is reached long before")
    }

    pub(crate) fn add_dir(&mut self, parent: Ino, attributes: Attributes) -> Ino {
        self.add(
            attributes,
            Node::Dir {
                parent,
                entries: BTreeMap::new(),
            },
        )
    }

    /// Names an inode. What bore the name before must be gone.
    pub(crate) fn link(&mut self, dir: Ino, name: &[u8], ino: Ino, layer: u32) {
        self.inodes[ino as usize].names += 1;
        let Node::Dir { entries, .. } = &mut self.inodes[dir as usize].node else {
            return;
        };
        let old = entries.insert(name.into(), Dentry { ino, layer });
        debug_assert!(
            old.is_none(),
            "a name is taken away before it is given again"
        );
        self.cost += name.len() as u64;
    }

    /// Notes that `layer` named an existing directory or put something below it.
    pub(crate) fn touch(&mut self, dir: Ino, name: &[u8], layer: u32) {
        if let Node::Dir { entries, .. } = &mut self.inodes[dir as usize].node
            && let Some(dentry) = entries.get_mut(name)
        {
            dentry.layer = layer;
        }
    }

    /// Keeps an inode alive while its names change; undone by [`Self::unhold`].
    pub(crate) fn hold(&mut self, ino: Ino) {
        self.inodes[ino as usize].names += 1;
    }

    pub(crate) fn unhold(&mut self, ino: Ino) {
        self.inodes[ino as usize].names -= 1;
    }

    pub(crate) fn set_extent(&mut self, ino: Ino, new: Extent) {
        if let Node::File { extent, .. } = &mut self.inodes[ino as usize].node {
            *extent = new;
        }
    }

    /// Takes a name away, with all below it. Extents that nothing refers to any more go to
    /// `released`.
    pub(crate) fn unlink(&mut self, dir: Ino, name: &[u8], released: &mut Vec<Extent>) {
        let Node::Dir { entries, .. } = &mut self.inodes[dir as usize].node else {
            return;
        };
        let Some(dentry) = entries.remove(name) else {
            return;
        };
        self.cost -= name.len() as u64;
        // A list and not recursion: a hostile tree is as deep as it likes.
        let mut dropped = vec![dentry.ino];
        while let Some(ino) = dropped.pop() {
            let inode = &mut self.inodes[ino as usize];
            inode.names -= 1;
            if inode.names > 0 {
                continue;
            }
            self.cost -= cost(inode);
            match std::mem::replace(&mut inode.node, Node::Free) {
                Node::Dir { entries, .. } => {
                    self.cost -= entries.keys().map(|name| name.len() as u64).sum::<u64>();
                    dropped.extend(entries.values().map(|dentry| dentry.ino));
                }
                Node::File { extent, .. } => released.push(extent),
                _ => {}
            }
            inode.attributes = Attributes::default();
            self.free.push(ino);
        }
    }

    /// Takes away what layers below `layer` put under this name, and keeps what `layer` put there
    /// with the directories that lead to it. `cleared` holds the directories of which this is
    /// known to be done: it keeps the work for one layer linear, however often it asks.
    pub(crate) fn unlink_lower(
        &mut self,
        dir: Ino,
        name: &[u8],
        layer: u32,
        cleared: &mut HashSet<Ino>,
        released: &mut Vec<Extent>,
    ) {
        match self.child(dir, name) {
            Some(dentry) if dentry.layer < layer => self.unlink(dir, name, released),
            Some(dentry) => self.clear_lower(dentry.ino, layer, cleared, released),
            None => {}
        }
    }

    /// [`Self::unlink_lower`] for all that a directory holds.
    pub(crate) fn clear_lower(
        &mut self,
        dir: Ino,
        layer: u32,
        cleared: &mut HashSet<Ino>,
        released: &mut Vec<Extent>,
    ) {
        let mut dirs = vec![dir];
        while let Some(dir) = dirs.pop() {
            let Some(entries) = self.entries(dir) else {
                continue;
            };
            if !cleared.insert(dir) {
                continue;
            }
            let mut doomed: Vec<Box<[u8]>> = Vec::new();
            for (name, dentry) in entries {
                if dentry.layer < layer {
                    doomed.push(name.clone());
                } else if self.is_dir(dentry.ino) {
                    dirs.push(dentry.ino);
                }
            }
            for name in doomed {
                self.unlink(dir, &name, released);
            }
        }
    }
}

fn cost(inode: &Inode) -> u64 {
    let target = match &inode.node {
        Node::Symlink(target) => target.len(),
        _ => 0,
    };
    INODE_COST + (inode.attributes.xattrs.len() + target) as u64
}
