//! Small clusters in virtual time, without loss: what each rule does.

use std::collections::BTreeMap;

use proptest::prelude::{any, proptest};

use super::*;
use crate::rng::Rng;

fn peer(node: u64) -> Peer {
    Peer { node: NodeId(node), address: SocketAddr::from(([10, 0, 0, node as u8], 8374)), start: 1, life: 0 }
}

/// Members that hear each other at once, and a clock.
struct Town {
    now: Mono,
    nodes: BTreeMap<NodeId, Membership>,
    mute: BTreeSet<NodeId>,
    events: Vec<(NodeId, Event)>,
}

impl Town {
    fn new(count: u64) -> Self {
        let now = Mono(1);
        let mut town = Self { now, nodes: BTreeMap::new(), mute: BTreeSet::new(), events: Vec::new() };
        for node in 1..=count {
            town.add(peer(node));
        }
        for node in 2..=count {
            town.at(node).join(peer(1), now);
        }
        town.run(Duration::from_secs(3));
        town
    }

    fn add(&mut self, me: Peer) {
        let rng = Rng::from_seed(me.node.0 * 1000 + me.start);
        self.nodes.insert(me.node, Membership::new(me, Options::fast(), rng, self.now));
    }

    fn at(&mut self, node: u64) -> &mut Membership {
        self.nodes.get_mut(&NodeId(node)).expect("it is there")
    }

    fn deliver(&mut self) {
        loop {
            let mut moved = false;
            for from in self.nodes.keys().copied().collect::<Vec<_>>() {
                while let Some(output) = self.nodes.get_mut(&from).and_then(Membership::poll_output) {
                    moved = true;
                    match output {
                        Output::Event(event) => self.events.push((from, event)),
                        Output::Send { to, bytes } => {
                            assert!(bytes.len() <= 1162);
                            let now = self.now;
                            if !self.mute.contains(&from)
                                && !self.mute.contains(&to.node)
                                && let Some(node) = self.nodes.get_mut(&to.node)
                            {
                                let _ = node.handle_datagram(from, &bytes, now);
                            }
                        }
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.deliver();
            self.now = self.now.after(Duration::from_millis(10)).min(end);
            let now = self.now;
            for node in self.nodes.values_mut() {
                if node.poll_timeout().is_some_and(|due| due <= now) {
                    node.handle_timeout(now);
                }
            }
        }
        self.deliver();
    }

    fn states(&self, of: u64) -> Vec<State> {
        let others = self.nodes.values().filter(|node| node.me().node != NodeId(of));
        let seen = others.map(|node| node.members.get(&NodeId(of)).map_or(State::Down, |member| member.state));
        seen.collect()
    }

    fn all(&self, of: u64, state: State) -> bool {
        self.states(of).into_iter().all(|seen| seen == state)
    }
}

#[test]
fn members_find_each_other_through_one_seed() {
    let town = Town::new(5);
    for node in 1..=5 {
        assert!(town.all(node, State::Alive), "{node}");
    }
}

#[test]
fn a_silent_member_is_suspected_and_then_down_for_all() {
    let mut town = Town::new(5);
    town.mute.insert(NodeId(3));
    let silent = town.nodes.remove(&NodeId(3)).expect("there");
    drop(silent);
    town.run(Duration::from_secs(5));
    assert!(town.all(3, State::Down), "{:?}", town.states(3));
    assert!(town.events.iter().any(|(_, event)| matches!(event, Event::Suspect(who) if who.node == NodeId(3))));
}

#[test]
fn a_refused_port_is_a_death_within_a_fifth_of_a_second() {
    let mut town = Town::new(5);
    town.nodes.remove(&NodeId(3));
    let now = town.now;
    town.at(1).handle_evidence(NodeId(3), Evidence::Refused, now);
    town.run(Duration::from_millis(200));
    assert!(town.all(3, State::Down), "{:?}", town.states(3));
}

#[test]
fn a_refusal_of_a_member_that_answers_is_no_death() {
    let mut town = Town::new(3);
    let now = town.now;
    town.at(1).handle_evidence(NodeId(3), Evidence::Refused, now);
    town.at(1).handle_evidence(NodeId(2), Evidence::Closed, now);
    town.run(Duration::from_secs(4));
    assert!(town.all(3, State::Alive) && town.all(2, State::Alive));
    assert!(!town.events.iter().any(|(_, event)| matches!(event, Event::Down(_))));
}

#[test]
fn a_goodbye_is_heard_by_all_at_once_and_is_not_a_death() {
    let mut town = Town::new(5);
    let now = town.now;
    town.at(2).leave(now);
    town.deliver();
    town.nodes.remove(&NodeId(2));
    assert!(town.all(2, State::Left), "{:?}", town.states(2));
}

#[test]
fn a_node_that_starts_again_replaces_its_former_self() {
    let mut town = Town::new(3);
    town.nodes.remove(&NodeId(2));
    let again = Peer { start: 2, ..peer(2) };
    town.add(again);
    let now = town.now;
    town.at(2).join(peer(1), now);
    town.run(Duration::from_secs(2));
    for node in [1, 3] {
        assert_eq!(town.at(node).members[&NodeId(2)].peer, again);
    }
    assert!(town.all(2, State::Alive));
}

#[test]
fn a_member_that_was_taken_for_dead_joins_again_by_itself() {
    for silent in [2, 5] {
        let mut town = Town::new(5);
        // Also one side of a partition that hears nobody at all.
        town.mute.insert(NodeId(silent));
        town.run(Duration::from_secs(8));
        town.mute.clear();
        town.run(Duration::from_secs(20));
        for node in 1..=5 {
            assert!(town.all(node, State::Alive), "{node}: {:?}", town.states(node));
        }
    }
}

#[test]
fn two_nodes_that_lost_each_other_meet_again() {
    let mut town = Town::new(2);
    town.mute.insert(NodeId(1));
    town.run(Duration::from_secs(8));
    assert!(town.all(1, State::Down) && town.all(2, State::Down));
    town.mute.clear();
    town.run(Duration::from_secs(10));
    assert!(town.all(1, State::Alive) && town.all(2, State::Alive));
}

#[test]
fn a_copied_data_directory_is_noticed() {
    let mut town = Town::new(3);
    let copy = Peer { address: SocketAddr::from(([10, 0, 0, 99], 8374)), start: 2, ..peer(3) };
    let header = foca::Header { src: peer(2), src_incarnation: 0, dst: peer(3), message: foca::Message::Gossip };
    let bytes = codec::packet(&header, &[foca::Member::new(copy, 0, foca::State::Alive)]);
    let now = town.now;
    town.at(3).handle_datagram(NodeId(2), &bytes, now).expect("a sound packet");
    town.deliver();
    assert!(town.events.contains(&(NodeId(3), Event::Usurped { by: copy })));
}

#[test]
fn losing_more_than_a_third_at_once_freezes_until_they_are_back() {
    let mut town = Town::new(5);
    town.mute.extend([NodeId(4), NodeId(5)]);
    town.run(Duration::from_secs(6));
    assert!(town.at(1).is_frozen());
    town.mute.clear();
    town.run(Duration::from_secs(20));
    assert!(!town.at(1).is_frozen());
}

#[test]
fn a_banned_member_is_gone_and_its_packets_are_refused() {
    let mut town = Town::new(3);
    let now = town.now;
    town.at(1).ban(NodeId(2), now);
    town.at(3).ban(NodeId(2), now);
    town.run(Duration::from_secs(2));
    for node in [1, 3] {
        assert!(!town.at(node).members.contains_key(&NodeId(2)));
    }
    let header = foca::Header { src: peer(2), src_incarnation: 0, dst: peer(1), message: foca::Message::Announce };
    let refused = town.at(1).handle_datagram(NodeId(2), &codec::packet(&header, &[]), now);
    assert_eq!(refused, Err(BadPacket::Banned(NodeId(2))));
}

#[test]
fn a_node_that_overslept_accuses_nobody() {
    let mut town = Town::new(5);
    let sleeper = town.nodes.remove(&NodeId(1)).expect("there");
    town.now = town.now.after(Duration::from_millis(800));
    let now = town.now;
    for node in town.nodes.values_mut() {
        node.handle_timeout(now);
    }
    town.nodes.insert(NodeId(1), sleeper);
    let mut late = town.now.after(Duration::from_secs(9));
    std::mem::swap(&mut town.now, &mut late);
    town.events.clear();
    town.run(Duration::from_millis(500));
    assert!(!town.events.iter().any(|(at, event)| *at == NodeId(1) && matches!(event, Event::Down(_))));
}

proptest! {
    #[test]
    fn no_packet_breaks_it(from in 1_u64..4, bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
        let mut node = Membership::new(peer(1), Options::fast(), Rng::from_seed(1), Mono(1));
        let _ = node.handle_datagram(NodeId(from), &bytes, Mono(2));
    }

    #[test]
    fn a_sound_packet_that_is_cut_or_altered_breaks_nothing(cut in 0_usize..80, at in 0_usize..80, byte in any::<u8>()) {
        let header = foca::Header { src: peer(2), src_incarnation: 0, dst: peer(1), message: foca::Message::Gossip };
        let sound = codec::packet(&header, &[foca::Member::new(peer(3), 0, foca::State::Suspect)]);
        let mut bytes = sound.to_vec();
        bytes.truncate(bytes.len().saturating_sub(cut));
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        let mut node = Membership::new(peer(1), Options::fast(), Rng::from_seed(1), Mono(1));
        let _ = node.handle_datagram(NodeId(2), &bytes, Mono(2));
        node.handle_timeout(Mono(3_000_000_000));
    }
}
