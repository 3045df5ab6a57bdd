//! What a node has seen of every writer without a gap: why a delete need not be kept for ever.
//!
//! Knows no row. A dot that is covered and not among the current values of its key has been overwritten; nobody who
//! knows this must let it in again. How a context grows soundly is the business of `replica`.

use std::collections::BTreeMap;

use crate::crdt::clock::Hlc;
use crate::crdt::row::Dot;
use crate::hash::Hash64;
use crate::id::NodeId;

/// How many writers a context names. Every wiped disk makes a new one; 4,096 are ten replaced machines a day for a
/// year. A writer that does not fit is not covered, so deletes that touch it are kept.
pub const WRITERS_MAX: usize = 4096;

/// For each writer a moment: every write of it up to then is known here, or what replaced it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context(BTreeMap<NodeId, Hlc>);

impl Context {
    /// Whether a write is known here.
    #[must_use]
    pub fn covers(&self, dot: Dot) -> bool {
        self.0.get(&dot.by).is_some_and(|seen| dot.at <= *seen)
    }

    /// Up to when a writer is known; zero if it is not.
    #[must_use]
    pub fn seen(&self, writer: NodeId) -> Hlc {
        self.0.get(&writer).copied().unwrap_or_default()
    }

    /// All writers in order.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Hlc)> {
        self.0.iter().map(|(writer, at)| (*writer, *at))
    }

    /// How many writers it names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it names none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number that is equal if the contexts are.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hash = Hash64::default();
        for (writer, at) in self.iter() {
            hash.word(writer.0);
            hash.word(at.0);
        }
        hash.finish()
    }

    /// Learns that a writer is known up to a moment. True if that is news.
    pub fn raise(&mut self, writer: NodeId, at: Hlc) -> bool {
        if at <= self.seen(writer) || (self.0.len() >= WRITERS_MAX && !self.0.contains_key(&writer)) {
            return false;
        }
        self.0.insert(writer, at);
        true
    }

    /// Learns all that another knows. True if any of it is news.
    pub fn adopt(&mut self, other: &Self) -> bool {
        other.iter().fold(false, |news, (writer, at)| self.raise(writer, at) || news)
    }
}

impl FromIterator<(NodeId, Hlc)> for Context {
    fn from_iter<T: IntoIterator<Item = (NodeId, Hlc)>>(iter: T) -> Self {
        let mut context = Self::default();
        for (writer, at) in iter {
            context.raise(writer, at);
        }
        context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_covers_a_writer_up_to_its_moment_and_never_goes_back() {
        let (writer, dot) = (NodeId(7), |at| Dot { at: Hlc(at), by: NodeId(7) });
        let mut context = Context::default();
        assert!(!context.covers(dot(1)));
        assert!(context.raise(writer, Hlc(5)) && !context.raise(writer, Hlc(4)));
        assert!(context.covers(dot(5)) && !context.covers(dot(6)));
        assert!(!context.covers(Dot { at: Hlc(1), by: NodeId(8) }));
    }

    #[test]
    fn it_does_not_grow_beyond_its_bound() {
        let mut context: Context = (0..5000).map(|id| (NodeId(id), Hlc(1))).collect();
        assert_eq!(context.len(), WRITERS_MAX);
        assert!(context.raise(NodeId(0), Hlc(2)) && !context.raise(NodeId(4999), Hlc(2)));
    }
}
