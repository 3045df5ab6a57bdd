//! Finds the first peer: seeds by name or address and the peers of the last run, tried for ever with growing pauses.
//!
//! Only opens connections; whom they lead to is told by the transport, and membership does the rest.

use std::net::SocketAddr;
use std::time::Duration;

use crate::gossip::{Membership, State};
use crate::rng::Rng;
use crate::telemetry;
use crate::time::Mono;
use crate::transport::{DialError, Transport};

use tokio::sync::watch;

/// For one try: three handshakes whose packets are lost.
const DIAL: Duration = Duration::from_secs(5);

/// The first pause after a try that failed; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause: a seed that comes back is found within a minute.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Seeds that are tried in one round. More would make a start with a long list of dead peers a storm.
const ROUND: usize = 4;

/// What is tried.
#[derive(Debug)]
pub(crate) struct Seek {
    seeds: Vec<Seed>,
    me: SocketAddr,
    rng: Rng,
    fatal: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct Seed {
    text: String,
    next: Mono,
    pause: Duration,
    /// Given by the user, so that a failure is worth a line; and looked at even while other peers are alive, since two
    /// halves of a cluster that were started apart meet only here.
    given: bool,
}

impl Seek {
    /// `given` by the user, `last` from the last run; `fatal` takes the sentence that the daemon ends with.
    pub(crate) fn new(
        given: Vec<String>,
        last: Vec<SocketAddr>,
        me: SocketAddr,
        rng: Rng,
        fatal: watch::Sender<Option<String>>,
    ) -> Self {
        let seed = |given| move |text| Seed { text, next: Mono(0), pause: PAUSE_MIN, given };
        let mut seeds: Vec<Seed> = given.into_iter().map(seed(true)).collect();
        seeds.extend(last.into_iter().map(|address| address.to_string()).map(seed(false)));
        Self { seeds, me, rng, fatal }
    }

    /// Starts what is due.
    pub(crate) fn chores(&mut self, membership: &Membership, transport: &Transport, now: Mono) {
        let alone = membership.alive_count() == 0;
        let me = self.me;
        let alive = |text: &str| {
            let address: Option<SocketAddr> = text.parse().ok();
            let member = address.filter(|address| {
                membership.members().any(|member| member.state == State::Alive && member.peer.address == *address)
            });
            member.is_some() || address == Some(me)
        };
        let mut tried = 0;
        for seed in &mut self.seeds {
            let wanted = alone || (seed.given && !alive(&seed.text));
            if !wanted || seed.next > now || tried >= ROUND {
                continue;
            }
            tried += 1;
            // Spread over half of the pause, so that nodes that start together do not knock together.
            let jitter = self.rng.below(u64::try_from(seed.pause.as_nanos()).unwrap_or(u64::MAX) / 2 + 1);
            seed.next = now.after(DIAL + seed.pause + Duration::from_nanos(jitter));
            seed.pause = (seed.pause * 2).min(PAUSE_MAX);
            let (text, given, transport) = (seed.text.clone(), seed.given, transport.clone());
            let fatal = self.fatal.clone();
            telemetry::spawn("seek", async move { dial(&text, given, me, &transport, &fatal).await });
        }
        if !alone {
            for seed in &mut self.seeds {
                seed.pause = if seed.given { PAUSE_MAX } else { PAUSE_MIN };
            }
        }
    }
}

async fn dial(text: &str, given: bool, me: SocketAddr, transport: &Transport, fatal: &watch::Sender<Option<String>>) {
    let found = match tokio::time::timeout(DIAL, tokio::net::lookup_host(text)).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => return tell(given, text, &error.to_string()),
        Err(_) => return tell(given, text, &format!("its name was not resolved within {DIAL:?}")),
    };
    if found.is_empty() {
        return tell(given, text, "its name has no address");
    }
    for address in found.into_iter().filter(|address| *address != me) {
        match transport.dial(address, DIAL).await {
            Ok(_) => return,
            // Which of the two was there first cannot be known; the one that comes stops.
            Err(error @ DialError::Copied) => {
                fatal.send_replace(Some(format!("the node at {address}: {error}")));
                return;
            }
            Err(error) => tell(given, text, &error.to_string()),
        }
    }
}

fn tell(given: bool, seed: &str, why: &str) {
    if given {
        tracing::warn!(seed, why, "cannot join through this node yet; trying on");
    } else {
        tracing::debug!(seed, why, "a peer of the last run does not answer");
    }
}
