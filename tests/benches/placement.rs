//! Placement in a large cluster, simulated: how long a plan takes after each kind of change, and how much a change moves
//! beside the least that it must move.
//!
//! The least that a lost node moves are the instances that it had; the least that a new one moves are those that it is
//! given. Arguments: nodes and components, 1000 and 100000 unless given.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use maelstrom::id::{ComponentName, NodeId};
use maelstrom::placement::{Because, Duty, Engine, Node, Planner, Presence, Singleton, Targets, View, Want};
use maelstrom::rng::Rng;

const MIB: u64 = 1 << 20;

/// Changes of each kind: more than enough for a 99th percentile of the frequent ones.
const CHANGES: usize = 200;

/// Nodes that are lost and come back; each costs some milliseconds.
const NODES: usize = 60;

fn main() {
    // `cargo bench` adds a flag of its own.
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let (nodes, components) = match numbers[..] {
        [nodes, components] => (nodes, components),
        [] => (1000, 100_000),
        _ => return println!("usage: placement [NODES COMPONENTS]"),
    };
    let mut rng = Rng::from_seed(1);
    let view = cluster(nodes, components, &mut rng);
    let instances: u64 = view.wants.values().map(|want| u64::from(want.wanted)).sum();
    let began = Instant::now();
    let mut planner = Planner::of(&view);
    let whole = began.elapsed();
    println!("{nodes} nodes, {components} components, {instances} instances\n");
    println!("{:<44}{:>12}{:>12}{:>12}", "", "p50 ms", "p99 ms", "max ms");
    println!("{:<44}{:>12.1}", "a plan from nothing", millis(whole));

    let ids: Vec<NodeId> = view.nodes.keys().copied().collect();
    let (mut lost, mut back) = (Moves::default(), Moves::default());
    for _ in 0..NODES {
        let id = ids[rng.below(ids.len() as u64) as usize];
        let node = view.nodes[&id].clone();
        let held = total(&planner.share(id));
        lost.change(&mut planner, |planner| {
            planner.handle_node(id, Some(Node { presence: Presence::Down, ..node.clone() }))
        });
        lost.least += held;
        back.change(&mut planner, |planner| planner.handle_node(id, Some(node)));
        back.least += total(&planner.share(id));
    }
    let mut added = Moves::default();
    for index in 0..NODES as u64 {
        let id = NodeId(rng.next_u64());
        added.change(&mut planner, |planner| planner.handle_node(id, Some(a_node(nodes + index))));
        added.least += total(&planner.share(id));
        planner.handle_node(id, None);
        planner.settle();
    }
    let names: Vec<&ComponentName> = view.wants.keys().collect();
    let mut counts = Moves::default();
    for _ in 0..CHANGES {
        let name = names[rng.below(names.len() as u64) as usize];
        let wanted = rng.below(6) as u32;
        let want = Want { wanted, ..view.wants[name].clone() };
        counts.change(&mut planner, |planner| planner.handle_want(name, Some(want)));
    }
    lost.print("a node is lost");
    back.print("it comes back");
    added.print("a new node comes");
    counts.print("a component is wanted more or less often");
    println!();
    println!("placement.plan_ms={:.1}", millis(whole));
    for (name, moves) in [("lost", &lost), ("back", &back), ("added", &added)] {
        println!("placement.{name}_p99_ms={:.2}", moves.percentile(99));
        println!("placement.{name}_moved_ratio={:.4}", moves.ratio());
    }
    println!("placement.count_p99_ms={:.2}", counts.percentile(99));
}

#[derive(Debug, Default)]
struct Moves {
    took: Vec<Duration>,
    moved: u64,
    least: u64,
}

impl Moves {
    fn change(&mut self, planner: &mut Planner, change: impl FnOnce(&mut Planner)) {
        let began = Instant::now();
        change(planner);
        let before = planner.settle();
        self.took.push(began.elapsed());
        self.took.sort_unstable();
        self.moved += before.iter().map(|(name, before)| moved(before, &planner.targets(name))).sum::<u64>();
    }

    fn percentile(&self, percent: usize) -> f64 {
        self.took.get((self.took.len() * percent / 100).min(self.took.len() - 1)).map_or(f64::NAN, |took| millis(*took))
    }

    fn ratio(&self) -> f64 {
        self.moved as f64 / self.least as f64
    }

    fn print(&self, what: &str) {
        let moves = if self.least > 0 {
            format!("   moved {} of at least {}: {:.4}", self.moved, self.least, self.ratio())
        } else {
            String::new()
        };
        let (p50, p99, max) = (self.percentile(50), self.percentile(99), self.percentile(100));
        println!("{what:<44}{p50:>12.2}{p99:>12.2}{max:>12.2}{moves}");
    }
}

/// Instances that run elsewhere afterwards.
fn moved(before: &Targets, after: &Targets) -> u64 {
    let came = after.iter().map(|(node, count)| count.saturating_sub(before.get(node).copied().unwrap_or(0)));
    came.map(u64::from).sum()
}

fn total(share: &BTreeMap<ComponentName, u32>) -> u64 {
    share.values().map(|count| u64::from(*count)).sum()
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

/// Machines of three sizes, and components of usual sizes that want one to three instances. About 60 % of the memory is
/// reserved: more than what a usual cluster has, so that bounds are felt.
fn cluster(nodes: u64, components: u64, rng: &mut Rng) -> View {
    let sizes = [64, 128, 128, 256, 512];
    let want = |rng: &mut Rng| Want {
        wanted: 1 + rng.below(3) as u32,
        because: Because::Minimum,
        reserve: sizes[rng.below(5) as usize] * MIB,
        max_per_node: NonZeroU32::new(10).unwrap_or(NonZeroU32::MIN),
        engine: Engine::Process,
        constraints: Vec::new(),
        singleton: Singleton::No,
    };
    let name = |index: u64| format!("component-{index}").parse().ok();
    View {
        nodes: (0..nodes).map(|index| (NodeId(rng.next_u64()), a_node(index))).collect(),
        wants: (0..components).filter_map(|index| Some((name(index)?, want(rng)))).collect(),
        majority: true,
    }
}

fn a_node(index: u64) -> Node {
    let gib = [32, 64, 128][index as usize % 3];
    Node {
        name: format!("node-{index}").parse().unwrap_or_else(|_| unreachable!("a letter and a number")),
        presence: Presence::Alive,
        duty: Duty::Active,
        capacity: gib << 30,
        weight: u32::try_from(gib << 10).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN),
        labels: BTreeMap::new(),
        engines: [Engine::Docker, Engine::Process].into(),
    }
}
