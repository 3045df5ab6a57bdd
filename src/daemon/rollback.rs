//! Looks on while a component changes, notes what becomes of the new definition, and has it taken back if it fails.
//!
//! Every node looks; for each component one acts. Decides nothing: `rollout::judge` does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::catalog::Catalog;
use super::clock::Clock;
use super::control::Noted;
use super::history;
use super::registrar::{Edit, Registrar};
use crate::crdt::Version;
use crate::id::ComponentName;
use crate::model::instance::InstanceState;
use crate::placement::Places;
use crate::rollout::{Outcome, Seen, Verdict, judge};
use crate::time::Mono;

/// Between two looks. Three failed starts take about a second; half of one more is not noticed by whoever waits.
const LOOK: Duration = Duration::from_millis(500);

/// What is seen of one component while it is not known what becomes of its definition.
#[derive(Debug)]
struct Trial {
    fingerprint: String,
    began: Mono,
    /// An instance that is ready, and since when.
    ready: Option<(String, Mono)>,
}

/// What has been seen so far.
struct Watch {
    board: Arc<Board>,
    catalog: Arc<Catalog>,
    places: Arc<ArcSwap<Places>>,
    /// Components of which it is known what became of them, as of these versions.
    settled: BTreeMap<ComponentName, (Version, Option<Version>)>,
    trials: BTreeMap<ComponentName, Trial>,
}

/// Runs until this node stops.
pub(crate) async fn run(
    board: Arc<Board>,
    catalog: Arc<Catalog>,
    places: Arc<ArcSwap<Places>>,
    registrar: Registrar,
    clock: Clock,
    stop: CancellationToken,
) {
    let mut watch = Watch {
        board: Arc::clone(&board),
        catalog: Arc::clone(&catalog),
        places,
        settled: BTreeMap::new(),
        trials: BTreeMap::new(),
    };
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        for edit in watch.look(clock.mono()) {
            let noted = Noted::of(&edit, &catalog, &board);
            match registrar.edit(edit).await {
                Ok(edited) => {
                    if let Some(noted) = noted {
                        noted.write(&edited, &catalog, &board);
                    }
                }
                Err(error) => {
                    tracing::info!(%error, "what became of a revision could not be noted; the next look tries again");
                }
            }
        }
    }
}

impl Watch {
    fn look(&mut self, now: Mono) -> Vec<Edit> {
        let names: Vec<ComponentName> = self.board.read().loads.keys().cloned().collect();
        self.settled.retain(|name, _| names.binary_search(name).is_ok());
        self.trials.retain(|name, _| names.binary_search(name).is_ok());
        names.into_iter().filter_map(|name| self.look_at(name, now)).collect()
    }

    fn look_at(&mut self, name: ComponentName, now: Mono) -> Option<Edit> {
        let definitions = self.catalog.read();
        let versions = definitions.versions(&name)?;
        if self.settled.get(&name) == Some(&versions) {
            return None;
        }
        let revision = history::in_force(&definitions, &name)?;
        if revision.is_healthy() {
            drop(definitions);
            self.trials.remove(&name);
            self.settled.insert(name, versions);
            return None;
        }
        if !is_ours(&self.board, &self.places.load(), &name) {
            return None;
        }
        let rollout = definitions.component(&name)?.value.rollout;
        let all = definitions.revisions(&name)?;
        drop(definitions);
        let seen = self.see(&name, &revision.fingerprint, now)?;
        match judge(&all, revision.number, &seen, rollout.deadline, rollout.rollback) {
            // What failed may come up yet.
            Verdict::Open | Verdict::Settled => None,
            Verdict::Healthy => {
                Some(Edit::Judge { name, number: revision.number, outcome: Outcome::Healthy, back_to: None })
            }
            Verdict::Failed { problem, back_to } => {
                tracing::warn!(component = %name, revision = revision.number, back_to, problem, "a rollout failed");
                let outcome = Outcome::Failed { problem };
                Some(Edit::Judge { name, number: revision.number, outcome, back_to })
            }
        }
    }

    /// What the nodes say of a definition; none as long as nobody tries it.
    fn see(&mut self, name: &ComponentName, fingerprint: &str, now: Mono) -> Option<Seen> {
        let heard = self.board.read();
        let loads = heard.loads.get(name).into_iter().flat_map(BTreeMap::values);
        let (mut ready, mut is_tried, mut seen) = (Vec::new(), false, Seen::default());
        for load in loads {
            for told in &load.instances {
                let is_ready = matches!(told.state, InstanceState::Ready | InstanceState::Frozen);
                is_tried |= told.version == fingerprint;
                if is_ready && told.version == fingerprint {
                    ready.push(told.id.as_str());
                } else if is_ready {
                    seen.serving.insert(told.version.clone());
                }
            }
            if let Some(trouble) = load.trouble.as_ref().filter(|trouble| trouble.version == fingerprint) {
                is_tried = true;
                seen.failures = seen.failures.saturating_add(trouble.failures);
                seen.problem = Some(trouble.problem.clone());
            }
        }
        if !is_tried {
            self.trials.remove(name);
            return None;
        }
        let new = || Trial { fingerprint: fingerprint.to_owned(), began: now, ready: None };
        let trial = self.trials.entry(name.clone()).or_insert_with(new);
        if trial.fingerprint != fingerprint {
            *trial = new();
        }
        // The one that was ready at the last look, if it still is.
        let known = trial.ready.take().filter(|(id, _)| ready.contains(&id.as_str()));
        trial.ready = known.or_else(|| Some(((*ready.first()?).to_owned(), now)));
        seen.tried = now.since(trial.began);
        seen.ready = trial.ready.as_ref().map(|(_, since)| now.since(*since));
        Some(seen)
    }
}

/// Whether this node looks after a component: one node does, the same by all that have heard the same.
fn is_ours(board: &Board, places: &Places, component: &ComponentName) -> bool {
    places.owner(component) == Some(board.me())
}
