//! A world in which everything goes wrong for a while, drawn from one seed, and then nothing any more.

use std::collections::BTreeSet;
use std::time::Duration;

use maelstrom::rng::Rng;

use crate::net::{Host, Weather};
use crate::world::World;

/// How often each misfortune came; a kind that never came would go untested.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen(pub [u64; 8]);

/// What the networks of people are like when they are not well.
pub const ROUGH: Weather =
    Weather { loss: 100, twice: 50, fastest: Duration::from_micros(100), slowest: Duration::from_millis(20) };

/// Runs one world to its end. An error says who does not see whom.
pub fn run(seed: u64, seen: &mut Seen) -> Result<u64, String> {
    let mut chance = Rng::from_seed(seed ^ 0x006d_6978_6564);
    let hosts = 3 + chance.below(10) as usize;
    let weather = if chance.below(2) == 0 { Weather::CALM } else { ROUGH };
    let mut world = World::joined(seed, hosts, weather);
    for _ in 0..4 + chance.below(5) {
        misfortune(&mut world, &mut chance, seen);
        world.run(Duration::from_millis(200 + chance.below(4000)));
    }
    world.heal();
    world.set_weather(Weather::CALM);
    // As a supervisor does, and the seeds that a node tries for ever.
    for host in 0..hosts {
        if !world.is_running(host) {
            world.start(host, other(&world, host, &mut chance));
        }
    }
    if world.wait(Duration::from_secs(60), World::is_whole) {
        Ok(world.trace_hash())
    } else {
        Err(format!("{hosts} hosts: {:?}", world.blind()))
    }
}

/// A host that runs.
fn other(world: &World, than: Host, chance: &mut Rng) -> Option<Host> {
    let running: Vec<Host> = world.running().filter(|host| *host != than).collect();
    (!running.is_empty()).then(|| running[chance.below(running.len() as u64) as usize])
}

fn misfortune(world: &mut World, chance: &mut Rng, seen: &mut Seen) {
    let hosts = world.hosts();
    let host = chance.below(hosts as u64) as usize;
    let kind = chance.below(8) as usize;
    // Somebody stays: what nobody remembers, nobody can join.
    let few = world.running().count() <= 2;
    match kind {
        0 if world.is_running(host) && !few => world.lose_host(host),
        1 if world.is_running(host) && !few => world.kill(host),
        2 if world.is_running(host) && !few => world.leave(host),
        3 if !world.is_running(host) => world.start(host, other(world, host, chance)),
        4 => world.stall(host, Duration::from_millis(chance.below(12_000))),
        5 | 6 => {
            let side: BTreeSet<Host> = (0..hosts).filter(|_| chance.below(2) == 0).collect();
            world.partition(&side, kind == 6);
        }
        7 => world.heal(),
        _ => return,
    }
    seen.0[kind] += 1;
}
