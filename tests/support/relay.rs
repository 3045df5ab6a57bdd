//! A network that can be broken without being root: one UDP relay in front of each node, which loses, delays and cuts.
//!
//! A node advertises its relay, so that everything for it passes there, as behind a NAT. The way back takes the relay
//! too, since the answer goes to where the packet came from.

#![allow(dead_code, clippy::disallowed_methods, reason = "each test uses its part, in real time")]
#![allow(missing_docs, unreachable_pub, reason = "shared by tests only")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Of which nodes (by the port that they really listen on) packets are lost, and how many of the others.
#[derive(Debug, Default)]
pub struct Weather {
    cut: Mutex<BTreeSet<(u16, u16)>>,
    /// Of 1,000 packets.
    loss: AtomicU64,
    /// Shortest and longest extra delay in microseconds; each packet draws its own, so they overtake each other.
    least: AtomicU64,
    delay: AtomicU64,
    draw: AtomicU64,
}

impl Weather {
    /// No packet passes between the two groups, in either direction.
    pub fn split(&self, one: &[u16], other: &[u16]) {
        let mut cut = self.cut.lock().expect("not poisoned");
        for a in one {
            for b in other {
                cut.insert((*a, *b));
                cut.insert((*b, *a));
            }
        }
    }

    pub fn heal(&self) {
        self.cut.lock().expect("not poisoned").clear();
        self.set_loss(0);
        self.set_delay(Duration::ZERO);
    }

    pub fn set_loss(&self, of_1000: u64) {
        self.loss.store(of_1000, Ordering::Relaxed);
    }

    /// No packet is faster than that. [`Self::set_delay`] says how slow the slowest is.
    pub fn set_least_delay(&self, least: Duration) {
        self.least.store(least.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn set_delay(&self, longest: Duration) {
        self.delay.store(longest.as_micros() as u64, Ordering::Relaxed);
    }

    fn random(&self) -> u64 {
        // splitmix64 over a counter: the same sequence in every run, shared by all links.
        let mut z = self.draw.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn send(&self, from: u16, to: u16, bytes: &[u8], out: impl FnOnce(&[u8]) + Send + 'static) {
        let is_cut = self.cut.lock().expect("not poisoned").contains(&(from, to));
        if is_cut || self.random() % 1000 < self.loss.load(Ordering::Relaxed) {
            return;
        }
        let longest = self.delay.load(Ordering::Relaxed);
        if longest == 0 {
            return out(bytes);
        }
        let least = self.least.load(Ordering::Relaxed).min(longest);
        let wait = Duration::from_micros(least + self.random() % (longest - least).max(1));
        let bytes = bytes.to_vec();
        std::thread::spawn(move || {
            std::thread::sleep(wait);
            out(&bytes);
        });
    }
}

/// The relay in front of one node; ends when dropped.
pub struct Relay {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Relay {
    pub fn start(node: u16, weather: &Arc<Weather>) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").expect("a relay");
        let address = front.local_addr().expect("its address");
        let stop = Arc::new(AtomicBool::new(false));
        let (weather, ended) = (Arc::clone(weather), Arc::clone(&stop));
        std::thread::spawn(move || serve(&front, node, &weather, &ended));
        Self { address, stop }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(front: &UdpSocket, node: u16, weather: &Arc<Weather>, stop: &Arc<AtomicBool>) {
    let mut flows: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    front.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let mut packet = [0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = front.recv_from(&mut packet) else { continue };
        let flow = flows.entry(from).or_insert_with(|| {
            let back = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a socket for the flow"));
            back.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
            let (reader, front) = (Arc::clone(&back), front.try_clone().expect("a handle"));
            let (weather, stop) = (Arc::clone(weather), Arc::clone(stop));
            std::thread::spawn(move || {
                let mut packet = [0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    // Not connected, or the host would say of this port that it is closed to a stranger who asks: nodes
                    // do, when they hear nothing, and a NAT is silent.
                    let Ok((length, sender)) = reader.recv_from(&mut packet) else { continue };
                    if sender.port() != node {
                        continue;
                    }
                    let Ok(front) = front.try_clone() else { return };
                    weather.send(node, from.port(), &packet[..length], move |bytes| {
                        let _ = front.send_to(bytes, from);
                    });
                }
            });
            back
        });
        let flow = Arc::clone(flow);
        weather.send(from.port(), node, &packet[..length], move |bytes| {
            let _ = flow.send_to(bytes, ("127.0.0.1", node));
        });
    }
}
