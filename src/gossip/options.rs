//! The times and sizes of membership, and how each was found.
//!
//! Knows no state. "Simulated" means `simulations/bench.rs`.

use std::time::Duration;

/// How membership behaves. All nodes of a cluster use the same, or the slower ones are suspected more often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The longest packet in bytes, from the transport's `max_datagram_size` less its own framing. Fixed for life.
    pub packet_max: usize,
    /// How often a node sends its successor a beat. A silent host is first noticed within one period, so this is the largest
    /// part of the time to know of it; it is also all of the idle traffic.
    pub probe_period: Duration,
    /// How long one ping may take. At least three times the measured round trip.
    pub probe_timeout: Duration,
    /// How long a suspect has to answer when `accusers` others could not reach it either. Six times that without them.
    pub suspicion: Duration,
    /// How many must fail to reach a suspect for the shortest suspicion. At most 3.
    pub accusers: usize,
    /// How many others are asked to try in each round.
    pub helpers: usize,
    /// How long a receipt for news is waited for before it is told again. At least twice the measured round trip.
    pub retell: Duration,
    /// How often a down member is greeted so that a healed partition is noticed; less often when many could do it.
    pub greet_down_every: Duration,
    /// How late our own loop may be before nobody else is blamed for silence.
    pub late: Duration,
    /// How long down and left members stay in the list.
    pub keep_down: Duration,
    /// How many of them at most; the oldest go first.
    pub keep_down_max: usize,
    /// More than a third lost within this time is a mass loss. Covers the longest suspicion.
    pub freeze_window: Duration,
    /// After this long a mass loss is taken for what it looks like.
    pub freeze_max: Duration,
}

impl Options {
    /// For nodes in one building: the only profile, because timeouts follow the measured round trip.
    ///
    /// 700 ms + 200 ms (two rounds without an answer) + 600 ms + spread stay under the 1.8 s that a silent host may take
    /// at 50 nodes, and 1.4 beats and acknowledgements a second (167 bytes a pair on the wire) under the 350 B/s of an
    /// idle node together with what the registry compares (230 B/s measured). The death of a process is noticed by the
    /// transport and does not wait for a beat. foca's own random probing cannot do it: of 50 nodes that each ping one at
    /// random, all miss the dead one for 4.6 periods in 1 of 100 cases.
    pub fn fast() -> Self {
        Self {
            // What quinn grants at an MTU of 1,200 (measured) less one byte for the kind of datagram.
            packet_max: 1161,
            probe_period: Duration::from_millis(700),
            probe_timeout: Duration::from_millis(100),
            suspicion: Duration::from_millis(600),
            accusers: 3,
            helpers: 3,
            // Seldom exceeded by a loop that is alive; seven copies are out within 0.3 s (simulated: RETELL).
            retell: Duration::from_millis(40),
            greet_down_every: Duration::from_secs(1),
            late: Duration::from_millis(300),
            keep_down: Duration::from_secs(24 * 3600),
            keep_down_max: 4096,
            freeze_window: Duration::from_secs(5),
            freeze_max: Duration::from_secs(60),
        }
    }
}
