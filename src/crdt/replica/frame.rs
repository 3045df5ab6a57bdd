//! What replicas say to each other, as bytes. The types here are the ones on the wire.
//!
//! Every frame stands alone: it may be lost, doubled or overtaken. Registers travel as they are encoded, unread, so
//! that a kind of a newer release passes. Decides nothing.

use std::fmt;

use bytes::Bytes;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::crdt::clock::Hlc;
use crate::crdt::context::{Context, WRITERS_MAX};
use crate::crdt::row::{KEY_MAX, Key, REGISTER_MAX};
use crate::crdt::tree::FAN;
use crate::id::NodeId;
use crate::time::Wall;
use crate::wire::{self, WireError};

/// How many keys a request for rows may name. 16,384 pairs of numbers are 256 KiB, and a node that shares most of
/// 100,000 rows with another needs seven such requests.
pub(super) const ITEMS_MAX: usize = 16 * 1024;

/// How many ranges a request for rows may name: one for each bucket.
pub(super) const RANGES_MAX: usize = FAN * FAN;

/// The longest frame in bytes: rows up to [`super::Options::chunk`] (1 MiB), one register of the longest on top, which is
/// how the last row of a chunk may overshoot, and 256 KiB for what stands around them.
pub const FRAME_MAX: usize = (1 << 20) + REGISTER_MAX + KEY_MAX + (256 << 10);

/// Room for what stands around the rows of a frame, in bytes: some numbers.
const AROUND: usize = 64;

/// Why bytes are not a frame. Nothing was changed; whoever sent them is broken or newer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// The codec refused.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It decodes, but makes no sense.
    #[error("the frame is invalid: {0}")]
    Invalid(&'static str),
}

/// Bytes that are copied in one piece; serde would take a `Vec<u8>` byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Blob(pub(super) Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Raw;
        impl Visitor<'_> for Raw {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Raw)
    }
}

/// One message. Grows at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Frame {
    /// What the sender has, in two numbers. An answer is not answered. Whoever is busy fetching will be whole soon and
    /// is not worth fetching from.
    Root { root: u64, context: u64, answer: bool, busy: bool },
    /// Rows that were written at `origin` or came from there through `depth` relays.
    Push { origin: u64, id: u64, depth: u8, rows: Blob },
    /// Opens a fetch: the sums of the asker's groups, or nothing if it has no rows.
    Ask { session: u64, groups: Vec<u64> },
    /// The answer: how many rows there are, what is known of each writer, which groups differ and the sums of their
    /// buckets; no sums if the asker has nothing to compare them with.
    Digests { session: u64, rows: u64, context: Vec<(u64, u64)>, mask: u64, buckets: Blob },
    /// Asks for rows in ranges of hashes, first and last included, in ascending order. `items` is what the asker has
    /// there: pairs of key hash and digest, ascending.
    Want { session: u64, seq: u32, ranges: Vec<(u64, u64)>, items: Blob },
    /// Rows of the ranges that the asker lacks or has otherwise, and the hashes that only the asker has. With `next`
    /// the answer ends before that hash, and the asker asks again for the rest.
    Rows { session: u64, seq: u32, next: Option<u64>, absent: Blob, rows: Blob },
}

impl Frame {
    /// The frame as bytes. Every frame that is made here can be encoded.
    pub(super) fn encode(&self) -> Bytes {
        let rows = match self {
            Self::Push { rows, .. } | Self::Rows { rows, .. } => rows.0.len(),
            Self::Root { .. } | Self::Ask { .. } | Self::Digests { .. } | Self::Want { .. } => 0,
        };
        wire::encode_sized(self, rows + AROUND).unwrap_or_default().into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        let frame = wire::decode::<Self, FRAME_MAX>(bytes)?;
        frame.check().map(|()| frame)
    }

    fn check(&self) -> Result<(), BadFrame> {
        let is_sound = match self {
            Self::Root { .. } | Self::Push { .. } => true,
            Self::Ask { groups, .. } => groups.is_empty() || groups.len() == FAN,
            Self::Digests { context, mask, buckets, .. } => {
                let sums = mask.count_ones() as usize * FAN * 8;
                context.len() <= WRITERS_MAX && (buckets.0.is_empty() || buckets.0.len() == sums)
            }
            Self::Want { ranges, items, .. } => {
                ranges.len() <= RANGES_MAX
                    && ranges.iter().all(|(first, last)| first <= last)
                    && ranges.is_sorted_by(|a, b| a.1 < b.0)
                    && items.0.len() % 16 == 0
                    && items.0.len() / 16 <= ITEMS_MAX
            }
            Self::Rows { absent, .. } => absent.0.len() % 8 == 0 && absent.0.len() / 8 <= ITEMS_MAX,
        };
        if is_sound {
            Ok(())
        } else {
            Err(BadFrame::Invalid("a list in it has a length or an order that it cannot have"))
        }
    }
}

/// Numbers as bytes and back.
pub(super) fn pack(words: impl IntoIterator<Item = u64>) -> Blob {
    Blob(words.into_iter().flat_map(u64::to_le_bytes).collect())
}

pub(super) fn unpack(blob: &Blob) -> impl Iterator<Item = u64> {
    blob.0.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))
}

/// Pairs of numbers, as [`Frame::Want`] has them.
pub(super) fn pairs(blob: &Blob) -> Vec<(u64, u64)> {
    let words: Vec<u64> = unpack(blob).collect();
    words.as_chunks::<2>().0.iter().map(|[hash, digest]| (*hash, *digest)).collect()
}

/// Adds a row to a list of rows: length and bytes of the key, length and bytes of the register.
pub(super) fn add_row(rows: &mut Vec<u8>, key: &Key, register: &[u8]) {
    let key = key.to_bytes();
    rows.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
    rows.extend_from_slice(&key);
    rows.extend_from_slice(&u32::try_from(register.len()).unwrap_or(u32::MAX).to_le_bytes());
    rows.extend_from_slice(register);
}

/// The rows of a list; an error ends it.
pub(super) struct RowsIn<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for RowsIn<'a> {
    /// The key's bytes and the register's.
    type Item = Result<(&'a [u8], &'a [u8]), BadFrame>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let row = self.split();
        if row.is_none() {
            self.0 = &[];
        }
        Some(row.ok_or(BadFrame::Invalid("a row in it is cut short")))
    }
}

impl<'a> RowsIn<'a> {
    fn split(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (len, rest) = self.0.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (register, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        self.0 = rest;
        Some((key, register))
    }
}

/// A context as it travels.
pub(super) fn context_out(context: &Context) -> Vec<(u64, u64)> {
    context.iter().map(|(writer, at)| (writer.0, at.0)).collect()
}

/// And as it comes.
pub(super) fn context_in(list: &[(u64, u64)]) -> Context {
    list.iter().map(|(writer, at)| (NodeId(*writer), Hlc(*at))).collect()
}

/// What a replica keeps durably beside its rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Saved {
    /// When equality with every known member was last proven; 0 is never.
    pub synced: Wall,
    /// What is known of every writer without a gap. Deletes that it covers may be gone from the rows.
    pub context: Context,
}

impl Saved {
    /// The note as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(&(self.synced.0, context_out(&self.context))).unwrap_or_default()
    }

    /// Reads a note.
    ///
    /// # Errors
    /// If these are not the bytes of one. Do not start without it then: deleted rows could come back.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        // Two numbers of at most nine bytes for each writer, and what stands around them.
        const LIMIT: usize = WRITERS_MAX * 18 + 64;
        let (synced, context) = wire::decode::<(u64, Vec<(u64, u64)>), LIMIT>(bytes)?;
        Ok(Self { synced: Wall(synced), context: context_in(&context) })
    }
}
