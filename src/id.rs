//! Names and ids as types: parsed once, displayed one way, compared cheaply.
//!
//! Knows nothing of what carries a name. No clock and no randomness: ids are built from numbers that the caller drew.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name in bytes. 60 leaves room for `-` and an instance suffix inside the 63 bytes of a DNS label
/// and of a container host name.
pub const NAME_MAX: usize = 60;

/// Why a text is not a name. Invariant of every name: `[a-z0-9][a-z0-9_-]*`, at most [`NAME_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No character at all.
    #[error("is empty; allowed is [a-z0-9][a-z0-9_-]*, 1 to {NAME_MAX} bytes")]
    Empty,
    /// Longer than [`NAME_MAX`].
    #[error("is {0} bytes long; allowed are at most {NAME_MAX}")]
    TooLong(usize),
    /// A character that is not allowed where it stands.
    #[error("has {found:?} at position {at}; allowed is [a-z0-9][a-z0-9_-]*")]
    Character {
        /// What stands there.
        found: char,
        /// Byte offset, from 0.
        at: usize,
    },
}

/// Checks the one rule for all names.
///
/// # Errors
/// Names the first thing that is wrong.
pub fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_MAX {
        return Err(NameError::TooLong(text.len()));
    }
    for (at, found) in text.char_indices() {
        let inner = at > 0 && (found == '-' || found == '_');
        if !(found.is_ascii_lowercase() || found.is_ascii_digit() || inner) {
            return Err(NameError::Character { found, at });
        }
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

name! {
    /// The name of a component, unique in the cluster.
    ComponentName
}
name! {
    /// The name of an event source, unique in the cluster.
    SourceName
}
name! {
    /// The name of a node as people say it; the identity is [`NodeId`].
    NodeName
}

/// The identity of a node, drawn at random at its first start and kept in its data directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(pub u64);

/// The identity of a cluster, drawn at random by its first node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(pub u64);

/// A text is not sixteen hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id; allowed are 16 hexadecimal digits")]
pub struct IdError(String);

macro_rules! hex_id {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
        impl FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                if text.len() != 16 {
                    return Err(IdError(text.to_owned()));
                }
                u64::from_str_radix(text, 16).map(Self).map_err(|_| IdError(text.to_owned()))
            }
        }
        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(id: $type) -> Self {
                id.to_string()
            }
        }
    };
}

hex_id!(NodeId);
hex_id!(ClusterId);

/// One instance of a component, for as long as it runs: `<component>-<8 characters>`.
///
/// Invariant: the part before the last `-` is the component's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(Arc<str>);

/// The letters of an instance suffix: Crockford's base 32, which has no look-alikes.
const SUFFIX: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl InstanceId {
    /// Builds the id of a new instance from 40 random bits (the rest of `random` is ignored).
    pub fn new(component: &ComponentName, random: u64) -> Self {
        let mut text = String::with_capacity(component.as_str().len() + 9);
        text.push_str(component.as_str());
        text.push('-');
        for digit in 0..8 {
            let index = (random >> (digit * 5)) & 31;
            text.push(char::from(SUFFIX[index as usize]));
        }
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The component that this is an instance of.
    pub fn component(&self) -> ComponentName {
        let end = self.0.rfind('-').unwrap_or(self.0.len());
        ComponentName(self.0[..end].into())
    }
}

impl FromStr for InstanceId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((component, suffix)) = text.rsplit_once('-') else {
            return Err(NameError::Empty);
        };
        check_name(component)?;
        check_name(suffix)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for InstanceId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_sixty_bytes_is_taken_and_one_of_sixty_one_is_refused() {
        assert!("a".repeat(60).parse::<ComponentName>().is_ok());
        assert_eq!("a".repeat(61).parse::<ComponentName>(), Err(NameError::TooLong(61)));
    }

    #[test]
    fn a_refused_name_says_which_character_is_wrong() {
        assert_eq!("aB".parse::<SourceName>(), Err(NameError::Character { found: 'B', at: 1 }));
        assert_eq!("-a".parse::<SourceName>(), Err(NameError::Character { found: '-', at: 0 }));
        assert_eq!("".parse::<SourceName>(), Err(NameError::Empty));
    }

    #[test]
    fn an_instance_id_names_its_component() {
        let component: ComponentName = "my-api".parse().expect("a name");
        let id = InstanceId::new(&component, u64::MAX);
        assert_eq!(id.as_str(), "my-api-zzzzzzzz");
        assert_eq!(id.component(), component);
        assert_eq!(id.as_str().parse::<InstanceId>().expect("an id"), id);
    }
}
