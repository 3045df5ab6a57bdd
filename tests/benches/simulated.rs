//! Membership of 50 to 10,000 nodes in virtual time: the core of the daemon, on networks that lose packets.
//!
//! Prints for each size and weather: how long until all know of a host that went silent, healthy members declared down,
//! copies of each piece of news per node, bytes per node and second at rest (payload of datagrams, without the 64 to 70
//! bytes of QUIC, UDP and IP around each). Two worlds at a time, each on a thread of its own. Arguments: sizes, and
//! nothing else.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(unreachable_pub, reason = "the parts of a simulation are written like modules of a crate")]

use std::thread;
use std::time::{Duration, Instant};

#[allow(dead_code, reason = "every simulation uses a part of it")]
#[path = "../../simulations/net.rs"]
mod net;
#[allow(dead_code, reason = "every simulation uses a part of it")]
#[path = "../../simulations/membership/world.rs"]
mod world;

use maelstrom::gossip::State;
use maelstrom::rng::Rng;
use net::Weather;
use world::World;

const SECOND: Duration = Duration::from_secs(1);

/// What befalls the healthy ones while they are watched for false alarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// One of fifty stands still for 0.2 to 3 s again and again, as on machines that swap.
    Stalls,
}

#[derive(Debug, Default)]
struct Row {
    crashes: Vec<f64>,
    missed: u64,
    false_downs: u64,
    news: f64,
    changes: f64,
    bytes: f64,
    node_seconds: f64,
}

/// How much is tried: more for small worlds, whose figures are spread wider.
struct Effort {
    worlds: u64,
    crashes: usize,
    watched: Duration,
}

fn effort(hosts: usize) -> Effort {
    match hosts {
        ..=100 => Effort { worlds: 20, crashes: 8, watched: SECOND * 120 },
        101..=2000 => Effort { worlds: 4, crashes: 20, watched: SECOND * 60 },
        _ => Effort { worlds: 2, crashes: 10, watched: SECOND * 12 },
    }
}

/// All worlds of one size and weather, half of them on each of two threads.
fn measure(hosts: usize, loss: u64, trouble: Trouble) -> Row {
    let half = move |first| {
        let mut row = Row::default();
        for seed in (first..effort(hosts).worlds).step_by(2) {
            run_world(seed, hosts, loss, trouble, &mut row);
        }
        row
    };
    let [mut row, other] = thread::scope(|scope| {
        [0, 1].map(|first| scope.spawn(move || half(first))).map(|half| half.join().expect("a world does not panic"))
    });
    row.crashes.extend(other.crashes);
    row.crashes.sort_by(f64::total_cmp);
    row.missed += other.missed;
    row.false_downs += other.false_downs;
    row.news += other.news;
    row.changes += other.changes;
    row.bytes += other.bytes;
    row.node_seconds += other.node_seconds;
    row
}

fn run_world(seed: u64, hosts: usize, loss: u64, trouble: Trouble, row: &mut Row) {
    let weather = Weather { loss, ..Weather::CALM };
    let effort = effort(hosts);
    let mut chance = Rng::from_seed(seed ^ 0x0073_746f_726d);
    let mut world = World::acquainted(seed, hosts, weather);
    world.run(SECOND * 3);
    let before = world.count;
    let mut watched = Duration::ZERO;
    while watched < effort.watched {
        let step = Duration::from_millis(500);
        if trouble == Trouble::Stalls {
            for _ in 0..(hosts / 50).max(1) {
                let host = chance.below(hosts as u64) as usize;
                world.stall(host, Duration::from_millis(200 + chance.below(2800)));
            }
            // Each stands still for less than two seconds on average, so that a fiftieth does at any time.
            world.run(step * 3);
            watched += step * 3;
        }
        world.run(step);
        watched += step;
    }
    row.bytes += (world.count.bytes - before.bytes) as f64;
    row.node_seconds += watched.as_secs_f64() * hosts as f64;
    for crash in 0..effort.crashes {
        world.run(Duration::from_millis(3000 + chance.below(1000)));
        // The stalls are over: what is measured is how long a silent host stays unknown.
        let gone = (chance.below(hosts as u64) as usize..hosts).chain(0..hosts).find(|host| world.is_running(*host));
        let Some(gone) = gone else { break };
        let (from, before) = (world.now(), world.count);
        world.lose_host(gone);
        if world.wait(SECOND * 20, |world| world.all_see(gone, State::Down)) {
            row.crashes.push(world.now().since(from).as_secs_f64() * 1e3);
        } else {
            row.missed += 1;
        }
        world.run(SECOND);
        row.news += (world.count.news - before.news) as f64 / hosts as f64;
        row.changes += 1.0;
        // Few enough that those left are still a cluster of that size.
        if crash * 5 > hosts {
            break;
        }
    }
    row.false_downs += world.count.false_downs;
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = ((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![50, 1000, 10_000] } else { sizes };
    let mut figures = Vec::new();
    println!(
        "{:>6} {:>5} {:>7} {:>8} {:>11} {:>11} {:>7} {:>12} {:>8} {:>9} {:>7}",
        "N",
        "loss%",
        "trouble",
        "crashes",
        "known p50",
        "known p99",
        "missed",
        "false downs",
        "copies",
        "B/node/s",
        "took s"
    );
    for hosts in sizes {
        for (loss, trouble) in [
            (0, Trouble::None),
            (100, Trouble::None),
            (200, Trouble::None),
            (0, Trouble::Stalls),
            (100, Trouble::Stalls),
        ] {
            #[allow(clippy::disallowed_methods, reason = "how long the simulation itself took")]
            let begun = Instant::now();
            let row = measure(hosts, loss, trouble);
            let (copies, bytes) = (row.news / row.changes, row.bytes / row.node_seconds);
            let (p50, p99) = (quantile(&row.crashes, 0.5), quantile(&row.crashes, 0.99));
            let word = if trouble == Trouble::Stalls { "stalls" } else { "-" };
            println!(
                "{hosts:>6} {:>5} {word:>7} {:>8} {p50:>11.0} {p99:>11.0} {:>7} {:>12} {:>8.2} {:>9.1} {:>7.1}",
                loss / 10,
                row.crashes.len(),
                row.missed,
                row.false_downs,
                copies,
                bytes,
                begun.elapsed().as_secs_f64()
            );
            let stalls = if trouble == Trouble::Stalls { ".stalls" } else { "" };
            let name = format!("sim.n{hosts}.loss{}{stalls}", loss / 10);
            figures.push((format!("{name}.crash_known_p99_ms"), p99));
            figures.push((format!("{name}.false_downs"), row.false_downs as f64));
            figures.push((format!("{name}.copies_per_node_and_change"), copies));
            figures.push((format!("{name}.bytes_per_node_s"), bytes));
        }
    }
    for (name, value) in figures {
        println!("{name}={value:.2}");
    }
}
