//! From demand to a count. Up at once, down only after demand stayed low for a whole window.
//!
//! Demand is the number of events in flight plus those that wait. Knows nothing of nodes or instances.

use std::time::Duration;

use crate::model::Component;
use crate::time::Mono;

/// How long demand must stay low before an instance is given up. Knative's stable window is 60 s; two half-windows of
/// 15 s give 15 to 30 s here, which forgets a burst before the default freeze (30 s) would.
const HALF_WINDOW: Duration = Duration::from_secs(15);

/// The count for this demand: enough that each instance has at most its soft target, within min and max.
pub(super) fn wanted(component: &Component, demand: u32) -> u32 {
    let target = component.concurrency_target.get();
    let most = component.max_instances.get().min(component.max_per_node.get());
    demand.div_ceil(target).clamp(component.min_instances.min(most), most)
}

/// The highest demand of the last one to two half-windows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Peak {
    current: u32,
    previous: u32,
    since: Mono,
}

impl Peak {
    /// Notes the demand of this moment.
    pub(super) fn note(&mut self, demand: u32, now: Mono) {
        let age = now.since(self.since);
        if age >= HALF_WINDOW {
            self.previous = if age < HALF_WINDOW * 2 { self.current } else { 0 };
            self.current = 0;
            self.since = now;
        }
        self.current = self.current.max(demand);
    }

    /// The peak, as of the last note.
    pub(super) fn get(&self) -> u32 {
        self.current.max(self.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_forgotten_after_two_half_windows_and_not_before_one() {
        let mut peak = Peak::default();
        peak.note(9, Mono(0));
        peak.note(1, Mono(0).after(HALF_WINDOW - Duration::from_millis(1)));
        assert_eq!(peak.get(), 9);
        peak.note(1, Mono(0).after(HALF_WINDOW));
        assert_eq!(peak.get(), 9);
        peak.note(1, Mono(0).after(HALF_WINDOW * 2));
        assert_eq!(peak.get(), 1);
    }

    #[test]
    fn silence_longer_than_the_window_forgets_everything() {
        let mut peak = Peak::default();
        peak.note(9, Mono(0));
        peak.note(0, Mono(0).after(HALF_WINDOW * 5));
        assert_eq!(peak.get(), 0);
    }
}
