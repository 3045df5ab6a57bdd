//! Worlds of members in virtual time: who is gone is known, who is there is not given up, and what was torn grows together.
//!
//! Run one seed of the mixed worlds with
//! `MEMBERSHIP_SEED=n cargo test --no-default-features --test membership one_seed -- --nocapture`.

#![allow(clippy::print_stdout, reason = "a seed that fails is found in the output")]
#![allow(unreachable_pub, reason = "the parts of a simulation are written like modules of a crate")]

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

#[path = "membership/mixed.rs"]
mod mixed;
#[allow(dead_code, reason = "every simulation uses a part of it")]
mod net;
#[allow(dead_code, reason = "every simulation uses a part of it")]
#[path = "membership/world.rs"]
mod world;

use maelstrom::gossip::{Event, State};
use mixed::{ROUGH, Seen};
use net::{Host, Weather};
use world::{World, node};

/// How many mixed worlds are tried.
const SEEDS: u64 = 300;

const SECOND: Duration = Duration::from_secs(1);

/// Runs a scenario for some seeds, each twice: two runs of one seed are equal to the last packet.
fn check(seeds: u64, scenario: impl Fn(u64) -> World + Sync) {
    thread::scope(|scope| {
        for half in 0..2 {
            let scenario = &scenario;
            scope.spawn(move || {
                for seed in (half..seeds).step_by(2) {
                    println!("seed {seed}");
                    let (first, again) = (scenario(seed), scenario(seed));
                    assert_eq!(first.trace_hash(), again.trace_hash(), "seed {seed}: two runs differ");
                }
            });
        }
    });
}

fn half(world: &World, seed: u64) -> BTreeSet<Host> {
    (0..world.hosts()).filter(|host| (*host as u64 + seed).is_multiple_of(2)).collect()
}

fn downs(world: &World) -> u64 {
    world.events.iter().filter(|(_, _, event)| matches!(event, Event::Down(_))).count() as u64
}

#[test]
fn members_that_join_through_one_seed_all_know_each_other_within_seconds() {
    for hosts in [3, 10, 50] {
        for weather in [Weather::CALM, ROUGH] {
            check(2, |seed| {
                let mut world = World::empty(seed, hosts, weather);
                (0..hosts).for_each(|host| world.start(host, Some(0)));
                assert!(world.wait(SECOND * 5, World::is_whole), "{hosts}: {:?}", world.blind());
                world
            });
        }
    }
}

#[test]
fn a_host_that_is_gone_without_a_word_is_known_by_all() {
    for hosts in [3, 10, 50] {
        check(4, |seed| {
            let mut world = World::joined(seed, hosts, Weather::CALM);
            let gone = seed as usize % hosts;
            world.lose_host(gone);
            assert!(world.wait(SECOND * 2, |world| world.all_see(gone, State::Down)), "seed {seed}");
            assert_eq!(world.count.false_downs, 0);
            world
        });
    }
}

#[test]
fn a_process_that_is_killed_is_known_by_all_in_a_fraction_of_that() {
    for hosts in [3, 10, 50] {
        check(4, |seed| {
            let mut world = World::joined(seed, hosts, Weather::CALM);
            let gone = seed as usize % hosts;
            world.kill(gone);
            // Nobody keeps a line to it here: the next ping, at most 750 ms later, finds the port closed.
            let time = Duration::from_millis(1000);
            assert!(world.wait(time, |world| world.all_see(gone, State::Down)), "seed {seed}");
            world
        });
    }
}

#[test]
fn a_node_that_starts_again_is_its_new_self_for_everybody() {
    for pause in [0, 300, 5000] {
        check(4, |seed| {
            let mut world = World::joined(seed, 8, if seed < 2 { Weather::CALM } else { ROUGH });
            world.kill(3);
            world.run(Duration::from_millis(pause));
            world.start(3, Some(5));
            let is_new = |world: &World| {
                let is_new = |by: Host| {
                    world
                        .member(by)
                        .is_some_and(|core| core.members().any(|m| m.peer.node == node(3) && m.peer.start == 2))
                };
                world.is_whole() && world.running().filter(|by| *by != 3).all(is_new)
            };
            assert!(world.wait(SECOND * 6, is_new), "seed {seed}: {:?}", world.blind());
            world.run(SECOND * 5);
            assert!(is_new(&world), "seed {seed}: {:?}", world.blind());
            world
        });
    }
}

#[test]
fn a_partition_heals_by_itself_and_nobody_stays_down() {
    for hosts in [2, 3, 5, 20] {
        for is_one_way in [false, true] {
            check(2, |seed| {
                let mut world = World::joined(seed, hosts, Weather::CALM);
                let side = half(&world, seed);
                world.partition(&side, is_one_way);
                world.run(SECOND * 20);
                world.heal();
                assert!(world.wait(SECOND * 15, World::is_whole), "{hosts}, seed {seed}: {:?}", world.blind());
                world.run(SECOND * 10);
                assert!(world.is_whole(), "it stays so: {:?}", world.blind());
                world
            });
        }
    }
}

#[test]
fn one_that_was_taken_for_dead_comes_back() {
    check(4, |seed| {
        let mut world = World::joined(seed, 10, Weather::CALM);
        world.partition(&BTreeSet::from([4]), false);
        assert!(world.wait(SECOND * 4, |world| (0..10).all(|by| by == 4 || world.seen(by, 4) == Some(State::Down))));
        world.heal();
        assert!(world.wait(SECOND * 12, World::is_whole), "seed {seed}: {:?}", world.blind());
        assert!(world.any_event(|by, event| by == 4 && matches!(event, Event::Renewed(_))));
        world
    });
}

#[test]
fn a_goodbye_is_heard_by_all_and_is_not_a_death() {
    for (hosts, weather) in [(3, Weather::CALM), (20, Weather::CALM), (20, ROUGH), (80, ROUGH)] {
        check(2, |seed| {
            let mut world =
                if hosts > 50 { World::acquainted(seed, hosts, weather) } else { World::joined(seed, hosts, weather) };
            world.keeps_events = true;
            world.run(SECOND);
            world.leave(1);
            assert!(world.wait(SECOND, |world| world.all_see(1, State::Left)), "{hosts}, seed {seed}");
            world.run(SECOND * 5);
            assert!(world.all_see(1, State::Left));
            assert!(!world.any_event(|_, event| matches!(event, Event::Down(_))));
            world
        });
    }
}

#[test]
fn a_rough_network_makes_nobody_dead() {
    for hosts in [3, 10, 30] {
        check(2, |seed| {
            let mut world = World::joined(seed, hosts, ROUGH);
            world.run(SECOND * 60);
            assert_eq!((world.count.false_downs, downs(&world)), (0, 0), "{hosts}, seed {seed}");
            assert!(world.wait(SECOND * 3, World::is_whole), "{:?}", world.blind());
            world
        });
    }
}

#[test]
fn a_member_that_stood_still_comes_back_and_accuses_no_healthy_one() {
    for (hosts, weather) in [(3, Weather::CALM), (10, Weather::CALM), (20, ROUGH)] {
        check(4, |seed| {
            let mut world = World::joined(seed, hosts, weather);
            world.stall(1, SECOND * 10);
            world.run(SECOND * 10);
            assert!(world.wait(SECOND * 10, World::is_whole), "{hosts}, seed {seed}: {:?}", world.blind());
            world.run(SECOND * 10);
            assert_eq!(world.count.false_downs, 0, "{hosts}, seed {seed}");
            assert!(world.is_whole());
            world
        });
    }
}

#[test]
fn losing_more_than_a_third_freezes_and_their_return_ends_it() {
    check(4, |seed| {
        let mut world = World::joined(seed, 9, Weather::CALM);
        world.partition(&BTreeSet::from([1, 4, 5, 8]), false);
        world.run(SECOND * 6);
        assert!((0..9).all(|host| world.member(host).is_some_and(|core| core.is_frozen())), "seed {seed}");
        world.heal();
        let is_thawed = |world: &World| world.running().all(|by| world.member(by).is_some_and(|m| !m.is_frozen()));
        assert!(world.wait(SECOND * 20, is_thawed), "seed {seed}: {:?}", world.blind());
        world
    });
}

#[test]
fn a_data_directory_that_was_copied_is_noticed_by_the_older_process() {
    check(2, |seed| {
        let mut world = World::empty(seed, 6, Weather::CALM);
        (0..5).for_each(|host| world.start(host, Some(0)));
        world.run(SECOND * 5);
        world.start_copy(2, 5, 0);
        world.run(SECOND * 5);
        assert!(world.any_event(|by, event| by == 2 && matches!(event, Event::Usurped { .. })), "seed {seed}");
        assert!(!world.any_event(|by, event| by == 5 && matches!(event, Event::Usurped { .. })));
        world
    });
}

#[test]
fn an_accuser_that_dies_does_not_leave_a_suspicion_for_ever() {
    check(12, |seed| {
        let mut world = World::joined(seed, 10, Weather::CALM);
        world.lose_host(4);
        let accuser = |world: &World| {
            let is_it = |event: &Event| matches!(event, Event::Suspect(peer) if peer.node == node(4));
            world.events.iter().find(|(_, _, event)| is_it(event)).map(|(_, by, _)| *by)
        };
        assert!(world.wait(SECOND * 3, |world| accuser(world).is_some()));
        // Also those that would have found out next.
        let ring = world.ring_after(4);
        let lost = BTreeSet::from([accuser(&world).expect("somebody"), ring[0], ring[ring.len() - 1]]);
        lost.iter().for_each(|host| world.lose_host(*host));
        assert!(world.wait(SECOND * 6, |world| world.all_see(4, State::Down)), "seed {seed}");
        assert!(world.wait(SECOND * 3, |world| lost.iter().all(|host| world.all_see(*host, State::Down))));
        world
    });
}

#[test]
fn whatever_happened_everybody_alive_is_seen_alive_by_everybody_in_the_end() {
    let halves = thread::scope(|scope| {
        let run = |half| {
            move || {
                let (mut failed, mut seen) = (Vec::new(), Seen::default());
                for seed in (half..SEEDS).step_by(2) {
                    match (mixed::run(seed, &mut seen), mixed::run(seed, &mut seen)) {
                        (Ok(first), Ok(again)) if first == again => {}
                        (Ok(_), Ok(_)) => failed.push(format!("seed {seed}: two runs differ")),
                        (Err(why), _) | (_, Err(why)) => failed.push(format!("seed {seed}: {why}")),
                    }
                }
                (failed, seen)
            }
        };
        [0, 1].map(|half| scope.spawn(run(half))).map(|half| half.join().expect("a world does not panic"))
    });
    for (failed, seen) in halves {
        println!("{seen:?}");
        assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
        assert!(seen.0.iter().all(|times| *times > 0), "never happened: {seen:?}");
    }
}

#[test]
fn one_seed_can_be_run_again() {
    let seed = std::env::var("MEMBERSHIP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let end = mixed::run(seed, &mut Seen::default());
    println!("{end:x?}");
    assert!(end.is_ok(), "{end:?}");
}
