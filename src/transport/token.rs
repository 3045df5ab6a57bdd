//! The join token: everything a new node must know to become part of a cluster, as one word that can be pasted.
//!
//! Knows nothing of keys, certificates or sockets: it carries the secret and does not use it.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::hash::hash64;
use crate::id::ClusterId;

/// What every token of this release begins with. The number goes up when the layout behind it changes.
const PREFIX: &str = "mael1-";

/// The digits: Crockford's base 32, which has no look-alikes, in lower case.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The most seed addresses in one token. Three are enough to find a cluster; the rest is room, and the count must fit
/// one byte.
pub const SEEDS_MAX: usize = 32;

/// The longest seed in bytes: a DNS name has at most 253, a port with its colon at most 6. Must fit one byte.
pub const SEED_MAX: usize = 255;

/// Bytes at the end that tell a cut or mistyped token from a whole one: 2^-32 of them pass by chance.
const CHECKSUM: usize = 4;

/// The secret of a cluster. Who has it can become a node, so it is never logged: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// The system gave no random bytes. State: nothing was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes for the secret of the cluster")]
pub struct NoRandomness;

impl Secret {
    /// A secret from bytes that were stored or carried.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for storing them (file mode 0600) and for deriving keys.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A new secret from the randomness of the system.
    ///
    /// # Errors
    /// The system gives none.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// What a node needs to join. `Display` shows the secret: it is the text to hand out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The cluster to join.
    pub cluster: ClusterId,
    /// What proves that one may.
    pub secret: Secret,
    /// Where to look for it, `host:port`. At most [`SEEDS_MAX`] of at most [`SEED_MAX`] bytes; what is beyond is left
    /// out of the text.
    pub seeds: Vec<String>,
}

/// A text is not a join token of this release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin like one.
    #[error("this is not a join token: one begins with `{PREFIX}`; `maelstromd token` prints it")]
    NotAToken,
    /// It begins like one of a later layout.
    #[error("this join token was made by a newer version of maelstrom: install that version here first")]
    Newer,
    /// Something behind the beginning is missing, added or mistyped.
    #[error("this join token is damaged or cut short: copy the whole line that `maelstromd token` prints")]
    Damaged,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.cluster.0.to_be_bytes().to_vec();
        bytes.extend(self.secret.as_bytes());
        let seeds = self.seeds.iter().filter(|seed| seed.len() <= SEED_MAX).take(SEEDS_MAX);
        for seed in seeds {
            bytes.push(u8::try_from(seed.len()).unwrap_or(u8::MAX));
            bytes.extend(seed.as_bytes());
        }
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{}", digits(&bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().to_ascii_lowercase();
        let Some(rest) = text.strip_prefix(PREFIX) else {
            let version = text.strip_prefix("mael").and_then(|rest| rest.split_once('-')).map(|(version, _)| version);
            let newer = version.and_then(|version| version.parse::<u32>().ok()).is_some_and(|version| version > 1);
            return Err(if newer { TokenError::Newer } else { TokenError::NotAToken });
        };
        let bytes = undigits(rest).ok_or(TokenError::Damaged)?;
        parse(&bytes).ok_or(TokenError::Damaged)
    }
}

/// Reads the layout; `None` if anything is not as [`Token`]'s `Display` writes it.
fn parse(bytes: &[u8]) -> Option<Token> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if sum != checksum(body) {
        return None;
    }
    let (cluster, rest) = body.split_first_chunk::<8>()?;
    let (secret, mut rest) = rest.split_first_chunk::<32>()?;
    let mut seeds = Vec::new();
    while let Some((&length, after)) = rest.split_first() {
        let (seed, after) = after.split_at_checked(usize::from(length))?;
        seeds.push(String::from_utf8(seed.to_vec()).ok()?);
        rest = after;
    }
    let whole = seeds.len() <= SEEDS_MAX;
    whole.then(|| Token {
        cluster: ClusterId(u64::from_be_bytes(*cluster)),
        secret: Secret::from_bytes(*secret),
        seeds,
    })
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let [a, b, c, d, ..] = hash64(bytes).to_be_bytes();
    [a, b, c, d]
}

/// Bytes as digits of five bits, highest first; the last digit is filled up with zero bits.
fn digits(bytes: &[u8]) -> String {
    let bits = bytes.len() * 8;
    (0..bits.div_ceil(5))
        .map(|digit| {
            let value = (digit * 5..digit * 5 + 5).fold(0, |value, bit| {
                let byte = bytes.get(bit / 8).copied().unwrap_or(0);
                value << 1 | usize::from(byte >> (7 - bit % 8) & 1)
            });
            char::from(DIGITS[value])
        })
        .collect()
}

/// The inverse of [`digits`]; refuses other characters, and set bits where the filling should be.
fn undigits(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut value, mut bits) = (0_u32, 0_u32);
    for letter in text.bytes() {
        let digit = DIGITS.iter().position(|digit| *digit == letter)?;
        value = value << 5 | u32::try_from(digit).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(value >> bits & 0xff).ok()?);
        }
        value &= (1 << bits) - 1;
    }
    (value == 0 && bits < 5).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(seeds: Vec<String>) -> Token {
        Token { cluster: ClusterId(0xfeed), secret: Secret::from_bytes([7; 32]), seeds }
    }

    #[test]
    fn a_token_is_the_same_word_in_every_release() {
        assert_eq!(
            token(vec!["a:1".into()]).to_string(),
            "mael1-0000000003zet1r70w3ge1r70w3ge1r70w3ge1r70w3ge1r70w3ge1r70w3ge1r70dgkmc9vp73b6"
        );
    }

    #[test]
    fn every_cut_of_a_token_is_called_damaged_and_other_texts_are_called_what_they_are() {
        let text = token(vec!["10.0.0.1:7400".into(), "[::1]:7400".into()]).to_string();
        for end in PREFIX.len()..text.len() {
            assert_eq!(text[..end].parse::<Token>(), Err(TokenError::Damaged), "{end}");
        }
        assert_eq!("mael2-abc".parse::<Token>(), Err(TokenError::Newer));
        assert_eq!("SWMTKN-1-abc".parse::<Token>(), Err(TokenError::NotAToken));
        assert_eq!(
            format!(" {} \n", text.to_uppercase()).parse(),
            Ok(token(vec!["10.0.0.1:7400".into(), "[::1]:7400".into()]))
        );
    }

    #[test]
    fn a_secret_is_hidden_from_logs_and_two_of_them_differ() {
        assert_eq!(format!("{:?}", Secret::from_bytes([9; 32])), "Secret(hidden)");
        assert_ne!(Secret::generate().expect("randomness"), Secret::generate().expect("randomness"));
    }

    proptest! {
        #[test]
        fn a_token_is_read_back_as_it_was_written(
            cluster in any::<u64>(), secret in any::<[u8; 32]>(),
            seeds in proptest::collection::vec("[a-z0-9.:\\[\\]]{0,60}", 0..6),
        ) {
            let token = Token { cluster: ClusterId(cluster), secret: Secret::from_bytes(secret), seeds };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}", digits in "[0-9a-z]{0,200}") {
            let _ = text.parse::<Token>();
            let _ = format!("{PREFIX}{digits}").parse::<Token>();
        }

        #[test]
        fn one_mistyped_letter_is_noticed(at in 6_usize..70, to in 0_usize..32) {
            let text = token(Vec::new()).to_string();
            let mut typed = text.into_bytes();
            prop_assume!(at < typed.len() && typed[at] != DIGITS[to]);
            typed[at] = DIGITS[to];
            prop_assert_eq!(String::from_utf8(typed).expect("ascii").parse::<Token>(), Err(TokenError::Damaged));
        }
    }
}
