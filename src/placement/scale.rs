//! From demand to a count, decided by one node for the whole cluster: the first in the order of the component's key.
//!
//! Demand is the number of events in flight plus those that wait, on all nodes, long ones that still run included. What
//! the instances cannot take makes others start at once; what they can take, but beyond the soft target, must last for
//! about a second; and an instance is given up only after demand stayed low for a whole window, with a margin. So chance
//! alone, which a steady load is full of, moves the count rarely, and nothing waits for an average.
//!
//! Zero is wanted after a window without an event. The instances that are left stay warm where they are until they were
//! unused for the component's idle timeout, or until their memory is needed: they are a cache, not a plan.
//!
//! Knows nothing of nodes or instances.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Component;
use crate::time::Mono;

/// How long demand must stay low before an instance is given up, at most, in six parts. 30 s is what a node alone waited
/// at most, and the time after which an unused instance is frozen; Knative waits 60 s, but has no frozen ones to spare.
pub const WINDOW: Duration = Duration::from_secs(30);

/// Parts of the window: it slides in steps of a sixth, so an instance is given up at most 5 s too late.
const PARTS: usize = 6;

/// The time constant of the average that the soft target is compared with. It must be well below the start of a usual
/// instance plus what people notice, and above the gaps in a steady stream of short events: a second.
const SMOOTH: Duration = Duration::from_secs(1);

/// How long demand that the instances cannot take must be there before more than one instance is started for it. Nodes
/// look at their load every 100 ms and their words take some 15 ms: for so long an event that moved is counted twice.
/// With 50 ms a step to 20 instances started up to 23 (`./scripts/bench scale`).
const BURST: Duration = Duration::from_millis(150);

/// Changes of demand that are remembered: one each 2 ms. With more the oldest are forgotten sooner.
const RECENT: usize = 75;

/// After so many time constants the average is what it averages, to one part in 10^8.
const SETTLED: u32 = 20;

/// While demand is above the soft target, its average is looked at this often: a tenth of [`SMOOTH`].
const LOOK: Duration = Duration::from_millis(100);

/// What must be left over, in percent of the demand, before an instance is given up. With 10 a count is never further
/// above need than the goal allows (one instance or 10 %), and an average that wavers by 4 % at its bounds moves
/// nothing.
const MARGIN: u64 = 10;

/// Averages are kept in thousandths of an event.
const MILLI: u64 = 1000;

/// How a component wants to be scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Events per instance at which another is added.
    pub target: NonZeroU32,
    /// Events that an instance takes at once; never below the target.
    pub limit: NonZeroU32,
    /// Instances at least.
    pub min: u32,
    /// Instances at most in the cluster; never below `min`.
    pub max: u32,
    /// How long demand must stay low before an instance is given up.
    pub window: Duration,
}

impl From<&Component> for Rule {
    fn from(component: &Component) -> Self {
        Self {
            target: component.concurrency_target,
            limit: component.concurrency,
            min: component.min_instances,
            max: component.max_instances.get(),
            // An instance that may be stopped sooner is not wanted for longer. Below a second chance decides.
            window: component.idle_timeout.clamp(SMOOTH, WINDOW),
        }
    }
}

/// Why a count is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// No event came for a whole window.
    #[default]
    Unused,
    /// So many are always there.
    Minimum,
    /// Demand asks for more than is allowed.
    Maximum {
        /// Instances that demand asks for.
        need: u32,
    },
    /// Demand as it is.
    Demand {
        /// Events, smoothed.
        events: u32,
        /// For each instance.
        target: u32,
    },
    /// More events than the instances could take: no average was waited for.
    Burst {
        /// Events in flight and waiting.
        events: u32,
        /// For each instance.
        target: u32,
    },
    /// Demand was higher a short time ago.
    Recent {
        /// The most events of the window, smoothed.
        events: u32,
        /// For each instance.
        target: u32,
    },
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unused => f.write_str("no event came for a while"),
            Self::Minimum => f.write_str("that is the minimum"),
            Self::Maximum { need } => write!(f, "that is the maximum; demand asks for {need}"),
            Self::Demand { events, target } => {
                write!(f, "{events} events are in flight or wait, and {target} are meant for each instance")
            }
            Self::Burst { events, target } => write!(
                f,
                "{events} events came, more than the instances could take, and {target} are meant for each instance"
            ),
            Self::Recent { events, target } => {
                write!(f, "up to {events} events were there a short time ago, and {target} are meant for each instance")
            }
        }
    }
}

/// The count of one component, as its owner keeps it. A new owner starts from the count that the old one wrote.
#[derive(Debug, Clone)]
pub struct Scale {
    count: u32,
    because: Because,
    demand: u32,
    /// In thousandths.
    average: u64,
    seen: Mono,
    /// The highest level of each part of the window, the current one first, in thousandths.
    peaks: [u64; PARTS + 1],
    part_since: Mono,
    /// When there was an event last.
    used: Mono,
    /// Demand and since when, as far as it counts for what was there for all of [`BURST`]; the oldest first.
    recent: VecDeque<(Mono, u32)>,
}

impl Scale {
    /// Goes on from a count, as if demand had asked for it until now: the next owner must not give up what the last one
    /// had reason to keep.
    #[must_use]
    pub fn resume(rule: &Rule, count: u32, now: Mono) -> Self {
        let count = count.clamp(rule.min, rule.max);
        let level = u64::from(count) * u64::from(rule.target.get()) * MILLI * 100 / (100 + MARGIN);
        let mut peaks = [0; PARTS + 1];
        peaks[0] = level;
        Self {
            count,
            because: Because::default(),
            demand: 0,
            average: level,
            seen: now,
            peaks,
            part_since: now,
            used: now,
            recent: VecDeque::from([(now, 0)]),
        }
    }

    /// The count, and why.
    pub fn wanted(&self) -> (u32, Because) {
        (self.count, self.because)
    }

    /// Takes the demand of the whole cluster as of now and says how many instances are wanted.
    pub fn handle(&mut self, rule: &Rule, demand: u32, now: Mono) -> u32 {
        self.smooth(demand, now);
        self.slide(rule, now);
        if demand > 0 {
            self.used = now;
        } else if now.since(self.used) >= rule.window {
            // A whole window without an event: whatever the average still remembers.
            (self.average, self.peaks) = (0, [0; PARTS + 1]);
        }
        let capacity = self.count.saturating_mul(rule.limit.get());
        let steady = self.steady(demand, now);
        // The first event needs an instance in any case.
        let steady = if demand > capacity { steady.max(capacity.max(1)) } else { demand };
        let burst = steady > capacity;
        if burst {
            self.average = self.average.max(u64::from(steady) * MILLI);
        }
        // However short an event is, it needs one instance.
        let level = self.average.max(if demand > 0 { 1 } else { 0 });
        self.peaks[0] = self.peaks[0].max(level);
        let peak = self.peaks.iter().copied().max().unwrap_or(0);
        // The average may lag behind; what is there now must find a slot.
        let now_needed = instances(level, rule).max(steady.div_ceil(rule.limit.get()));
        // Rounding up must not make more of the margin than it is.
        let recent = instances(peak, rule);
        let most = recent + (recent * MARGIN as u32 / 100).max(1);
        let kept = instances(peak * (100 + MARGIN) / 100, rule).min(most);
        let raw = if now_needed > self.count { now_needed } else { self.count.min(kept).max(now_needed) };
        self.count = raw.clamp(rule.min, rule.max);
        self.because = self.reason(rule, (now_needed, level), (instances(peak, rule), peak), burst);
        self.count
    }

    /// When to call [`Self::handle`] again although nothing changed; none if time alone changes nothing.
    pub fn poll_timeout(&self, rule: &Rule) -> Option<Mono> {
        if self.demand > self.count.saturating_mul(rule.limit.get()) && self.count < rule.max {
            // When the oldest counts no more.
            let due = self.recent.get(1).map(|(since, _)| since.after(BURST));
            return Some(due.filter(|due| *due > self.seen).unwrap_or_else(|| self.seen.after(LOOK)));
        }
        let soft = u64::from(self.count) * u64::from(rule.target.get());
        if u64::from(self.demand) > soft && self.count < rule.max {
            return Some(self.seen.after(LOOK));
        }
        let settled = self.count == rule.min && self.peaks.iter().all(|peak| *peak == 0);
        let part = self.part_since.after(rule.window / PARTS as u32);
        let unused = Some(self.used.after(rule.window)).filter(|due| self.demand == 0 && *due > self.seen);
        (!settled).then(|| unused.map_or(part, |unused| unused.min(part)))
    }

    fn smooth(&mut self, demand: u32, now: Mono) {
        // What is known of the time since the last look is the demand that it began with. In small steps, so that it
        // does not matter how often somebody looks.
        let held = i128::from(self.demand) * i128::from(MILLI);
        let mut passed = now.since(self.seen).min(SMOOTH * SETTLED);
        while !passed.is_zero() {
            let step = passed.min(LOOK);
            passed -= step;
            let part = (held - i128::from(self.average)) * step.as_nanos() as i128;
            let whole = (SMOOTH + step).as_nanos() as i128;
            self.average = u64::try_from(i128::from(self.average) + part / whole).unwrap_or(0);
        }
        self.demand = demand;
        self.seen = self.seen.max(now);
    }

    /// The demand that was there for all of the last [`BURST`].
    fn steady(&mut self, demand: u32, now: Mono) -> u32 {
        self.recent.push_back((now, demand));
        while self.recent.get(1).is_some_and(|(next, _)| now.since(*next) >= BURST) || self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        self.recent.iter().map(|(_, demand)| *demand).min().unwrap_or(0)
    }

    fn slide(&mut self, rule: &Rule, now: Mono) {
        let part = rule.window / PARTS as u32;
        for _ in 0..=PARTS {
            if now.since(self.part_since) < part {
                return;
            }
            self.peaks.rotate_right(1);
            self.peaks[0] = 0;
            self.part_since = self.part_since.after(part);
        }
        // Longer than the window: all parts are empty, and the next begins now.
        self.part_since = self.part_since.max(now);
    }

    fn reason(&self, rule: &Rule, now: (u32, u64), recent: (u32, u64), burst: bool) -> Because {
        let target = rule.target.get();
        let events = |level: u64| u32::try_from(level.div_ceil(MILLI)).unwrap_or(u32::MAX);
        match self.count {
            0 => Because::Unused,
            count if now.0 > count => Because::Maximum { need: now.0 },
            count if count == rule.min && recent.0 <= count => Because::Minimum,
            _ if burst => Because::Burst { events: events(now.1), target },
            count if now.0 == count => Because::Demand { events: events(now.1), target },
            _ => Because::Recent { events: events(recent.1), target },
        }
    }
}

fn instances(level: u64, rule: &Rule) -> u32 {
    u32::try_from(level.div_ceil(u64::from(rule.target.get()) * MILLI)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
