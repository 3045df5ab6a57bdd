//! The definitions that a component had, newest last: what `history` shows and `undo` goes back to.
//!
//! They are one row of the registry. Copies that were written at the same moment are joined by taking all of both, so
//! that no definition is lost; which of them is in force is not said here but by the component's own row.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::time::Wall;

/// How many are kept, that in force included. Who goes back goes back by one or two, and Kubernetes keeps as many; at
/// about 1 KiB for each the row stays small enough to be sent to all nodes with every change.
pub const KEPT: usize = 10;

/// Why a definition came into force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// Somebody put it.
    Put,
    /// Somebody went back to it.
    Undo {
        /// The revision that had it before.
        to: u32,
    },
    /// The one before failed.
    Rollback {
        /// The revision that failed.
        of: u32,
        /// The revision that had this definition before.
        to: u32,
        /// How it failed.
        problem: String,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put => f.write_str("put"),
            Self::Undo { to } => write!(f, "undo to revision {to}"),
            Self::Rollback { of, to, problem } => write!(f, "rollback of revision {of} to revision {to}: {problem}"),
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Its instances did not come up.
    Failed {
        /// Why.
        problem: String,
    },
    /// An instance of it served for a while.
    Healthy,
}

/// One definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Grows with each change.
    pub number: u32,
    /// Of what an instance of it is.
    pub fingerprint: String,
    /// When it came into force, in milliseconds since 1970.
    at: u64,
    /// Why it came into force.
    pub why: Why,
    /// What became of it; none as long as nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// All of it; none if that is in the component's row and nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc: Option<Value>,
}

impl Revision {
    /// When it came into force.
    pub fn at(&self) -> Wall {
        Wall(self.at)
    }

    /// Whether it served once.
    pub fn is_healthy(&self) -> bool {
        self.outcome == Some(Outcome::Healthy)
    }
}

/// All that are kept.
///
/// Invariant: the numbers grow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Revisions {
    revisions: Vec<Revision>,
}

impl Revisions {
    /// Those of a component that has had one definition only, which is in its own row.
    pub fn first(fingerprint: String, at: Wall) -> Self {
        Self::default().with(fingerprint, at)
    }

    /// With the definition in force, if it is not there: a node of an earlier release may have put it.
    #[must_use]
    pub fn with(mut self, fingerprint: String, at: Wall) -> Self {
        if self.newest_of(&fingerprint).is_none() {
            let number = self.next();
            self.revisions.push(Revision { number, fingerprint, at: at.0, why: Why::Put, outcome: None, doc: None });
        }
        self.cut(KEPT)
    }

    fn next(&self) -> u32 {
        self.revisions.last().map_or(1, |last| last.number.saturating_add(1))
    }

    /// Reads a row; none if this release cannot.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let read: Self = serde_json::from_slice(bytes).ok()?;
        Some(Self::merge([read]))
    }

    /// Joins copies that were written at the same moment. Of revisions of one number each is kept, and those after it
    /// count on, so that all nodes that hold the same copies say the same numbers.
    pub fn merge(copies: impl IntoIterator<Item = Self>) -> Self {
        let mut all: Vec<Revision> = copies.into_iter().flat_map(|copy| copy.revisions).collect();
        all.sort_by(|a, b| (a.number, a.at, &a.fingerprint).cmp(&(b.number, b.at, &b.fingerprint)));
        let mut revisions: Vec<Revision> = Vec::with_capacity(all.len());
        let mut numbers: Vec<u32> = Vec::with_capacity(all.len());
        for mut revision in all {
            let same = numbers
                .iter()
                .zip(&mut revisions)
                .rev()
                .find(|(number, known)| **number == revision.number && known.fingerprint == revision.fingerprint);
            if let Some((_, known)) = same {
                known.outcome = known.outcome.take().max(revision.outcome);
                known.doc = known.doc.take().or(revision.doc);
                continue;
            }
            numbers.push(revision.number);
            let next = revisions.last().map_or(0, |last| last.number.saturating_add(1));
            revision.number = revision.number.max(next);
            revisions.push(revision);
        }
        Self { revisions }.cut(KEPT)
    }

    fn cut(mut self, most: usize) -> Self {
        self.revisions.drain(..self.revisions.len().saturating_sub(most));
        self
    }

    /// As a row of at most `max` bytes: the oldest are left out until the rest fits.
    pub fn encode(&self, max: usize) -> Vec<u8> {
        let mut kept = self.clone();
        loop {
            // Texts, numbers and documents can always be written.
            let bytes = serde_json::to_vec(&kept).unwrap_or_default();
            if bytes.len() <= max || kept.revisions.is_empty() {
                return bytes;
            }
            let fewer = kept.revisions.len() - 1;
            kept = kept.cut(fewer);
        }
    }

    /// Adds the definition that comes into force after `current`, of which the row of the component is about to be
    /// overwritten.
    pub fn push(&mut self, current: (&str, &Value), fingerprint: String, at: Wall, why: Why, doc: Value) -> u32 {
        for known in &mut self.revisions {
            if known.doc.is_none() && known.fingerprint == current.0 {
                known.doc = Some(current.1.clone());
            }
        }
        let number = self.next();
        self.revisions.push(Revision { number, fingerprint, at: at.0, why, outcome: None, doc: Some(doc) });
        *self = std::mem::take(self).cut(KEPT);
        number
    }

    /// Says what became of one; false if it is not there, or if that is known.
    pub fn mark(&mut self, number: u32, outcome: Outcome) -> bool {
        let found = self.revisions.iter_mut().find(|revision| revision.number == number);
        let Some(revision) = found.filter(|revision| revision.outcome.as_ref() < Some(&outcome)) else { return false };
        revision.outcome = Some(outcome);
        true
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Revision> {
        self.revisions.iter()
    }

    /// That of a number.
    pub fn get(&self, number: u32) -> Option<&Revision> {
        self.iter().find(|revision| revision.number == number)
    }

    /// The newest with a definition: that in force, given the fingerprint of what is in force.
    pub fn newest_of(&self, fingerprint: &str) -> Option<&Revision> {
        self.iter().rev().find(|revision| revision.fingerprint == fingerprint)
    }

    /// What `undo` goes back to: the newest before `number` that is something else and that can be put.
    pub fn before(&self, number: u32) -> Option<&Revision> {
        self.others_before(number).next()
    }

    /// What a rollback goes back to: the newest of these that served once, or is `serving`.
    pub fn good_before(&self, number: u32, serving: &BTreeSet<String>) -> Option<&Revision> {
        self.others_before(number).find(|revision| revision.is_healthy() || serving.contains(&revision.fingerprint))
    }

    fn others_before(&self, number: u32) -> impl Iterator<Item = &Revision> {
        let fingerprint = self.get(number).map(|revision| revision.fingerprint.as_str());
        let older = self.iter().rev().filter(move |revision| revision.number < number && revision.doc.is_some());
        older.filter(move |revision| Some(revision.fingerprint.as_str()) != fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(fingerprints: &[&str]) -> Revisions {
        let mut all = Revisions::first(fingerprints[0].to_owned(), Wall(1));
        for pair in fingerprints.windows(2) {
            push(&mut all, pair[0], pair[1], 2);
        }
        all
    }

    fn push(all: &mut Revisions, current: &str, new: &str, at: u64) {
        let current_doc = json!({"is": current});
        all.push((current, &current_doc), new.to_owned(), Wall(at), Why::Put, json!({"is": new}));
    }

    fn shown(all: &Revisions) -> Vec<(u32, &str)> {
        all.iter().map(|revision| (revision.number, revision.fingerprint.as_str())).collect()
    }

    #[test]
    fn the_last_ten_are_kept_and_numbers_go_on() {
        let names: Vec<String> = (1..=13).map(|number| format!("f{number}")).collect();
        let all = of(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(all.iter().count(), KEPT);
        assert_eq!((shown(&all)[0], shown(&all)[9]), ((4, "f4"), (13, "f13")));
        assert_eq!(Revisions::parse(&all.encode(1 << 20)), Some(all));
    }

    #[test]
    fn a_definition_in_force_that_nobody_noted_is_the_newest() {
        assert_eq!(shown(&of(&["a", "b"]).with("c".into(), Wall(9))), [(1, "a"), (2, "b"), (3, "c")]);
        assert_eq!(shown(&of(&["a", "b"]).with("a".into(), Wall(9))), [(1, "a"), (2, "b")]);
    }

    #[test]
    fn the_first_definition_is_taken_over_from_the_row_that_is_about_to_be_overwritten() {
        let all = of(&["a", "b"]);
        assert_eq!(all.get(1).and_then(|first| first.doc.clone()), Some(json!({"is": "a"})));
        assert_eq!(Revisions::first("a".into(), Wall(1)).get(1).and_then(|first| first.doc.clone()), None);
    }

    #[test]
    fn undo_goes_to_what_was_before_and_a_rollback_to_the_newest_that_served() {
        let mut all = of(&["a", "b", "c", "c2"]);
        assert_eq!(all.before(4).map(|revision| revision.number), Some(3));
        let none = BTreeSet::new();
        assert_eq!(all.good_before(4, &none), None);
        assert!(all.mark(1, Outcome::Healthy) && all.mark(3, Outcome::Failed { problem: "x".into() }));
        assert_eq!(all.good_before(4, &none).map(|revision| revision.number), Some(1));
        assert_eq!(all.good_before(4, &["b".to_owned()].into()).map(|revision| revision.number), Some(2));
        // What is in force is not what undo is after, whatever it was called before.
        let again = of(&["a", "b", "a"]);
        assert_eq!(again.before(3).map(|revision| revision.number), Some(2));
        assert_eq!(of(&["a"]).before(1), None);
    }

    #[test]
    fn a_definition_that_served_in_spite_of_a_failure_is_healthy_and_stays_so() {
        let mut all = of(&["a", "b"]);
        assert!(all.mark(2, Outcome::Failed { problem: "x".into() }));
        assert!(all.mark(2, Outcome::Healthy) && !all.mark(2, Outcome::Failed { problem: "y".into() }));
        assert!(all.get(2).is_some_and(Revision::is_healthy) && !all.mark(7, Outcome::Healthy));
    }

    #[test]
    fn puts_at_the_same_moment_are_both_kept_under_numbers_that_all_nodes_agree_on() {
        let base = of(&["a"]);
        let (mut left, mut right) = (base.clone(), base);
        push(&mut left, "a", "b", 5);
        push(&mut right, "a", "c", 6);
        push(&mut right, "c", "d", 7);
        left.mark(1, Outcome::Healthy);
        let merged = Revisions::merge([left.clone(), right.clone()]);
        assert_eq!(merged, Revisions::merge([right, left]));
        assert_eq!(shown(&merged), [(1, "a"), (2, "b"), (3, "c"), (4, "d")]);
        assert!(merged.get(1).is_some_and(Revision::is_healthy), "what one side knows is known");
        assert_eq!(Revisions::merge([merged.clone(), merged.clone()]), merged);
    }

    #[test]
    fn the_same_rollback_by_two_nodes_at_the_same_moment_is_one() {
        let base = of(&["a", "b"]);
        let (mut left, mut right) = (base.clone(), base);
        let back = Why::Rollback { of: 2, to: 1, problem: "it exits".into() };
        for (side, at) in [(&mut left, 5), (&mut right, 6)] {
            side.push(("b", &json!({"is": "b"})), "a".into(), Wall(at), back.clone(), json!({"is": "a"}));
        }
        assert_eq!(shown(&Revisions::merge([left, right])), [(1, "a"), (2, "b"), (3, "a")]);
    }

    #[test]
    fn a_row_that_would_be_too_long_leaves_out_the_oldest() {
        let all = of(&["a", "b", "c"]);
        let short = Revisions::parse(&all.encode(200)).expect("a row");
        assert!(shown(&short).ends_with(&[(3, "c")]) && short.iter().count() < 3, "{short:?}");
        assert!(all.encode(0).len() < 30);
        assert_eq!(Revisions::parse(b"[]"), None);
    }

    #[test]
    fn a_reason_is_a_sentence_part() {
        assert_eq!(Why::Undo { to: 3 }.to_string(), "undo to revision 3");
        let back = Why::Rollback { of: 5, to: 4, problem: "it exits".into() };
        assert_eq!(back.to_string(), "rollback of revision 5 to revision 4: it exits");
    }
}
