//! A strict singleton: it runs while the cluster consents, and has stopped when the consent is over.
//!
//! Who consents, and for how long, is found elsewhere (`placement::lease`); here it is a moment.

use std::sync::Arc;
use std::time::Duration;

use super::instance::State;
use super::leave::Leave;
use super::{Activation, Effect};
use crate::failure::Failure;
use crate::model::Component;
use crate::model::component::Singleton;
use crate::time::Mono;

/// What an instance is given to stop by itself when the consent is over; then it is killed, which takes less than the
/// second that remains to the end of `placement::lease::TERM`.
const GRACE: Duration = Duration::from_secs(3);

impl Activation {
    pub(super) fn is_strict(&self) -> bool {
        self.component.singleton == Singleton::Strict
    }

    /// Whether an instance may start or go on.
    pub(super) fn has_consent(&self, now: Mono) -> bool {
        !self.is_strict() || self.consent.is_some_and(|until| now < until)
    }

    /// When an instance has to begin to stop, if there is one that may run until then.
    pub(super) fn consent_ends(&self) -> Option<Mono> {
        let runs = self.instances.values().any(|instance| instance.state != State::Stopping);
        self.consent.filter(|_| runs && self.is_strict())
    }

    /// Asks for the consent while an instance is here or meant to be, and gives it back when nothing of it is left.
    pub(super) fn claim(&mut self, out: &mut Vec<Effect>) {
        let is_meant = self.share.count > 0 && !self.removed && !self.draining;
        let claims = self.is_strict() && (is_meant || !self.instances.is_empty());
        if claims != self.claims {
            self.claims = claims;
            self.consent = self.consent.filter(|_| claims);
            out.push(Effect::Claim(claims));
        }
    }

    /// Stops whatever runs without consent, whatever it does; and tells what waits that nothing will run here while the
    /// node is apart from the others.
    pub(super) fn lapse(&mut self, now: Mono, out: &mut Vec<Effect>) {
        if self.is_strict() && !self.has_consent(now) {
            for instance in self.instances.values_mut().filter(|instance| instance.state != State::Stopping) {
                if let Some(slots) = &instance.slots {
                    slots.close();
                }
                out.push(Effect::Note(Some(instance.id.clone()), None, format!("stopping: {}", Leave::NoConsent)));
                instance.leave = Some(Leave::NoConsent);
                if let State::Starting(_) = instance.state {
                    out.push(Effect::Abandon(instance.id.clone()));
                }
                instance.state = State::Stopping;
                let mut soon = Component::clone(&instance.component);
                soon.stop.grace = soon.stop.grace.min(GRACE);
                out.push(Effect::Stop(instance.id.clone(), Arc::new(soon)));
            }
        }
        if self.is_strict() && self.share.apart && !self.instances.values().any(|instance| !instance.is_leaving()) {
            let reason = "it is a strict singleton, and this node sees no more than half of the nodes".to_owned();
            self.refuse_all(&Failure::Nowhere { component: self.component.name.clone(), reason }, out);
        }
    }
}
