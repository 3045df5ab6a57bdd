//! Small clusters driven by hand, and packets as bytes.

use proptest::prelude::*;

use super::packet::View;
use super::*;
use crate::rng::Rng;

fn peer(node: u64) -> Peer {
    let address = format!("10.0.0.{}:8374", node % 250 + 1).parse().expect("an address");
    Peer { node: NodeId(node), address, start: 1_700_000_000_000, life: 0 }
}

fn alone(node: u64) -> Membership {
    Membership::new(peer(node), Options::fast(), Rng::from_seed(node), Mono(0))
}

fn outputs(node: &mut Membership) -> Vec<Output> {
    std::iter::from_fn(|| node.poll_output()).collect()
}

fn events(node: &mut Membership) -> Vec<Event> {
    let event = |output| match output {
        Output::Event(event) => Some(event),
        Output::Send { .. } => None,
    };
    outputs(node).into_iter().filter_map(event).collect()
}

fn ms(ms: u64) -> Mono {
    Mono(ms * 1_000_000)
}

/// Carries packets between the nodes at once until nothing is left; what is for nobody among them is lost.
fn carry(nodes: &mut [&mut Membership], now: Mono) -> Vec<(NodeId, Event)> {
    let mut events = Vec::new();
    loop {
        let mut packets = Vec::new();
        for node in nodes.iter_mut() {
            let from = node.me().node;
            while let Some(output) = node.poll_output() {
                match output {
                    Output::Send { to, bytes } => packets.push((from, to.node, bytes)),
                    Output::Event(event) => events.push((from, event)),
                }
            }
        }
        if packets.is_empty() {
            return events;
        }
        for (from, to, bytes) in packets {
            if let Some(node) = nodes.iter_mut().find(|node| node.me().node == to) {
                node.handle_datagram(from, &bytes, now).expect("a packet of ours");
            }
        }
    }
}

fn trio() -> [Membership; 3] {
    let (mut a, mut b, mut c) = (alone(1), alone(2), alone(3));
    b.join(peer(1), ms(1));
    c.join(peer(1), ms(1));
    // Time for all rounds of news; no ping is due that could fail.
    for at in 1..200 {
        [&mut a, &mut b, &mut c].into_iter().for_each(|node| node.handle_timeout(ms(at)));
        carry(&mut [&mut a, &mut b, &mut c], ms(at));
    }
    [a, b, c]
}

#[test]
fn two_that_join_one_know_each_other() {
    let [a, b, c] = trio();
    assert_eq!([a.alive_count(), b.alive_count(), c.alive_count()], [2, 2, 2]);
    assert_eq!(b.members().map(|member| member.peer.node.0).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_refused_port_is_a_crash_after_one_ping() {
    let [mut a, mut b, _] = trio();
    let mut down = Vec::new();
    a.handle_evidence(NodeId(3), Evidence::Refused, ms(202));
    for at in 202..340 {
        a.handle_timeout(ms(at));
        b.handle_timeout(ms(at));
        down.extend(carry(&mut [&mut a, &mut b], ms(at)));
    }
    assert_eq!(down, [(NodeId(1), Event::Down(peer(3))), (NodeId(2), Event::Down(peer(3)))]);
}

#[test]
fn a_beat_that_nobody_acknowledges_is_a_round_without_an_answer() {
    let [mut a, mut b, _] = trio();
    a.handle_evidence(NodeId(3), Evidence::Silent, ms(202));
    let asked = outputs(&mut a).into_iter().filter_map(|output| match output {
        Output::Send { to, bytes } => Some((to.node.0, bytes[0])),
        Output::Event(_) => None,
    });
    // A ping of our own, and the other one is asked to try.
    assert_eq!(asked.collect::<Vec<_>>(), [(3, 1), (2, 3)]);
    let mut down = Vec::new();
    for at in 203..1500 {
        a.handle_timeout(ms(at));
        b.handle_timeout(ms(at));
        down.extend(carry(&mut [&mut a, &mut b], ms(at)));
    }
    assert!(down.contains(&(NodeId(2), Event::Down(peer(3)))), "{down:?}");
}

#[test]
fn evidence_against_a_living_node_does_no_harm() {
    let [mut a, mut b, mut c] = trio();
    a.handle_evidence(NodeId(3), Evidence::Refused, ms(202));
    a.handle_evidence(NodeId(2), Evidence::Closed, ms(202));
    b.handle_evidence(NodeId(3), Evidence::Silent, ms(202));
    for at in 202..600 {
        [&mut a, &mut b, &mut c].into_iter().for_each(|node| node.handle_timeout(ms(at)));
        assert_eq!(carry(&mut [&mut a, &mut b, &mut c], ms(at)), []);
    }
}

#[test]
fn a_goodbye_is_heard_as_leaving_and_the_leaver_falls_silent() {
    let [mut a, mut b, mut c] = trio();
    c.leave(ms(205));
    let heard = carry(&mut [&mut a, &mut b, &mut c], ms(205));
    assert_eq!(heard, [(NodeId(1), Event::Left(peer(3))), (NodeId(2), Event::Left(peer(3)))]);
    while let Some(at) = c.poll_timeout() {
        c.handle_timeout(at);
    }
    outputs(&mut c);
    c.handle_timeout(ms(10_000));
    assert_eq!(outputs(&mut c), []);
}

#[test]
fn a_banned_node_is_refused_and_gone_from_the_list() {
    let [mut a, mut b, mut c] = trio();
    a.ban(NodeId(3), ms(205));
    assert!(a.is_banned(NodeId(3)) && a.members().all(|member| member.peer.node != NodeId(3)));
    carry(&mut [&mut a, &mut b], ms(205));
    assert_eq!(b.members().find(|member| member.peer.node == NodeId(3)).map(|member| member.state), Some(State::Down));
    c.join(peer(1), ms(206));
    let Some(Output::Send { bytes, .. }) = c.poll_output() else { panic!("no packet") };
    assert_eq!(a.handle_datagram(NodeId(3), &bytes, ms(206)), Err(BadPacket::Banned(NodeId(3))));
    a.forget(NodeId(3));
    assert_eq!(a.handle_datagram(NodeId(3), &bytes, ms(207)), Ok(()));
    assert_eq!(a.alive_count(), 2);
}

#[test]
fn a_packet_in_the_name_of_another_is_refused() {
    let mut a = alone(1);
    let bytes = Packet::Intro { join: true, me: peer(2), you: None }.encode();
    let refused = BadPacket::Sender { claimed: NodeId(2), from: NodeId(3) };
    assert_eq!(a.handle_datagram(NodeId(3), &bytes, ms(1)), Err(refused));
    assert_eq!(a.alive_count(), 0);
}

#[test]
fn our_own_id_from_another_address_is_a_copied_data_directory() {
    let mut a = alone(1);
    let copy = Peer { address: "10.9.9.9:1".parse().expect("an address"), ..peer(1) };
    let bytes = Packet::Intro { join: true, me: copy, you: None }.encode();
    assert!(a.handle_datagram(NodeId(1), &bytes, ms(1)).is_err());
    assert!(a.handle_datagram(NodeId(1), &bytes, ms(2)).is_err());
    assert_eq!(events(&mut a), [Event::Usurped { by: copy }]);
    // Told by a third: the same.
    let mut b = alone(1);
    let told = Packet::Intro { join: false, me: peer(2), you: Some((copy, State::Alive)) }.encode();
    b.handle_datagram(NodeId(2), &told, ms(1)).expect("a packet");
    assert!(events(&mut b).contains(&Event::Usurped { by: copy }));
    // We moved and came back later: the old address is no usurper.
    let mut c =
        Membership::new(Peer { start: peer(1).start + 1, ..peer(1) }, Options::fast(), Rng::from_seed(1), ms(0));
    c.handle_datagram(NodeId(2), &told, ms(1)).expect("a packet");
    assert!(!events(&mut c).contains(&Event::Usurped { by: copy }));
}

#[test]
fn a_node_whose_counter_was_set_back_takes_a_life_after_the_known_one() {
    let mut a = alone(1);
    let known = Peer { start: peer(1).start + 10, life: 3, ..peer(1) };
    let told = Packet::Intro { join: false, me: peer(2), you: Some((known, State::Down)) }.encode();
    a.handle_datagram(NodeId(2), &told, ms(1)).expect("a packet");
    assert_eq!(*a.me(), Peer { life: 4, ..known });
    assert!(events(&mut a).contains(&Event::Renewed(*a.me())));
}

#[test]
fn a_loop_that_stood_still_blames_nobody() {
    let [mut a, ..] = trio();
    outputs(&mut a);
    let at = a.poll_timeout().expect("a ping is due");
    a.handle_timeout(at);
    // Ten seconds in which the process was stopped: what is due by then is not held against the others.
    a.handle_timeout(at.after(Duration::from_secs(10)));
    assert_eq!(events(&mut a), []);
    assert_eq!(a.alive_count(), 2);
}

#[test]
fn the_last_other_node_is_given_up_in_time() {
    let (mut a, mut b) = (alone(1), alone(2));
    b.join(peer(1), ms(1));
    carry(&mut [&mut a, &mut b], ms(1));
    let mut at = ms(1);
    while a.alive_count() == 1 {
        at = a.poll_timeout().expect("something is due");
        a.handle_timeout(at);
        // The transport says of a beat that nothing came back.
        let is_beat = |output: &Output| matches!(output, Output::Send { bytes, .. } if bytes[0] == 9);
        if outputs(&mut a).iter().any(is_beat) {
            a.handle_evidence(NodeId(2), Evidence::Silent, at.after(Duration::from_millis(51)));
            outputs(&mut a);
        }
    }
    assert!(at < ms(1_600), "{at:?}");
    assert!(!a.is_frozen());
}

#[test]
fn gone_members_are_dropped_after_a_day() {
    let [mut a, _, mut c] = trio();
    c.leave(ms(205));
    carry(&mut [&mut a, &mut c], ms(205));
    assert!(a.members().any(|member| member.state == State::Left));
    a.handle_timeout(ms(25 * 3600 * 1000));
    assert!(a.members().all(|member| member.state != State::Left));
}

#[test]
fn the_bytes_of_a_packet_are_those_of_earlier_releases() {
    let view = View { pair: 1, digest: 0x0203_0405 };
    assert_eq!(Packet::Ping(view).encode()[..], [1, 0, 0, 0, 1, 2, 3, 4, 5]);
    assert_eq!(Packet::Beat(view).encode()[..], [9, 0, 0, 0, 1, 2, 3, 4, 5]);
    let tell = Packet::Tell { peer: peer(9), state: State::Down, until: NodeId(1) }.encode();
    assert_eq!((tell[0], &tell[tell.len() - 8..]), (10, &[0, 0, 0, 0, 0, 0, 0, 1][..]));
    assert_eq!(Packet::Told(7).encode()[..], [11, 0, 0, 0, 7]);
    assert_eq!(Packet::Sums { answer: true, sums: vec![1] }.encode()[..], [12, 1, 0, 0, 0, 1]);
    let mut leave = vec![8, 0, 0, 0, 0, 0, 0, 0, 9, 4, 10, 0, 0, 10, 0x20, 0xb6];
    leave.extend([0x80, 0xd0, 0x95, 0xff, 0xbc, 0x31, 0]);
    assert_eq!(Packet::Leave(peer(9)).encode()[..], leave);
    assert_eq!(Packet::decode(&leave), Ok(Packet::Leave(peer(9))));
    leave.push(0);
    assert_eq!(Packet::decode(&leave), Err(BadPacket::Trailing(1)));
    assert_eq!(Packet::decode(&[99]), Err(BadPacket::Kind(99)));
    assert_eq!(Packet::decode(&[]), Err(BadPacket::Empty));
}

#[test]
fn a_full_list_of_the_longest_entries_fits_into_a_packet() {
    let address = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().expect("an address");
    let longest = Peer { node: NodeId(u64::MAX), address, start: u64::MAX, life: u32::MAX };
    let max = Options::fast().packet_max;
    let list = Packet::List(vec![(longest, State::Down); Packet::entries_max(max)]);
    assert!(list.encode().len() <= max);
    assert_eq!(Packet::decode(&list.encode()), Ok(list));
}

fn any_peer() -> impl Strategy<Value = Peer> + Clone {
    (0..6_u64, any::<[u8; 4]>(), any::<u16>(), 0..4_u64, 0..3_u32).prop_map(|(node, ip, port, start, life)| Peer {
        node: NodeId(node),
        address: (ip, port).into(),
        start: peer(1).start - 2 + start,
        life,
    })
}

fn any_state() -> impl Strategy<Value = State> + Clone {
    prop_oneof![Just(State::Alive), Just(State::Down), Just(State::Left)]
}

fn any_packet() -> impl Strategy<Value = Bytes> {
    let entry = (any_peer(), any_state());
    prop_oneof![
        (any::<u32>(), any::<u32>()).prop_map(|(pair, digest)| Packet::Ping(View { pair, digest }).encode()),
        (any::<u32>(), any::<u32>()).prop_map(|(pair, digest)| Packet::Beat(View { pair, digest }).encode()),
        (0..6_u64).prop_map(|node| Packet::Ask(NodeId(node)).encode()),
        (0..6_u64).prop_map(|node| Packet::Silent(NodeId(node)).encode()),
        any_peer().prop_map(|peer| Packet::Leave(peer).encode()),
        (any::<bool>(), any_peer(), proptest::option::of(entry.clone())).prop_map(|(join, me, you)| Packet::Intro {
            join,
            me,
            you
        }
        .encode()),
        proptest::collection::vec(entry.clone(), 0..8).prop_map(|entries| Packet::List(entries).encode()),
        (entry, 0..6_u64)
            .prop_map(|((peer, state), until)| Packet::Tell { peer, state, until: NodeId(until) }.encode()),
        any::<u32>().prop_map(|sign| Packet::Told(sign).encode()),
        (any::<bool>(), 0..4_u32, any::<u32>()).prop_map(|(answer, log, sum)| Packet::Sums {
            answer,
            sums: vec![sum; 1 << log]
        }
        .encode()),
        proptest::collection::vec(any::<u8>(), 0..80).prop_map(Bytes::from),
    ]
}

proptest! {
    #[test]
    fn no_packets_in_any_order_make_a_node_panic_or_miscount(
        packets in proptest::collection::vec((0..6_u64, any_packet(), 0..700_u64), 0..40),
    ) {
        let mut node = alone(1);
        let mut at = 0;
        for (from, bytes, later) in packets {
            at += later;
            let _ = node.handle_datagram(NodeId(from), &bytes, ms(at));
            node.handle_timeout(ms(at));
            outputs(&mut node);
            let live = node.members().filter(|member| matches!(member.state, State::Alive | State::Suspect));
            prop_assert_eq!(live.count(), node.alive_count());
            prop_assert!(node.members().all(|member| member.peer.node != NodeId(1)));
        }
    }

    #[test]
    fn every_cut_of_a_packet_is_refused_or_another_packet_and_every_packet_reads_back(bytes in any_packet()) {
        if let Ok(packet) = Packet::decode(&bytes) {
            prop_assert_eq!(packet.encode(), bytes.clone());
        }
        for cut in 0..bytes.len() {
            let _ = Packet::decode(&bytes[..cut]);
        }
    }
}
