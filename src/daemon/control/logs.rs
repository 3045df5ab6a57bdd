//! The log of a component as the admin API shows it: the lines of all nodes as one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::super::cluster::Cluster;
use super::super::logs::{self, Ask, PeerLines};
use super::Desk;
use crate::admin::api::{ApiError, LOG_QUEUE, LogLine, LogQuery, parse_rfc3339};
use crate::gossip::{Member, Peer, State};
use crate::id::{ComponentName, NodeId, NodeName};
use crate::runtime::logs::Follow;
use crate::time::Wall;

/// Between two looks for nodes that have come: an instance takes about as long to write its first line.
const LOOK: Duration = Duration::from_millis(500);

impl Desk {
    pub(super) async fn logs(
        &self,
        component: ComponentName,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogLine>, ApiError> {
        let (there, down) = nodes(&self.cluster);
        let ask = Ask {
            component: component.clone(),
            instance: query.instance.as_ref().map(ToString::to_string),
            tail: query.tail,
            after: None,
            follow: query.follow,
            bytes: Ask::share(there.len() + 1),
        };
        let transport = &self.cluster.transport;
        let asked = there.iter().map(|(peer, _)| PeerLines::ask(transport, *peer, &ask));
        let (own, asked) = tokio::join!(logs::own(&self.logs, &self.name, &ask), futures_util::future::join_all(asked));
        let (own, follow) = own;
        let mut following = Following {
            cluster: self.cluster.clone(),
            node: self.name.clone(),
            ask,
            stream: query.stream,
            active: BTreeSet::new(),
            last: BTreeMap::new(),
        };
        let (mut tails, mut words, mut peers) = (vec![own], Vec::new(), Vec::new());
        for ((peer, name), answer) in there.into_iter().zip(asked) {
            match answer {
                Ok((tail, lines)) => {
                    following.saw(peer.node, &tail);
                    tails.push(tail);
                    peers.push((peer, name, lines));
                }
                Err(problem) => {
                    tracing::debug!(node = name, problem, "a node did not give its lines");
                    words.push(logs::missing(&name, format!("node {name} did not answer; its lines are missing")));
                }
            }
        }
        let is_known = self.catalog.read().component(&component).is_some();
        if !is_known && tails.iter().all(Vec::is_empty) {
            return Err(self.unknown_component(&component));
        }
        let is_down = |name: String| logs::missing(&name, format!("node {name} is down; its lines are missing"));
        words.extend(down.into_iter().map(is_down));
        let tail = logs::merge(tails, query.tail as usize);
        let (sender, receiver) = mpsc::channel(LOG_QUEUE);
        crate::telemetry::spawn("logs", async move {
            for line in words.into_iter().chain(tail) {
                if following.wants(&line) && sender.send(line).await.is_err() {
                    return;
                }
            }
            if let Some(follow) = follow {
                following.run(follow, peers, sender).await;
            }
        });
        Ok(receiver)
    }
}

/// The other nodes that can be asked, with their names, and the names of those that are down.
fn nodes(cluster: &Cluster) -> (Vec<(Peer, String)>, Vec<String>) {
    let view = cluster.view.load();
    let name = |member: &Member| {
        let info = view.peers.get(&member.peer.node);
        info.map_or_else(|| member.peer.node.to_string(), |info| info.hello.name.to_string())
    };
    let there = view.members.iter().filter(|member| matches!(member.state, State::Alive | State::Suspect));
    let down = view.members.iter().filter(|member| member.state == State::Down);
    (there.map(|member| (member.peer, name(member))).collect(), down.map(name).collect())
}

/// Goes on with every line as it comes, from every node that is there.
struct Following {
    cluster: Cluster,
    /// This one.
    node: NodeName,
    ask: Ask,
    /// Only lines of this origin.
    stream: Option<String>,
    /// Nodes whose lines come, or are asked for.
    active: BTreeSet<NodeId>,
    /// When the last line of each was written.
    last: BTreeMap<NodeId, Wall>,
}

/// A node has no more lines: whether it had some, and the last moment.
struct Ended {
    node: NodeId,
    name: String,
    was_there: bool,
    last: Option<Wall>,
}

impl Following {
    fn wants(&self, line: &LogLine) -> bool {
        line.missing || self.stream.as_ref().is_none_or(|stream| line.stream == *stream)
    }

    fn saw(&mut self, node: NodeId, lines: &[LogLine]) {
        let last = lines.iter().filter_map(|line| parse_rfc3339(&line.at)).max();
        self.last.extend(last.map(|last| (node, last)));
    }

    async fn run(mut self, mut follow: Follow, peers: Vec<(Peer, String, PeerLines)>, sender: mpsc::Sender<LogLine>) {
        let mut attended = FuturesUnordered::new();
        for (peer, name, lines) in peers {
            self.active.insert(peer.node);
            attended.push(self.attend(peer, name, Some(lines), &sender));
        }
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let line = tokio::select! {
                () = sender.closed() => return,
                line = logs::next(&mut follow, &self.node) => match line {
                    Some(line) => line,
                    None => return,
                },
                Some(ended) = attended.next(), if !attended.is_empty() => {
                    let Ended { node, name, was_there, last } = ended;
                    self.active.remove(&node);
                    self.last.extend(last.map(|last| (node, last)));
                    if !was_there {
                        continue;
                    }
                    let text = format!("node {name} gives no more lines; they go on when it is back");
                    logs::missing(&name, text)
                }
                _ = look.tick() => {
                    for (peer, name) in nodes(&self.cluster).0 {
                        if self.active.insert(peer.node) {
                            attended.push(self.attend(peer, name, None, &sender));
                        }
                    }
                    continue;
                }
            };
            if self.wants(&line) && sender.send(line).await.is_err() {
                return;
            }
        }
    }

    /// Hands on the lines of a node, until it has no more. One that has come is asked for those after the last that was
    /// seen of it.
    fn attend(
        &self,
        peer: Peer,
        name: String,
        lines: Option<PeerLines>,
        sender: &mpsc::Sender<LogLine>,
    ) -> impl Future<Output = Ended> + Send + use<> {
        let (transport, sender) = (self.cluster.transport.clone(), sender.clone());
        let mut last = self.last.get(&peer.node).copied();
        let ask = Ask { after: last, ..self.ask.clone() };
        let stream = self.stream.clone();
        let node = peer.node;
        async move {
            let (tail, mut lines) = match lines {
                Some(lines) => (Vec::new(), lines),
                None => match PeerLines::ask(&transport, peer, &ask).await {
                    Ok(answer) => answer,
                    Err(_) => return Ended { node, name, was_there: false, last },
                },
            };
            let mut tail = tail.into_iter();
            loop {
                let line = match tail.next() {
                    Some(line) => Some(line),
                    None => lines.next().await,
                };
                let Some(line) = line else { return Ended { node, name, was_there: true, last } };
                last = parse_rfc3339(&line.at).max(last);
                if stream.as_ref().is_none_or(|stream| line.stream == *stream) && sender.send(line).await.is_err() {
                    return Ended { node, name, was_there: true, last };
                }
            }
        }
    }
}
