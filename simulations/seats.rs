//! Many small clusters that attend to event sources, each decided by one seed: crashes, partitions, drains, nodes that
//! leave and join. Two nodes that can reach each other never hold one seat for longer than a view may be late, no seat is
//! empty for longer than that after its holder has gone, and when it is quiet each has one holder.
//!
//! Run one seed again with `SEATS_SEED=n cargo test --no-default-features --test seats one_seed -- --nocapture`.

#![allow(unreachable_pub, reason = "the parts of a simulation are written like modules of a crate")]

#[path = "seats/world.rs"]
mod world;

use std::time::Duration;

use world::{BOUND, FAULTS, Fault, Seen, World};

/// How many worlds are tried unless `SEATS_SEEDS` says otherwise; each is three minutes of a cluster's life.
const SEEDS: u64 = 30;

/// Between two faults, in the mean: views do not settle between all of them.
const EVERY: Duration = Duration::from_secs(4);

fn seeds() -> u64 {
    std::env::var("SEATS_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS)
}

#[test]
fn no_seat_is_held_twice_or_by_nobody_for_longer_than_a_view_may_be_late() {
    let (mut all, mut failed) = (Seen::default(), Vec::new());
    for seed in 0..seeds() {
        match World::run(seed, &FAULTS, EVERY, None) {
            Ok((trace, seen)) => {
                all.add(&seen);
                if seed % 10 == 0 && World::run(seed, &FAULTS, EVERY, None).map(|(again, _)| again) != Ok(trace) {
                    failed.push(format!("seed {seed}: two runs differ"));
                }
            }
            Err(why) => failed.push(format!("seed {seed}: {why}")),
        }
    }
    assert!(failed.is_empty(), "{} of {} worlds:\n{}", failed.len(), seeds(), failed.join("\n"));
    for fault in FAULTS {
        assert!(all.faults.contains_key(&fault), "no world ever saw {fault:?}");
    }
    assert!(!all.overlaps.is_empty() && !all.gaps.is_empty(), "nothing was ever held twice, or by nobody");
    println!("{} worlds, {} seats taken, bound {BOUND:?}, faults {:?}", seeds(), all.handed_over, all.faults);
}

/// What each kind of fault costs where attendants finish at once: printed, for the guarantees in docs/event-sources.md.
#[test]
fn what_a_hand_over_costs_is_known_for_each_fault() {
    println!("{:<10} {:>7} {:>22} {:>22}", "fault", "faults", "overlap p50 / max ms", "gap p50 / max ms");
    for fault in FAULTS {
        let mut all = Seen::default();
        for seed in 0..seeds() / 4 {
            let run = World::run(seed, &[fault], Duration::from_secs(20), Some(Duration::ZERO));
            let (_, seen) = run.unwrap_or_else(|why| panic!("{fault:?}, seed {seed}: {why}"));
            all.add(&seen);
        }
        let count = all.faults.values().sum::<u64>();
        assert!(count > 0, "{fault:?} never struck");
        let (overlap, gap) = (middle_and_most(all.overlaps), middle_and_most(all.gaps));
        println!("{:<10} {count:>7} {overlap:>22} {gap:>22}", format!("{fault:?}"));
        assert!(fault != Fault::Crash || gap != "-", "a crash leaves a seat empty until it is seen");
    }
}

fn middle_and_most(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    match times.last() {
        Some(most) => format!("{} / {most}", times[times.len() / 2]),
        None => "-".to_owned(),
    }
}

#[test]
fn one_seed_can_be_run_again() {
    let seed = std::env::var("SEATS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let trace = |seed| World::run(seed, &FAULTS, EVERY, None).map(|(trace, _)| trace);
    assert_eq!(trace(seed), trace(seed));
    trace(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
}
