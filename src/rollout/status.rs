//! How far a component has come with the definition in force, from what all nodes say of their instances.

use std::collections::BTreeMap;
use std::fmt;

use crate::id::NodeId;
use crate::model::instance::InstanceState;
use crate::rollout::revisions::{Outcome, Revision, Why};

/// An instance, as its node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told<'a> {
    /// Where it is.
    pub node: NodeId,
    /// What it was made of.
    pub fingerprint: &'a str,
    /// Where it is in its life.
    pub state: InstanceState,
}

/// The last failed start on a node, if none succeeded since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble<'a> {
    /// Where.
    pub node: NodeId,
    /// Of what.
    pub fingerprint: &'a str,
    /// Why.
    pub problem: String,
}

/// What is on one node, or on all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Instances of the definition in force that serve, or are frozen and would.
    pub ready: u32,
    /// Those that are on their way.
    pub coming: u32,
    /// Instances of other definitions.
    pub old: u32,
    /// Why the last start of the definition in force failed.
    pub problem: Option<String>,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All instances are of the definition in force.
    Done,
    /// New instances come, old ones go.
    Rolling,
    /// New instances fail to start; it goes on being tried.
    Failing,
    /// It was given up, and nothing that worked is there to go back to, or nobody wants that.
    Failed,
    /// The one before was given up, and what worked is in force again.
    RolledBack,
}

impl State {
    /// Whether waiting for more is in vain.
    pub fn is_final(self) -> bool {
        match self {
            Self::Done | Self::Failed | Self::RolledBack => true,
            Self::Rolling | Self::Failing => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Done => "done",
            Self::Rolling => "rolling",
            Self::Failing => "failing",
            Self::Failed => "failed",
            Self::RolledBack => "rolled-back",
        })
    }
}

/// What is on which node, and what that means for the revision in force; `min` are the instances that are kept.
pub fn standing<'a>(
    revision: &Revision,
    min: u32,
    told: impl IntoIterator<Item = Told<'a>>,
    troubles: impl IntoIterator<Item = Trouble<'a>>,
) -> (State, BTreeMap<NodeId, Standing>) {
    let mut nodes: BTreeMap<NodeId, Standing> = BTreeMap::new();
    for told in told {
        let there = nodes.entry(told.node).or_default();
        if told.fingerprint != revision.fingerprint {
            there.old += 1;
            continue;
        }
        match told.state {
            InstanceState::Ready | InstanceState::Frozen => there.ready += 1,
            InstanceState::Pulling | InstanceState::Starting => there.coming += 1,
            InstanceState::Draining | InstanceState::Stopping => {}
        }
    }
    for trouble in troubles.into_iter().filter(|trouble| trouble.fingerprint == revision.fingerprint) {
        nodes.entry(trouble.node).or_default().problem = Some(trouble.problem);
    }
    (state(revision, min, &nodes), nodes)
}

fn state(revision: &Revision, min: u32, nodes: &BTreeMap<NodeId, Standing>) -> State {
    let ready: u32 = nodes.values().map(|there| there.ready).sum();
    let old: u32 = nodes.values().map(|there| there.old).sum();
    let has_problem = nodes.values().any(|there| there.problem.is_some());
    if matches!(revision.outcome, Some(Outcome::Failed { .. })) && ready == 0 {
        State::Failed
    } else if matches!(revision.why, Why::Rollback { .. }) {
        State::RolledBack
    } else if has_problem && ready < min.max(1) {
        State::Failing
    } else if old > 0 || ready < min || (ready == 0 && nodes.values().any(|there| there.coming > 0)) {
        State::Rolling
    } else {
        State::Done
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rollout::Revisions;
    use crate::time::Wall;

    fn new(why: Why, outcome: Option<Outcome>) -> Revision {
        let mut all = Revisions::first("old".into(), Wall(1));
        let number = all.push(("old", &json!({})), "new".into(), Wall(2), why, json!({}));
        outcome.map(|outcome| all.mark(number, outcome));
        all.get(number).cloned().expect("pushed")
    }

    fn told(node: u64, fingerprint: &str, state: InstanceState) -> Told<'_> {
        Told { node: NodeId(node), fingerprint, state }
    }

    fn trouble(fingerprint: &str) -> Trouble<'_> {
        Trouble { node: NodeId(1), fingerprint, problem: "it exits".into() }
    }

    fn check(expected: State, revision: &Revision, min: u32, instances: &[Told<'_>], troubles: &[Trouble<'_>]) {
        let (state, nodes) = standing(revision, min, instances.iter().copied(), troubles.iter().cloned());
        assert_eq!(state, expected, "{nodes:?}");
    }

    #[test]
    fn it_is_done_when_nothing_old_is_left_and_what_is_kept_is_ready() {
        use InstanceState::{Draining, Frozen, Ready, Starting};
        let new = &new(Why::Put, None);
        check(State::Done, new, 0, &[], &[]);
        check(State::Rolling, new, 1, &[], &[]);
        check(State::Rolling, new, 0, &[told(1, "new", Starting)], &[]);
        check(State::Rolling, new, 1, &[told(1, "new", Ready), told(2, "old", Draining)], &[]);
        check(State::Done, new, 1, &[told(1, "new", Ready), told(2, "new", Starting)], &[]);
        check(State::Done, new, 1, &[told(1, "new", Frozen)], &[]);
    }

    #[test]
    fn failed_starts_of_the_new_definition_are_said_and_those_of_an_old_one_are_not() {
        let put = &new(Why::Put, None);
        let old = [told(1, "old", InstanceState::Ready)];
        check(State::Failing, put, 0, &old, &[trouble("new")]);
        check(State::Rolling, put, 0, &old, &[trouble("old")]);
        let failed = &new(Why::Put, Some(Outcome::Failed { problem: "it exits".into() }));
        check(State::Failed, failed, 0, &old, &[trouble("new")]);
        check(State::Done, failed, 0, &[told(1, "new", InstanceState::Ready)], &[]);
    }

    #[test]
    fn after_a_rollback_that_is_what_is_said() {
        let back = &new(Why::Rollback { of: 2, to: 1, problem: "x".into() }, Some(Outcome::Healthy));
        check(State::RolledBack, back, 1, &[told(1, "new", InstanceState::Ready)], &[]);
        assert!(State::RolledBack.is_final() && !State::Failing.is_final());
    }

    #[test]
    fn each_node_is_counted_apart() {
        use InstanceState::{Ready, Starting};
        let all = [told(1, "new", Ready), told(1, "old", Ready), told(2, "new", Starting)];
        let (_, nodes) = standing(&new(Why::Put, None), 0, all, [trouble("new")]);
        let one = Standing { ready: 1, coming: 0, old: 1, problem: Some("it exits".into()) };
        let two = Standing { coming: 1, ..Standing::default() };
        assert_eq!(nodes, [(NodeId(1), one), (NodeId(2), two)].into());
    }
}
