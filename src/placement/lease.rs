//! The right to run a component of which there must never be two: who has it, and for how long.
//!
//! A node runs a strict singleton while more than half of the known nodes have given it their vote for it. A vote is for
//! one component, to one node at a time, and runs out by itself. The holder counts from the moment at which it asked, the
//! voter from the later one at which it answered, and the holder ends sooner: so a vote is given to the next one only
//! when the last one has stopped, whoever hears whom, and no clocks are compared. What a node has voted for is forgotten
//! with its process: one that was there before says nothing until all its votes have run out.
//!
//! Does no IO. Knows nothing of placement: who wants to run something is told to it, and it says who may.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{ComponentName, NodeId};
use crate::time::Mono;

/// How long a vote binds the voter. The longest that a component may miss its instance after the loss of a node; as long
/// as the parts below need.
pub const VOTE: Duration = Duration::from_secs(10);

/// Of that, how long the holder may run from the moment at which it asked. The rest is for clocks that do not run alike:
/// 10 % are a thousand times what crystals differ.
pub const TERM: Duration = Duration::from_secs(9);

/// How long it goes on without a majority before it begins to stop: four rounds may get lost, and a node that is slow for
/// a moment stops nothing. The four seconds to the end of the term are for the stop.
pub const HOLD: Duration = Duration::from_secs(5);

/// How often a holder asks anew.
const RENEW: Duration = Duration::from_secs(1);

/// The same for one that has not got it yet: what it waits for is over in no longer than this after the last holder is
/// gone.
const SEEK: Duration = Duration::from_millis(250);

/// What a node asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The start of the process that asks, and how often it has asked: what was overtaken on the way counts no more.
    pub number: (u64, u64),
    /// What it runs or wants to run, all of it.
    pub claims: Vec<ComponentName>,
}

/// What the other says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// For what it votes.
    pub granted: Vec<ComponentName>,
    /// What is another's.
    pub taken: Vec<ComponentName>,
    /// How many nodes it knows.
    pub known: u32,
}

#[derive(Debug, Default)]
struct Claim {
    /// The number of the first question that counts.
    from: u64,
    /// For each voter when the last question was asked to which it said yes.
    votes: BTreeMap<NodeId, Mono>,
    said: Option<Mono>,
}

#[derive(Debug)]
struct Vote {
    to: NodeId,
    until: Mono,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Leases {
    me: NodeId,
    start: u64,
    asked: u64,
    /// When the questions were asked that may still be answered.
    asks: VecDeque<Mono>,
    next: Option<Mono>,
    /// All that are known, this node included.
    known: BTreeSet<NodeId>,
    /// How many others know.
    counts: BTreeMap<NodeId, u32>,
    claims: BTreeMap<ComponentName, Claim>,
    votes: BTreeMap<ComponentName, Vote>,
    heard: BTreeMap<NodeId, (u64, u64)>,
    /// No vote before.
    silent: Mono,
    permits: BTreeSet<ComponentName>,
}

/// Questions that may be answered late. Older ones would give a term that is over.
const ASKS: usize = 64;

impl Leases {
    /// A node that knows nobody. `start` grows with every start of its process; `has_voted`: it may have given votes in
    /// an earlier one.
    #[must_use]
    pub fn new(me: NodeId, start: u64, has_voted: bool, now: Mono) -> Self {
        Self {
            me,
            start,
            asked: 0,
            asks: VecDeque::new(),
            next: None,
            known: [me].into(),
            counts: BTreeMap::new(),
            claims: BTreeMap::new(),
            votes: BTreeMap::new(),
            heard: BTreeMap::new(),
            silent: if has_voted { now.after(VOTE) } else { now },
            permits: BTreeSet::new(),
        }
    }

    /// An instance from before the start of the process still runs, with a consent that lasts until then: nobody else has
    /// it so long, and this node votes for nobody else.
    pub fn handle_found(&mut self, component: &ComponentName, until: Mono) {
        let vote = self.votes.entry(component.clone()).or_insert(Vote { to: self.me, until });
        vote.until = vote.until.max(until);
    }

    /// All nodes that are known, dead or alive, but not those that left or were removed.
    pub fn handle_known(&mut self, mut known: BTreeSet<NodeId>) {
        known.insert(self.me);
        self.counts.retain(|node, _| known.contains(node));
        self.known = known;
    }

    /// Whether this node runs a component or wants to. Who gives it up has stopped it.
    pub fn handle_claim(&mut self, component: &ComponentName, is_claimed: bool, now: Mono) {
        let is_new = match (is_claimed, self.claims.contains_key(component)) {
            (true, false) => {
                let claim = Claim { from: self.asked + 1, ..Claim::default() };
                self.claims.insert(component.clone(), claim);
                true
            }
            // The others are told, so that the next one needs not wait.
            (false, true) => self.claims.remove(component).is_some(),
            _ => false,
        };
        if is_new {
            self.next = Some(now);
        }
    }

    /// The question that all others are to be asked now, if it is time.
    pub fn poll_ask(&mut self, now: Mono) -> Option<Ask> {
        self.next.filter(|next| *next <= now)?;
        self.asked += 1;
        self.asks.push_back(now);
        if self.asks.len() > ASKS {
            self.asks.pop_front();
        }
        let ask = Ask { number: (self.start, self.asked), claims: self.claims.keys().cloned().collect() };
        let own = self.handle_ask(self.me, &ask, now);
        self.handle_answer(self.me, self.asked, &own);
        let is_missing = |claim: &Claim| self.term(claim).is_none_or(|end| end <= now);
        let pause = if self.claims.values().any(is_missing) { SEEK } else { RENEW };
        self.next = (!self.claims.is_empty()).then(|| now.after(pause));
        Some(ask)
    }

    /// When to call [`Self::poll_ask`]; never if nothing is claimed.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.next
    }

    /// Answers another node.
    pub fn handle_ask(&mut self, from: NodeId, ask: &Ask, now: Mono) -> Answer {
        let known = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        let last = self.heard.entry(from).or_insert(ask.number);
        if ask.number < *last {
            return Answer { known, ..Answer::default() };
        }
        *last = ask.number;
        self.votes.retain(|component, vote| vote.until > now && (vote.to != from || ask.claims.contains(component)));
        let mut answer = Answer { known, ..Answer::default() };
        for component in &ask.claims {
            let is_free = match self.votes.get(component) {
                Some(vote) if vote.to != from => {
                    answer.taken.push(component.clone());
                    continue;
                }
                Some(_) => true,
                None => now >= self.silent,
            };
            if is_free {
                self.votes.insert(component.clone(), Vote { to: from, until: now.after(VOTE) });
                answer.granted.push(component.clone());
            }
        }
        answer
    }

    /// What a node said to the question of this number.
    pub fn handle_answer(&mut self, from: NodeId, number: u64, answer: &Answer) {
        let back = usize::try_from(self.asked.saturating_sub(number)).unwrap_or(usize::MAX);
        let asked = self.asks.len().checked_sub(back + 1).and_then(|index| self.asks.get(index)).copied();
        let Some(asked) = asked.filter(|_| number <= self.asked && self.known.contains(&from)) else { return };
        self.counts.insert(from, answer.known);
        for (component, claim) in self.claims.iter_mut().filter(|(_, claim)| claim.from <= number) {
            let is_older = claim.votes.get(&from).is_none_or(|before| *before < asked);
            if is_older && answer.granted.contains(component) {
                claim.votes.insert(from, asked);
            } else if is_older && answer.taken.contains(component) {
                // It should not have been given away yet: the clock of one of us stood still.
                claim.votes.remove(&from);
            }
            self.permits.insert(component.clone());
        }
    }

    /// The next component whose consent has changed, and until when it may run before it has to begin to stop; the
    /// beginning of time if too many have taken their votes back.
    pub fn poll_permit(&mut self) -> Option<(ComponentName, Mono)> {
        while let Some(name) = self.permits.pop_first() {
            let Some(claim) = self.claims.get(&name) else { continue };
            let until = self.term(claim);
            if let Some(claim) = self.claims.get_mut(&name).filter(|claim| claim.said != until) {
                claim.said = until;
                return Some((name, until.unwrap_or_default()));
            }
        }
        None
    }

    /// Until when a majority lets it run, up to the beginning of its stop. It is a majority also of the nodes that those
    /// know who are part of it.
    fn term(&self, claim: &Claim) -> Option<Mono> {
        let votes = claim.votes.iter().filter(|(node, _)| self.known.contains(node));
        let mut votes: Vec<(Mono, NodeId)> = votes.map(|(node, asked)| (*asked, *node)).collect();
        votes.sort_unstable_by(|one, other| other.cmp(one));
        let mut known = self.known.len();
        loop {
            let majority = votes.get(..=known / 2)?;
            let counts = majority.iter().filter_map(|(_, node)| self.counts.get(node));
            match counts.max().map(|most| *most as usize).filter(|most| *most > known) {
                Some(most) => known = most,
                None => return majority.last().map(|(asked, _)| asked.after(HOLD)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn name() -> ComponentName {
        "leader".parse().expect("a name")
    }

    struct Town {
        nodes: BTreeMap<NodeId, Leases>,
        permits: BTreeMap<NodeId, Mono>,
        now: Mono,
    }

    impl Town {
        fn new(size: u64) -> Self {
            let ids: BTreeSet<NodeId> = (1..=size).map(NodeId).collect();
            let node = |id: &NodeId| {
                let mut node = Leases::new(*id, 1, false, Mono(1));
                node.handle_known(ids.clone());
                (*id, node)
            };
            Self { nodes: ids.iter().map(node).collect(), permits: BTreeMap::new(), now: Mono(1) }
        }

        fn claim(&mut self, node: u64, is_claimed: bool) {
            self.nodes.get_mut(&NodeId(node)).expect("there").handle_claim(&name(), is_claimed, self.now);
        }

        /// Lets so much time pass; only these hear each other.
        fn pass(&mut self, time: Duration, together: &[u64]) {
            let end = self.now.after(time);
            while self.now < end {
                self.now = self.now.after(MS * 50);
                let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
                for id in ids {
                    let Some(ask) = self.nodes.get_mut(&id).and_then(|node| node.poll_ask(self.now)) else { continue };
                    let others = together.iter().map(|node| NodeId(*node)).filter(|_| together.contains(&id.0));
                    for other in others.filter(|other| *other != id) {
                        let Some(voter) = self.nodes.get_mut(&other) else { continue };
                        let answer = voter.handle_ask(id, &ask, self.now);
                        self.nodes.get_mut(&id).expect("there").handle_answer(other, ask.number.1, &answer);
                    }
                }
                for (id, node) in &mut self.nodes {
                    while let Some((_, until)) = node.poll_permit() {
                        self.permits.insert(*id, until);
                    }
                }
                let may = |until: &&Mono| **until > Mono(0) && until.after(TERM - HOLD) > self.now;
                assert!(self.permits.values().filter(may).count() <= 1, "{:?} at {:?}", self.permits, self.now);
            }
        }

        fn holders(&self) -> Vec<u64> {
            self.permits.iter().filter(|(_, until)| **until > self.now).map(|(id, _)| id.0).collect()
        }
    }

    #[test]
    fn the_first_of_two_has_it_at_once_and_the_other_when_it_is_given_up() {
        let mut town = Town::new(3);
        town.claim(1, true);
        town.pass(MS * 50, &[1, 2, 3]);
        assert_eq!(town.holders(), [1]);
        town.claim(2, true);
        town.pass(VOTE * 3, &[1, 2, 3]);
        assert_eq!(town.holders(), [1], "who asks does not push the holder out");
        town.claim(1, false);
        town.permits.clear();
        town.pass(SEEK * 2, &[1, 2, 3]);
        assert_eq!(town.holders(), [2]);
    }

    #[test]
    fn a_holder_that_is_cut_off_has_stopped_before_another_may_begin() {
        let mut town = Town::new(3);
        town.claim(1, true);
        town.pass(VOTE, &[1, 2, 3]);
        town.claim(2, true);
        town.pass(HOLD + RENEW, &[2, 3]);
        assert_eq!(town.holders(), Vec::<u64>::new(), "it has to stop, and nobody else may run it yet");
        town.pass(VOTE, &[2, 3]);
        assert_eq!(town.holders(), [2]);
        town.pass(VOTE, &[1, 2, 3]);
        assert_eq!(town.holders(), [2], "who was cut off does not get it back by coming back");
    }

    #[test]
    fn half_of_the_known_nodes_is_no_majority_whoever_knows_them() {
        let mut town = Town::new(4);
        town.claim(1, true);
        town.pass(VOTE * 2, &[1, 2]);
        assert_eq!(town.holders(), Vec::<u64>::new());
        // It has forgotten half of the nodes; who votes for it has not.
        town.nodes.get_mut(&NodeId(1)).expect("there").handle_known([NodeId(1), NodeId(2)].into());
        town.pass(VOTE * 2, &[1, 2]);
        assert_eq!(town.holders(), Vec::<u64>::new());
        town.pass(VOTE, &[1, 2, 3]);
        assert_eq!(town.holders(), Vec::<u64>::new(), "it does not ask whom it does not know");
        town.nodes.get_mut(&NodeId(1)).expect("there").handle_known((1..=4).map(NodeId).collect());
        town.pass(VOTE, &[1, 2, 3]);
        assert_eq!(town.holders(), [1]);
    }

    #[test]
    fn a_voter_that_starts_again_says_nothing_until_what_it_said_is_over() {
        let mut town = Town::new(3);
        town.claim(1, true);
        town.pass(VOTE * 2, &[1, 3]);
        assert_eq!(town.holders(), [1]);
        // The holder is cut off, and who voted for it starts again and has forgotten that.
        let mut again = Leases::new(NodeId(3), 2, true, town.now);
        again.handle_known((1..=3).map(NodeId).collect());
        town.nodes.insert(NodeId(3), again);
        town.claim(2, true);
        town.pass(VOTE * 2, &[2, 3]);
        assert_eq!(town.holders(), [2]);
    }

    #[test]
    fn what_comes_late_or_out_of_order_gives_nobody_a_vote() {
        let mut voter = Leases::new(NodeId(3), 1, false, Mono(1));
        let ask = |number, claims: &[ComponentName]| Ask { number: (1, number), claims: claims.to_vec() };
        assert_eq!(voter.handle_ask(NodeId(1), &ask(2, &[name()]), Mono(1)).granted, [name()]);
        // What it said before, that it wants nothing, arrives after it.
        voter.handle_ask(NodeId(1), &ask(1, &[]), Mono(2));
        assert!(voter.handle_ask(NodeId(2), &ask(1, &[name()]), Mono(3)).granted.is_empty(), "it is given away");
        let mut holder = Leases::new(NodeId(1), 1, false, Mono(1));
        holder.handle_known((1..=3).map(NodeId).collect());
        holder.handle_claim(&name(), true, Mono(1));
        let first = holder.poll_ask(Mono(1)).expect("a question");
        holder.handle_claim(&name(), false, Mono(2));
        holder.handle_claim(&name(), true, Mono(3));
        let yes = Answer { granted: vec![name()], known: 3, ..Answer::default() };
        holder.handle_answer(NodeId(2), first.number.1, &yes);
        holder.handle_answer(NodeId(3), first.number.1, &yes);
        assert_eq!(holder.poll_permit(), None, "an answer from before it was given up counts no more");
    }

    #[test]
    fn a_node_alone_has_its_own_consent_and_keeps_what_it_finds() {
        let mut alone = Leases::new(NodeId(1), 2, true, Mono(1));
        alone.handle_found(&name(), Mono(1).after(TERM));
        alone.handle_claim(&name(), true, Mono(1));
        assert!(alone.poll_ask(Mono(1)).is_some());
        assert_eq!(alone.poll_permit(), Some((name(), Mono(1).after(HOLD))));
    }
}
