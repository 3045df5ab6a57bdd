//! Claims on instances: who may hand how many events to whom at one moment. Shared by the core that opens and closes
//! instances and by the data plane that uses them, so it is made of atomics and takes no lock on the warm path.
//!
//! Does no IO, reads no clock, and knows nothing of HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::id::{ComponentName, InstanceId};
use crate::time::Mono;

/// When an instance passed each step of its start: what a cold event waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Born {
    /// The start was decided.
    pub asked: Mono,
    /// The image was there.
    pub pulled: Mono,
    /// It ran.
    pub started: Mono,
    /// It was ready.
    pub ready: Mono,
}

/// The closed mark in the word that counts claims.
const CLOSED: u32 = 1 << 31;

/// The slots of one live instance.
///
/// Invariant: at most `limit` claims at any moment, and none is given while it is closed.
#[derive(Debug)]
pub struct Slots {
    /// Which instance.
    pub instance: InstanceId,
    /// Where it listens.
    pub address: SocketAddr,
    /// The steps of its start.
    pub born: Born,
    /// The hard concurrency limit.
    limit: AtomicU32,
    /// Count of claims, and [`CLOSED`].
    word: AtomicU32,
    served: AtomicU64,
    last_release: AtomicU64,
}

impl Slots {
    /// Open slots of an instance that has just become ready.
    pub fn new(instance: InstanceId, address: SocketAddr, limit: u32, now: Mono) -> Self {
        Self::born(instance, address, limit, Born { asked: now, pulled: now, started: now, ready: now })
    }

    /// The same, with the steps of the start that led here.
    pub fn born(instance: InstanceId, address: SocketAddr, limit: u32, born: Born) -> Self {
        let now = born.ready;
        Self {
            instance,
            address,
            born,
            limit: AtomicU32::new(limit.clamp(1, CLOSED - 1)),
            word: AtomicU32::new(0),
            served: AtomicU64::new(0),
            last_release: AtomicU64::new(now.0),
        }
    }

    /// Takes one slot if one is free and the instance is open.
    pub fn try_claim(&self) -> bool {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
                (word & CLOSED == 0 && word < self.limit()).then_some(word + 1)
            })
            .is_ok()
    }

    /// The hard concurrency limit.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit; claims held beyond it go on.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit.clamp(1, CLOSED - 1), Ordering::Relaxed);
    }

    /// Gives one slot back. Must follow each successful [`Slots::try_claim`] exactly once.
    pub fn release(&self, now: Mono) {
        self.last_release.fetch_max(now.0, Ordering::AcqRel);
        self.served.fetch_add(1, Ordering::Relaxed);
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before & !CLOSED > 0, "a slot was released that nobody held");
    }

    /// Closes the instance if nobody holds a slot. True if it is closed now and was idle.
    pub fn close_if_idle(&self) -> bool {
        self.word.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Closes the instance to new claims; those held go on.
    pub fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Opens the instance again.
    pub fn open(&self) {
        self.word.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    /// Whether new claims are refused.
    pub fn is_closed(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// How many slots are held.
    pub fn in_flight(&self) -> u32 {
        self.word.load(Ordering::Acquire) & !CLOSED
    }

    /// How many claims were given back since the start.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// When the last claim was given back (or the instance became ready).
    pub fn last_release(&self) -> Mono {
        Mono(self.last_release.load(Ordering::Acquire))
    }
}

/// All open instances of one component, as the data plane sees them.
#[derive(Debug)]
pub struct Gate {
    /// Whose gate.
    pub component: ComponentName,
    live: ArcSwap<Vec<Arc<Slots>>>,
    waiting: AtomicU32,
}

impl Gate {
    /// A gate with no live instance.
    pub fn new(component: ComponentName) -> Self {
        Self { component, live: ArcSwap::from_pointee(Vec::new()), waiting: AtomicU32::new(0) }
    }

    /// Replaces the list of live instances. For the core that owns them.
    pub fn set_live(&self, live: Vec<Arc<Slots>>) {
        self.live.store(Arc::new(live));
    }

    /// The live instances at this moment.
    pub fn live(&self) -> Arc<Vec<Arc<Slots>>> {
        self.live.load_full()
    }

    /// Says how many events wait in the queue. While any does, [`Gate::try_claim`] gives nothing, so that nobody
    /// overtakes the queue.
    pub fn set_waiting(&self, waiting: u32) {
        self.waiting.store(waiting, Ordering::SeqCst);
    }

    /// How many events wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Claims a slot on the warm path: better of two choices drawn with `random`, then any that has room.
    /// None if all are full or closed, if none is live, or if others wait already.
    pub fn try_claim(&self, random: u64) -> Option<Arc<Slots>> {
        if self.waiting() > 0 {
            return None;
        }
        self.claim_any(random)
    }

    /// Like [`Gate::try_claim`], for the queue itself.
    pub fn claim_any(&self, random: u64) -> Option<Arc<Slots>> {
        let live = self.live.load();
        let count = live.len();
        if count == 0 {
            return None;
        }
        let first = (random & 0xffff_ffff) as usize % count;
        if count > 1 {
            // A second, different choice; the one with fewer claims goes first.
            let second = (first + 1 + (random >> 32) as usize % (count - 1)) % count;
            let (better, worse) =
                if live[second].in_flight() < live[first].in_flight() { (second, first) } else { (first, second) };
            for index in [better, worse] {
                if live[index].try_claim() {
                    return Some(Arc::clone(&live[index]));
                }
            }
        }
        (0..count).map(|step| &live[(first + step) % count]).find(|slots| slots.try_claim()).map(Arc::clone)
    }
}

/// The gates of all components, made by whoever asks first: the core that opens them and the router that shows them
/// to the data plane share one per name.
///
/// A gate is kept when its component is removed: a request that is under way holds it, and the component may come back.
/// That is about 200 bytes for each name that this process has ever seen.
#[derive(Debug, Default)]
pub struct Gates(Mutex<BTreeMap<ComponentName, Arc<Gate>>>);

impl Gates {
    /// The gate of this component.
    pub fn get(&self, component: &ComponentName) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(component) {
            return Arc::clone(gate);
        }
        let gate = Arc::new(Gate::new(component.clone()));
        gates.insert(component.clone(), Arc::clone(&gate));
        gate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(limit: u32) -> Slots {
        let component: ComponentName = "api".parse().expect("a name");
        Slots::new(InstanceId::new(&component, 7), ([127, 0, 0, 1], 80).into(), limit, Mono(0))
    }

    #[test]
    fn no_more_claims_are_given_than_the_limit() {
        let slots = slots(2);
        assert!(slots.try_claim() && slots.try_claim() && !slots.try_claim());
        slots.release(Mono(5));
        assert!(slots.try_claim());
        assert_eq!((slots.in_flight(), slots.served(), slots.last_release()), (2, 1, Mono(5)));
    }

    #[test]
    fn an_instance_in_use_is_not_closed_as_idle_and_a_closed_one_gives_nothing() {
        let slots = slots(2);
        assert!(slots.try_claim());
        assert!(!slots.close_if_idle());
        slots.release(Mono(1));
        assert!(slots.close_if_idle());
        assert!(!slots.try_claim());
        slots.open();
        assert!(slots.try_claim());
    }

    #[test]
    fn a_claim_held_while_the_instance_closes_is_still_given_back() {
        let slots = slots(1);
        assert!(slots.try_claim());
        slots.close();
        assert_eq!(slots.in_flight(), 1);
        slots.release(Mono(2));
        assert!(slots.is_closed() && slots.in_flight() == 0);
    }

    #[test]
    fn the_less_loaded_of_two_instances_is_chosen() {
        let gate = Gate::new("api".parse().expect("a name"));
        let (one, two) = (Arc::new(slots(10)), Arc::new(slots(10)));
        for _ in 0..5 {
            assert!(one.try_claim());
        }
        gate.set_live(vec![Arc::clone(&one), Arc::clone(&two)]);
        for random in 0..5 {
            assert!(gate.try_claim(random).is_some());
        }
        assert_eq!((one.in_flight(), two.in_flight()), (5, 5));
    }

    #[test]
    fn nobody_overtakes_the_queue() {
        let gate = Gate::new("api".parse().expect("a name"));
        gate.set_live(vec![Arc::new(slots(1))]);
        gate.set_waiting(1);
        assert!(gate.try_claim(0).is_none());
        assert!(gate.claim_any(0).is_some());
    }
}
