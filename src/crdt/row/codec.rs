//! Registers as bytes, for disk and for peers. The types here are the ones on the wire, apart from those in memory.
//!
//! Checks every invariant of a register on the way in: what a peer sends can be wrong in any way and must not pass.

use std::fmt;
use std::sync::Arc;

use crdts::VClock;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::crdt::clock::Hlc;
use crate::crdt::row::{Dot, ROW_MAX, Register, Row, SIBLINGS_MAX, Sibling};
use crate::id::NodeId;
use crate::wire::{self, WireError};

/// The longest encoded register in bytes: eight rows of the longest, and as much again for clocks, which is about
/// 29,000 entries of a writer each.
pub const REGISTER_MAX: usize = 2 * SIBLINGS_MAX * ROW_MAX;

/// Why bytes are not a register. Whoever sent or kept them is broken or newer; nothing was changed here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The codec refused.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It decodes, but an invariant does not hold.
    #[error("the register is invalid: {0}")]
    Invalid(&'static str),
}

#[derive(Serialize, Deserialize)]
struct WireDot {
    at: u64,
    by: u64,
}

#[derive(Serialize, Deserialize)]
struct WireSibling {
    dot: WireDot,
    seen: Vec<WireDot>,
    row: Option<(u16, Blob)>,
}

/// Bytes that are copied in one piece; serde would take a `Vec<u8>` byte by byte.
struct Blob(Arc<[u8]>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.into()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes.into()))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

impl From<Dot> for WireDot {
    fn from(dot: Dot) -> Self {
        Self { at: dot.at.0, by: dot.by.0 }
    }
}

impl From<WireDot> for Dot {
    fn from(dot: WireDot) -> Self {
        Self { at: Hlc(dot.at), by: NodeId(dot.by) }
    }
}

impl Register {
    /// The register as bytes; equal registers have equal bytes.
    ///
    /// # Errors
    /// If it would be longer than [`REGISTER_MAX`], which takes some thousand writers of one key.
    pub fn encode(&self) -> Result<Vec<u8>, RowError> {
        let siblings: Vec<WireSibling> = self.0.iter().map(to_wire).collect();
        let bytes = wire::encode_sized(&siblings, self.weight())?;
        if bytes.len() > REGISTER_MAX {
            return Err(WireError::TooLong { found: bytes.len(), limit: REGISTER_MAX }.into());
        }
        Ok(bytes)
    }

    /// Reads a register.
    ///
    /// # Errors
    /// Says what is wrong with the bytes. Never panics, whatever they are.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let siblings: Vec<WireSibling> = wire::decode::<_, REGISTER_MAX>(bytes)?;
        if siblings.is_empty() || siblings.len() > SIBLINGS_MAX {
            return Err(RowError::Invalid("it must have 1 to 8 values"));
        }
        let siblings = siblings.into_iter().map(from_wire).collect::<Result<Arc<[_]>, _>>()?;
        if !siblings.is_sorted_by(|a, b| a.dot > b.dot) {
            return Err(RowError::Invalid("its values are not in order"));
        }
        if siblings.len() > 1 && !is_antichain(&siblings) {
            return Err(RowError::Invalid("one of its values had replaced another"));
        }
        Ok(Self(siblings))
    }
}

fn to_wire(sibling: &Sibling) -> WireSibling {
    WireSibling {
        dot: sibling.dot.into(),
        seen: sibling.seen.iter().map(|dot| (*dot).into()).collect(),
        row: sibling.row.as_ref().map(|row| (row.format, Blob(Arc::clone(&row.bytes)))),
    }
}

fn from_wire(wire: WireSibling) -> Result<Sibling, RowError> {
    let dot = Dot::from(wire.dot);
    let seen: Box<[Dot]> = wire.seen.into_iter().map(Dot::from).collect();
    if !seen.is_sorted_by(|a, b| a.by < b.by) || seen.iter().any(|seen| seen.by == dot.by) {
        return Err(RowError::Invalid("a clock is not in order"));
    }
    if dot.at.0 == 0 || seen.iter().any(|seen| seen.at.0 == 0 || seen.at >= dot.at) {
        return Err(RowError::Invalid("a write is not later than what its writer had seen"));
    }
    let row = wire.row.map(|(format, Blob(bytes))| Row { format, bytes });
    if row.as_ref().is_some_and(|row| row.bytes.len() > ROW_MAX) {
        return Err(RowError::Invalid("a row is longer than 64 KiB"));
    }
    Ok(Sibling { dot, seen, row })
}

fn is_antichain(siblings: &[Sibling]) -> bool {
    let clocks: Vec<VClock<NodeId>> = siblings.iter().map(Sibling::clock).collect();
    clocks.iter().enumerate().all(|(index, clock)| clocks[..index].iter().all(|other| clock.concurrent(other)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(before: Option<&Register>, at: u64, by: u64, text: &str) -> Register {
        let row = Row { format: 2, bytes: text.as_bytes().into() };
        Register::write(before, Dot { at: Hlc(at), by: NodeId(by) }, Some(row))
    }

    fn sample() -> Register {
        write(Some(&write(None, 3, 9, "old")), 5, 1, "new").merge(&write(None, 4, 2, "other"))
    }

    #[test]
    fn the_bytes_of_a_register_are_those_of_earlier_releases() {
        let golden = [1, 2, 5, 1, 1, 3, 9, 1, 2, 3, b'n', b'e', b'w', 4, 2, 0, 1, 2, 5, b'o', b't', b'h', b'e', b'r'];
        assert_eq!(sample().encode().as_deref(), Ok(&golden[..]));
        assert_eq!(Register::decode(&golden), Ok(sample()));
    }

    #[test]
    fn a_register_that_breaks_an_invariant_is_refused_and_says_which() {
        let refused = |bytes: &[u8]| match Register::decode(bytes) {
            Err(RowError::Invalid(why)) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&[1, 0]), "it must have 1 to 8 values");
        assert_eq!(refused(&[1, 2, 4, 2, 0, 0, 5, 1, 0, 0]), "its values are not in order");
        assert_eq!(refused(&[1, 2, 5, 1, 1, 4, 2, 0, 4, 2, 0, 0]), "one of its values had replaced another");
        assert_eq!(refused(&[1, 1, 5, 1, 1, 4, 1, 0]), "a clock is not in order");
        assert_eq!(refused(&[1, 1, 5, 1, 1, 6, 2, 0]), "a write is not later than what its writer had seen");
    }

    proptest! {
        #[test]
        fn no_bytes_make_decode_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..80)) {
            bytes[0] = wire::VERSION;
            if let Ok(register) = Register::decode(&bytes) {
                let again = register.encode().expect("it was decoded");
                prop_assert_eq!(Register::decode(&again), Ok(register));
            }
        }

        #[test]
        fn no_change_of_one_byte_makes_decode_or_merge_panic(at in 0_usize..24, value in any::<u8>()) {
            let mut bytes = sample().encode().expect("a register");
            bytes[at] = value;
            if let Ok(other) = Register::decode(&bytes) {
                let merged = other.merge(&sample());
                prop_assert_eq!(&merged, &sample().merge(&other));
                prop_assert!(Register::decode(&merged.encode().expect("a register")).is_ok());
            }
        }
    }
}
