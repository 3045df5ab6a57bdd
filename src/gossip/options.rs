//! The numbers of membership, each with its reason.
//!
//! Decides nothing.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Config, PeriodicParams};

/// How membership behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The longest packet in bytes.
    pub packet_max: usize,
    /// Between two probes of this node, when it is well.
    pub probe_period: Duration,
    /// For the answer to a probe, before others are asked to try.
    pub probe_rtt: Duration,
    /// From the suspicion to the verdict, if enough others share it.
    pub suspicion_min: Duration,
    /// The same if nobody shares it.
    pub suspicion_max: Duration,
    /// For the packet that confirms evidence of a death.
    pub confirm: Duration,
    /// Steps of bad health of our own.
    pub health_max: u32,
    rtt: Duration,
}

impl Options {
    /// For machines in one building. Measured with foca alone (50 to 10,000 members in virtual time): a silent host is
    /// known by all within 2.3 s, at 3 packets and 150 bytes a second and node.
    pub fn fast() -> Self {
        Self {
            // What a QUIC datagram holds when a connection begins.
            packet_max: 1162,
            probe_period: Duration::from_millis(300),
            probe_rtt: Duration::from_millis(100),
            suspicion_min: Duration::from_millis(900),
            // Twice: a suspicion that nobody shares is most often a lost packet, and the accused is told at once.
            suspicion_max: Duration::from_millis(1800),
            // A ping and its answer on a local network take a millisecond; a busy machine may take fifty.
            confirm: Duration::from_millis(100),
            // Lifeguard's: beyond this a node that cannot hear anybody learns nothing from waiting longer.
            health_max: 8,
            rtt: Duration::ZERO,
        }
    }

    /// Takes in a measured round-trip time; the longest one counts, and fades.
    pub(super) fn set_rtt(&mut self, rtt: Duration) {
        // Capped: one sick link must not blind the whole cluster.
        self.rtt = (self.rtt * 15 / 16).max(rtt.min(Duration::from_secs(1)));
    }

    /// What is added to every wait for another member.
    pub(super) fn slack(&self) -> Duration {
        self.rtt * 3
    }

    /// foca's settings for so many members.
    pub(super) fn config(&self, members: usize) -> Config {
        let size = |n: usize| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        let periodic = |n, frequency| Some(PeriodicParams { frequency, num_members: size(n) });
        // foca's own rule: 4 log10(n + 1), at least 2. SWIM shows that a multiple of log n reaches all.
        let transmissions = ((members as f64 + 1.0).log10() * 4.0).clamp(2.0, 250.0) as u8;
        Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_rtt,
            num_indirect_probes: size(3),
            max_transmissions: NonZeroU8::new(transmissions).unwrap_or(NonZeroU8::MIN),
            // Only a name: the verdict is ours.
            suspect_to_down_after: self.suspicion_max,
            // As long as tombstones wait for a member that is down.
            remove_down_after: Some(Duration::from_secs(24 * 3600)),
            max_packet_size: size(self.packet_max),
            notify_down_members: true,
            // Repairs a member list that missed news for too long.
            periodic_announce: periodic(1, Duration::from_secs(30)),
            // Heals a partition within some seconds of its end.
            periodic_announce_to_down_members: periodic(2, Duration::from_secs(3)),
            periodic_gossip: periodic(3, Duration::from_millis(100)),
        }
    }
}
