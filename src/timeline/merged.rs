//! What all nodes have written down, as one timeline. Of a node that is gone it is kept for as long as there is room.
//!
//! Knows nothing of how blocks came here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::id::NodeId;
use crate::time::Wall;
use crate::timeline::{Block, Entry, KEPT, Subject};

/// Nodes that are gone and whose entries are kept: some 100 KiB each. Who looks for what went wrong looks at the last
/// few that died.
const GONE: usize = 16;

/// An entry with who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Who.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// In which of its lives.
    pub life: u64,
    /// Its number in that.
    pub number: u64,
    /// What.
    pub entry: Entry,
}

/// Which entries.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those that concern this component.
    pub component: Option<String>,
    /// Those by or about this node, by name or id.
    pub node: Option<String>,
    /// Those from this moment on.
    pub since: Option<Wall>,
}

impl Filter {
    /// Whether an entry is one of them.
    #[must_use]
    pub fn takes(&self, told: &Told) -> bool {
        let is_about = |node: &String| matches!(&told.entry.subject, Subject::Node(name) if name == node);
        let is_by = |node: &String| told.name == *node || told.node.to_string() == *node;
        self.component.as_ref().is_none_or(|component| told.entry.component.as_ref() == Some(component))
            && self.node.as_ref().is_none_or(|node| is_by(node) || is_about(node))
            && self.since.is_none_or(|since| told.entry.at >= since)
    }
}

/// A life and a number in it.
type Place = (u64, u64);

/// The entries of all nodes. Invariant: at most [`KEPT`] of each, and of at most 16 nodes that are gone.
#[derive(Debug, Default)]
pub struct Timeline {
    nodes: BTreeMap<NodeId, BTreeMap<Place, Arc<Told>>>,
    /// The last that each node itself said.
    said: BTreeMap<NodeId, Place>,
    /// Nodes that are gone, the one that is longest first.
    gone: VecDeque<NodeId>,
    /// The marks of what several nodes see that are held.
    marks: BTreeSet<String>,
}

impl Timeline {
    /// Takes in what a node says of itself, which is there then. Gives what is new, in order.
    pub fn take(&mut self, node: NodeId, block: Block) -> Vec<Arc<Told>> {
        self.gone.retain(|gone| *gone != node);
        let said = self.said.get(&node).copied();
        let last = (block.life, (block.first + block.entries.len() as u64).saturating_sub(1));
        let mut news = self.put(node, block);
        if let Some(said) = said {
            news.retain(|told| (told.life, told.number) > said);
        }
        self.said.insert(node, said.map_or(last, |said| said.max(last)));
        news
    }

    /// Takes in what somebody else remembers of a node.
    pub fn recall(&mut self, node: NodeId, block: Block) {
        if !self.nodes.contains_key(&node) {
            self.gone.push_back(node);
        }
        self.put(node, block);
        self.forget();
    }

    /// A node is gone: its entries are kept while there is room.
    pub fn part(&mut self, node: NodeId) {
        if self.nodes.contains_key(&node) && !self.gone.contains(&node) {
            self.gone.push_back(node);
            self.forget();
        }
    }

    fn forget(&mut self) {
        while self.gone.len() > GONE {
            let Some(node) = self.gone.pop_front() else { return };
            self.said.remove(&node);
            for told in self.nodes.remove(&node).unwrap_or_default().into_values() {
                told.entry.once.as_ref().map(|mark| self.marks.remove(mark));
            }
        }
    }

    fn put(&mut self, node: NodeId, block: Block) -> Vec<Arc<Told>> {
        let Block { life, name, first, entries } = block;
        let of = self.nodes.entry(node).or_default();
        let mut news = Vec::new();
        for (number, entry) in (first..).zip(entries) {
            let is_old = of.len() >= KEPT && of.first_key_value().is_some_and(|(least, _)| (life, number) < *least);
            if is_old || of.contains_key(&(life, number)) {
                continue;
            }
            if entry.once.as_ref().is_some_and(|mark| !self.marks.insert(mark.clone())) {
                // Another has said so.
                continue;
            }
            let told = Arc::new(Told { node, name: name.clone(), life, number, entry });
            of.insert((life, number), Arc::clone(&told));
            news.push(told);
        }
        while of.len() > KEPT {
            let Some((_, told)) = of.pop_first() else { break };
            told.entry.once.as_ref().map(|mark| self.marks.remove(mark));
        }
        news
    }

    /// All that pass, by time.
    #[must_use]
    pub fn read(&self, filter: &Filter) -> Vec<Arc<Told>> {
        let all = self.nodes.values().flat_map(BTreeMap::values).filter(|told| filter.takes(told));
        let mut all: Vec<_> = all.map(Arc::clone).collect();
        all.sort_by_key(|told| (told.entry.at, told.node, told.life, told.number));
        all
    }

    /// What nobody says of himself any more: of the nodes that are gone, and of the earlier lives of the others. With
    /// all that is known of the one who asks.
    #[must_use]
    pub fn past(&self, asker: NodeId) -> Vec<(NodeId, Block)> {
        let mut blocks = Vec::new();
        for (node, entries) in &self.nodes {
            let now = self.said.get(node).filter(|_| *node != asker && !self.gone.contains(node));
            let mut block: Option<Block> = None;
            for told in entries.values().filter(|told| now.is_none_or(|(life, _)| told.life < *life)) {
                let fits =
                    |block: &Block| block.life == told.life && block.first + block.entries.len() as u64 == told.number;
                if !block.as_ref().is_some_and(fits) {
                    blocks.extend(block.take().map(|block| (*node, block)));
                }
                let new =
                    || Block { life: told.life, name: told.name.clone(), first: told.number, entries: Vec::new() };
                block.get_or_insert_with(new).entries.push(told.entry.clone());
            }
            blocks.extend(block.map(|block| (*node, block)));
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::happening::What;

    fn entry(at: u64, component: &str) -> Entry {
        Entry::new(Wall(at), What::Put, Subject::Component(component.into()), Some(component), "by the API")
    }

    fn block(life: u64, first: u64, entries: Vec<Entry>) -> Block {
        Block { life, name: format!("n{life}"), first, entries }
    }

    fn times(timeline: &Timeline) -> Vec<u64> {
        timeline.read(&Filter::default()).iter().map(|told| told.entry.at.0).collect()
    }

    fn down(at: u64) -> Entry {
        let entry = Entry::new(Wall(at), What::Down, Subject::Node("n9".into()), None, "no answer");
        entry.once("down:9:1".into())
    }

    #[test]
    fn what_nodes_say_is_put_together_by_time_and_nothing_is_news_twice() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.take(NodeId(1), block(1, 0, vec![entry(10, "a"), entry(30, "b")])).len(), 2);
        assert_eq!(timeline.take(NodeId(2), block(2, 0, vec![entry(20, "a")])).len(), 1);
        // A block comes again with what is new in it.
        let again = block(1, 0, vec![entry(10, "a"), entry(30, "b"), entry(40, "a")]);
        let news = timeline.take(NodeId(1), again);
        assert_eq!(news.iter().map(|told| told.entry.at.0).collect::<Vec<_>>(), [40]);
        assert_eq!(times(&timeline), [10, 20, 30, 40]);
    }

    #[test]
    fn a_filter_takes_a_component_what_a_node_says_or_is_said_of_it_and_what_is_late_enough() {
        let mut timeline = Timeline::default();
        timeline.take(NodeId(1), block(1, 0, vec![entry(10, "a"), entry(30, "b")]));
        timeline.take(NodeId(2), block(2, 0, vec![down(20)]));
        let check = |filter: Filter, expected: &[u64]| {
            let found: Vec<u64> = timeline.read(&filter).iter().map(|told| told.entry.at.0).collect();
            assert_eq!(found, expected, "{filter:?}");
        };
        check(Filter { component: Some("b".into()), ..Filter::default() }, &[30]);
        check(Filter { node: Some("n9".into()), ..Filter::default() }, &[20]);
        check(Filter { node: Some("n1".into()), ..Filter::default() }, &[10, 30]);
        check(Filter { node: Some(NodeId(2).to_string()), ..Filter::default() }, &[20]);
        check(Filter { since: Some(Wall(20)), ..Filter::default() }, &[20, 30]);
    }

    #[test]
    fn what_several_nodes_saw_is_shown_once() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.take(NodeId(1), block(1, 0, vec![down(20)])).len(), 1);
        assert!(timeline.take(NodeId(2), block(2, 0, vec![down(21)])).is_empty());
        assert_eq!(times(&timeline), [20]);
    }

    #[test]
    fn of_each_node_the_last_stay_and_of_nodes_that_are_gone_the_last_that_went() {
        let mut timeline = Timeline::default();
        for first in 0..(2 * KEPT as u64) {
            timeline.take(NodeId(1), block(1, first, vec![entry(first, "a")]));
        }
        assert_eq!((times(&timeline).len(), times(&timeline)[0]), (KEPT, KEPT as u64));
        for node in 2..(2 + 2 * GONE as u64) {
            timeline.take(NodeId(node), block(node, 0, vec![entry(node, "a")]));
            timeline.part(NodeId(node));
            timeline.part(NodeId(node));
        }
        assert_eq!((timeline.nodes.len(), timeline.gone.len()), (1 + GONE, GONE));
        // Who is back is not forgotten with the others.
        let back = NodeId(1 + 2 * GONE as u64);
        timeline.take(back, block(back.0, 1, vec![entry(9, "a")]));
        assert!(!timeline.gone.contains(&back));
        assert_eq!(timeline.nodes[&back].len(), 2);
    }

    #[test]
    fn who_was_away_gets_what_the_others_remember_of_him_and_of_the_dead() {
        let mut other = Timeline::default();
        other.take(NodeId(1), block(1, 0, vec![entry(10, "a"), entry(11, "b")]));
        other.take(NodeId(3), block(1, 0, vec![entry(12, "dead")]));
        other.part(NodeId(3));
        other.take(NodeId(2), block(1, 5, vec![entry(13, "earlier")]));
        other.take(NodeId(2), block(2, 0, vec![entry(14, "now")]));
        // Node 1 has started again, and knows nothing yet but its own second life.
        let mut timeline = Timeline::default();
        timeline.take(NodeId(1), block(2, 0, vec![entry(20, "again")]));
        for (node, block) in other.past(NodeId(1)) {
            timeline.recall(node, block);
        }
        assert_eq!(times(&timeline), [10, 11, 12, 13, 20]);
        // What node 2 says now it says itself, once.
        assert_eq!(timeline.take(NodeId(2), block(2, 0, vec![entry(14, "now")])).len(), 1);
        assert_eq!(times(&timeline), [10, 11, 12, 13, 14, 20]);
        assert_eq!(Vec::from(timeline.gone), [NodeId(3)]);
    }
}
