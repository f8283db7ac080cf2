// SPDX-License-Identifier: Apache-2.0
//! Which blocks of the output hold file data, and which were given back.

use std::collections::{BTreeMap, BTreeSet};

/// `blocks` blocks from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub start: u32,
    pub blocks: u32,
}

#[derive(Debug)]
pub(crate) struct Extents {
    /// First block that was never used.
    end: u32,
    /// Blocks may be handed out below this one.
    limit: u32,
    /// Start → length; neighbours are always merged.
    free: BTreeMap<u32, u32>,
    /// The same, by length.
    by_length: BTreeSet<(u32, u32)>,
}

impl Extents {
    pub(crate) fn new(first: u32, limit: u32) -> Self {
        Extents {
            end: first,
            limit,
            free: BTreeMap::new(),
            by_length: BTreeSet::new(),
        }
    }

    /// The smallest free gap that fits, else new blocks. `None` once the limit is reached.
    pub(crate) fn allocate(&mut self, blocks: u64) -> Option<Extent> {
        let wanted = u32::try_from(blocks).ok()?;
        let Some((len, start)) = self.by_length.range((wanted, 0)..).next().copied() else {
            return self.allocate_new(blocks);
        };
        self.remove(start, len);
        if len > wanted {
            self.insert(start + wanted, len - wanted);
        }
        Some(Extent {
            start,
            blocks: wanted,
        })
    }

    /// Blocks that were never written, so that they read as zeros.
    pub(crate) fn allocate_new(&mut self, blocks: u64) -> Option<Extent> {
        let blocks = u32::try_from(blocks).ok()?;
        let start = self.end;
        self.end = start.checked_add(blocks).filter(|end| *end <= self.limit)?;
        Some(Extent { start, blocks })
    }

    pub(crate) fn release(&mut self, extent: Extent) {
        let Extent {
            mut start,
            mut blocks,
        } = extent;
        if blocks == 0 {
            return;
        }
        if let Some((before, len)) = self.free.range(..start).next_back().map(|(s, l)| (*s, *l))
            && before + len == start
        {
            self.remove(before, len);
            start = before;
            blocks += len;
        }
        if let Some(len) = self.free.get(&(start + blocks)).copied() {
            self.remove(start + blocks, len);
            blocks += len;
        }
        self.insert(start, blocks);
    }

    /// Where metadata may begin, and the gaps below it that hold nothing.
    pub(crate) fn finish(mut self) -> (u32, Vec<Extent>) {
        if let Some((start, len)) = self.free.last_key_value().map(|(s, l)| (*s, *l))
            && start + len == self.end
        {
            self.remove(start, len);
            self.end = start;
        }
        let gaps = self.free.iter().map(|(start, blocks)| Extent {
            start: *start,
            blocks: *blocks,
        });
        (self.end, gaps.collect())
    }

    fn insert(&mut self, start: u32, len: u32) {
        self.free.insert(start, len);
        self.by_length.insert((len, start));
    }

    fn remove(&mut self, start: u32, len: u32) {
        self.free.remove(&start);
        self.by_length.remove(&(len, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_gap_is_used_again_and_the_tail_is_given_back() {
        let mut extents = Extents::new(1, 100);
        let first = extents.allocate(4).unwrap();
        let second = extents.allocate(2).unwrap();
        let third = extents.allocate(3).unwrap();
        extents.release(first);
        assert_eq!(
            extents.allocate(3).unwrap(),
            Extent {
                start: 1,
                blocks: 3
            }
        );
        extents.release(second);
        assert_eq!(
            extents.allocate(3).unwrap(),
            Extent {
                start: 4,
                blocks: 3
            }
        );
        extents.release(third);
        assert_eq!(extents.finish(), (7, vec![]));
    }

    #[test]
    fn the_limit_holds() {
        let mut extents = Extents::new(1, 10);
        assert!(extents.allocate(10).is_none());
        let mut extents = Extents::new(1, 10);
        assert!(extents.allocate(9).is_some());
        assert!(extents.allocate(1).is_none());
        assert!(extents.allocate(u64::MAX).is_none());
    }

    proptest! {
        #[test]
        fn no_block_is_handed_out_twice(steps in prop::collection::vec((1u64..9, any::<u8>()), 1..80)) {
            let mut extents = Extents::new(1, 10_000);
            let mut held: Vec<Extent> = Vec::new();
            for (blocks, choice) in steps {
                if choice % 3 == 0 && !held.is_empty() {
                    extents.release(held.swap_remove(usize::from(choice) % held.len()));
                    continue;
                }
                let new = extents.allocate(blocks).unwrap();
                for old in &held {
                    prop_assert!(new.start + new.blocks <= old.start || old.start + old.blocks <= new.start);
                }
                held.push(new);
            }
            let used: u32 = held.iter().map(|extent| extent.blocks).sum();
            let (end, gaps) = extents.finish();
            let gaps: u32 = gaps.iter().map(|extent| extent.blocks).sum();
            prop_assert_eq!(end - 1, used + gaps);
        }
    }
}
