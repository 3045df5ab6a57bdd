//! The planner beside the rule written down plainly, after any history; and how little a change moves.

use super::*;
use crate::placement::samples::{self, MIB, name, node, want};
use crate::placement::view::{Constraint, Engine};
use crate::rng::Rng;

/// The rule as the module says it, over all edges at once.
fn by_the_rule(view: &View) -> BTreeMap<ComponentName, Targets> {
    let open = |node: &Node| node.presence.keeps_its_share() && node.duty == Duty::Active;
    let weights: u128 = view.nodes.values().filter(|node| open(node)).map(|node| u128::from(node.weight.get())).sum();
    let total: u128 = view.wants.values().map(|want| u128::from(want.count()) * u128::from(want.reserve)).sum();
    let fits = |want: &Want, node: &Node| {
        open(node)
            && node.engines.contains(&want.engine)
            && want.constraints.iter().all(|constraint| constraint.is_met(&node.labels))
            && want.reserve <= node.capacity
            && (view.majority || want.singleton != Singleton::Strict)
    };
    let mut edges: Vec<_> = view
        .wants
        .iter()
        .flat_map(|(name, want)| {
            let key = Key::component(name);
            let nodes = view.nodes.iter().filter(move |(_, node)| fits(want, node));
            nodes.map(move |(id, node)| (key.cost(*id, Share::of(node.weight)), *id, name, want))
        })
        .collect();
    edges.sort_by_key(|edge| (edge.0, edge.1, edge.2));
    let mut answer: BTreeMap<ComponentName, Targets> =
        view.wants.keys().map(|name| (name.clone(), Targets::new())).collect();
    let mut loads: BTreeMap<NodeId, u64> = BTreeMap::new();
    for hard in [false, true] {
        for round in 0..view.wants.values().map(|want| want.max_per_node.get()).max().unwrap_or(0) {
            for (_, id, name, want) in &edges {
                let targets = answer.get_mut(*name).expect("all are in");
                let (load, node) = (loads.entry(*id).or_insert(0), &view.nodes[id]);
                let share = total * u128::from(node.weight.get()) * 5 / (weights * 4);
                let limit = share.max(u128::from(node.capacity / 2));
                let has = targets.get(id).copied().unwrap_or(0);
                if targets.values().sum::<u32>() < want.count()
                    && has == round
                    && has < want.max_per_node.get()
                    && *load + want.reserve <= node.capacity
                    && (hard || u128::from(*load) < limit.max(1))
                {
                    *load += want.reserve;
                    targets.insert(*id, has + 1);
                }
            }
        }
    }
    answer
}

fn answer(planner: &Planner, view: &View) -> BTreeMap<ComponentName, Targets> {
    view.wants.keys().map(|name| (name.clone(), planner.targets(name))).collect()
}

/// What must hold in every state.
fn check(planner: &Planner, view: &View) {
    for (id, node) in &view.nodes {
        let (load, _) = planner.load(*id).expect("a known node");
        assert!(load <= node.capacity, "{id} has {load} of {}", node.capacity);
        let share: u64 =
            planner.share(*id).iter().map(|(name, count)| u64::from(*count) * view.wants[name].reserve).sum();
        assert_eq!(share, load);
    }
    for (name, want) in &view.wants {
        assert!(planner.targets(name).values().sum::<u32>() <= want.count(), "{name}");
    }
    assert!(planner.tasks.is_empty() && planner.entries.iter().all(|entry| entry.pending.is_none()));
}

/// One random change of the view, told to the planner.
fn change(view: &mut View, planner: &mut Planner, (nodes, components): (u64, u64), rng: &mut Rng) {
    match rng.below(10) {
        0 => {
            view.majority = !view.majority;
            planner.handle_majority(view.majority);
        }
        1..=3 => {
            let id = NodeId(rng.below(nodes) * 0x9e37_79b9);
            let new = (rng.below(4) > 0).then(|| samples::odd_node(id.0, rng));
            planner.handle_node(id, new.clone());
            match new {
                Some(new) => drop(view.nodes.insert(id, new)),
                None => drop(view.nodes.remove(&id)),
            }
        }
        4..=6 => {
            let name = name(rng.below(components));
            let new = (rng.below(5) > 0).then(|| samples::odd_want(rng));
            planner.handle_want(&name, new.clone());
            match new {
                Some(new) => drop(view.wants.insert(name, new)),
                None => drop(view.wants.remove(&name)),
            }
        }
        _ => {
            // Another count, and nothing else.
            let name = name(rng.below(components));
            if let Some(want) = view.wants.get_mut(&name) {
                want.wanted = rng.below(9) as u32;
                planner.handle_want(&name, Some(want.clone()));
            }
        }
    }
}

fn history(seed: u64, sizes: (u64, u64), changes: u64) {
    let mut rng = Rng::from_seed(seed);
    let (mut view, mut planner) = (View::default(), Planner::default());
    let mut settled: BTreeMap<ComponentName, Targets> = BTreeMap::new();
    for step in 0..changes {
        change(&mut view, &mut planner, sizes, &mut rng);
        if rng.below(3) > 0 && step + 1 < changes {
            continue;
        }
        let changed = planner.settle();
        check(&planner, &view);
        let right = by_the_rule(&view);
        assert!(answer(&planner, &view) == right, "seed {seed}, step {step}");
        for (name, targets) in &right {
            let told = changed.get(name).unwrap_or(targets);
            let was = settled.get(name).cloned().unwrap_or_default();
            assert_eq!(*told, was, "seed {seed}, step {step}: {name} is {targets:?}");
        }
        settled = right;
    }
    assert_eq!(answer(&Planner::of(&view), &view), answer(&planner, &view), "seed {seed}: history left a trace");
}

#[test]
fn any_history_that_ends_in_a_view_gives_the_plan_of_the_rule() {
    for seed in 0..1000 {
        history(seed, (2 + seed % 9, 3 + seed % 37), 60);
    }
}

#[test]
fn larger_clusters_with_long_histories_do_so_too() {
    for seed in 0..12 {
        history(seed, (40, 150), 500);
    }
}

#[test]
fn a_full_cluster_of_many_nodes_follows_the_rule() {
    // So many nodes that ranks are not kept whole, and memory for a part of what is wanted.
    for seed in 0..8 {
        let mut rng = Rng::from_seed(seed);
        let mut view = samples::cluster(60, 512, 150 + 40 * seed, &mut rng);
        let mut planner = Planner::of(&view);
        assert_eq!(answer(&planner, &view), by_the_rule(&view), "seed {seed}");
        let ids: Vec<_> = view.nodes.keys().copied().collect();
        for id in ids.iter().take(6) {
            view.nodes.get_mut(id).expect("a node").presence = Presence::Down;
            planner.handle_node(*id, view.nodes.get(id).cloned());
            planner.settle();
            check(&planner, &view);
            assert_eq!(answer(&planner, &view), by_the_rule(&view), "seed {seed}");
        }
        for index in 0..40 {
            view.wants.remove(&name(index));
            planner.handle_want(&name(index), None);
            planner.settle();
        }
        check(&planner, &view);
        assert_eq!(answer(&planner, &view), by_the_rule(&view), "seed {seed}");
    }
}

/// Instances that stand where none of their component stood before.
fn moved(planner: &Planner, before: &BTreeMap<ComponentName, Targets>) -> u64 {
    let of = |(name, before): (&ComponentName, &Targets)| {
        let more =
            |(node, count): (&NodeId, &u32)| u64::from(count.saturating_sub(before.get(node).copied().unwrap_or(0)));
        planner.targets(name).iter().map(more).sum::<u64>()
    };
    before.iter().map(of).sum()
}

#[test]
fn a_lost_node_moves_what_it_had_and_a_new_one_takes_its_fair_share() {
    let (mut lost, mut moved_lost, mut fair, mut moved_added) = (0, 0, 0.0, 0);
    for seed in 0..6 {
        let mut rng = Rng::from_seed(seed);
        let view = samples::cluster(100, 32_768, 5000, &mut rng);
        let mut planner = Planner::of(&view);
        let all: u32 = view.wants.values().map(Want::count).sum();
        for (id, known) in view.nodes.iter().take(20) {
            let had: u64 = planner.share(*id).values().map(|count| u64::from(*count)).sum();
            planner.handle_node(*id, Some(Node { presence: Presence::Down, ..known.clone() }));
            let away = planner.settle();
            lost += had;
            moved_lost += moved(&planner, &away);
            planner.handle_node(*id, Some(known.clone()));
            planner.settle();
            let new = NodeId(rng.next_u64());
            planner.handle_node(new, Some(node(1000, 32_768)));
            let here = planner.settle();
            fair += f64::from(all) / 101.0;
            moved_added += moved(&planner, &here);
            planner.handle_node(new, None);
            planner.settle();
        }
        assert!(answer(&planner, &view) == answer(&Planner::of(&view), &view), "seed {seed}: history left a trace");
    }
    println!("lost: {moved_lost} moved, {lost} at least; added: {moved_added} moved, fair share {fair:.0}");
    assert!(moved_lost * 100 <= lost * 105, "{moved_lost} moved for {lost}");
    // The share that chance gives to 120 new nodes of 100 instances has a standard deviation of 1 %.
    assert!(moved_added as f64 <= fair * 1.05, "{moved_added} moved for {fair}");
}

#[test]
fn where_no_bound_is_reached_a_loss_moves_exactly_what_was_lost_and_a_return_brings_it_back() {
    // One instance of each component, small beside the share of a node: no bound is near.
    let view = View {
        nodes: (0..10).map(|n| (NodeId(n), node(n, 65_536))).collect(),
        wants: (0..4000).map(|c| (name(c), want(1, 64))).collect(),
        ..View::default()
    };
    let mut planner = Planner::of(&view);
    for (id, known) in &view.nodes {
        let had = planner.share(*id).len() as u64;
        planner.handle_node(*id, Some(Node { presence: Presence::Down, ..known.clone() }));
        let away = planner.settle();
        assert_eq!((away.len() as u64, moved(&planner, &away)), (had, had));
        planner.handle_node(*id, Some(known.clone()));
        let back = planner.settle();
        assert_eq!((back.len() as u64, moved(&planner, &back)), (had, had));
        assert_eq!(planner.share(*id).len() as u64, had);
    }
}

#[test]
fn no_node_is_beyond_its_bound_by_more_than_one_instance() {
    for seed in 0..60 {
        let mut rng = Rng::from_seed(seed);
        let count = 2 + rng.below(12);
        let mut view = samples::cluster(count, 1 << 20, 10 + rng.below(200), &mut rng);
        for known in view.nodes.values_mut() {
            known.weight = [1, 2, 4][rng.below(3) as usize].try_into().expect("not zero");
        }
        // A component may ask every node, so there is always one within its bound.
        view.wants.values_mut().for_each(|want| want.wanted = want.wanted.min(2));
        let planner = Planner::of(&view);
        for id in view.nodes.keys() {
            let (load, limit) = planner.load(*id).expect("a node");
            assert!(load < limit + 512 * MIB, "seed {seed}: {load} above {limit}");
        }
        assert!(view.wants.iter().all(|(name, want)| planner.targets(name).values().sum::<u32>() == want.wanted));
    }
}

#[test]
fn a_node_that_is_missing_keeps_its_share_until_it_is_given_up() {
    let mut rng = Rng::from_seed(7);
    let view = samples::cluster(9, 8192, 60, &mut rng);
    let mut planner = Planner::of(&view);
    let lost: Vec<_> = view.nodes.iter().take(4).collect();
    for presence in [Presence::Suspect, Presence::Missing] {
        lost.iter().for_each(|(id, node)| planner.handle_node(**id, Some(Node { presence, ..(*node).clone() })));
        assert!(planner.settle().is_empty(), "{presence:?} moved something");
    }
    lost.iter().for_each(|(id, node)| {
        planner.handle_node(**id, Some(Node { presence: Presence::Down, ..(*node).clone() }));
    });
    assert!(!planner.settle().is_empty());
    assert!(lost.iter().all(|(id, _)| planner.share(**id).is_empty()));
}

#[test]
fn instances_stand_apart_until_every_node_has_one() {
    let view = View {
        nodes: (0..4).map(|n| (NodeId(n), node(n, 4096))).collect(),
        wants: (0..50).map(|c| (name(c), want(1 + c as u32 % 4, 1))).collect(),
        ..View::default()
    };
    let planner = Planner::of(&view);
    let doubled = view.wants.keys().filter(|name| planner.targets(name).values().any(|count| *count > 1)).count();
    // Only where another node stood at its bound.
    assert!(doubled <= 5, "{doubled} of 50 components have two instances on one node");
    let mut planner = Planner::of(&View { wants: [(name(0), want(10, 64))].into(), ..view });
    let counts: Vec<_> = planner.targets(&name(0)).into_values().collect();
    assert!(counts.iter().all(|count| (2..=3).contains(count)) && counts.len() == 4, "{counts:?}");
    planner.handle_want(&name(0), Some(Want { max_per_node: NonZero::new(1).expect("one"), ..want(10, 64) }));
    planner.settle();
    assert!(planner.targets(&name(0)).into_values().all(|count| count == 1));
}

use std::num::NonZero;

#[test]
fn every_refusal_is_a_sentence() {
    let mut view = View { majority: true, ..View::default() };
    for n in 0..9 {
        view.nodes.insert(NodeId(n), node(n, 1024));
    }
    let mut set = |n: u64, change: fn(&mut Node)| change(view.nodes.get_mut(&NodeId(n)).expect("a node"));
    set(0, |node| node.presence = Presence::Down);
    set(1, |node| node.presence = Presence::Left);
    set(2, |node| node.duty = Duty::Draining);
    set(3, |node| node.duty = Duty::Cordoned);
    set(4, |node| node.engines = [Engine::Docker].into());
    set(5, |node| node.labels = [("zone".to_owned(), "c".to_owned())].into());
    set(6, |node| node.capacity = 100 * MIB);
    set(7, |node| node.capacity = 300 * MIB);
    let constraints = vec![Constraint { key: "zone".into(), value: "c".into(), equal: false }];
    view.wants.insert(name(1), Want { constraints, max_per_node: NonZero::new(2).expect("two"), ..want(5, 200) });
    let explanation = Planner::of(&view).explain(&name(1)).expect("it is known");
    assert_eq!((explanation.wanted, explanation.unplaced), (5, 2));
    let text = explanation.to_string();
    for sentence in [
        "5 of component-1 wanted: that is the minimum\n",
        "2 of them without a place",
        "none, because it is down",
        "none, because it left the cluster",
        "none, because it is draining",
        "none, because it is cordoned",
        "none, because it does not run process instances",
        "none, because it does not have zone!=c among its labels",
        "none, because it has 100MiB in all, and one instance reserves 200MiB",
        "1 instance; no more, because it has 100MiB left of 300MiB, and one instance reserves 200MiB",
        "2 instances; no more, because it has 2, as many as one node may have",
    ] {
        assert!(text.contains(sentence), "{sentence}\nis not in\n{text}");
    }
    let strict = Want { singleton: Singleton::Strict, ..want(3, 1) };
    let view = View { wants: [(name(1), strict)].into(), majority: false, ..view };
    let text = Planner::of(&view).explain(&name(1)).expect("it is known").to_string();
    assert!(text.contains("1 of component-1 wanted") && text.contains("no majority of the members is seen"), "{text}");
}

#[test]
fn a_bound_is_named_and_those_who_are_not_needed_are_too() {
    // Few components and not much room, so that chance brings some node to its bound.
    let texts = |seed| {
        let view = samples::cluster(5, 3072, 30, &mut Rng::from_seed(seed));
        let planner = Planner::of(&view);
        view.wants.keys().filter_map(|name| planner.explain(name)).map(|e| e.to_string()).collect::<String>()
    };
    let texts: String = (0..10).map(texts).collect();
    for sentence in ["not needed", "has reached its bound: "] {
        assert!(texts.contains(sentence), "{sentence}");
    }
}

#[test]
fn the_first_instance_is_asked_of_the_node_where_the_rule_puts_it() {
    let mut rng = Rng::from_seed(5);
    let view = samples::cluster(8, 65_536, 200, &mut rng);
    let mut planner = Planner::of(&view);
    let mut same = 0;
    for index in 200..400 {
        let (name, want) = (name(index), want(1, 128));
        let needs = &Needs { engine: want.engine, constraints: &[], reserve: want.reserve };
        let first = crate::placement::Places::of(&planner).first(&name, needs, &[]);
        planner.handle_want(&name, Some(want));
        planner.settle();
        same += u32::from(planner.targets(&name).keys().next().copied() == first);
        planner.handle_want(&name, None);
        planner.settle();
    }
    assert_eq!(same, 200, "no node is near its bound");
}
