//! The rule of [`super`], carried out edge by edge in its order: what was changed, and what that changes further on.
//!
//! A task is one edge of one component that must be decided (again). Tasks are done in the order of the rule, and a
//! decision is touched only by edges before it, so every task finds everything before it final. A decision that comes
//! out differently adds tasks behind it: the component's next edge; the first instance in the node's line for which there
//! is no room any more; and, where memory came free, the edges of those who were refused there.

use crate::id::NodeId;

use super::line::{Bounds, HARD, Taken};
use super::rank::{Rank, Ranked};
use super::{At, Entry, Host, Planner, Seat, Task};

/// The host of [`START`], which is no edge.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Before every edge: a cost is never 0.
pub(super) const START: At = At { level: 0, cost: 0, node: NodeId(0) };

/// The next edge in one level.
enum Next {
    Edge(At, u32),
    /// The level has no more.
    End,
    /// No node has room from here on, at this level or a later one of the same kind.
    Full,
}

impl Planner {
    /// Wants this edge to be decided, and what follows it in the walk of the component.
    pub(super) fn trigger(&mut self, entry: u32, at: At, host: u32) {
        let this = &mut self.entries[entry as usize];
        // A walk visits all edges that follow, so the earliest is enough.
        if this.pending.is_none_or(|pending| at < pending) {
            this.pending = Some(at);
            self.tasks.push(std::cmp::Reverse(Task { at, name: this.name.clone(), entry, host }));
        }
    }

    pub(super) fn step(&mut self, task: &Task) {
        let (at, entry, host) = (task.at, task.entry, task.host);
        let this = &mut self.entries[entry as usize];
        if this.pending != Some(at) {
            return;
        }
        this.pending = None;
        let count = this.want.count() as usize;
        let mut held = this.seats.partition_point(|seat| seat.at < at);
        let seated = this.seats.get(held).is_some_and(|seat| seat.at == at);
        let asks = host != NOWHERE && held < count && self.may_ask(entry, host, at);
        let taken = asks && self.admits(entry, host, at);
        if asks && !taken {
            self.hosts[host as usize].pressed = true;
            // At once: memory may come free before the walk is over.
            self.spilled.insert(entry);
        }
        match (seated, taken) {
            (false, true) => self.seat(entry, held, Seat { at, host }),
            (true, false) => self.unseat(entry, held),
            (true, true) | (false, false) => {}
        }
        held += usize::from(taken);
        let own = self.entries[entry as usize].seats.get(held).map(|seat| (seat.at, seat.host));
        let wanted = if held < count { self.next_edge(entry, at) } else { None };
        match own.into_iter().chain(wanted).min() {
            Some((at, host)) => self.trigger(entry, at, host),
            None => self.finish(entry),
        }
    }

    /// Whether the component asks the node at this edge, if it still needs an instance there.
    fn may_ask(&self, entry: u32, host: u32, at: At) -> bool {
        let (this, node) = (&self.entries[entry as usize], &self.hosts[host as usize]);
        let round = at.level & !HARD;
        if round >= this.want.max_per_node.get() || !self.fits(this, node) {
            return false;
        }
        let has = |level| this.has_seat(At { level, ..at });
        match (at.level >= HARD, round) {
            (false, 0) => true,
            (true, 0) => !has(0),
            (false, _) => has(round - 1),
            (true, _) => has(HARD | (round - 1)) || (has(round - 1) && !has(round)),
        }
    }

    /// Whether the node could ever hold an instance of the component.
    pub(super) fn fits(&self, entry: &Entry, host: &Host) -> bool {
        self.misfit(entry, host).is_none()
    }

    fn admits(&self, entry: u32, host: u32, at: At) -> bool {
        let (this, node) = (&self.entries[entry as usize], &self.hosts[host as usize]);
        node.line.admits((at.level, at.cost, &this.name), this.want.reserve, node.bounds())
    }

    fn next_edge(&mut self, entry: u32, after: At) -> Option<(At, u32)> {
        let mut level = after.level;
        let mut from = Some((after.cost, after.node));
        loop {
            level = match self.next_in_level(entry, level, from) {
                Next::Edge(at, host) => return Some((at, host)),
                Next::End => self.entries[entry as usize].level_after(level)?,
                Next::Full => {
                    // Nobody was asked one by one, but all have refused.
                    self.spilled.insert(entry);
                    if level >= HARD {
                        return None;
                    }
                    HARD
                }
            };
            from = None;
        }
    }

    fn next_in_level(&mut self, entry: u32, level: u32, from: Option<(u64, NodeId)>) -> Next {
        if !self.entries[entry as usize].rank.is_built() {
            let keep = Rank::kept(self.entries[entry as usize].want.count());
            self.build_rank(entry, Some(keep));
        }
        let mut position = from.map_or(0, |(cost, node)| self.entries[entry as usize].rank.after(cost, node));
        loop {
            while let Some(Ranked { cost, node, host }) = self.entries[entry as usize].rank.get(position) {
                let at = At { level, cost, node };
                if self.may_ask(entry, host, at) {
                    return Next::Edge(at, host);
                }
                position += 1;
            }
            let rank = &self.entries[entry as usize].rank;
            if rank.is_complete() {
                return Next::End;
            }
            let last = rank.last().map(|last| (last.cost, last.node)).max(from);
            if !self.has_room(entry, level, last.map_or(0, |(cost, _)| cost)) {
                return Next::Full;
            }
            self.build_rank(entry, None);
            position = last.map_or(0, |(cost, node)| self.entries[entry as usize].rank.after(cost, node));
        }
    }

    fn build_rank(&mut self, entry: u32, keep: Option<usize>) {
        let hosts = self.host_of.values().map(|host| {
            let known = &self.hosts[*host as usize];
            (known.id, known.share, *host)
        });
        let rank = Rank::build(&self.entries[entry as usize].key, hosts, keep);
        self.entries[entry as usize].rank = rank;
    }

    /// Whether any node would take an instance at this level and cost or later. True in case of doubt: it saves a walk
    /// over all nodes of a full cluster. What comes free later on is offered to all that have spilled.
    fn has_room(&mut self, entry: u32, level: u32, cost: u64) -> bool {
        let this = &self.entries[entry as usize];
        let room = |host: &Host| host.line.admits((level, cost, &this.name), this.want.reserve, host.bounds());
        if self.hosts.iter().any(|host| self.fits(this, host) && room(host)) {
            return true;
        }
        for host in &mut self.hosts {
            host.pressed = true;
        }
        false
    }

    fn seat(&mut self, entry: u32, position: usize, seat: Seat) {
        self.remember(entry);
        let this = &mut self.entries[entry as usize];
        this.seats.insert(position, seat);
        let At { level, cost, .. } = seat.at;
        let taken = Taken { level, cost, name: this.name.clone(), entry, reserve: this.want.reserve };
        self.hosts[seat.host as usize].line.insert(taken);
        self.look_behind(entry, seat);
    }

    pub(super) fn unseat(&mut self, entry: u32, position: usize) {
        self.remember(entry);
        let this = &mut self.entries[entry as usize];
        let seat = this.seats.remove(position);
        let host = &mut self.hosts[seat.host as usize];
        host.line.remove((seat.at.level, seat.at.cost, &this.name));
        self.look_behind(entry, seat);
        self.offer_freed(seat.host, Some((seat.at, entry)));
    }

    /// The load changed at this seat: the first one behind it for whom there is no room must go.
    fn look_behind(&mut self, entry: u32, seat: Seat) {
        let host = &self.hosts[seat.host as usize];
        let place = (seat.at.level, seat.at.cost, &self.entries[entry as usize].name);
        self.displace(
            seat.host,
            host.line.first_over(Some(place), host.bounds()).map(|over| (over.entry, over.level, over.cost)),
        );
    }

    fn displace(&mut self, host: u32, over: Option<(u32, u32, u64)>) {
        if let Some((entry, level, cost)) = over {
            let node = self.hosts[host as usize].id;
            self.trigger(entry, At { level, cost, node }, host);
        }
    }

    /// The bounds of a node changed.
    pub(super) fn rebound(&mut self, host: u32, limit: u64) {
        let this = &mut self.hosts[host as usize];
        let before = std::mem::replace(&mut this.limit, limit);
        if limit < before {
            let over = this.line.first_over(None, this.bounds()).map(|over| (over.entry, over.level, over.cost));
            self.displace(host, over);
        } else if before < limit && before < this.node.capacity {
            self.offer_freed(host, None);
        }
    }

    /// Memory came free behind this place (or anywhere): those who were refused here are asked again.
    fn offer_freed(&mut self, host: u32, behind: Option<(At, u32)>) {
        if !self.hosts[host as usize].pressed {
            return;
        }
        let mut refused_any = false;
        let spilled: Vec<u32> = self.spilled.iter().copied().collect();
        for entry in spilled {
            let (this, node) = (&self.entries[entry as usize], &self.hosts[host as usize]);
            if !self.fits(this, node) {
                continue;
            }
            for at in this.refused_at(node) {
                refused_any = true;
                let is_behind = behind.is_none_or(|(freed, by)| {
                    (at.level, at.cost, &this.name) > (freed.level, freed.cost, &self.entries[by as usize].name)
                });
                let will_come = this.pending.is_some_and(|pending| pending <= at);
                if is_behind && !will_come && self.admits(entry, host, at) {
                    self.trigger(entry, at, host);
                    break;
                }
            }
        }
        self.hosts[host as usize].pressed = refused_any;
    }

    /// Offers a node to every component that would ask it; a new one is ranked by all.
    pub(super) fn offer(&mut self, host: u32, is_new: bool) {
        for entry in 0..u32::try_from(self.entries.len()).unwrap_or(u32::MAX) {
            let (this, node) = (&mut self.entries[entry as usize], &self.hosts[host as usize]);
            let count = this.want.count() as usize;
            if count == 0 && !this.rank.is_built() {
                continue;
            }
            let (cost, node) = (this.key.cost(node.id, node.share), node.id);
            if is_new {
                this.rank.insert(Ranked { cost, node, host });
            }
            let at = At { level: 0, cost, node };
            let satisfied = this.seats.len() >= count && this.seats.last().is_none_or(|last| last.at < at);
            if !satisfied && self.fits(&self.entries[entry as usize], &self.hosts[host as usize]) {
                self.trigger(entry, at, host);
            }
        }
    }

    /// The walk of a component is over.
    fn finish(&mut self, entry: u32) {
        if self.has_spilled(entry) {
            self.spilled.insert(entry);
        } else {
            self.spilled.remove(&entry);
        }
        let this = &mut self.entries[entry as usize];
        this.rank.trim(Rank::kept(this.want.count()));
    }

    /// Whether a node may have refused an instance; true in case of doubt.
    fn has_spilled(&self, entry: u32) -> bool {
        let this = &self.entries[entry as usize];
        if this.seats.len() < this.want.count() as usize {
            return true;
        }
        let Some(last) = this.seats.last() else { return false };
        let end = this.rank.after(last.at.cost, last.at.node);
        if last.at.level > 0 || end == 0 {
            return true;
        }
        let first = this.rank.first(end);
        first.last().is_none_or(|ranked| ranked.node != last.at.node)
            || first.iter().filter(|ranked| self.fits(this, &self.hosts[ranked.host as usize])).count()
                != this.seats.len()
    }
}

impl Entry {
    pub(super) fn has_seat(&self, at: At) -> bool {
        self.seats.binary_search_by_key(&at, |seat| seat.at).is_ok()
    }

    /// The level that follows, if an edge may be in it.
    fn level_after(&self, level: u32) -> Option<u32> {
        let round = (level & !HARD) + 1;
        let again = round < self.want.max_per_node.get();
        if level < HARD {
            // A node that did not take the last instance takes no other one at this kind of level.
            let some = again && self.seats.iter().any(|seat| seat.at.level == level);
            return Some(if some { round } else { HARD });
        }
        // A node has at most as many instances as there are.
        (again && round as usize <= self.seats.len()).then_some(HARD | round)
    }

    /// The edges at which this node refused, as far as the walk came: one of each kind at most.
    fn refused_at(&self, host: &Host) -> impl Iterator<Item = At> + use<> {
        let edge = |level| At { level, cost: self.key.cost(host.id, host.share), node: host.id };
        let most = self.want.max_per_node.get();
        let soft = (0..most).find(|round| !self.has_seat(edge(*round))).unwrap_or(most);
        let hard = (soft..most).find(|round| !self.has_seat(edge(HARD | round))).unwrap_or(most);
        let end =
            if self.seats.len() < self.want.count() as usize { None } else { self.seats.last().map(|last| last.at) };
        let asked = move |at: &At| end.is_none_or(|end| *at < end);
        let soft = (soft < most).then(|| edge(soft)).filter(asked);
        let hard = (hard < most).then(|| edge(HARD | hard)).filter(asked);
        soft.into_iter().chain(hard)
    }
}

impl Host {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { limit: self.limit, capacity: self.node.capacity }
    }
}
