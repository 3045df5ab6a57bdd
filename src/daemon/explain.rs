//! Answers why a component runs where it runs, from the plan of this node and what all nodes say they have.

use tokio::sync::oneshot;

use super::control::Desk;
use super::scheduler::{Plan, Question};
use crate::admin::api::{ApiError, Code, PlanNode, PlanView};
use crate::id::{ComponentName, NodeId};
use crate::placement::Verdict;

pub(crate) async fn explain(desk: &Desk, component: ComponentName) -> Result<PlanView, ApiError> {
    let (reply, answer) = oneshot::channel();
    let question = Question { component: component.clone(), reply };
    let stopping = || ApiError::new(Code::Unavailable, "this node is stopping; ask another one");
    desk.questions.send(question).await.map_err(|_| stopping())?;
    let Some(Plan { explanation, owner }) = answer.await.map_err(|_| stopping())? else {
        let text = format!("there is no component {component}; `maelctl comp ls` lists all");
        return Err(ApiError::new(Code::NotFound, text));
    };
    let heard = desk.board.read();
    let loads = heard.loads.get(&component);
    let node = |verdict: Verdict| {
        let load = loads.and_then(|loads| loads.get(&verdict.node)).cloned().unwrap_or_default();
        PlanNode {
            node: verdict.name.to_string(),
            rank: verdict.rank,
            planned: verdict.instances,
            ready: load.ready,
            coming: load.coming,
            events: load.events,
            refused: verdict.refusal.map(|refusal| refusal.to_string()),
            waits_for: load.waits_for,
        }
    };
    let name = |id: NodeId| heard.facts.get(&id).map_or_else(|| id.to_string(), |facts| facts.name.clone());
    Ok(PlanView {
        component: component.to_string(),
        wanted: explanation.wanted,
        why: explanation.because.to_string(),
        unplaced: explanation.unplaced,
        counted_by: owner.map(name),
        nodes: explanation.nodes.into_iter().map(node).collect(),
    })
}
