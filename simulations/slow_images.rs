//! A component changes while its new image takes minutes to fetch: one node in virtual time, with a runtime that is made
//! up.

use std::sync::Arc;
use std::time::Duration;

use maelstrom::activation::queue::Waiter;
use maelstrom::activation::{Effect, Fact};
use maelstrom::failure::Phase;
use maelstrom::id::{ComponentName, InstanceId};
use maelstrom::model::Component;
use maelstrom::model::instance::InstanceState;
use maelstrom::model::share::Share;
use maelstrom::node::{Input, Node};
use maelstrom::rng::Rng;
use maelstrom::slots::Gates;
use maelstrom::time::{Mono, Now, Wall};

/// A node, and a runtime that starts the first definition at once and the second when it is told to.
struct World {
    node: Node,
    name: ComponentName,
    now: Duration,
    /// Instances of the second definition, whose image is being fetched.
    fetching: Vec<InstanceId>,
    stopped: Vec<InstanceId>,
    tickets: u64,
    granted: u64,
}

impl World {
    fn new() -> Self {
        let node = Node::new(Rng::from_seed(7), Arc::new(Gates::default()));
        let name = "api".parse().expect("a name");
        let (fetching, stopped) = (Vec::new(), Vec::new());
        Self { node, name, now: Duration::ZERO, fetching, stopped, tickets: 0, granted: 0 }
    }

    fn fact(&mut self, fact: Fact) {
        let name = self.name.clone();
        self.input(Input::Component(name, fact));
    }

    fn input(&mut self, input: Input) {
        let now = u64::try_from(self.now.as_millis()).expect("a short test");
        let now = Now { mono: Mono(0).after(self.now), wall: Wall(now) };
        self.node.handle(input, now);
        while let Some((_, effect)) = self.node.poll_effect() {
            self.carry_out(effect, now);
        }
    }

    fn carry_out(&mut self, effect: Effect, now: Now) {
        match effect {
            Effect::Start(id, _, fingerprint) if fingerprint == "new" => {
                self.fact(Fact::Pulling(id.clone()));
                self.fetching.push(id);
            }
            Effect::Start(id, ..) => self.come_up(id),
            Effect::Check(id, ..) => self.fact(Fact::Checked(id, Ok(()))),
            Effect::Stop(id, _) => {
                self.stopped.push(id.clone());
                self.fact(Fact::Stopped(id, Ok(())));
            }
            Effect::Grant(_, slots) => {
                self.granted += 1;
                slots.release(now.mono);
            }
            Effect::Refuse(_, failure) => panic!("an event was refused at {:?}: {failure}", self.now),
            Effect::Watch(..)
            | Effect::Abandon(_)
            | Effect::Claim(_)
            | Effect::Freeze(_)
            | Effect::Thaw(_)
            | Effect::Note(..)
            | Effect::Forget(_)
            | Effect::Discard(_) => {}
        }
    }

    fn come_up(&mut self, id: InstanceId) {
        self.fact(Fact::Creating(id.clone()));
        self.fact(Fact::Started(id.clone(), ([127, 0, 0, 1], 1).into(), "1".into()));
        self.fact(Fact::Ready(id));
    }

    /// An event every second, which must be granted a slot at once.
    fn serve(&mut self, for_: Duration) {
        let end = self.now + for_;
        while self.now < end {
            self.now += Duration::from_secs(1);
            self.input(Input::Tick);
            self.tickets += 1;
            let since = Mono(0).after(self.now);
            let waiter = Waiter {
                ticket: self.tickets,
                since,
                deadline: since.after(Duration::from_secs(5)),
                bytes: 0,
                stays: false,
            };
            self.fact(Fact::Wait(waiter));
            assert_eq!(self.granted, self.tickets, "an event waits at {:?}", self.now);
        }
    }

    /// Fingerprint and state of all instances.
    fn instances(&self) -> Vec<(String, InstanceState)> {
        let activation = self.node.get(&self.name).expect("it is known");
        activation.instances().map(|shown| (shown.fingerprint, shown.state)).collect()
    }

    fn define(&mut self, fingerprint: &str) {
        let document = serde_json::json!({
            "image": "app:1", "min": 1, "max": 1, "start_timeout": "10s", "idle": {"freeze": "never", "stop": "1h"},
        });
        let component = Component::parse(&self.name, &document).expect("a component");
        self.fact(Fact::Define(Arc::new(component), fingerprint.to_owned()));
        self.fact(Fact::Share(Share { count: 1, warm: 1, placed: 1, ..Share::default() }));
    }
}

#[test]
fn the_old_instance_serves_every_event_while_the_new_image_is_fetched_for_minutes() {
    let mut world = World::new();
    world.define("old");
    world.serve(Duration::from_secs(5));
    world.define("new");
    world.serve(Duration::from_secs(600));
    let mut expected = vec![("new".to_owned(), InstanceState::Pulling), ("old".to_owned(), InstanceState::Ready)];
    let mut found = world.instances();
    found.sort();
    expected.sort();
    assert_eq!((found, world.fetching.len()), (expected, 1), "one fetch, and nothing is given up for it");
    assert!(world.stopped.is_empty());
    let id = world.fetching.remove(0);
    world.come_up(id);
    world.serve(Duration::from_secs(5));
    assert_eq!(world.instances(), [("new".to_owned(), InstanceState::Ready)]);
    assert_eq!(world.stopped.len(), 1);
}

#[test]
fn an_image_that_cannot_be_fetched_leaves_the_old_instance_where_it_is() {
    let mut world = World::new();
    world.define("old");
    world.serve(Duration::from_secs(5));
    world.define("new");
    for _ in 0..5 {
        world.serve(Duration::from_secs(60));
        for id in std::mem::take(&mut world.fetching) {
            let (phase, reason) = (Phase::Pull, "registry cannot be reached".to_owned());
            world.fact(Fact::StartFailed { id, phase, reason, log: Vec::new() });
        }
        assert!(world.instances().contains(&("old".to_owned(), InstanceState::Ready)));
    }
    assert!(world.stopped.is_empty());
}

#[test]
fn what_is_fetched_for_a_definition_that_was_replaced_meanwhile_is_given_up() {
    let mut world = World::new();
    world.define("old");
    world.serve(Duration::from_secs(5));
    world.define("new");
    world.serve(Duration::from_secs(5));
    let id = world.fetching.remove(0);
    // As a rollback does.
    world.define("old");
    world.serve(Duration::from_secs(5));
    assert_eq!(world.instances(), [("old".to_owned(), InstanceState::Ready)]);
    assert_eq!(world.stopped, [id]);
}
