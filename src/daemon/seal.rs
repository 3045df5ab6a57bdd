//! Values of settings as they are kept: plain, or sealed with a key that follows from the secret of the cluster, so that
//! every node can open what any node sealed, and nobody else can.
//!
//! Each value is sealed with ChaCha20-Poly1305 and a nonce of 96 random bits. Two values under one nonce would give
//! both away; 2^32 values (a hundred thousand secrets, changed daily for a hundred years) have an equal pair with a
//! probability of 2^-33. The key of the row is sealed in: a value that is moved to another row does not open.
//!
//! Knows nothing of who uses a setting. No value gets into an error or a `Debug` text.

use std::fmt;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::crdt::row::ROW_MAX;
use crate::crdt::{Key, Row};
use crate::id::ClusterId;
use crate::transport::token::Secret;
use crate::transport::trust::{self, TrustError};
use crate::wire;

/// The format of the rows that this version writes.
const FORMAT: u16 = 1;

/// What tells this key from all others that follow from the secret.
const LABEL: &[u8] = b"maelstrom settings";

/// A value as it is kept. Only ever grows at the end.
#[derive(Serialize, Deserialize)]
enum Kept {
    Plain(Vec<u8>),
    Sealed { nonce: [u8; NONCE_LEN], bytes: Vec<u8> },
}

/// Why a value cannot be had, continuing a sentence that starts with the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    /// A newer release wrote it.
    #[error("was written by a newer version of maelstrom, which this node must be updated to")]
    Newer,
    /// The bytes are none that any release writes.
    #[error("is damaged; put it again")]
    Damaged,
    /// Sealed with another key, for another row, or altered.
    #[error("does not open with the secret of this cluster: it was altered, or comes from another one; put it again")]
    Sealed,
    /// No randomness for a nonce.
    #[error("cannot be sealed: the system gives no random bytes")]
    NoRandomness,
}

/// The key of one cluster.
pub(crate) struct Seal(LessSafeKey);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(hidden)")
    }
}

impl Seal {
    /// The same on every node of a cluster.
    ///
    /// # Errors
    /// No key can be derived.
    pub(crate) fn new(cluster: ClusterId, secret: &Secret) -> Result<Self, TrustError> {
        let key = trust::derive(secret, LABEL, &cluster.0.to_be_bytes())?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key);
        let key = key.map_err(|_| TrustError::Tls("the key for settings has a wrong length".to_owned()))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// The row that keeps a secret under a key.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(crate) fn sealed(&self, key: &Key, value: &[u8]) -> Result<Row, SealError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let mut bytes = value.to_vec();
        let sealed =
            self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key.to_bytes()), &mut bytes);
        // It fails above 256 GiB.
        sealed.map_err(|_| SealError::Damaged)?;
        Ok(row(&Kept::Sealed { nonce, bytes }))
    }

    /// The value of a row under its key.
    ///
    /// # Errors
    /// Says what is wrong with the row.
    pub(crate) fn open(&self, key: &Key, row: &Row) -> Result<Vec<u8>, SealError> {
        match kept(row)? {
            Kept::Plain(value) => Ok(value),
            Kept::Sealed { nonce, mut bytes } => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                let length = self.0.open_in_place(nonce, Aad::from(key.to_bytes()), &mut bytes);
                let length = length.map_err(|_| SealError::Sealed)?.len();
                bytes.truncate(length);
                Ok(bytes)
            }
        }
    }
}

/// The row that keeps a value that everybody may see.
pub(crate) fn plain(value: &[u8]) -> Row {
    row(&Kept::Plain(value.to_vec()))
}

/// The value of a row if everybody may see it. What cannot be read counts as a secret.
pub(crate) fn shown(row: &Row) -> Option<Vec<u8>> {
    match kept(row) {
        Ok(Kept::Plain(value)) => Some(value),
        Ok(Kept::Sealed { .. }) | Err(_) => None,
    }
}

fn row(kept: &Kept) -> Row {
    // Bytes and an array can always be written.
    Row { format: FORMAT, bytes: wire::encode(kept).unwrap_or_default().into() }
}

fn kept(row: &Row) -> Result<Kept, SealError> {
    if row.format > FORMAT {
        return Err(SealError::Newer);
    }
    wire::decode::<Kept, ROW_MAX>(&row.bytes).map_err(|_| SealError::Damaged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crdt::Kind;
    use crate::model::cfg::VALUE_MAX;

    fn seal(cluster: u64, secret: u8) -> Seal {
        Seal::new(ClusterId(cluster), &Secret::from_bytes([secret; 32])).expect("a key")
    }

    fn key(name: &str) -> Key {
        Key::new(Kind::CONFIG, name).expect("a key")
    }

    #[test]
    fn every_node_of_the_cluster_opens_a_secret_and_no_other_does() {
        let row = seal(1, 2).sealed(&key("A"), b"hush").expect("sealed");
        assert_eq!(seal(1, 2).open(&key("A"), &row), Ok(b"hush".to_vec()));
        for other in [seal(1, 3), seal(2, 2)] {
            assert_eq!(other.open(&key("A"), &row), Err(SealError::Sealed));
        }
    }

    #[test]
    fn a_secret_in_another_row_does_not_open() {
        let seal = seal(1, 2);
        let row = seal.sealed(&key("api/A"), b"hush").expect("sealed");
        for other in ["api/B", "A", "apiA", "web/A"] {
            assert_eq!(seal.open(&key(other), &row), Err(SealError::Sealed), "{other}");
        }
        let other = Key::new(Kind::SOURCE, "api/A").expect("a key");
        assert_eq!(seal.open(&other, &row), Err(SealError::Sealed));
    }

    #[test]
    fn a_secret_that_is_cut_or_altered_does_not_open() {
        let seal = seal(1, 2);
        let row = seal.sealed(&key("A"), b"hush").expect("sealed");
        for end in 0..row.bytes.len() {
            let cut = Row { format: row.format, bytes: row.bytes[..end].into() };
            assert!(seal.open(&key("A"), &cut).is_err(), "{end}");
            let mut altered = row.bytes.to_vec();
            altered[end] ^= 1;
            let altered = Row { format: row.format, bytes: altered.into() };
            assert_ne!(seal.open(&key("A"), &altered), Ok(b"hush".to_vec()), "{end}");
            assert_eq!(shown(&altered).filter(|value| value.windows(4).any(|four| four == b"hush")), None);
        }
    }

    #[test]
    fn the_same_secret_never_looks_the_same_and_never_like_itself() {
        let seal = seal(1, 2);
        let rows = [(); 2].map(|()| seal.sealed(&key("A"), b"hush-hush").expect("sealed"));
        assert_ne!(rows[0], rows[1]);
        for row in &rows {
            assert!(!row.bytes.windows(4).any(|four| four == b"hush"));
            assert_eq!(shown(row), None);
        }
        assert_eq!(format!("{seal:?}"), "Seal(hidden)");
    }

    #[test]
    fn a_plain_value_is_shown_and_its_bytes_are_those_of_earlier_releases() {
        let row = plain(b"ab");
        assert_eq!((row.format, &*row.bytes), (1, &[1, 0, 2, b'a', b'b'][..]));
        assert_eq!((shown(&row), seal(1, 2).open(&key("A"), &row)), (Some(b"ab".to_vec()), Ok(b"ab".to_vec())));
    }

    #[test]
    fn what_a_newer_release_wrote_is_named_as_such_and_shown_to_nobody() {
        let newer = Row { format: 2, ..plain(b"ab") };
        assert_eq!((shown(&newer), seal(1, 2).open(&key("A"), &newer)), (None, Err(SealError::Newer)));
    }

    #[test]
    fn the_largest_value_fits_a_row() {
        let value = vec![7; VALUE_MAX];
        let row = seal(1, 2).sealed(&key("A"), &value).expect("sealed");
        assert!(row.bytes.len() <= ROW_MAX, "{}", row.bytes.len());
        assert_eq!(seal(1, 2).open(&key("A"), &row), Ok(value));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(format in 0..3_u16, bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let row = Row { format, bytes: bytes.into() };
            let _ = seal(1, 2).open(&key("A"), &row);
            let _ = shown(&row);
        }
    }
}
