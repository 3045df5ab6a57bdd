//! A few nodes that hear each other at once, and what they make of demand, loss and change.

use std::time::Duration;

use super::*;
use crate::placement::Presence;
use crate::placement::samples::{self, MIB};

const SECOND: Duration = Duration::from_secs(1);

/// Nodes and what each said; every component has one instance per share at once.
struct Town {
    nodes: BTreeMap<NodeId, Node>,
    schedulers: BTreeMap<NodeId, Scheduler>,
    definition: Definition,
    wanted: BTreeMap<NodeId, Wanted>,
    shares: BTreeMap<NodeId, Share>,
    events: BTreeMap<NodeId, u32>,
    now: Mono,
}

fn api() -> ComponentName {
    "api".parse().expect("a name")
}

impl Town {
    fn new(size: u64) -> Self {
        let nodes: BTreeMap<_, _> = (1..=size).map(|n| (NodeId(n), samples::node(n, 1024))).collect();
        let schedulers = nodes.keys().map(|id| (*id, Scheduler::new(*id))).collect();
        let number = |n| NonZeroU32::new(n).expect("not zero");
        let window = SECOND * 5;
        let definition = Definition {
            rule: Rule { target: number(7), limit: number(10), min: 0, max: 40, window },
            reserve: 64 * MIB,
            max_per_node: number(40),
            engine: Engine::Process,
            constraints: Vec::new(),
            singleton: Singleton::No,
            fingerprint: "one".into(),
            order: RolloutOrder::Parallel,
        };
        let (wanted, shares, events) = Default::default();
        let mut town = Self { nodes, schedulers, definition, wanted, shares, events, now: Mono(0) };
        town.tell_nodes();
        town
    }

    fn tell_nodes(&mut self) {
        for scheduler in self.schedulers.values_mut() {
            scheduler.handle_nodes(self.nodes.clone(), true);
        }
        self.run();
    }

    /// Until nobody has anything to say.
    fn run(&mut self) {
        for _ in 0..50 {
            let running = |town: &Self| -> BTreeMap<NodeId, Running> {
                let of = |(id, share): (&NodeId, &Share)| {
                    let events = town.events.get(id).copied().unwrap_or(0);
                    let (ready, slots) = (share.count, share.count * 10);
                    (*id, Running { events, slots, ready, current: ready, coming: 0 })
                };
                let there = town.shares.iter().filter(|(id, share)| share.count > 0 || town.events.contains_key(id));
                there.map(of).collect()
            };
            let mut running = running(self);
            for (id, events) in &self.events {
                running.entry(*id).or_insert_with(|| Running { events: *events, ..Running::default() });
            }
            let mut quiet = true;
            for (id, scheduler) in &mut self.schedulers {
                let wanted = self.wanted.iter().filter(|(by, _)| *by != id).map(|(by, w)| (*by, *w)).collect();
                let observed = Observed { definition: Some(self.definition.clone()), running: running.clone(), wanted };
                scheduler.handle_component(&api(), observed);
                scheduler.settle(self.now);
                while let Some(output) = scheduler.poll_output() {
                    quiet = false;
                    match output {
                        Output::Say(_, Some(wanted)) => drop(self.wanted.insert(*id, wanted)),
                        Output::Say(_, None) => drop(self.wanted.remove(id)),
                        Output::Share(_, share) => drop(self.shares.insert(*id, share)),
                    }
                }
            }
            if quiet {
                return;
            }
        }
        panic!("they never come to rest: {:?} {:?}", self.wanted, self.shares);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) =
            self.schedulers.values().filter_map(Scheduler::poll_timeout).min().filter(|due| *due <= end)
        {
            self.now = due.max(Mono(self.now.0 + 1));
            self.run();
        }
        self.now = end;
        self.run();
    }

    fn demand(&mut self, node: u64, events: u32) {
        if events == 0 {
            self.events.remove(&NodeId(node));
        } else {
            self.events.insert(NodeId(node), events);
        }
        self.run();
        self.pass(SECOND / 5);
    }

    fn total(&self) -> u32 {
        self.shares.values().map(|share| share.count).sum()
    }

    fn owner(&self) -> NodeId {
        self.schedulers.values().next().and_then(|any| any.owner(&api())).expect("an owner")
    }

    fn kill(&mut self, node: NodeId) {
        self.schedulers.remove(&node);
        self.shares.remove(&node);
        self.wanted.remove(&node);
        self.events.remove(&node);
        self.nodes.get_mut(&node).expect("a node").presence = Presence::Down;
        self.tell_nodes();
    }
}

#[test]
fn demand_anywhere_is_summed_up_by_one_node_and_shared_by_all() {
    let mut town = Town::new(5);
    town.demand(1, 70);
    town.demand(2, 70);
    assert_eq!(town.total(), 20);
    assert_eq!(town.wanted.keys().collect::<Vec<_>>(), [&town.owner()], "one node speaks");
    assert!(town.shares.values().all(|share| share.count == 4), "{:?}", town.shares);
    town.demand(1, 0);
    town.demand(2, 0);
    town.pass(SECOND * 20);
    assert_eq!((town.total(), town.wanted.len()), (0, 0), "nothing is wanted, and nobody says so for ever");
    assert!(town.schedulers.values().all(|scheduler| scheduler.entries.is_empty()));
}

#[test]
fn the_count_survives_its_owner_and_everything_is_placed_elsewhere() {
    let mut town = Town::new(5);
    town.demand(1, 70);
    let owner = town.owner();
    assert_eq!(town.total(), 10);
    town.kill(owner);
    assert_ne!(town.owner(), owner);
    assert_eq!(town.total(), 10, "the others have what it had: {:?}", town.shares);
    assert_eq!(town.wanted.len(), 1);
}

#[test]
fn a_count_is_handed_over_to_a_newcomer_that_is_a_better_owner() {
    for newcomer in 10..40 {
        let mut town = Town::new(3);
        town.demand(1, 70);
        let id = NodeId(newcomer);
        town.nodes.insert(id, samples::node(newcomer, 4096));
        town.schedulers.insert(id, Scheduler::new(id));
        town.tell_nodes();
        assert_eq!(town.total(), 10);
        assert_eq!(town.wanted.keys().collect::<Vec<_>>(), [&town.owner()]);
        town.pass(SECOND * 60);
        assert_eq!(town.total(), 10);
    }
}

#[test]
fn a_minimum_is_kept_without_demand_and_never_frozen() {
    let mut town = Town::new(3);
    town.definition.rule.min = 2;
    town.run();
    assert_eq!((town.total(), town.shares.values().map(|share| share.warm).sum::<u32>()), (2, 2));
    town.demand(1, 30);
    assert_eq!((town.total(), town.shares.values().map(|share| share.warm).sum::<u32>()), (5, 2));
    town.pass(SECOND * 20);
    town.demand(1, 0);
    town.pass(SECOND * 20);
    assert_eq!(town.total(), 2);
}

#[test]
fn what_serves_on_a_cordoned_node_needs_no_other_and_a_draining_one_is_emptied() {
    let mut town = Town::new(3);
    town.demand(1, 21);
    let before: BTreeMap<_, _> = town.shares.iter().map(|(id, share)| (*id, share.count)).collect();
    town.nodes.get_mut(&NodeId(2)).expect("a node").duty = Duty::Cordoned;
    town.tell_nodes();
    let after: BTreeMap<_, _> = town.shares.iter().map(|(id, share)| (*id, share.count)).collect();
    assert_eq!(before, after);
    town.nodes.get_mut(&NodeId(2)).expect("a node").duty = Duty::Draining;
    town.tell_nodes();
    assert_eq!((town.total(), town.shares[&NodeId(2)].count, town.shares[&NodeId(2)].leave), (3, 0, true));
}

#[test]
fn a_component_that_is_removed_is_wanted_nowhere() {
    let mut town = Town::new(3);
    town.demand(1, 21);
    for (id, scheduler) in &mut town.schedulers {
        scheduler.handle_component(&api(), Observed::default());
        scheduler.settle(town.now);
        let outputs: Vec<_> = std::iter::from_fn(|| scheduler.poll_output()).collect();
        assert!(outputs.iter().any(|output| matches!(output, Output::Share(_, share) if share.count == 0)), "{id}");
    }
}

/// Which nodes keep their old instances for now, of four that run one each; the second number is how many are new.
fn held(order: RolloutOrder, running: [(u32, u32); 4]) -> Vec<u64> {
    let mut town = Town::new(4);
    town.definition.order = order;
    town.definition.rule.min = 4;
    let running: BTreeMap<_, _> = (1..)
        .zip(running)
        .map(|(id, (ready, current))| (NodeId(id), Running { ready, current, slots: ready * 10, ..Running::default() }))
        .collect();
    for scheduler in town.schedulers.values_mut() {
        let definition = Some(town.definition.clone());
        scheduler.handle_component(&api(), Observed { definition, running: running.clone(), wanted: BTreeMap::new() });
        scheduler.settle(town.now);
        while let Some(output) = scheduler.poll_output() {
            if let Output::Share(_, share) = output {
                town.shares.insert(scheduler.me, share);
            }
        }
    }
    town.shares.iter().filter(|(_, share)| share.hold).map(|(id, _)| id.0).collect()
}

#[test]
fn nodes_replace_their_instances_in_the_order_that_the_component_wants() {
    let (old, both, new, none) = ((1, 0), (2, 1), (1, 1), (0, 0));
    assert_eq!(held(RolloutOrder::Parallel, [old; 4]), Vec::<u64>::new());
    assert_eq!(held(RolloutOrder::Series, [old; 4]), [2, 3, 4]);
    assert_eq!(held(RolloutOrder::Series, [both, old, old, old]), [2, 3, 4], "one is not done before its old one went");
    assert_eq!(held(RolloutOrder::Series, [new, old, old, old]), [3, 4]);
    assert_eq!(held(RolloutOrder::Series, [none, old, old, old]), [2, 3, 4], "the first starts its new one");
    assert_eq!(held(RolloutOrder::SeriesFirst, [old; 4]), [2, 3, 4]);
    assert_eq!(held(RolloutOrder::SeriesFirst, [both, old, old, old]), Vec::<u64>::new());
}
