//! What one node has written down: the last entries, in blocks that are sent as they are.
//!
//! Knows nothing of other nodes.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::time::Wall;
use crate::timeline::Entry;

/// Entries of a block at most. A new entry sends its block anew: at some 200 bytes for an entry this is 1.5 KiB to each
/// peer on average, about two packets.
const BLOCK_ENTRIES: usize = 16;

/// Bytes of the entries of a block beyond which it takes no more, so that one with long texts is not larger than one
/// with many. A row may have 64 KiB.
const BLOCK_BYTES: usize = 4096;

/// Blocks that a node keeps: 512 entries are the whole lives of 170 instances, and at most 150 KiB, usually 100. All
/// nodes keep those of all: with 50 nodes some 5 MiB.
pub const BLOCKS: usize = 32;

/// Entries that are kept of one node.
pub const KEPT: usize = BLOCKS * BLOCK_ENTRIES;

/// Entries that follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The start of the node that wrote them. Starts that are later have greater numbers.
    pub life: u64,
    /// The name of that node.
    pub name: String,
    /// The number of the first, counted from the start of the node.
    pub first: u64,
    /// In order.
    pub entries: Vec<Entry>,
}

impl Block {
    /// The bytes of a row: JSON, to which fields can be added.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Structs of texts and numbers can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A block out of the bytes of a row; none if it is not one.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        // Nobody counts that far: numbers can be added to without care.
        serde_json::from_slice(bytes).ok().filter(|block: &Self| block.first < u64::MAX / 2)
    }
}

fn weight(entry: &Entry) -> usize {
    // What is around the texts has about a hundred bytes.
    100 + entry.text.len() + entry.subject.parts().1.len() + entry.component.as_ref().map_or(0, String::len)
}

/// The entries of one node in one life.
#[derive(Debug)]
pub struct Ring {
    life: u64,
    name: String,
    /// Blocks that were begun.
    begun: u64,
    blocks: VecDeque<Block>,
    /// Of the newest block.
    bytes: usize,
}

impl Ring {
    /// Nothing has happened yet. `life` must be greater than at any earlier start of this node.
    #[must_use]
    pub fn new(life: u64, name: &str) -> Self {
        Self { life, name: name.to_owned(), begun: 0, blocks: VecDeque::new(), bytes: 0 }
    }

    /// Writes an entry down; gives its block, and the place of that among [`BLOCKS`]. A clock that was set back does not
    /// bring entries out of their order.
    pub fn push(&mut self, mut entry: Entry) -> (u64, &Block) {
        let last = self.blocks.back().and_then(|block| block.entries.last());
        entry.at = entry.at.max(last.map_or(Wall(0), |last| last.at));
        let is_full = |block: &Block| block.entries.len() >= BLOCK_ENTRIES || self.bytes >= BLOCK_BYTES;
        let next = self.blocks.back().map_or(0, |block| block.first + block.entries.len() as u64);
        if self.blocks.back().is_none_or(is_full) {
            self.begun += 1;
            self.bytes = 0;
            if self.blocks.len() == BLOCKS {
                self.blocks.pop_front();
            }
            let (life, name) = (self.life, self.name.clone());
            self.blocks.push_back(Block { life, name, first: next, entries: Vec::new() });
        }
        self.bytes += weight(&entry);
        let place = self.begun.saturating_sub(1) % BLOCKS as u64;
        let newest = self.blocks.len() - 1;
        let block = &mut self.blocks[newest];
        block.entries.push(entry);
        (place, block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::happening::What;
    use crate::timeline::Subject;

    fn entry(at: u64, text: &str) -> Entry {
        Entry::new(Wall(at), What::Put, Subject::Component("api".into()), Some("api"), text)
    }

    #[test]
    fn entries_are_numbered_on_and_the_places_of_blocks_are_used_again() {
        let mut ring = Ring::new(7, "n0");
        let mut places = Vec::new();
        for at in 0..(KEPT as u64 + 20) {
            let (place, block) = ring.push(entry(at, "x"));
            assert_eq!(block.first + block.entries.len() as u64 - 1, at);
            assert_eq!(Block::parse(&block.encode()).as_ref(), Some(block));
            places.push(place);
        }
        places.dedup();
        let expected: Vec<u64> = (0..BLOCKS as u64).chain([0, 1]).collect();
        assert_eq!(places, expected);
        assert_eq!(ring.blocks.len(), BLOCKS);
    }

    #[test]
    fn long_texts_fill_a_block_early_and_no_block_comes_near_the_longest_row() {
        let mut ring = Ring::new(7, "n0");
        let lengths: Vec<usize> = (0..100)
            .map(|at| {
                let block = ring.push(entry(at, &"x".repeat(9999))).1;
                assert!(block.encode().len() < 2 * BLOCK_BYTES);
                block.entries.len()
            })
            .collect();
        assert!(lengths.iter().all(|length| *length < BLOCK_ENTRIES), "{lengths:?}");
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_the_order() {
        let mut ring = Ring::new(7, "n0");
        ring.push(entry(50, "a"));
        let block = ring.push(entry(20, "b")).1;
        assert_eq!(block.entries.iter().map(|entry| entry.at.0).collect::<Vec<_>>(), [50, 50]);
    }
}
