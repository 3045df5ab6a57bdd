//! Many small worlds of registry replicas, each decided by one seed: everything goes wrong for a while, then it is
//! quiet, and then no acknowledged write may be missing, none deleted may be back, and all copies must be equal.
//!
//! Run one seed again with `REGISTRY_SEED=n cargo test --no-default-features --test registry one_seed -- --nocapture`.

#![allow(unreachable_pub, reason = "the parts of a simulation are written like modules of a crate")]

use std::thread;

#[allow(dead_code, reason = "every simulation uses a part of it")]
mod net;

#[path = "registry/disk.rs"]
mod disk;
#[path = "registry/model.rs"]
mod model;
#[path = "registry/world.rs"]
mod world;

use maelstrom::crdt::Collect;
use world::{Seen, World};

/// How many worlds are tried.
const SEEDS: u64 = 2000;

/// What a range of seeds came to.
#[derive(Debug, Default)]
struct Tally {
    failed: Vec<String>,
    seen: Seen,
}

fn run(seeds: impl Iterator<Item = u64>, collect: Collect, twice: bool) -> Tally {
    let mut result = Tally::default();
    for seed in seeds {
        let (first, seen) = World::run(seed, collect);
        result.seen.add(&seen);
        match first {
            Err(why) => result.failed.push(format!("seed {seed}: {why}")),
            Ok(trace) if twice => match World::run(seed, collect).0 {
                Ok(again) if again == trace => {}
                other => result.failed.push(format!("seed {seed}: two runs differ: {trace:x} and {other:x?}")),
            },
            Ok(_) => {}
        }
    }
    result
}

/// Two threads: the machines that run this have at least two cores.
fn run_all(seeds: u64, collect: Collect, twice: bool) -> Tally {
    let halves = thread::scope(|scope| {
        let halves = [0, 1].map(|half| scope.spawn(move || run((half..seeds).step_by(2), collect, twice)));
        halves.map(|half| half.join().expect("a world does not panic"))
    });
    let mut all = Tally::default();
    for half in halves {
        all.failed.extend(half.failed);
        all.seen.add(&half.seen);
    }
    all.failed.sort();
    all
}

#[test]
fn no_acknowledged_write_is_lost_none_comes_back_and_all_copies_end_equal() {
    let all = run_all(SEEDS, Collect::Proven, true);
    println!("{:?}", all.seen);
    assert!(all.failed.is_empty(), "{} of {SEEDS}:\n{}", all.failed.len(), all.failed.join("\n"));
    // A world in which nothing happens would pass too.
    let blind = all.seen.blind();
    assert!(blind.is_empty(), "never happened: {blind:?}");
}

#[test]
fn deletes_that_are_forgotten_by_age_are_caught_by_the_same_seeds() {
    let all = run_all(SEEDS / 4, Collect::ByAge, false);
    println!("{} of {}: {:?}", all.failed.len(), SEEDS / 4, all.failed.iter().take(5).collect::<Vec<_>>());
    assert!(all.failed.iter().any(|why| why.contains("came back")), "the worlds are too kind: {:?}", all.seen);
}

#[test]
fn one_seed_can_be_run_again() {
    let seed = std::env::var("REGISTRY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let (end, seen) = World::run(seed, Collect::Proven);
    println!("{end:x?} {seen:?}");
    assert!(end.is_ok(), "{end:?}");
}
