//! One node's view of its seats, step by step; `simulations/seats.rs` has many nodes.

use super::*;
use crate::placement::samples;
use crate::placement::view::{Duty, Presence};

const START: Mono = Mono(0);
const HEARD: Mono = Mono(2_000_000_000);

fn nodes(count: u64) -> BTreeMap<NodeId, Node> {
    (0..count).map(|n| (NodeId(n), samples::node(n, 1024))).collect()
}

fn name() -> SourceName {
    "orders".parse().expect("a name")
}

/// The node that is elected for seat 0 of three, and what it thinks after it has listened.
fn elected() -> (NodeId, Seats) {
    let first = elect::poller(&name(), 0, &nodes(3)).expect("somebody");
    (first, seats(first))
}

fn seats(me: NodeId) -> Seats {
    let mut seats = Seats::new(me, START);
    seats.handle_nodes(nodes(3));
    seats.handle_sources(&[name()].into());
    seats
}

fn outputs(seats: &mut Seats, now: Mono) -> Vec<Output> {
    seats.settle(now);
    std::iter::from_fn(|| seats.poll_output()).collect()
}

fn claim(held: &[u32], leaving: &[u32]) -> Claim {
    Claim { held: held.iter().copied().collect(), leaving: leaving.iter().copied().collect(), width: None }
}

fn said(by: u64, claim: Claim) -> BTreeMap<SourceName, BTreeMap<NodeId, Claim>> {
    [(name(), [(NodeId(by), claim)].into())].into()
}

#[test]
fn a_node_listens_before_it_takes_its_first_seat() {
    let (_, mut seats) = elected();
    assert_eq!(outputs(&mut seats, START), [Output::Width(name(), 1)]);
    assert_eq!(seats.poll_timeout(), Some(HEARD));
    let taken = [Output::Ready, Output::Take(name(), 0), Output::Say(name(), Some(claim(&[0], &[])))];
    assert_eq!(outputs(&mut seats, HEARD), taken);
    assert!(!seats.is_idle());
}

#[test]
fn a_seat_that_another_node_holds_is_taken_when_it_says_that_it_left() {
    let (first, mut seats) = elected();
    let other = u64::from(first == NodeId(0));
    seats.handle_claims(&said(other, claim(&[0], &[])));
    outputs(&mut seats, HEARD);
    assert!(seats.is_idle());
    seats.handle_claims(&said(other, claim(&[], &[0])));
    assert_eq!(outputs(&mut seats, HEARD), [], "it finishes");
    seats.handle_claims(&BTreeMap::new());
    assert!(outputs(&mut seats, HEARD).contains(&Output::Take(name(), 0)));
}

#[test]
fn a_node_that_is_no_longer_elected_leaves_and_says_so_when_it_is_done() {
    let (first, mut seats) = elected();
    outputs(&mut seats, HEARD);
    let mut fewer = nodes(3);
    fewer.get_mut(&first).expect("a node").duty = Duty::Draining;
    seats.handle_nodes(fewer);
    assert_eq!(outputs(&mut seats, HEARD), [Output::Quit(name(), 0), Output::Say(name(), Some(claim(&[], &[0])))]);
    seats.handle_nodes(nodes(3));
    assert_eq!(outputs(&mut seats, HEARD), [], "what was begun to be left is left first");
    seats.left(&name(), 0, HEARD);
    assert!(outputs(&mut seats, HEARD).contains(&Output::Take(name(), 0)), "and then taken again");
    seats.handle_sources(&BTreeSet::new());
    assert!(outputs(&mut seats, HEARD).contains(&Output::Quit(name(), 0)));
    seats.left(&name(), 0, HEARD);
    assert_eq!(outputs(&mut seats, HEARD), [Output::Say(name(), None)]);
    assert!(seats.is_idle() && seats.sources.is_empty());
}

#[test]
fn a_seat_that_is_given_up_unasked_is_taken_again_after_a_pause() {
    let (_, mut seats) = elected();
    outputs(&mut seats, HEARD);
    seats.left(&name(), 0, HEARD);
    assert_eq!(outputs(&mut seats, HEARD), [Output::Say(name(), None)]);
    let again = HEARD.after(AGAIN);
    assert_eq!(seats.poll_timeout(), Some(again));
    assert!(outputs(&mut seats, again).contains(&Output::Take(name(), 0)));
}

#[test]
fn the_holder_of_the_first_seat_says_how_many_there_are_and_the_rest_is_spread() {
    let (first, mut seats) = elected();
    outputs(&mut seats, HEARD);
    seats.measured(&name(), 6);
    let out = outputs(&mut seats, HEARD);
    assert!(out.contains(&Output::Width(name(), 6)), "{out:?}");
    let mine: Vec<u32> = (0..6).filter(|seat| elect::poller(&name(), *seat, &nodes(3)) == Some(first)).collect();
    let told = Claim { width: Some(6), ..claim(&mine, &[]) };
    assert!(out.contains(&Output::Say(name(), Some(told.clone()))), "{out:?}");
    let other = NodeId(u64::from(first == NodeId(0)));
    let mut theirs = self::seats(other);
    theirs.handle_claims(&said(first.0, told));
    let taken = outputs(&mut theirs, HEARD);
    for seat in (0..6).filter(|seat| elect::poller(&name(), *seat, &nodes(3)) == Some(other)) {
        assert!(taken.contains(&Output::Take(name(), seat)), "{taken:?}");
    }
    seats.measured(&name(), 1);
    let out = outputs(&mut seats, HEARD);
    assert_eq!(out.iter().filter(|output| matches!(output, Output::Quit(..))).count(), mine.len() - 1, "{out:?}");
}

#[test]
fn of_two_that_hold_a_seat_the_one_that_is_not_elected_leaves() {
    let (first, mut seats) = elected();
    outputs(&mut seats, HEARD);
    let other = NodeId(u64::from(first == NodeId(0)));
    let mut theirs = self::seats(other);
    let mut cut_off = nodes(3);
    cut_off.iter_mut().filter(|(id, _)| **id != other).for_each(|(_, node)| node.presence = Presence::Down);
    theirs.handle_nodes(cut_off);
    assert!(outputs(&mut theirs, HEARD).contains(&Output::Take(name(), 0)));
    theirs.handle_nodes(nodes(3));
    theirs.handle_claims(&said(first.0, claim(&[0], &[])));
    assert!(outputs(&mut theirs, HEARD).contains(&Output::Quit(name(), 0)));
    seats.handle_claims(&said(other.0, claim(&[0], &[])));
    assert_eq!(outputs(&mut seats, HEARD), []);
}
