//! What people decided about nodes: the row of a node in the registry, and how this node follows its own.
//!
//! Knows nothing of how a node is emptied: that follows from what it says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::catalog::ROW_FORMAT;
use crate::crdt::{Kind, Register, Registry, Row};
use crate::id::NodeId;
use crate::model::duty::Duty;

/// What nodes are to do; those that are active are left out.
pub(crate) type Duties = BTreeMap<NodeId, Duty>;

/// The row of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct NodeRow {
    /// It may never come back.
    #[serde(default)]
    removed: bool,
    #[serde(default)]
    duty: Duty,
}

impl NodeRow {
    /// Of what was decided at the same moment in two places the later counts, but a node that was removed stays so.
    fn of(register: &Register) -> Self {
        let removed =
            register.siblings().iter().filter_map(|sibling| sibling.row.as_ref()).any(|row| parse(row).removed);
        Self { removed, ..register.winner().map(parse).unwrap_or_default() }
    }
}

/// A row that cannot be read is one of a later release, of which this one knows no more than that it is there.
fn parse(row: &Row) -> NodeRow {
    serde_json::from_slice(&row.bytes).unwrap_or_default()
}

fn row(row: NodeRow) -> Row {
    // A truth and a word can always be written.
    Row { format: ROW_FORMAT, bytes: serde_json::to_vec(&row).unwrap_or_default().into() }
}

/// The row of a node that may never come back.
pub(crate) fn removed_row() -> Row {
    row(NodeRow { removed: true, duty: Duty::Active })
}

/// The row of a node that is to do this; none if that is what every node does.
pub(crate) fn duty_row(duty: Duty) -> Option<Row> {
    (duty != Duty::Active).then(|| row(NodeRow { removed: false, duty }))
}

fn rows(registry: &Registry) -> impl Iterator<Item = (NodeId, NodeRow)> {
    let nodes = registry.registers().filter(|(key, _)| key.kind() == Kind::NODE);
    nodes.filter_map(|(key, register)| Some((key.name().parse().ok()?, NodeRow::of(register))))
}

/// The nodes that may not come back.
pub(crate) fn removed_nodes(registry: &Registry) -> BTreeSet<NodeId> {
    rows(registry).filter(|(_, row)| row.removed).map(|(node, _)| node).collect()
}

/// What the nodes are to do.
pub(crate) fn duties(registry: &Registry) -> Duties {
    rows(registry).filter(|(_, row)| row.duty != Duty::Active).map(|(node, row)| (node, row.duty)).collect()
}

/// Says of this node what was decided about it, until it stops: then it says itself that it takes no more work.
pub(crate) async fn follow(board: Arc<Board>, mut duties: watch::Receiver<Duties>, stop: CancellationToken) {
    loop {
        let duty = duties.borrow_and_update().get(&board.me()).copied().unwrap_or_default();
        let said = board.read().facts.get(&board.me()).map(|facts| facts.duty);
        if said != Some(duty) && !stop.is_cancelled() {
            tracing::info!(%duty, "this node was told what to do");
            board.change(|facts| {
                facts.duty = duty;
                facts.draining = duty == Duty::Draining;
            });
        }
        match stop.run_until_cancelled(duties.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crdt::row::Dot;
    use crate::crdt::{Expect, Hlc, Key, Merged};
    use crate::time::Wall;

    fn registry() -> Registry {
        Registry::restore(NodeId(1), Hlc(1), [])
    }

    #[test]
    fn a_row_of_the_release_before_still_says_that_its_node_was_removed_and_nothing_else() {
        let mut registry = registry();
        let old = Row { format: ROW_FORMAT, bytes: Arc::from(b"{\"removed\":true}".as_slice()) };
        registry.put(Kind::NODE, &NodeId(7).to_string(), old, Expect::Any, Wall(1)).expect("written");
        assert_eq!((removed_nodes(&registry), duties(&registry)), ([NodeId(7)].into(), Duties::new()));
    }

    #[test]
    fn a_node_that_drains_is_not_removed_and_is_active_again_when_its_row_is_gone() {
        let mut registry = registry();
        let name = NodeId(7).to_string();
        let row = duty_row(Duty::Draining).expect("a row");
        registry.put(Kind::NODE, &name, row, Expect::Any, Wall(1)).expect("written");
        assert_eq!(duties(&registry), [(NodeId(7), Duty::Draining)].into());
        assert!(removed_nodes(&registry).is_empty());
        assert_eq!(duty_row(Duty::Active), None);
        registry.delete(Kind::NODE, &name, Expect::Any, Wall(2)).expect("written");
        assert!(duties(&registry).is_empty());
    }

    #[test]
    fn a_node_that_was_removed_on_one_side_and_drained_later_on_the_other_stays_removed() {
        let mut registry = registry();
        let name = NodeId(7).to_string();
        registry.put(Kind::NODE, &name, removed_row(), Expect::Any, Wall(1)).expect("written");
        let later = Dot { at: Hlc(u64::from(u32::MAX)), by: NodeId(2) };
        let other = Register::write(None, later, duty_row(Duty::Draining));
        let merged = registry.merge(Key::new(Kind::NODE, &name).expect("a key"), other, Wall(u64::MAX >> 20));
        assert!(matches!(merged, Merged::Changed(_)), "{merged:?}");
        assert_eq!(removed_nodes(&registry), [NodeId(7)].into());
    }
}
