//! A 64-bit hash that is the same on every machine and in every release: digests of registers are compared between
//! nodes and checksums are read back from disk, so neither the standard hasher nor a crate's "best today" will do.
//!
//! Not for secrets: whoever chooses the input can make two texts collide. Knows nothing of what it hashes.

/// Odd constants with about half of their bits set: the fractional digits of pi, as wyhash and others take them, so
/// that nobody need wonder why these.
const PI: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1];

/// A hash under way. Fields of changing length must be written with [`Hash64::bytes`], which mixes the length in.
#[derive(Debug, Clone)]
pub struct Hash64(u64);

impl Default for Hash64 {
    fn default() -> Self {
        Self(PI[0])
    }
}

/// Multiplies to 128 bits and folds the halves together, so that every input bit reaches every output bit.
fn fold(a: u64, b: u64) -> u64 {
    let [low, high] = {
        let product = u128::from(a) * u128::from(b);
        [product & u128::from(u64::MAX), product >> 64]
    };
    // Both halves fit by construction.
    u64::try_from(low ^ high).unwrap_or(0)
}

impl Hash64 {
    /// Mixes one number in.
    pub fn word(&mut self, word: u64) {
        // The addition keeps a product with zero from forgetting what came before.
        self.0 = fold(self.0 ^ word, PI[1]).wrapping_add(self.0.rotate_left(23));
    }

    /// Mixes the length and the bytes in.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    /// The hash of everything written.
    #[must_use]
    pub fn finish(&self) -> u64 {
        fold(self.0 ^ PI[2], PI[1]) ^ self.0.rotate_left(32)
    }
}

/// The hash of one piece of bytes.
#[must_use]
pub fn hash64(bytes: &[u8]) -> u64 {
    let mut hash = Hash64::default();
    hash.bytes(bytes);
    hash.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_hash_written_by_an_earlier_release_is_still_the_same() {
        assert_eq!(hash64(b""), 0xf054_7401_eb8a_fb28);
        assert_eq!(hash64(b"maelstrom"), 0x9b5f_da4e_08a6_46a7);
    }

    #[test]
    fn zeros_of_different_length_and_neighbouring_numbers_do_not_collide() {
        let zeros = (0..1000).map(|len| hash64(&vec![0; len]));
        let numbers = (0..100_000_u64).map(|n| hash64(&n.to_le_bytes()));
        // hash64 of eight zero bytes is in both lists.
        assert_eq!(zeros.chain(numbers).collect::<BTreeSet<_>>().len(), 1000 + 100_000 - 1);
    }

    #[test]
    fn one_flipped_bit_changes_the_hash() {
        let text = b"a row of the registry".to_vec();
        for bit in 0..text.len() * 8 {
            let mut other = text.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(hash64(&other), hash64(&text), "bit {bit}");
        }
    }
}
