//! What the admin API says of schedules: when they run next, how their runs went; and a run by hand.

use tokio::sync::oneshot;

use super::{Clock, Desk, Edit, stopping};
use crate::admin::api::{ApiError, Code, List, NextView, RunView, rfc3339};
use crate::daemon::runs::Act;
use crate::id::{NodeId, SourceName};
use crate::model::Source;
use crate::model::source::{Cron, Trigger};
use crate::schedule::ledger::{Cause, Ended, Holder, Ledger, Run, RunId};
use crate::schedule::runs::{MANUAL_WAIT, may_ask};
use crate::schedule::times::ZONE_DATA;
use crate::schedule::{Runs, Times};
use crate::time::Wall;

/// Planned times that are shown with a source: enough to see whether weekday and zone are what was meant.
const SHOWN: usize = 5;

/// The next planned times, each with the offset of its zone.
fn next(cron: &Cron, after: Wall, count: usize) -> Vec<String> {
    let times = Times::new(cron);
    times.map(|times| times.following(after).take(count).map(|at| times.local(at)).collect()).unwrap_or_default()
}

/// The next planned times of a source; none if it has none, or is switched off.
pub(super) fn shown(source: &Source) -> Vec<String> {
    let (Trigger::Cron(cron), true) = (&source.trigger, source.enabled) else { return Vec::new() };
    next(cron, Clock::wall(), SHOWN)
}

/// What a put of a source says besides: when a schedule runs next.
pub(super) fn notes(source: &Source) -> Vec<String> {
    let (Trigger::Cron(_), true) = (&source.trigger, source.enabled) else { return Vec::new() };
    let times = shown(source);
    if times.is_empty() {
        return vec!["the schedule never runs again".to_owned()];
    }
    vec![format!("runs next at {}", times.join(", "))]
}

impl Desk {
    /// A schedule and its name, and what is known of its runs.
    fn schedule(&self, name: &SourceName) -> Result<(std::sync::Arc<Source>, Ledger), ApiError> {
        let definitions = self.catalog.read();
        let entry = definitions.sources.get(name).ok_or_else(|| {
            ApiError::not_found("source", name.as_str(), definitions.sources.keys().map(SourceName::as_str))
        })?;
        let source = std::sync::Arc::clone(&entry.value);
        if !matches!(source.trigger, Trigger::Cron(_)) {
            let message = format!("source {name} is no schedule but {}", source.trigger.name());
            return Err(ApiError::invalid(message).hint("`maelctl es ls` shows which sources are schedules"));
        }
        Ok((source, definitions.ledger(name).unwrap_or_default()))
    }

    pub(super) fn list_runs(&self, name: &SourceName) -> Result<List<RunView>, ApiError> {
        let (_, ledger) = self.schedule(name)?;
        let open = ledger.open().iter().map(|run| self.open_view(name, run));
        let ended = ledger.ended().iter().map(|ended| self.ended_view(name, ended));
        let mut views: Vec<RunView> = open.chain(ended).collect();
        views.sort_by(|a, b| (&b.planned_at, &b.run, b.attempt).cmp(&(&a.planned_at, &a.run, a.attempt)));
        Ok(self.aged(views))
    }

    pub(super) fn next_runs(&self, name: &SourceName, count: usize) -> Result<NextView, ApiError> {
        let (source, ledger) = self.schedule(name)?;
        let Trigger::Cron(cron) = &source.trigger else { return Err(stopping()) };
        let shift = Runs::new(name, cron).map(|rules| rules.shift()).unwrap_or_default();
        Ok(NextView {
            name: name.to_string(),
            schedule: cron.expression.clone(),
            timezone: cron.timezone.clone(),
            zone_data: ZONE_DATA.to_owned(),
            enabled: source.enabled,
            jitter_ms: super::millis(shift),
            times: next(cron, Clock::wall().max(ledger.floor()), count),
        })
    }

    pub(super) async fn ask_run(&self, name: SourceName) -> Result<RunView, ApiError> {
        let (source, _) = self.schedule(&name)?;
        if !source.enabled {
            return Err(ApiError::new(Code::Conflict, format!("source {name} is disabled"))
                .hint(format!("maelctl cron resume {name}")));
        }
        let now = Clock::wall();
        let run = Run::new(RunId { planned: now, is_manual: true }, Cause::Manual, now);
        let (told, is_taken) = oneshot::channel();
        let asked = run.clone();
        let act = move |ledger: &mut Ledger| {
            let may = may_ask(ledger, now);
            if may {
                ledger.set(asked);
            }
            let _ = told.send(may);
        };
        self.edit(Edit::Runs { name: name.clone(), act: Act(Box::new(act)) }).await?;
        if !is_taken.await.unwrap_or(false) {
            let message = format!("source {name} was asked for as many runs as may be within {MANUAL_WAIT:?}");
            return Err(ApiError::new(Code::Conflict, message).hint("try again in a minute"));
        }
        Ok(self.open_view(&name, &run))
    }

    fn open_view(&self, name: &SourceName, run: &Run) -> RunView {
        RunView {
            run: format!("{name}/{}", run.id()),
            planned_at: rfc3339(run.id().planned),
            attempt: run.attempt,
            cause: run.cause.to_string(),
            status: if run.held.is_some() { "running" } else { "waiting" }.to_owned(),
            started_at: run.held.map(|(_, at)| rfc3339(at)),
            ended_at: None,
            node: run.held.map(|(holder, _)| self.holder(holder)),
            instance: None,
            http_status: None,
            problem: None,
            output: None,
        }
    }

    fn ended_view(&self, name: &SourceName, ended: &Ended) -> RunView {
        let outcome = ended.outcome.clone();
        RunView {
            run: format!("{name}/{}", ended.id()),
            planned_at: rfc3339(ended.id().planned),
            attempt: ended.attempt,
            cause: ended.cause.to_string(),
            status: outcome.status.to_string(),
            started_at: ended.held.map(|(_, at)| rfc3339(at)),
            ended_at: Some(rfc3339(ended.at)),
            node: ended.held.map(|(holder, _)| self.holder(holder)),
            instance: outcome.instance,
            http_status: outcome.http,
            problem: outcome.problem,
            output: outcome.output,
        }
    }

    /// The name of a node if it is known, else its id.
    fn holder(&self, holder: Holder) -> String {
        let node: NodeId = holder.node;
        let heard = self.board.read();
        heard.facts.get(&node).map_or_else(|| node.to_string(), |facts| facts.name.clone())
    }
}
