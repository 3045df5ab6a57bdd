//! A condition on the labels of a node, as a component writes it: `zone=a` or `disk!=hdd`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::Refusal;

/// Longest key and longest value of a label in bytes: Docker's and Kubernetes' are shorter, and a hundred of them still
/// fit into what a node says of itself.
pub const LABEL_MAX: usize = 128;

/// A condition on the labels of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Constraint {
    /// Which label.
    pub key: String,
    /// What it must be, or must not be.
    pub value: String,
    /// True: it must be this. False: it must not; a node without the label is fine.
    pub equal: bool,
}

impl Constraint {
    /// Whether a node with these labels will do.
    pub fn is_met(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(&self.key).is_some_and(|value| *value == self.value) == self.equal
    }
}

impl FromStr for Constraint {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (left, value) = text.split_once('=').ok_or_else(|| refuse("is not a condition on a label"))?;
        let value = value.strip_prefix('=').unwrap_or(value);
        let (key, equal) = left.strip_suffix('!').map_or((left, true), |key| (key, false));
        let (key, value) = (key.trim(), value.trim());
        if !is_word(key) || !is_word(value) {
            return Err(refuse("has an empty or unusable key or value"));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned(), equal })
    }
}

fn refuse(problem: &str) -> Refusal {
    Refusal::new(problem, "KEY=VALUE or KEY!=VALUE, such as zone=a, of letters, digits and . _ / - each")
}

/// Whether this may be the key or the value of a node's label.
pub fn is_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
    (1..=LABEL_MAX).contains(&text.len()) && text.bytes().all(inner)
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.key, if self.equal { "=" } else { "!=" }, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_read_as_it_is_written() {
        for (text, key, value, equal) in
            [("zone=a", "zone", "a", true), ("disk!=hdd", "disk", "hdd", false), ("a==b", "a", "b", true)]
        {
            let constraint: Constraint = text.parse().expect("a condition");
            assert_eq!(constraint, Constraint { key: key.into(), value: value.into(), equal });
            assert_eq!(constraint.to_string().parse(), Ok(constraint));
        }
        for text in ["zone", "=a", "zone=", "zo ne=a", "zone!", "!=a"] {
            assert!(text.parse::<Constraint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_node_without_the_label_is_not_this_and_is_not_that() {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        for (text, met) in
            [("zone=a", true), ("zone=b", false), ("zone!=a", false), ("zone!=b", true), ("x=a", false), ("x!=a", true)]
        {
            assert_eq!(text.parse::<Constraint>().expect("a condition").is_met(&labels), met, "{text}");
        }
    }
}
