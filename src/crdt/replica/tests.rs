//! What replicas promise each other through frames: sizes, order, bad input, and who gets which copy.

use proptest::prelude::*;

use super::*;
use crate::crdt::registry::Expect;
use crate::crdt::row::{Dot, Kind, Row};
use crate::rng::Rng;

const WALL: u64 = 1_000_000_000;

fn key(name: &str) -> Key {
    Key::new(Kind::COMPONENT, name).expect("a key")
}

fn replica(id: u64, rows: impl IntoIterator<Item = (Key, Register)>) -> Replica {
    let registry = Registry::restore(NodeId(id), Hlc::default(), rows);
    Replica::new(registry, NodeId(id), Saved::default(), Options::default(), Rng::from_seed(id), at(Mono(0)))
}

fn at(mono: Mono) -> Now {
    Now { mono, wall: Wall(WALL + mono.0 / 1_000_000) }
}

/// `count` rows of `len` bytes, as node 99 wrote them.
fn rows(count: u64, len: usize) -> Vec<(Key, Register)> {
    let row = |n: u64| {
        let mut bytes = vec![b'.'; len];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        let dot = Dot { at: Hlc::from_wall(Wall(WALL - 1_000_000 + n)), by: NodeId(99) };
        (key(&format!("row-{n}")), Register::write(None, dot, Some(Row { format: 1, bytes: bytes.into() })))
    };
    (0..count).map(row).collect()
}

/// Replicas with a perfect network; a frame takes no time.
struct Cluster {
    nodes: Vec<Replica>,
    now: Mono,
    commits: usize,
    frames: Vec<(NodeId, NodeId, Bytes)>,
    cut: BTreeSet<NodeId>,
}

impl Cluster {
    fn new(nodes: Vec<Replica>) -> Self {
        let mut cluster = Self { nodes, now: Mono(0), commits: 0, frames: Vec::new(), cut: BTreeSet::new() };
        let all: BTreeSet<NodeId> = cluster.nodes.iter().map(|node| node.node).collect();
        for node in &mut cluster.nodes {
            node.set_members(all.clone(), all.clone(), at(Mono(0)));
        }
        cluster
    }

    fn of(count: u64) -> Self {
        Self::new((1..=count).map(|id| replica(id, [])).collect())
    }

    /// Delivers until nobody has anything to say.
    fn deliver(&mut self) {
        loop {
            let mut letters = Vec::new();
            for node in &mut self.nodes {
                while let Some(output) = node.poll_output() {
                    match output {
                        Output::Send { to, frame } => letters.push((node.node, to, frame)),
                        Output::Commit { .. } => self.commits += 1,
                    }
                }
            }
            if letters.is_empty() {
                return;
            }
            for (from, to, frame) in letters {
                self.frames.push((from, to, frame.clone()));
                if self.cut.contains(&to) || self.cut.contains(&from) {
                    continue;
                }
                let node = self.nodes.iter_mut().find(|node| node.node == to).expect("a node");
                node.handle_frame(from, &frame, at(self.now)).expect("a frame of ours");
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now.after(time);
        self.deliver();
        while let Some(due) = self.nodes.iter().filter_map(Replica::poll_timeout).min().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            for node in self.nodes.iter_mut().filter(|node| node.poll_timeout().is_some_and(|due| due <= self.now)) {
                node.handle_timeout(at(self.now));
            }
            self.deliver();
        }
        self.now = end;
    }

    fn put(&mut self, node: usize, name: &str, text: Option<&str>) {
        let row = text.map(|text| Row { format: 1, bytes: text.as_bytes().into() });
        let write = Write { key: key(name), row, expect: Expect::Any };
        let node = &mut self.nodes[node];
        let written = node.write(vec![write], at(self.now).wall).expect("a write");
        node.publish(&written.changed, at(self.now));
    }

    fn text(&self, node: usize, name: &str) -> Option<String> {
        let register = self.nodes[node].registry.get(Kind::COMPONENT, name)?;
        register.winner().map(|row| String::from_utf8_lossy(&row.bytes).into_owned())
    }

    fn is_equal(&self) -> bool {
        self.nodes.iter().all(|node| node.registry.registers().eq(self.nodes[0].registry.registers()))
    }

    fn bytes(&self) -> usize {
        self.frames.iter().map(|(.., frame)| frame.len()).sum()
    }
}

#[test]
fn a_published_write_is_on_all_nodes_with_one_copy_each() {
    let mut cluster = Cluster::of(5);
    cluster.run_for(Duration::from_millis(200));
    cluster.frames.clear();
    cluster.put(2, "api", Some("v1"));
    cluster.deliver();
    assert!((0..5).all(|node| cluster.text(node, "api").as_deref() == Some("v1")));
    assert_eq!((cluster.frames.len(), cluster.commits), (4, 4));
}

#[test]
fn fifty_nodes_get_one_copy_each_through_relays_and_a_dead_relay_is_stood_in_for() {
    let mut cluster = Cluster::of(50);
    cluster.run_for(Duration::from_secs(1));
    cluster.frames.clear();
    cluster.put(7, "api", Some("v1"));
    cluster.deliver();
    assert!(cluster.is_equal());
    assert_eq!(cluster.frames.len(), 49);
    assert!(cluster.frames.iter().filter(|(from, ..)| *from == NodeId(8)).count() == 8, "the origin sends to few");

    let relay = cluster.frames[0].1;
    cluster.cut.insert(relay);
    cluster.frames.clear();
    cluster.put(7, "api", Some("v2"));
    cluster.deliver();
    let now = at(cluster.now);
    cluster.nodes[7].unreachable(relay, now);
    cluster.deliver();
    let behind = (0..50).filter(|node| cluster.text(*node, "api").as_deref() != Some("v2")).count();
    assert_eq!(behind, 1, "nobody but the dead one");
}

#[test]
fn what_a_repair_costs_grows_with_the_difference_and_not_with_the_registry() {
    let mut costs = Vec::new();
    for missing in [0, 1, 10, 100, 1000] {
        let all = rows(10_000, 200);
        let some: Vec<_> = all.iter().skip(missing).cloned().collect();
        let mut cluster = Cluster::new(vec![replica(1, all), replica(2, some)]);
        cluster.nodes[1].connected(NodeId(1), at(Mono(0)));
        cluster.run_for(Duration::from_secs(3));
        assert!(cluster.is_equal(), "{missing}");
        costs.push(cluster.bytes());
    }
    println!("bytes for 0, 1, 10, 100, 1000 rows of 200 bytes: {costs:?}");
    assert!(costs[0] < 200 && costs[1] < 4_000, "{costs:?}");
    assert!(costs[2] < 25_000 && costs[3] < 200_000 && costs[4] < 1_000_000, "{costs:?}");
}

#[test]
fn an_empty_node_gets_a_hundred_thousand_rows_in_few_large_commits() {
    let mut cluster = Cluster::new(vec![replica(1, rows(100_000, 300)), replica(2, [])]);
    cluster.nodes[1].connected(NodeId(1), at(Mono(0)));
    cluster.deliver();
    assert_eq!((cluster.nodes[1].registry.len(), cluster.is_equal()), (100_000, true));
    let (bytes, largest) = (cluster.bytes(), cluster.frames.iter().map(|(.., frame)| frame.len()).max());
    println!("{bytes} bytes in {} frames, {} commits, largest {largest:?}", cluster.frames.len(), cluster.commits);
    assert!(bytes < 36_000_000 && largest < Some(FRAME_MAX));
    assert!(cluster.commits <= 40, "{}", cluster.commits);
}

#[test]
fn a_commit_comes_before_every_frame_that_shows_it_and_keeps_a_later_own_write() {
    let mut cluster = Cluster::of(2);
    cluster.run_for(Duration::from_secs(1));
    cluster.put(0, "api", Some("v1"));
    let Some(Output::Send { frame, .. }) = cluster.nodes[0].poll_output() else { panic!("a push") };
    let (now, node) = (at(cluster.now), &mut cluster.nodes[1]);
    node.handle_frame(NodeId(1), &frame, now).expect("a frame");
    node.connected(NodeId(1), now);
    // An own write on top, before the merge is durable: the commit must not bring the older state to the disk.
    cluster.put(1, "api", Some("v2"));
    let node = &mut cluster.nodes[1];
    let Some(Output::Commit { changes, .. }) = node.poll_output() else { panic!("a commit first") };
    assert_eq!(Register::decode(&changes[0].encoded).as_ref(), Ok(node.registry.register(&key("api")).expect("there")));
    assert!(matches!(node.poll_output(), Some(Output::Send { .. })));
}

#[test]
fn a_write_that_is_taken_back_leaves_what_a_peer_sent_to_be_committed() {
    let mut cluster = Cluster::of(2);
    cluster.run_for(Duration::from_secs(1));
    cluster.put(0, "api", Some("v1"));
    let Some(Output::Send { frame, .. }) = cluster.nodes[0].poll_output() else { panic!("a push") };
    let (now, node) = (at(cluster.now), &mut cluster.nodes[1]);
    node.handle_frame(NodeId(1), &frame, now).expect("a frame");
    let write = Write { key: key("api"), row: None, expect: Expect::Any };
    let written = node.write(vec![write], Wall(WALL + 2000)).expect("a write");
    node.undo(written);
    let Some(Output::Commit { changes, .. }) = node.poll_output() else { panic!("a commit") };
    let register = Register::decode(&changes[0].encoded).expect("a register");
    assert!(register.winner().is_some() && changes.len() == 1);
}

#[test]
fn a_node_that_was_away_for_longer_than_deletes_are_kept_loses_its_old_rows_and_keeps_its_new_ones() {
    let mut cluster = Cluster::of(3);
    cluster.put(0, "old", Some("x"));
    cluster.put(2, "mine", Some("before"));
    cluster.run_for(Duration::from_secs(60));
    assert!(cluster.is_equal());
    cluster.cut.insert(NodeId(3));
    cluster.put(1, "old", None);
    cluster.put(0, "mine", None);
    cluster.put(2, "unseen", Some("y"));
    cluster.run_for(Duration::from_secs(2 * 3600));
    assert!(cluster.nodes[0].registry.is_empty() && cluster.nodes[1].registry.is_empty(), "the deletes are forgotten");
    assert_eq!(cluster.text(2, "old").as_deref(), Some("x"), "nobody told it");
    cluster.cut.clear();
    cluster.run_for(Duration::from_secs(60));
    assert!(cluster.is_equal());
    let rows: Vec<Key> = cluster.nodes[0].registry.registers().map(|(key, _)| key.clone()).collect();
    assert_eq!(rows, [key("unseen")]);
}

#[test]
fn a_row_that_cannot_be_read_is_counted_does_not_stop_the_rest_and_is_not_asked_for_in_a_loop() {
    let mut node = replica(1, []);
    let members: BTreeSet<NodeId> = [NodeId(1), NodeId(2)].into();
    node.set_members(members.clone(), members, at(Mono(0)));
    let mut list = Vec::new();
    let good = rows(2, 20);
    add_row(&mut list, &good[0].0, &good[0].1.encode().expect("a register"));
    add_row(&mut list, &key("poison"), b"\x01\x07nonsense");
    add_row(&mut list, &good[1].0, &good[1].1.encode().expect("a register"));
    let push = Frame::Push { origin: 2, id: 7, depth: 0, rows: Blob(list.clone()) }.encode();
    node.handle_frame(NodeId(2), &push, at(Mono(1))).expect("a frame");
    assert_eq!((node.registry.len(), node.stats.refused), (2, 1));
    let why = node.stats.last_refused.clone().expect("a reason");
    assert!(why.contains("component poison of node 0000000000000002"), "{why}");

    // A peer that always differs and only has that row to give.
    let (mut now, mut asks) = (Mono(1), 0);
    while now < Mono(0).after(Duration::from_secs(300)) {
        while let Some(output) = node.poll_output() {
            let Output::Send { frame, .. } = output else { continue };
            let reply = match Frame::decode(&frame).expect("a frame of ours") {
                Frame::Root { answer: false, .. } => Frame::Root { root: 9, context: 9, answer: true, busy: false },
                Frame::Ask { session, .. } => {
                    asks += 1;
                    Frame::Digests { session, rows: 1, context: vec![(2, 5)], mask: 1, buckets: Blob::default() }
                }
                Frame::Want { session, seq, .. } => {
                    let (absent, rows) = (Blob::default(), Blob(list.clone()));
                    Frame::Rows { session, seq, next: None, absent, rows }
                }
                Frame::Root { .. } | Frame::Push { .. } | Frame::Digests { .. } | Frame::Rows { .. } => continue,
            };
            node.handle_frame(NodeId(2), &reply.encode(), at(now)).expect("a frame");
        }
        now = node.poll_timeout().expect("a comparison").max(Mono(now.0 + 1));
        node.handle_timeout(at(now));
    }
    assert!((5..40).contains(&asks), "{asks} fetches in 300 s");
    assert!(node.registry.context().seen(NodeId(2)) == Hlc(0), "what could not be read has not been seen");
}

/// Fetches from node 1, which has seen node 99 up to some moment; with a push of an old row of node 99 in between.
fn seen_after_a_fetch(is_disturbed: bool) -> Hlc {
    let mut node = replica(3, []);
    let seen = Hlc::from_wall(Wall(WALL));
    let root = Frame::Root { root: 9, context: 9, answer: true, busy: false };
    node.connected(NodeId(1), at(Mono(0)));
    let mut replies = vec![(NodeId(1), root)];
    while let Some((from, frame)) = replies.pop() {
        node.handle_frame(from, &frame.encode(), at(Mono(1))).expect("a frame");
        while let Some(output) = node.poll_output() {
            let Output::Send { frame, .. } = output else { continue };
            match Frame::decode(&frame).expect("a frame of ours") {
                Frame::Ask { session, .. } => {
                    let (context, buckets) = (vec![(99, seen.0)], Blob::default());
                    replies.push((NodeId(1), Frame::Digests { session, rows: 1, context, mask: 1, buckets }));
                }
                Frame::Want { session, seq, .. } => {
                    let (absent, rows) = (Blob::default(), Blob::default());
                    replies.push((NodeId(1), Frame::Rows { session, seq, next: None, absent, rows }));
                    if is_disturbed {
                        let mut rows = Vec::new();
                        let (key, register) = &self::rows(1, 20)[0];
                        add_row(&mut rows, key, &register.encode().expect("a register"));
                        replies.push((NodeId(2), Frame::Push { origin: 99, id: 1, depth: 0, rows: Blob(rows) }));
                    }
                }
                Frame::Root { .. } | Frame::Push { .. } | Frame::Digests { .. } | Frame::Rows { .. } => {}
            }
        }
    }
    assert_eq!(node.stats.repairs, 1);
    node.registry.context().seen(NodeId(99))
}

#[test]
fn an_old_row_that_comes_in_during_a_fetch_spoils_its_proof() {
    assert_eq!(seen_after_a_fetch(false), Hlc::from_wall(Wall(WALL)));
    assert_eq!(seen_after_a_fetch(true), Hlc(0));
}

#[test]
fn a_kind_of_a_newer_release_is_stored_and_sent_on() {
    let mut cluster = Cluster::of(40);
    let key = Key::new(Kind(4711), "x").expect("a key");
    let row = Row { format: 9, bytes: b"unread".as_slice().into() };
    let node = &mut cluster.nodes[0];
    let write = Write { key: key.clone(), row: Some(row), expect: Expect::Any };
    let written = node.write(vec![write], Wall(WALL)).expect("a write");
    node.publish(&written.changed, at(Mono(0)));
    cluster.deliver();
    assert!(cluster.nodes.iter().all(|node| node.registry.register(&key).is_some()));
}

#[test]
fn five_nodes_at_rest_say_little() {
    let mut cluster = Cluster::of(5);
    for name in ["a", "b", "c"] {
        cluster.put(0, name, Some(name));
        cluster.put(4, name, Some("later"));
    }
    cluster.run_for(Duration::from_secs(120));
    assert!(cluster.is_equal());
    cluster.frames.clear();
    cluster.run_for(Duration::from_secs(1000));
    // What a frame costs around it: a short QUIC packet with its acknowledgement, UDP and IP, both ways.
    let wire = cluster.bytes() + cluster.frames.len() * 150;
    let per_second = wire / 5 / 1000;
    println!("{} frames, {} bytes, about {per_second} B/s and node on the wire", cluster.frames.len(), cluster.bytes());
    assert!(per_second < 60, "{per_second}");
}

#[test]
fn a_full_queue_drops_pushes_and_the_repair_brings_them() {
    let mut cluster = Cluster::of(2);
    cluster.nodes[0].options.queue = 2_000;
    cluster.run_for(Duration::from_secs(1));
    for n in 0..40 {
        cluster.put(0, &format!("row-{n}"), Some(&"x".repeat(200)));
    }
    assert!(cluster.nodes[0].stats.dropped > 20 && cluster.nodes[0].out_bytes <= 2_000);
    cluster.deliver();
    assert!(!cluster.is_equal());
    cluster.nodes[0].options.queue = 1 << 20;
    cluster.run_for(Duration::from_secs(5));
    assert!(cluster.is_equal());
}

#[test]
fn a_long_write_is_pushed_in_several_frames_and_an_asker_that_floods_costs_a_bounded_queue() {
    let mut cluster = Cluster::of(2);
    cluster.run_for(Duration::from_secs(1));
    let row = Row { format: 1, bytes: vec![7; 60_000].into() };
    let batch = (0..20).map(|n| Write { key: key(&n.to_string()), row: Some(row.clone()), expect: Expect::Any });
    let written = cluster.nodes[0].write(batch.collect(), Wall(WALL + 1000)).expect("a write");
    cluster.nodes[0].publish(&written.changed, at(cluster.now));
    cluster.frames.clear();
    cluster.deliver();
    assert!(cluster.frames.iter().all(|(.., frame)| frame.len() <= 262_144) && cluster.frames.len() == 5);
    let want = Frame::Want { session: 1, seq: 1, ranges: vec![(0, u64::MAX)], items: Blob::default() }.encode();
    for _ in 0..1000 {
        cluster.nodes[0].handle_frame(NodeId(2), &want, at(cluster.now)).expect("a frame");
    }
    assert!(cluster.nodes[0].out_bytes <= cluster.nodes[0].options.queue);
    assert!(cluster.nodes[0].lag(NodeId(2)).queued < 40);
}

#[test]
fn the_note_comes_back_from_its_bytes_and_every_cut_of_it_is_refused() {
    let context = (0..300).map(|n| (NodeId(u64::MAX - n), Hlc(n + 1))).collect();
    let saved = Saved { synced: Wall(77), context };
    let bytes = saved.encode();
    assert_eq!(Saved::decode(&bytes), Ok(saved));
    assert!((0..bytes.len()).all(|cut| Saved::decode(&bytes[..cut]).is_err()));
    assert_eq!(Saved::decode(&Saved::default().encode()), Ok(Saved::default()));
}

#[test]
fn the_bytes_of_the_frames_are_those_of_earlier_releases() {
    let root = Frame::Root { root: 3, context: 4, answer: true, busy: false };
    assert_eq!(&root.encode()[..], [1, 0, 3, 4, 1, 0]);
    let push = Frame::Push { origin: 5, id: 6, depth: 1, rows: Blob(vec![9, 9]) };
    assert_eq!(&push.encode()[..], [1, 1, 5, 6, 1, 2, 9, 9]);
    let rows = Frame::Rows { session: 1, seq: 2, next: Some(7), absent: Blob::default(), rows: Blob(vec![8]) };
    assert_eq!(&rows.encode()[..], [1, 5, 1, 2, 1, 7, 0, 1, 8]);
}

/// Every kind of frame that a fetch and a push make.
fn frames() -> Vec<(NodeId, NodeId, Bytes)> {
    let mut cluster = Cluster::new(vec![replica(1, rows(300, 40)), replica(2, rows(280, 30))]);
    cluster.put(0, "api", Some("v1"));
    cluster.put(1, "api", None);
    cluster.run_for(Duration::from_secs(3));
    assert!(cluster.is_equal());
    cluster.frames
}

#[test]
fn a_frame_that_is_cut_short_is_refused_or_harmless_at_every_length() {
    for (from, _, frame) in frames() {
        let mut node = replica(3, rows(5, 20));
        for cut in (0..frame.len()).step_by(1 + frame.len() / 200) {
            assert!(node.handle_frame(from, &frame[..cut], at(Mono(1))).is_err(), "{cut}");
        }
        assert_eq!(node.registry.len(), 5);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_replica_panic(kind in 0..7_u8, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut node = replica(1, rows(5, 20));
        let mut frame = vec![1, kind];
        frame.extend(bytes);
        let _ = node.handle_frame(NodeId(2), &frame, at(Mono(1)));
        let _ = node.handle_frame(NodeId(2), &frame[1..], at(Mono(1)));
        while node.poll_output().is_some() {}
        prop_assert!(node.stats.frames_in == 2);
    }

    #[test]
    fn frames_that_are_changed_lost_doubled_and_reordered_do_not_keep_two_nodes_from_ending_equal(seed in any::<u64>()) {
        let mut rng = Rng::from_seed(seed);
        let mut cluster = Cluster::new(vec![replica(1, rows(30, 40)), replica(2, rows(25, 40))]);
        cluster.put(0, "api", Some("v1"));
        cluster.put(1, "api", Some("v2"));
        let mut letters = Vec::new();
        for _ in 0..60 {
            for node in &mut cluster.nodes {
                while let Some(output) = node.poll_output() {
                    if let Output::Send { to, frame } = output {
                        letters.push((node.node, to, frame));
                    }
                }
            }
            cluster.now = cluster.now.after(Duration::from_millis(rng.below(300)));
            for node in &mut cluster.nodes {
                node.handle_timeout(at(cluster.now));
            }
            if letters.is_empty() {
                continue;
            }
            let pick = rng.below(letters.len() as u64) as usize;
            let (from, to, frame) = letters[pick].clone();
            if rng.below(4) > 0 {
                letters.swap_remove(pick);
            }
            let mut bytes = frame.to_vec();
            if rng.below(8) == 0 {
                // Lengths and lists, not what registers say: a peer is trusted with that.
                let place = rng.below(bytes.len().min(8) as u64) as usize;
                bytes[place] ^= 1 << rng.below(8);
                bytes.truncate(8);
            }
            let node = cluster.nodes.iter_mut().find(|node| node.node == to).expect("a node");
            let _ = node.handle_frame(from, &bytes, at(cluster.now));
        }
        cluster.run_for(Duration::from_secs(60));
        prop_assert!(cluster.is_equal());
        prop_assert_eq!(cluster.nodes[0].registry.conflicts().count(), 1);
    }
}
