//! Bytes that leave the process and come back: the one place that names the codec.
//!
//! The codec is bincode, pinned to 2.0.1: 3.0.0 is an empty tombstone and 2.0.1 has no maintainer (RUSTSEC-2025-0141,
//! no known vulnerability), so nobody else may name it and changing it is a change to this file. It is not
//! self-describing: a message can only be read by who knows its type, which is why rows travel as opaque bytes.
//! Knows no message. First comes a version byte, decoding is bounded, and bytes left over are refused.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that this release writes, first byte of every message. Goes up when the codec or its settings change;
/// the messages themselves evolve by new kinds and by enums that only ever grow at the end.
pub const VERSION: u8 = 1;

/// Why bytes were not decoded, or a value not encoded. Nothing was changed in either case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not even the version byte is there.
    #[error("the message is empty")]
    Empty,
    /// Another release wrote it.
    #[error("the message has wire version {found}; this node knows {VERSION}")]
    Version {
        /// The first byte.
        found: u8,
    },
    /// More bytes than the reader allows, sizes in bytes.
    #[error("the message has {found} bytes; allowed are at most {limit}")]
    TooLong {
        /// How long it is.
        found: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A whole message and then more.
    #[error("{0} bytes are left over after the message")]
    Trailing(usize),
    /// Cut short, or not this type, or a length inside that is beyond the limit.
    #[error("the message is malformed: {0}")]
    Malformed(String),
    /// The value cannot be written in this codec. Only a type that we defined wrongly gets here.
    #[error("the value cannot be encoded: {0}")]
    Unencodable(String),
}

/// Encodes a value, version byte first.
///
/// # Errors
/// [`WireError::Unencodable`] if the type is outside of what the codec can write.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, WireError> {
    encode_sized(value, 0)
}

/// The same for a value of which it is known about how many bytes it will take.
///
/// # Errors
/// As [`encode`].
pub fn encode_sized<T: Serialize + ?Sized>(value: &T, about: usize) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::with_capacity(about + 1);
    bytes.push(VERSION);
    bincode::serde::encode_into_std_write(value, &mut bytes, bincode::config::standard())
        .map_err(|error| WireError::Unencodable(error.to_string()))?;
    Ok(bytes)
}

/// Decodes a whole message of at most `LIMIT` bytes. `T` must hold no sequence of values that take no bytes (such as
/// `Vec<()>`): only there could a short message ask for long work.
///
/// # Errors
/// Says what is wrong with the bytes. Never panics, whatever they are.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > LIMIT {
        return Err(WireError::TooLong { found: bytes.len(), limit: LIMIT });
    }
    let (&found, body) = bytes.split_first().ok_or(WireError::Empty)?;
    if found != VERSION {
        return Err(WireError::Version { found });
    }
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (value, used) = bincode::serde::decode_from_slice::<T, _>(body, config)
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    match body.len() - used {
        0 => Ok(value),
        left => Err(WireError::Trailing(left)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Message {
        Ping,
        Rows { from: u64, rows: Vec<(String, Option<Vec<u8>>)> },
    }

    fn sample() -> Message {
        Message::Rows { from: 300, rows: vec![("ab".to_owned(), Some(vec![7, 8])), (String::new(), None)] }
    }

    #[test]
    fn the_bytes_of_a_message_are_those_of_earlier_releases() {
        assert_eq!(encode(&Message::Ping), Ok(vec![1, 0]));
        let golden = vec![1, 1, 251, 44, 1, 2, 2, b'a', b'b', 1, 2, 7, 8, 0, 0];
        assert_eq!(encode(&sample()), Ok(golden.clone()));
        assert_eq!(decode::<Message, 64>(&golden), Ok(sample()));
    }

    #[test]
    fn a_message_of_another_version_is_named_as_such() {
        assert_eq!(decode::<Message, 64>(&[2, 0]), Err(WireError::Version { found: 2 }));
        assert_eq!(decode::<Message, 64>(&[]), Err(WireError::Empty));
    }

    #[test]
    fn bytes_after_the_message_are_refused() {
        assert_eq!(decode::<Message, 64>(&[1, 0, 9, 9]), Err(WireError::Trailing(2)));
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_it_is_read() {
        let bytes = encode(&"x".repeat(100)).expect("a text");
        assert_eq!(decode::<String, 64>(&bytes), Err(WireError::TooLong { found: 102, limit: 64 }));
    }

    #[test]
    fn a_length_that_lies_is_refused_without_taking_memory() {
        // A text that claims 2^63 bytes.
        let bomb = [1, 253, 0, 0, 0, 0, 0, 0, 0, 128];
        assert!(matches!(decode::<String, 64>(&bomb), Err(WireError::Malformed(_))));
        assert!(matches!(decode::<Vec<u64>, 64>(&bomb), Err(WireError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decode_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Message, 128>(&bytes);
            let mut versioned = vec![VERSION];
            versioned.extend(bytes);
            let _ = decode::<Message, 256>(&versioned);
        }

        #[test]
        fn what_was_encoded_is_decoded_and_every_cut_of_it_is_refused(
            from in any::<u64>(), rows in proptest::collection::vec((".{0,9}", any::<Option<Vec<u8>>>()), 0..5),
        ) {
            let message = Message::Rows { from, rows };
            let bytes = encode(&message).expect("a message");
            for cut in 0..bytes.len() {
                prop_assert!(decode::<Message, 4096>(&bytes[..cut]).is_err());
            }
            prop_assert_eq!(decode::<Message, 4096>(&bytes), Ok(message));
        }
    }
}
