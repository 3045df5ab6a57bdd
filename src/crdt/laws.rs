//! The laws of merging, over random schedules: messages are lost, doubled and reordered, clocks disagree, and yet all
//! nodes end equal, with exactly the writes that no later write had seen. The model keeps true histories as sets.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::crdt::clock::Hlc;
use crate::crdt::owned::{Owned, OwnedRow, OwnedVersion};
use crate::crdt::registry::{Expect, Registry, Write};
use crate::crdt::row::{Dot, Key, Kind, Register, Row, SIBLINGS_MAX};
use crate::id::NodeId;
use crate::rng::Rng;
use crate::time::Wall;

const NODES: usize = 4;
const KEYS: u64 = 3;

/// What a node has seen of a key, by the model.
type Seen = BTreeSet<Dot>;

struct Message {
    to: usize,
    key: Key,
    bytes: Vec<u8>,
    seen: Seen,
}

struct World {
    rng: Rng,
    nodes: Vec<Registry>,
    /// How far each wall clock is ahead, in milliseconds. Two differ by less than the bound.
    skew: Vec<u64>,
    seen: Vec<BTreeMap<Key, Seen>>,
    /// Every write, and what its writer had seen.
    writes: BTreeMap<Key, BTreeMap<Dot, (Seen, Option<Row>)>>,
    flying: Vec<Message>,
    now: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        Self {
            nodes: (0..NODES).map(|n| Registry::restore(NodeId(n as u64), Hlc::default(), [])).collect(),
            skew: (0..NODES).map(|_| rng.below(400)).collect(),
            seen: vec![BTreeMap::new(); NODES],
            writes: BTreeMap::new(),
            flying: Vec::new(),
            now: 1_000_000,
            rng,
        }
    }

    fn wall(&self, node: usize) -> Wall {
        Wall(self.now + self.skew[node])
    }

    fn node(&mut self) -> usize {
        self.rng.below(NODES as u64) as usize
    }

    fn step(&mut self) {
        // Clocks that stand still are the hard case: the counter must order.
        self.now += self.rng.below(3);
        match self.rng.below(10) {
            0..4 => self.write(),
            4..9 => self.deliver(),
            _ => self.restart(),
        }
    }

    fn write(&mut self) {
        let node = self.node();
        let key = Key::new(Kind::COMPONENT, &self.rng.below(KEYS).to_string()).expect("a key");
        let text = self.rng.next_u64().to_le_bytes();
        let row = (self.rng.below(4) > 0).then(|| Row { format: 1, bytes: text.as_slice().into() });
        let write = Write { key: key.clone(), row: row.clone(), expect: Expect::Any };
        let wall = self.wall(node);
        let written = self.nodes[node].write(vec![write], wall).expect("a write");
        if written.is_unchanged() {
            return;
        }
        let dot = self.nodes[node].register(&key).expect("written").siblings()[0].dot;
        let seen = self.seen[node].entry(key.clone()).or_default();
        let fresh = self.writes.entry(key.clone()).or_default().insert(dot, (seen.clone(), row));
        assert!(fresh.is_none(), "a dot was used twice");
        seen.insert(dot);
        for to in 0..NODES {
            // Half of the messages are lost.
            if to != node && self.rng.below(2) == 0 {
                let bytes = written.changed[0].encoded.to_vec();
                self.flying.push(Message { to, key: key.clone(), bytes, seen: self.seen[node][&key].clone() });
            }
        }
    }

    fn deliver(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let index = self.rng.below(self.flying.len() as u64) as usize;
        // Now and then a message stays in flight and comes again.
        let doubled = self.rng.below(4) == 0;
        let wall = self.wall(self.flying[index].to);
        let Message { to, key, bytes, seen } = &self.flying[index];
        self.nodes[*to].merge(key.clone(), Register::decode(bytes).expect("a register"), wall);
        self.seen[*to].entry(key.clone()).or_default().extend(seen);
        if !doubled {
            self.flying.swap_remove(index);
        }
    }

    fn restart(&mut self) {
        let node = self.node();
        let rows: Vec<_> =
            self.nodes[node].registers().map(|(key, register)| (key.clone(), register.clone())).collect();
        let hlc = self.nodes[node].hlc();
        self.nodes[node] = Registry::restore(NodeId(node as u64), hlc, rows);
        // The wall clock steps, in either direction.
        self.skew[node] = self.rng.below(400);
    }

    /// Everybody tells everybody everything; twice, so that it reaches the last through any other.
    fn settle(&mut self) {
        for _ in 0..2 {
            for from in 0..NODES {
                let rows: Vec<_> = self.nodes[from].registers().map(|(key, row)| (key.clone(), row.clone())).collect();
                for to in 0..NODES {
                    for (key, register) in &rows {
                        let wall = self.wall(to);
                        self.nodes[to].merge(key.clone(), register.clone(), wall);
                    }
                }
            }
        }
    }

    fn check(&self, seed: u64) {
        for node in &self.nodes[1..] {
            assert_eq!(node.root(), self.nodes[0].root(), "seed {seed}: nodes differ");
            assert!(node.registers().eq(self.nodes[0].registers()), "seed {seed}: nodes differ but for the root");
        }
        for (key, writes) in &self.writes {
            // What must be left: the writes that no other writer had seen.
            let replaced: Seen = writes.values().flat_map(|(seen, _)| seen.iter().copied()).collect();
            let expected: BTreeMap<Dot, &Option<Row>> =
                writes.iter().filter(|(dot, _)| !replaced.contains(dot)).map(|(dot, (_, row))| (*dot, row)).collect();
            assert!(expected.len() <= SIBLINGS_MAX, "four nodes cannot make more");
            let found = self.nodes[0].register(key).expect("it was written").siblings();
            let found: BTreeMap<Dot, &Option<Row>> = found.iter().map(|sibling| (sibling.dot, &sibling.row)).collect();
            assert_eq!(found, expected, "seed {seed}, {key}: a put was lost or came back");
        }
    }
}

#[test]
fn nodes_end_equal_with_no_put_lost_and_none_come_back() {
    for seed in 0..500 {
        let mut world = World::new(seed);
        for _ in 0..60 {
            world.step();
        }
        world.settle();
        world.check(seed);
    }
}

/// A register as some history of five nodes could have left it: clocks that are consistent with each other.
fn registers(seed: u64) -> Vec<Register> {
    let mut rng = Rng::from_seed(seed);
    let mut copies: Vec<Option<Register>> = vec![None; 5];
    let mut at = 1;
    for _ in 0..20 {
        let (a, b) = (rng.below(5) as usize, rng.below(5) as usize);
        if rng.below(2) == 0 {
            at += 1;
            let dot = Dot { at: Hlc(at), by: NodeId(a as u64) };
            let row = (rng.below(3) > 0).then(|| Row { format: 1, bytes: at.to_le_bytes().as_slice().into() });
            copies[a] = Some(Register::write(copies[a].as_ref(), dot, row));
        } else if let (Some(one), Some(two)) = (&copies[a], &copies[b]) {
            copies[a] = Some(one.merge(two));
        }
    }
    copies.into_iter().flatten().collect()
}

fn owned_row() -> impl Strategy<Value = (u64, u64, OwnedRow)> {
    (0..2_u64, 0..2_u64, 0..3_u64, 0..3_u64, any::<Option<u8>>()).prop_map(|(owner, name, epoch, seq, row)| {
        let row = row.map(|byte| Row { format: 1, bytes: [byte].as_slice().into() });
        (owner, name, OwnedRow { version: OwnedVersion { epoch, seq }, row })
    })
}

fn owned_of(rows: &[(u64, u64, OwnedRow)]) -> Owned {
    let mut owned = Owned::default();
    for (owner, name, row) in rows {
        owned.merge(NodeId(*owner), Key::new(Kind(77), &name.to_string()).expect("a key"), row.clone());
    }
    owned
}

proptest! {
    #[test]
    fn merging_registers_commutes_associates_and_repeats(seed in any::<u64>()) {
        let all = registers(seed);
        for a in &all {
            prop_assert_eq!(&a.merge(a), a);
            prop_assert_eq!(Register::decode(&a.encode().expect("a register")), Ok(a.clone()));
            for b in &all {
                let ab = a.merge(b);
                prop_assert_eq!(&ab, &b.merge(a));
                prop_assert_eq!(&ab.merge(b), &ab);
                for c in &all {
                    prop_assert_eq!(ab.merge(c), a.merge(&b.merge(c)));
                }
            }
        }
    }

    #[test]
    fn owned_rows_end_equal_in_any_order_and_number(
        rows in proptest::collection::vec(owned_row(), 0..20), seed in any::<u64>(),
    ) {
        let mut rng = Rng::from_seed(seed);
        let mut other = rows.clone();
        for index in 0..other.len() {
            other.swap(index, rng.below(rows.len() as u64) as usize);
        }
        other.extend(rows.iter().take(3).cloned());
        prop_assert_eq!(owned_of(&rows), owned_of(&other));
        for pair in rows.windows(2) {
            prop_assert_eq!(pair[0].2.clone().merge(pair[1].2.clone()), pair[1].2.clone().merge(pair[0].2.clone()));
        }
    }
}
