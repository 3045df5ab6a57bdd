//! Loads in virtual time: steps, silence, and steady ones with the chance that they are full of.

use super::*;
use crate::rng::Rng;

const SECOND: Duration = Duration::from_secs(1);

fn rule(target: u32, limit: u32) -> Rule {
    let number = |n| NonZeroU32::new(n).expect("not zero");
    Rule { target: number(target), limit: number(limit), min: 0, max: 1000, window: WINDOW }
}

/// A component and its owner. Ticks come when they were asked for.
struct Owner {
    rule: Rule,
    scale: Scale,
    now: Mono,
    changes: u32,
}

impl Owner {
    fn new(rule: Rule) -> Self {
        Self { rule, scale: Scale::resume(&rule, 0, Mono(0)), now: Mono(0), changes: 0 }
    }

    fn demand(&mut self, demand: u32) -> u32 {
        let before = self.scale.wanted().0;
        let count = self.scale.handle(&self.rule, demand, self.now);
        self.changes += u32::from(count != before);
        count
    }

    /// Lets time pass at this demand.
    fn hold(&mut self, demand: u32, time: Duration) -> u32 {
        let end = self.now.after(time);
        self.demand(demand);
        while let Some(due) = self.scale.poll_timeout(&self.rule).filter(|due| *due <= end) {
            assert!(due > self.now, "a tick that is due at once makes a loop spin");
            self.now = due;
            self.demand(demand);
        }
        self.now = end;
        self.demand(demand)
    }
}

#[test]
fn the_first_event_asks_for_an_instance_at_once_and_a_burst_for_all_it_needs_in_a_moment() {
    let mut owner = Owner::new(rule(7, 10));
    assert_eq!(owner.demand(1), 1);
    assert_eq!(owner.demand(140), 1);
    assert_eq!(owner.hold(140, BURST), 20);
    assert_eq!(owner.scale.wanted().1, Because::Demand { events: 140, target: 7 });
}

#[test]
fn what_the_instances_can_take_is_given_more_room_within_two_seconds_if_it_lasts() {
    let mut owner = Owner::new(rule(7, 10));
    assert_eq!(owner.demand(9), 1, "one takes them all, if barely");
    let mut owner = Owner::new(rule(7, 10));
    owner.hold(6, SECOND);
    assert_eq!(owner.demand(9), 1, "one instance takes 10");
    owner.now = owner.now.after(Duration::from_millis(50));
    assert_eq!(owner.demand(6), 1, "and it was only for a moment");
    assert_eq!(owner.hold(9, SECOND * 2), 2);
}

#[test]
fn the_count_falls_after_the_window_and_to_zero_after_a_window_without_an_event() {
    let mut owner = Owner::new(rule(7, 10));
    owner.hold(140, SECOND * 20);
    assert_eq!(owner.hold(14, WINDOW - SECOND), 20);
    assert_eq!(owner.scale.wanted().1, Because::Recent { events: 140, target: 7 });
    assert_eq!(owner.hold(14, SECOND * 12), 3, "2 and the margin");
    assert_eq!(owner.hold(0, WINDOW - SECOND), 3);
    assert_eq!(owner.hold(0, SECOND * 20), 0);
    assert_eq!(owner.scale.wanted().1, Because::Unused);
    assert_eq!(owner.scale.poll_timeout(&owner.rule), None, "nothing is left to wait for");
}

#[test]
fn one_event_that_runs_for_hours_keeps_its_instance() {
    let mut owner = Owner::new(rule(1, 1));
    assert_eq!(owner.hold(1, SECOND * 36_000), 1);
    assert_eq!(owner.changes, 1);
}

#[test]
fn minimum_and_maximum_are_kept_and_said() {
    let mut owner = Owner::new(Rule { min: 2, max: 5, ..rule(7, 10) });
    assert_eq!(owner.demand(0), 2);
    assert_eq!(owner.hold(140, BURST), 5);
    assert_eq!(owner.scale.wanted().1, Because::Maximum { need: 20 });
    assert_eq!(owner.hold(0, SECOND * 100), 2);
    assert_eq!(owner.scale.wanted().1, Because::Minimum);
}

#[test]
fn the_next_owner_goes_on_from_the_count_of_the_last_one() {
    let rule = rule(7, 10);
    let mut owner = Owner { scale: Scale::resume(&rule, 20, Mono(5)), now: Mono(5), rule, changes: 0 };
    assert_eq!(owner.hold(130, SECOND * 100), 20);
    assert_eq!(owner.changes, 0);
    let mut owner = Owner { scale: Scale::resume(&rule, 20, Mono(5)), now: Mono(5), rule, changes: 0 };
    assert_eq!(owner.hold(0, WINDOW - SECOND), 20);
    assert_eq!(owner.hold(0, SECOND * 20), 0);
}

/// Events that come by chance at a steady rate and take 100 ms to 300 ms, looked at every 50 ms: the counts of the last
/// ten of eleven minutes, and how often they changed.
fn steady(rule: Rule, rate: u64, seed: u64) -> (u32, u32, u32, u32) {
    let mut rng = Rng::from_seed(seed);
    let mut owner = Owner::new(rule);
    let mut ends: Vec<u64> = Vec::new();
    let (mut least, mut most, mut warm, mut highest) = (u32::MAX, 0, 0, 0);
    for step in 0..11 * 60 * 20_u64 {
        owner.now = Mono(step * 50_000_000);
        ends.retain(|end| *end > step);
        // Ten small chances for each event: near enough to chance without memory.
        let coming = (0..rate / 2).filter(|_| rng.below(10) == 0).count();
        ends.extend((0..coming).map(|_| step + 2 + rng.below(5)));
        let count = owner.demand(ends.len() as u32);
        highest = highest.max(ends.len() as u32);
        if step > 60 * 20 {
            (least, most) = (least.min(count), most.max(count));
        } else {
            warm = owner.changes;
        }
    }
    (least, most, owner.changes - warm, highest)
}

#[test]
fn a_steady_load_moves_the_count_hardly_ever() {
    for (target, limit, rate) in [(56, 80, 400), (56, 80, 2800), (7, 10, 33), (7, 10, 350), (56, 80, 30)] {
        let mut changes = 0;
        for seed in 0..2 {
            let (least, most, changed, highest) = steady(rule(target, limit), rate, seed);
            let need = (rate as u32 / 5).div_ceil(target);
            // Chance alone is what a steady load has beyond its mean, and the average takes most of it away.
            let peak = highest.div_ceil(target);
            assert!(most <= peak && most <= need + 1 + need / 5, "{target} {rate} {seed}: {most} for {need}, {peak}");
            assert!(least >= need.saturating_sub(1), "{target} {rate} {seed}: {least} for {need}");
            changes += changed;
        }
        // 20 minutes.
        assert!(changes <= 4, "target {target}, {rate}/s: {changes} changes");
    }
}

#[test]
fn a_count_is_never_above_need_by_more_than_one_or_a_tenth() {
    for seed in 0..200 {
        let mut rng = Rng::from_seed(seed);
        let rule = rule(1 + rng.below(60) as u32, 80);
        let mut owner = Owner::new(rule);
        let mut past: Vec<(Mono, u32)> = Vec::new();
        for _ in 0..400 {
            owner.now = owner.now.after(Duration::from_millis(rng.below(8000)));
            let magnitude = rng.below(11);
            let demand = rng.below(1 << magnitude) as u32;
            let count = owner.hold(demand, BURST * 2);
            past.push((owner.now, demand));
            assert!(count >= 1 || demand == 0, "seed {seed}");
            assert!(u64::from(count) * 80 >= u64::from(demand), "seed {seed}: more wait than must");
            // The average remembers for some of its time constants what the window does not; a look may be late.
            let since = owner.now.since(Mono(0)).saturating_sub(WINDOW + SECOND * 20);
            let from = past.partition_point(|(at, _)| at.since(Mono(0)) < since).saturating_sub(1);
            let need = past[from..].iter().map(|(_, demand)| demand.div_ceil(rule.target.get())).max().unwrap_or(0);
            assert!(count <= (need + 1).max(need * 110 / 100), "seed {seed}: {count} for {need}");
        }
    }
}
