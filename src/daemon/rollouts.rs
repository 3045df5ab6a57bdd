//! The change of a component as the admin API shows it, out of the catalog and of what the nodes say.
//!
//! Decides nothing; `rollout` does.

use super::board::{Board, Heards};
use super::catalog::{Catalog, Definitions};
use super::history;
use crate::admin::api::{RevisionView, RolloutNode, RolloutView, rfc3339};
use crate::id::{ComponentName, NodeId};
use crate::model::Component;
use crate::rollout::{Outcome, Revision, Standing, State, Told, Trouble, Why, standing};

/// The instances of a component, as all nodes say.
pub(crate) fn told<'a>(heard: &'a Heards, name: &ComponentName) -> impl Iterator<Item = Told<'a>> {
    let loads = heard.loads.get(name).into_iter().flatten();
    loads.flat_map(|(node, load)| {
        let told = |told: &'a super::board::Told| Told { node: *node, fingerprint: &told.version, state: told.state };
        load.instances.iter().map(told)
    })
}

fn troubles<'a>(heard: &'a Heards, name: &ComponentName) -> impl Iterator<Item = Trouble<'a>> {
    let loads = heard.loads.get(name).into_iter().flatten();
    loads.filter_map(|(node, load)| {
        let trouble = load.trouble.as_ref()?;
        Some(Trouble { node: *node, fingerprint: &trouble.version, problem: trouble.problem.clone() })
    })
}

/// How far a component has come; none if there is no such component.
pub(crate) fn status(catalog: &Catalog, board: &Board, name: &ComponentName) -> Option<RolloutView> {
    let definitions = catalog.read();
    let revision = history::in_force(&definitions, name)?;
    let min = definitions.component(name)?.value.min_instances;
    drop(definitions);
    let heard = board.read();
    let (state, nodes) = standing(&revision, min, told(&heard, name), troubles(&heard, name));
    let node_name = |node: NodeId| heard.facts.get(&node).map_or_else(|| node.to_string(), |facts| facts.name.clone());
    let mut shown: Vec<RolloutNode> = nodes
        .into_iter()
        .map(|(node, Standing { ready, coming, old, problem })| RolloutNode {
            node: node_name(node),
            ready,
            coming,
            old,
            problem,
        })
        .collect();
    drop(heard);
    shown.sort_by(|a, b| a.node.cmp(&b.node));
    let sum = |count: fn(&RolloutNode) -> u32| shown.iter().map(count).sum();
    let (ready, coming, old) = (sum(|node| node.ready), sum(|node| node.coming), sum(|node| node.old));
    let problem = problem(&revision, &shown);
    Some(RolloutView {
        name: name.to_string(),
        state: state.to_string(),
        message: message(state, &revision, (ready, coming, old), problem.as_deref()),
        revision: revision.number,
        reason: revision.why.to_string(),
        version: revision.fingerprint.clone(),
        ready,
        coming,
        old,
        min,
        nodes: shown,
        problem,
        updated_at: rfc3339(revision.at()),
    })
}

fn problem(revision: &Revision, nodes: &[RolloutNode]) -> Option<String> {
    let now = nodes.iter().find_map(|node| node.problem.clone());
    let failed = match (&revision.outcome, &revision.why) {
        (Some(Outcome::Failed { problem }), _) | (_, Why::Rollback { problem, .. }) => Some(problem.clone()),
        (None | Some(Outcome::Healthy), Why::Put | Why::Undo { .. }) => None,
    };
    failed.or(now)
}

fn message(state: State, revision: &Revision, counts: (u32, u32, u32), problem: Option<&str>) -> String {
    let number = revision.number;
    let problem = problem.unwrap_or("nobody knows why");
    let (ready, coming, old) = counts;
    match (state, &revision.why) {
        (State::Done, _) if ready + coming == 0 => {
            format!("revision {number} is in force; nothing runs, the next event starts it")
        }
        (State::Done, _) => format!("revision {number} is in force: {ready} ready, nothing old left"),
        (State::Rolling, _) => format!("revision {number}: {ready} ready, {coming} on their way, {old} old left"),
        (State::Failing, _) => {
            format!("revision {number} fails to start and is tried again, {old} old left: {problem}")
        }
        (State::RolledBack, Why::Rollback { of, to, .. }) => {
            format!("revision {of} failed and was rolled back to revision {to}, which is {number} now: {problem}")
        }
        (State::Failed | State::RolledBack, _) => format!("revision {number} failed, {old} old left: {problem}"),
    }
}

/// The definitions that a component had, the newest first; none if there is no such component.
pub(crate) fn history(definitions: &Definitions, name: &ComponentName) -> Option<Vec<RevisionView>> {
    let entry = definitions.component(name)?;
    let now = history::in_force(definitions, name)?.number;
    let shown = |doc: &serde_json::Value| Component::parse_stored(name, doc).ok().map(|component| component.redacted());
    let revisions = definitions.revisions(name)?;
    let views = revisions.iter().rev().map(|revision| {
        let (outcome, problem) = match &revision.outcome {
            None => (None, None),
            Some(Outcome::Healthy) => (Some("healthy".to_owned()), None),
            Some(Outcome::Failed { problem }) => (Some("failed".to_owned()), Some(problem.clone())),
        };
        let definition = revision.doc.as_ref().map_or_else(|| Some(entry.value.redacted()), shown);
        RevisionView {
            revision: revision.number,
            in_force: revision.number == now,
            reason: revision.why.to_string(),
            outcome,
            problem,
            version: revision.fingerprint.clone(),
            at: rfc3339(revision.at()),
            definition: definition.unwrap_or_default(),
        }
    });
    Some(views.collect())
}
