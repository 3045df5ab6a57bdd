//! Many small clusters that run components, each decided by one seed: the cores of the daemon, fake instances, requests,
//! nodes that crash, drain and return. In every state no node has handed out more memory than it has; every request is
//! answered or told why; and when it is quiet again, what runs is what is wanted, and nothing else.
//!
//! Run one seed again with `PLACEMENT_SEED=n cargo test --no-default-features --test placement_sim one_seed -- --nocapture`.

#![allow(unreachable_pub, reason = "the parts of a simulation are written like modules of a crate")]

#[path = "placement/machine.rs"]
mod machine;
#[path = "placement/strict.rs"]
mod strict;
#[path = "placement/world.rs"]
mod world;

use std::thread;

use world::{Seen, World};

/// How many worlds are tried unless `PLACEMENT_SEEDS` says otherwise; each is four minutes of a cluster's life, and half a
/// second of ours.
const SEEDS: u64 = 60;

/// The same of strict singletons, of five and a half minutes each.
const STRICT_SEEDS: u64 = 60;

#[test]
fn memory_is_never_handed_out_twice_and_everything_comes_to_rest_in_any_world() {
    try_worlds("PLACEMENT_SEEDS", SEEDS, World::run, &world::ALL);
}

#[test]
fn there_are_never_two_instances_of_a_strict_singleton_in_any_world_and_one_when_all_is_well() {
    try_worlds("STRICT_SEEDS", STRICT_SEEDS, strict::World::run, &strict::ALL);
}

type Run = fn(u64) -> Result<(u64, Seen), String>;

/// Tries as many worlds as the variable says.
fn try_worlds(variable: &str, usual: u64, world: Run, all: &[&'static str]) {
    let seeds = std::env::var(variable).ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(usual);
    let halves = thread::scope(|scope| {
        let run = |half: u64| {
            let mut seen = Seen::default();
            let mut failed = Vec::new();
            for seed in (half..seeds).step_by(2) {
                match world(seed) {
                    Ok((trace, some)) => {
                        seen.add(&some);
                        if seed % 10 < 2 && world(seed).map(|(again, _)| again) != Ok(trace) {
                            failed.push(format!("seed {seed}: two runs differ"));
                        }
                    }
                    Err(why) => failed.push(format!("seed {seed}: {why}")),
                }
            }
            (seen, failed)
        };
        let halves = [0, 1].map(|half| scope.spawn(move || run(half)));
        halves.map(|half| half.join().expect("a world does not panic"))
    });
    let mut seen = Seen::default();
    let mut failed = Vec::new();
    for (some, more) in halves {
        seen.add(&some);
        failed.extend(more);
    }
    assert!(failed.is_empty(), "{} of {seeds} worlds:\n{}", failed.len(), failed.join("\n"));
    assert!(seen.blind(all).is_empty(), "no world ever saw {:?}: {seen:?}", seen.blind(all));
}

#[test]
fn one_seed_can_be_run_again() {
    let seed = std::env::var("PLACEMENT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    assert_eq!(World::run(seed).map(|(trace, _)| trace), World::run(seed).map(|(trace, _)| trace));
    World::run(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
}
