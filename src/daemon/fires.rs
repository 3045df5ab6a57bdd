//! What attends to schedules needs of this node: the registry's rows, what is known of other nodes, and their votes.
//!
//! Decides nothing: `schedule` does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use super::ask::{Ask, GRANTED};
use super::catalog::Catalog;
use super::clock::Clock;
use super::cluster::Cluster;
use super::registrar::{Edit, Registrar};
use super::runs::{Act, Claim};
use crate::gossip::{Peer, State};
use crate::id::{ComponentName, SourceName};
use crate::intake::{Intake, Way};
use crate::schedule::claim;
use crate::schedule::ledger::{Holder, Ledger, RunId};
use crate::source::courier::Courier;
use crate::source::cron::{BoxFuture, Records, Votes};
use crate::time::{Mono, Wall};

/// How long a peer may take to grant a planned time or to say what it knows: a write to its disk and many round trips.
const ASK: Duration = Duration::from_secs(1);

/// How long an instance may take that is started ahead of a run.
pub(super) const WARM: Duration = Duration::from_secs(60);

/// A node that is not heard of so long after our start is gone: looking for the known ones takes seconds.
const UNHEARD: Duration = Duration::from_secs(30);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Office {
    pub(crate) me: Holder,
    /// When this process began.
    pub(crate) began: Mono,
    pub(crate) clock: Clock,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) registrar: Registrar,
    pub(crate) cluster: Cluster,
    pub(crate) core: Arc<dyn Intake>,
    pub(crate) courier: Courier,
}

impl Office {
    /// The nodes that can be asked.
    fn reachable(&self) -> Vec<Peer> {
        let view = self.cluster.view.load();
        let there = view.members.iter().filter(|member| matches!(member.state, State::Alive | State::Suspect));
        there.map(|member| member.peer).collect()
    }

    async fn claim(&self, source: &SourceName, id: RunId) -> Votes {
        let claim = Claim { source: source.clone(), is_manual: id.is_manual, planned: id.planned };
        // Who is not known does not count, and who is known counts also if it is not there.
        let others = self.cluster.view.load().known.clone();
        let needed = claim::majority(others.len() + 1);
        // Ours first: who has granted it to another need not bother others.
        if !self.registrar.grant(claim.clone()).await {
            return Votes { granted: 0, needed };
        }
        let question = Ask::Grant(claim).encode();
        let voters = self.reachable().into_iter().filter(|peer| others.contains(&peer.node));
        let mut votes: FuturesUnordered<_> = voters
            .map(|peer| {
                let question = question.clone();
                async move { self.cluster.transport.call(peer.node, peer.address, question, ASK).await }
            })
            .collect();
        let mut granted = 1;
        while granted < needed
            && let Some(vote) = votes.next().await
        {
            granted += usize::from(vote.is_ok_and(|answer| answer == GRANTED));
        }
        Votes { granted, needed }
    }

    async fn catch_up(&self, source: &SourceName) {
        let question = Ask::Runs(source.clone()).encode();
        let asked = self.reachable().into_iter().map(|peer| {
            let question = question.clone();
            async move { self.cluster.transport.call(peer.node, peer.address, question, ASK).await.ok() }
        });
        let answers = futures_util::future::join_all(asked).await;
        let theirs: Vec<Ledger> = answers.into_iter().flatten().filter_map(|bytes| Ledger::parse(&bytes)).collect();
        let act = move |ledger: &mut Ledger| {
            *ledger = Ledger::merge(std::iter::once(std::mem::take(ledger)).chain(theirs));
        };
        if let Err(problem) = self.change(source, Box::new(act)).await {
            tracing::info!(%source, problem, "what other nodes know of the runs of this schedule was not taken over");
        }
    }

    async fn warm(&self, component: &ComponentName, limit: Duration) -> Result<(), String> {
        let node = match self.courier.way(component) {
            Way::Here => return self.courier.warm(component, limit).await.map_err(|failure| failure.to_string()),
            Way::There(node) => node,
        };
        let peer = self.reachable().into_iter().find(|peer| peer.node == node);
        let peer = peer.ok_or_else(|| format!("node {node} is not there"))?;
        let question = Ask::Warm(component.clone()).encode();
        let answer = self.cluster.transport.call(peer.node, peer.address, question, limit).await;
        match answer.map_err(|error| error.to_string())? {
            answer if answer == GRANTED => Ok(()),
            problem => Err(String::from_utf8_lossy(&problem).into_owned()),
        }
    }
}

impl Records for Office {
    fn me(&self) -> Holder {
        self.me
    }

    fn now(&self) -> Wall {
        Clock::wall()
    }

    fn read(&self, source: &SourceName) -> Option<Ledger> {
        self.catalog.read().ledger(source)
    }

    fn news(&self, source: &SourceName) -> watch::Receiver<u64> {
        self.catalog.run_news(source)
    }

    fn change(
        &self,
        source: &SourceName,
        act: Box<dyn FnOnce(&mut Ledger) + Send>,
    ) -> BoxFuture<'_, Result<(), String>> {
        let edit = Edit::Runs { name: source.clone(), act: Act(act) };
        Box::pin(async move { self.registrar.edit(edit).await.map(drop).map_err(|error| error.to_string()) })
    }

    fn catch_up<'a>(&'a self, source: &'a SourceName) -> BoxFuture<'a, ()> {
        Box::pin(self.catch_up(source))
    }

    fn is_gone(&self, holder: Holder) -> bool {
        if holder.node == self.me.node {
            return holder.life != self.me.life;
        }
        let view = self.cluster.view.load();
        match view.members.iter().find(|member| member.peer.node == holder.node) {
            Some(member) => match member.state {
                State::Alive | State::Suspect => member.peer.start > holder.life,
                State::Down | State::Left => true,
            },
            None => self.clock.mono().since(self.began) > UNHEARD,
        }
    }

    fn claim<'a>(&'a self, source: &'a SourceName, id: RunId) -> BoxFuture<'a, Votes> {
        Box::pin(self.claim(source, id))
    }

    fn warm<'a>(&'a self, component: &'a ComponentName, limit: Duration) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.warm(component, limit))
    }

    fn random(&self) -> u64 {
        self.core.random()
    }
}
