//! Stories of one component in virtual time.

#![expect(clippy::wildcard_enum_match_arm, reason = "a story looks at one effect among many")]

use super::*;
use crate::model::component::{Command, Health, LogOptions, RestartOrder, Stop, Workload};

/// The world around one activation: a clock, and the effects since the last look.
struct World {
    activation: Activation,
    now: Now,
    rng: Rng,
    out: Vec<Effect>,
    notes: Vec<String>,
    free: u64,
}

fn component(change: impl FnOnce(&mut Component)) -> Arc<Component> {
    let one = std::num::NonZeroU32::MIN;
    let mut component = Component {
        name: "api".parse().expect("a name"),
        workload: Workload::Command(Command { argv: vec!["serve".into()], cwd: None }),
        port: None,
        env: BTreeMap::new(),
        cfg: Vec::new(),
        memory_reserve: 0,
        memory_limit: None,
        cpu: None,
        concurrency: one.saturating_add(9),
        concurrency_target: one.saturating_add(9),
        min_instances: 0,
        max_instances: one.saturating_add(4),
        max_per_node: one.saturating_add(4),
        singleton: crate::model::component::Singleton::No,
        freeze_after: Some(Duration::from_secs(30)),
        idle_timeout: Duration::from_secs(300),
        start_timeout: Duration::from_secs(60),
        request_timeout: Duration::from_secs(60),
        queue_limit: 5000,
        max_body: None,
        health: Health {
            path: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            failures: one.saturating_add(2),
        },
        restart_order: RestartOrder::StartFirst,
        rollout: crate::model::component::Rollout::default(),
        volumes: Vec::new(),
        network: None,
        log: LogOptions::default(),
        constraints: Vec::new(),
        labels: BTreeMap::new(),
        stop: Stop { signal: "SIGTERM".into(), grace: Duration::from_secs(10) },
    };
    change(&mut component);
    Arc::new(component)
}

impl World {
    fn new(change: impl FnOnce(&mut Component)) -> Self {
        let mut world = Self {
            activation: Activation::new(
                component(change),
                "v1".into(),
                Arc::new(Gate::new("api".parse().expect("a name"))),
            ),
            now: Now { mono: Mono(1_000_000_000), wall: Wall(1) },
            rng: Rng::from_seed(1),
            out: Vec::new(),
            notes: Vec::new(),
            free: u64::MAX,
        };
        world.fact(Fact::Tick);
        world
    }

    fn fact(&mut self, fact: Fact) {
        self.activation.handle(fact, self.now, self.free, &mut self.rng, &mut self.out);
        self.notes.extend(self.out.iter().filter_map(|effect| match effect {
            Effect::Note(_, _, text) => Some(text.clone()),
            _ => None,
        }));
        self.out.retain(|effect| !matches!(effect, Effect::Note(..) | Effect::Forget(_)));
    }

    /// The plan of a cluster of this node alone: so many here, so many of them always warm.
    fn share(&mut self, count: u32, warm: u32) {
        self.fact(Fact::Share(Share { count, warm, placed: count, ..Share::default() }));
    }

    fn wait(&mut self, ticket: Ticket) {
        let deadline = self.now.mono.after(Duration::from_secs(60));
        self.fact(Fact::Wait(Waiter { ticket, since: self.now.mono, deadline, bytes: 100, stays: false }));
    }

    /// Lets time pass, with a tick at each moment that the core asked for.
    fn pass(&mut self, time: Duration) {
        let end = self.now.mono.after(time);
        for _ in 0..100_000 {
            match self.activation.poll_timeout() {
                Some(next) if next <= end => {
                    self.now.mono = next.max(Mono(self.now.mono.0 + 1));
                    self.fact(Fact::Tick);
                }
                _ => break,
            }
        }
        self.now.mono = end;
        self.fact(Fact::Tick);
    }

    /// The instances whose start was asked for since the last call.
    fn starts(&mut self) -> Vec<InstanceId> {
        let mut ids = Vec::new();
        self.out.retain(|effect| match effect {
            Effect::Start(id, ..) => {
                ids.push(id.clone());
                false
            }
            _ => true,
        });
        ids
    }

    fn stops(&mut self) -> Vec<InstanceId> {
        let mut ids = Vec::new();
        self.out.retain(|effect| match effect {
            Effect::Stop(id, _) => {
                ids.push(id.clone());
                false
            }
            _ => true,
        });
        ids
    }

    /// Slots that were handed out since the last call.
    fn grants(&mut self) -> Vec<(Ticket, Arc<Slots>)> {
        let mut grants = Vec::new();
        self.out.retain(|effect| match effect {
            Effect::Grant(ticket, slots) => {
                grants.push((*ticket, Arc::clone(slots)));
                false
            }
            _ => true,
        });
        grants
    }

    fn refusals(&mut self) -> Vec<(Ticket, Failure)> {
        let mut refusals = Vec::new();
        self.out.retain(|effect| match effect {
            Effect::Refuse(ticket, failure) => {
                refusals.push((*ticket, failure.clone()));
                false
            }
            _ => true,
        });
        refusals
    }

    fn up(&mut self, id: &InstanceId) {
        self.fact(Fact::Creating(id.clone()));
        self.fact(Fact::Started(id.clone(), ([127, 0, 0, 1], 1).into(), "1".into()));
        self.fact(Fact::Ready(id.clone()));
    }

    /// A component with one ready instance that nobody uses.
    fn warm(change: impl FnOnce(&mut Component)) -> (Self, InstanceId) {
        let mut world = Self::new(change);
        world.wait(0);
        let id = world.starts().pop().expect("a start");
        world.up(&id);
        world.give_back_all();
        (world, id)
    }

    fn give_back_all(&mut self) {
        for (_, slots) in self.grants() {
            slots.release(self.now.mono);
        }
        self.fact(Fact::Freed);
    }

    fn states(&self) -> Vec<InstanceState> {
        self.activation.instances().map(|shown| shown.state).collect()
    }
}

#[test]
fn a_thousand_cold_events_start_one_instance_and_all_get_a_slot() {
    let mut world = World::new(|c| {
        c.concurrency = std::num::NonZeroU32::new(1000).expect("not zero");
        c.concurrency_target = std::num::NonZeroU32::new(700).expect("not zero");
        c.max_instances = std::num::NonZeroU32::MIN;
    });
    for ticket in 0..1000 {
        world.wait(ticket);
    }
    let started = world.starts();
    assert_eq!(started.len(), 1);
    world.up(&started[0]);
    let grants = world.grants();
    assert_eq!(grants.len(), 1000);
    assert!(grants.iter().map(|(ticket, _)| *ticket).eq(0..1000), "first in, first out");
    assert_eq!(grants[0].1.in_flight(), 1000);
    assert!(world.starts().is_empty());
}

#[test]
fn an_event_starts_one_instance_at_once_and_the_plan_the_others() {
    let mut world = World::new(|_| {});
    for ticket in 0..25 {
        world.wait(ticket);
    }
    assert_eq!(world.starts().len(), 1);
    world.share(3, 0);
    assert_eq!(world.starts().len(), 2);
    world.share(3, 0);
    assert!(world.starts().is_empty(), "a share is absolute");
}

#[test]
fn events_beyond_the_concurrency_wait_and_follow_as_slots_come_back() {
    let (mut world, _) = World::warm(|c| {
        c.concurrency = std::num::NonZeroU32::MIN;
        c.concurrency_target = std::num::NonZeroU32::MIN;
        c.max_instances = std::num::NonZeroU32::MIN;
    });
    world.wait(1);
    world.wait(2);
    let first = world.grants();
    assert_eq!(first.len(), 1);
    assert!(world.activation.gate().try_claim(0).is_none(), "nobody overtakes ticket 2");
    first[0].1.release(world.now.mono);
    world.fact(Fact::Freed);
    assert_eq!(world.grants().iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>(), [2]);
}

#[test]
fn an_unused_instance_freezes_then_stops() {
    let (mut world, id) = World::warm(|_| {});
    world.pass(Duration::from_secs(29));
    assert_eq!(world.states(), [InstanceState::Ready]);
    world.fact(Fact::Checked(id.clone(), Ok(())));
    world.pass(Duration::from_secs(2));
    assert!(world.out.iter().any(|effect| matches!(effect, Effect::Freeze(_))), "{:?}", world.out);
    assert!(world.activation.gate().try_claim(0).is_none(), "closed before it freezes");
    world.fact(Fact::Frozen(id.clone(), Ok(())));
    world.pass(Duration::from_secs(260));
    assert!(world.stops().is_empty());
    world.pass(Duration::from_secs(15));
    assert_eq!(world.stops(), std::slice::from_ref(&id));
    world.fact(Fact::Stopped(id, Ok(())));
    assert!(world.states().is_empty());
    assert_eq!(world.activation.poll_timeout(), None, "a cold component needs no timer");
}

#[test]
fn an_event_thaws_a_frozen_instance_rather_than_starting_another() {
    let (mut world, id) = World::warm(|_| {});
    world.pass(Duration::from_secs(31));
    world.fact(Fact::Frozen(id.clone(), Ok(())));
    world.wait(7);
    assert!(world.starts().is_empty());
    assert!(world.out.iter().any(|effect| matches!(effect, Effect::Thaw(_))));
    world.fact(Fact::Thawed(id, Ok(())));
    assert_eq!(world.grants().len(), 1);
}

#[test]
fn an_event_that_comes_while_the_instance_freezes_is_answered_by_it() {
    let (mut world, id) = World::warm(|_| {});
    world.pass(Duration::from_secs(31));
    world.wait(7);
    world.fact(Fact::Frozen(id.clone(), Ok(())));
    assert!(world.out.iter().any(|effect| matches!(effect, Effect::Thaw(_))));
    world.fact(Fact::Thawed(id, Ok(())));
    assert_eq!(world.grants().len(), 1);
    assert!(world.starts().is_empty());
}

#[test]
fn an_open_stream_keeps_its_instance_warm() {
    let (mut world, id) = World::warm(|_| {});
    let slots = world.activation.gate().try_claim(0).expect("a slot");
    for _ in 0..100 {
        world.pass(Duration::from_secs(10));
        world.fact(Fact::Checked(id.clone(), Ok(())));
    }
    assert_eq!(world.states(), [InstanceState::Ready]);
    slots.release(world.now.mono);
    world.fact(Fact::Freed);
    world.pass(Duration::from_secs(31));
    assert!(world.out.iter().any(|effect| matches!(effect, Effect::Freeze(_))));
}

#[test]
fn what_is_always_warm_is_started_without_demand_and_never_frozen() {
    let mut world = World::new(|_| {});
    world.share(2, 2);
    let ids = world.starts();
    assert_eq!(ids.len(), 2);
    for id in &ids {
        world.up(id);
    }
    for _ in 0..100 {
        world.pass(Duration::from_secs(10));
        for id in &ids {
            world.fact(Fact::Checked(id.clone(), Ok(())));
        }
    }
    assert_eq!(world.states(), [InstanceState::Ready, InstanceState::Ready]);
}

#[test]
fn a_failed_start_answers_all_who_wait_with_the_reason_and_the_last_lines() {
    let mut world = World::new(|_| {});
    world.wait(1);
    world.wait(2);
    let id = world.starts().pop().expect("a start");
    let log = vec!["no such file: config.json".to_owned()];
    world.fact(Fact::Exited { id: id.clone(), how: "exited with code 3".into(), log: log.clone() });
    let refusals = world.refusals();
    assert_eq!(refusals.len(), 2);
    match &refusals[0].1 {
        Failure::NotStarted { reason, log: lines, .. } => {
            assert!(reason.contains("exited with code 3"), "{reason}");
            assert_eq!(*lines, log);
        }
        other => panic!("{other}"),
    }
    world.fact(Fact::StartFailed { id, phase: Phase::Ready, reason: "late".into(), log: Vec::new() });
    assert!(world.refusals().is_empty(), "a ticket is answered once");
}

#[test]
fn an_instance_that_never_becomes_ready_is_stopped_and_its_end_changes_no_answer() {
    let mut world = World::new(|_| {});
    world.wait(1);
    let id = world.starts().pop().expect("a start");
    world.fact(Fact::Started(id.clone(), ([127, 0, 0, 1], 1).into(), "1".into()));
    let reason = "nothing accepts connections".to_owned();
    world.fact(Fact::StartFailed { id: id.clone(), phase: Phase::Ready, reason, log: Vec::new() });
    assert!(matches!(&world.refusals()[..], [(1, Failure::NotStarted { reason, .. })] if reason.contains("accepts")));
    assert_eq!(world.stops(), std::slice::from_ref(&id));
    world.fact(Fact::Exited { id, how: "killed by signal 15".into(), log: Vec::new() });
    assert!(world.activation.problem().is_some_and(|problem| problem.reason.contains("accepts")));
    assert!(world.states().is_empty());
}

#[test]
fn starts_that_keep_failing_are_spaced_out_and_events_meanwhile_hear_why() {
    let mut world = World::new(|_| {});
    let mut failures = 0;
    for round in 0..8 {
        world.wait(round);
        for id in world.starts() {
            failures += 1;
            let reason = "no such image".to_owned();
            world.fact(Fact::StartFailed { id, phase: Phase::Pull, reason, log: Vec::new() });
        }
        world.pass(Duration::from_millis(300));
    }
    assert!((2..=5).contains(&failures), "{failures} starts in 2.4 s");
    assert!(world.refusals().len() >= 7);
    world.pass(Duration::from_secs(40));
    world.wait(99);
    assert_eq!(world.starts().len(), 1, "tried again after the wait");
}

#[test]
fn a_changed_definition_starts_the_new_instance_before_the_old_one_goes() {
    let (mut world, old) = World::warm(|_| {});
    let held = world.activation.gate().try_claim(0).expect("a slot");
    world.fact(Fact::Define(component(|_| {}), "v2".into()));
    let new = world.starts().pop().expect("a start");
    assert!(world.activation.gate().try_claim(0).is_some_and(|slots| slots.instance == old), "the old one serves on");
    world.up(&new);
    let slots = world.activation.gate().try_claim(0).expect("a slot");
    assert_eq!(slots.instance, new);
    assert!(world.stops().is_empty(), "it still holds two events");
    held.release(world.now.mono);
    held.release(world.now.mono);
    world.fact(Fact::Freed);
    assert_eq!(world.stops(), [old]);
}

#[test]
fn a_changed_definition_that_does_not_start_leaves_the_old_instance_serving() {
    let (mut world, old) = World::warm(|_| {});
    world.fact(Fact::Define(component(|_| {}), "v2".into()));
    for _ in 0..5 {
        for id in world.starts() {
            let reason = "no such image".to_owned();
            world.fact(Fact::StartFailed { id, phase: Phase::Pull, reason, log: Vec::new() });
        }
        world.pass(Duration::from_secs(3));
    }
    assert!(world.activation.gate().try_claim(0).is_some_and(|slots| slots.instance == old));
    assert!(world.activation.problem().is_some());
}

#[test]
fn with_stop_first_two_instances_never_run_at_once() {
    let (mut world, old) = World::warm(|_| {});
    world.fact(Fact::Define(component(|c| c.restart_order = RestartOrder::StopFirst), "v2".into()));
    assert!(world.starts().is_empty());
    assert_eq!(world.stops(), std::slice::from_ref(&old));
    world.wait(5);
    assert!(world.starts().is_empty(), "the old one is not gone yet");
    world.fact(Fact::Stopped(old, Ok(())));
    assert_eq!(world.starts().len(), 1);
}

#[test]
fn a_failing_check_never_removes_the_last_instance_without_a_replacement() {
    let (mut world, sick) = World::warm(|c| c.max_instances = std::num::NonZeroU32::MIN);
    for _ in 0..3 {
        world.fact(Fact::Checked(sick.clone(), Err("GET / answered 500".into())));
    }
    let new = world.starts().pop().expect("a replacement");
    assert!(world.activation.gate().try_claim(0).is_some_and(|slots| {
        slots.release(Mono(0));
        slots.instance == sick
    }));
    world.fact(Fact::StartFailed { id: new, phase: Phase::Ready, reason: "500".into(), log: Vec::new() });
    assert!(!world.stops().contains(&sick), "no replacement, so it stays");
    world.pass(Duration::from_secs(5));
    let new = world.starts().pop().expect("another try");
    world.up(&new);
    assert_eq!(world.stops(), [sick]);
}

#[test]
fn a_removed_component_refuses_who_waits_and_leaves_nothing() {
    let (mut world, id) = World::warm(|c| c.concurrency = std::num::NonZeroU32::MIN);
    world.fact(Fact::Remove);
    assert_eq!(world.stops(), std::slice::from_ref(&id));
    world.wait(3);
    assert!(matches!(world.refusals()[..], [(3, Failure::NoComponent(_))]));
    world.fact(Fact::Stopped(id, Ok(())));
    assert!(world.activation.is_over());
}

#[test]
fn an_event_past_its_deadline_hears_in_which_phase_the_time_went() {
    let mut world = World::new(|_| {});
    world.wait(1);
    let id = world.starts().pop().expect("a start");
    world.fact(Fact::Pulling(id));
    world.pass(Duration::from_secs(61));
    assert!(matches!(world.refusals()[..], [(1, Failure::Deadline { phase: Phase::Pull, .. })]));
    assert!(world.starts().is_empty(), "the start goes on, nobody asks for a second");
}

#[test]
fn an_adopted_instance_answers_instead_of_a_new_one() {
    let mut world = World::new(|_| {});
    let name: ComponentName = "api".parse().expect("a name");
    let id = InstanceId::new(&name, 9);
    let address = ([127, 0, 0, 1], 5).into();
    world.fact(Fact::Found { id: id.clone(), fingerprint: "v1".into(), address, handle: "77".into(), frozen: false });
    world.wait(1);
    assert!(world.starts().is_empty());
    world.fact(Fact::Ready(id.clone()));
    assert_eq!(world.grants().pop().map(|(_, slots)| slots.instance.clone()), Some(id));
}

/// So many instances that are ready and planned.
fn several(count: u32, change: impl FnOnce(&mut Component)) -> (World, Vec<InstanceId>) {
    let mut world = World::new(change);
    world.share(count, 0);
    let ids = world.starts();
    assert_eq!(ids.len(), count as usize);
    ids.iter().for_each(|id| world.up(id));
    (world, ids)
}

#[test]
fn what_is_beyond_the_share_goes_only_when_it_is_not_missed_and_the_least_busy_first() {
    let (mut world, ids) = several(3, |_| {});
    let busy =
        world.activation.gate().live().iter().find(|slots| slots.instance == ids[1]).cloned().expect("it is live");
    assert!(busy.try_claim());
    // Its place is elsewhere, and nothing serves there yet.
    world.fact(Fact::Share(Share { placed: 3, ..Share::default() }));
    assert!(world.stops().is_empty(), "{:?}", world.states());
    world.fact(Fact::Share(Share { placed: 3, serving_elsewhere: 2, ..Share::default() }));
    let stopped = world.stops();
    assert!(stopped.len() == 2 && !stopped.contains(&ids[1]), "{stopped:?}");
    world.fact(Fact::Share(Share { placed: 3, serving_elsewhere: 3, ..Share::default() }));
    assert!(world.stops().is_empty(), "it has an event");
    busy.release(world.now.mono);
    world.fact(Fact::Freed);
    assert_eq!(world.stops(), [ids[1].clone()]);
}

#[test]
fn what_nobody_wants_any_more_stays_for_its_idle_timeout_unless_the_node_is_to_be_empty() {
    let (mut world, ids) = several(2, |c| c.freeze_after = None);
    world.share(0, 0);
    world.pass(Duration::from_secs(299));
    assert!(world.stops().is_empty());
    world.pass(Duration::from_secs(2));
    assert_eq!(world.stops().len(), 2);
    let (mut world, _) = several(2, |_| {});
    world.fact(Fact::Share(Share { leave: true, ..Share::default() }));
    assert_eq!(world.stops().len(), ids.len());
}

#[test]
fn old_instances_go_one_by_one_as_new_ones_take_over() {
    let (mut world, old) = several(3, |_| {});
    world.fact(Fact::Define(component(|_| {}), "v2".into()));
    let new = world.starts();
    assert!(new.len() == 3 && world.stops().is_empty());
    for (index, id) in new.iter().enumerate() {
        world.up(id);
        let stopped = world.stops();
        assert!(stopped.len() == 1 && old.contains(&stopped[0]), "{index}: {stopped:?}");
    }
}

#[test]
fn before_its_turn_a_node_keeps_its_old_instances_and_starts_no_new_ones() {
    let (mut world, old) = several(2, |_| {});
    let share = Share { count: 2, placed: 4, hold: true, ..Share::default() };
    world.fact(Fact::Share(share));
    world.fact(Fact::Define(component(|_| {}), "v2".into()));
    assert!(world.starts().is_empty() && world.stops().is_empty());
    world.fact(Fact::Share(Share { hold: false, ..share }));
    assert_eq!((world.starts().len(), old.len()), (2, 2));
}

#[test]
fn a_new_definition_waits_until_the_plan_has_heard_of_it() {
    let (mut world, _) = several(1, |_| {});
    let of = |fingerprint: &str| crate::hash::hash64(fingerprint.as_bytes());
    let share = Share { count: 1, placed: 1, of: of("v1"), ..Share::default() };
    world.fact(Fact::Share(share));
    world.fact(Fact::Define(component(|_| {}), "v2".into()));
    assert!(world.starts().is_empty() && world.stops().is_empty());
    world.fact(Fact::Share(Share { of: of("v2"), ..share }));
    assert_eq!(world.starts().len(), 1);
}

#[test]
fn without_memory_for_both_an_old_instance_makes_room_for_its_successor() {
    let (mut world, old) = several(1, |c| c.memory_reserve = 100);
    world.free = 50;
    world.fact(Fact::Define(component(|c| c.memory_reserve = 100), "v2".into()));
    assert!(world.starts().is_empty());
    assert_eq!(world.activation.short(), Some(100));
    world.fact(Fact::NoRoom { left: 50, capacity: 150 });
    assert_eq!(world.stops(), old);
    world.free = 150;
    world.fact(Fact::Stopped(old[0].clone(), Ok(())));
    assert_eq!(world.starts().len(), 1);
}

#[test]
fn events_for_which_there_is_no_memory_hear_so_and_may_go_elsewhere() {
    let mut world = World::new(|c| c.memory_reserve = 100);
    world.free = 50;
    world.wait(1);
    assert!(world.starts().is_empty() && world.refusals().is_empty());
    world.fact(Fact::NoRoom { left: 50, capacity: 50 });
    assert!(matches!(&world.refusals()[..], [(1, Failure::NoRoom { .. })]));
}

#[test]
fn events_that_could_be_taken_elsewhere_at_once_look_for_their_way_again() {
    let (mut world, _) = World::warm(|_| {});
    (0..40).for_each(|ticket| world.wait(ticket));
    world.refusals();
    let waiting = world.activation.waiting();
    world.fact(Fact::Share(Share { room_elsewhere: 7, ..Share::default() }));
    let sent = world.refusals();
    assert!(sent.len() == 7 && sent.iter().all(|(_, failure)| matches!(failure, Failure::Elsewhere(_))), "{sent:?}");
    world.fact(Fact::Tick);
    assert!(world.refusals().is_empty(), "no more are on their way at one moment");
    world.fact(Fact::Returned);
    assert_eq!((world.refusals().len(), world.activation.waiting()), (1, waiting - 8));
}

#[test]
fn an_event_starts_nothing_where_the_component_has_all_it_may_have_elsewhere() {
    let mut world = World::new(|_| {});
    world.fact(Fact::Share(Share { placed: 1, serving_elsewhere: 1, full_elsewhere: true, ..Share::default() }));
    world.wait(1);
    assert!(world.starts().is_empty());
    assert!(matches!(&world.refusals()[..], [(1, Failure::Elsewhere(_))]));
}

#[test]
fn draining_refuses_who_waits_and_starts_nothing() {
    let mut world = World::new(|_| {});
    world.wait(1);
    world.starts();
    world.fact(Fact::Drain);
    world.wait(2);
    assert_eq!(world.refusals().len(), 2);
    assert!(world.starts().is_empty());
}

/// A strict singleton that has its place here, and may run for five seconds.
fn strict() -> (World, InstanceId) {
    let mut world = World::new(strictly);
    world.share(1, 0);
    assert!(world.starts().is_empty() && world.claims() == [true], "it asks first");
    world.fact(Fact::Consent(world.now.mono.after(Duration::from_secs(5))));
    let id = world.starts().pop().expect("a start");
    world.up(&id);
    (world, id)
}

fn strictly(component: &mut Component) {
    component.singleton = crate::model::component::Singleton::Strict;
    component.max_instances = std::num::NonZeroU32::MIN;
    component.restart_order = RestartOrder::StopFirst;
}

impl World {
    fn claims(&mut self) -> Vec<bool> {
        let claims = self.out.iter().filter_map(|effect| match effect {
            Effect::Claim(is_claimed) => Some(*is_claimed),
            _ => None,
        });
        let claims = claims.collect();
        self.out.retain(|effect| !matches!(effect, Effect::Claim(_)));
        claims
    }
}

#[test]
fn an_event_alone_starts_no_strict_singleton_and_hears_why_where_too_few_nodes_are_seen() {
    let mut world = World::new(strictly);
    world.wait(1);
    world.fact(Fact::Consent(world.now.mono.after(Duration::from_secs(5))));
    assert!(world.starts().is_empty() && world.claims().is_empty(), "the plan has no place for it here");
    world.fact(Fact::Share(Share { apart: true, ..Share::default() }));
    let refused = world.refusals();
    assert!(matches!(&refused[..], [(1, Failure::Nowhere { reason, .. })] if reason.contains("half of the nodes")));
    world.wait(2);
    assert_eq!(world.refusals().len(), 1, "and so does who comes later");
}

#[test]
fn a_strict_singleton_whose_consent_is_over_is_stopped_soon_whatever_it_does_and_its_claim_stays_until_it_is_gone() {
    let (mut world, id) = strict();
    world.wait(1);
    assert_eq!(world.grants().len(), 1, "it has an event");
    world.pass(Duration::from_secs(4));
    world.fact(Fact::Consent(world.now.mono.after(Duration::from_secs(5))));
    world.pass(Duration::from_secs(4));
    assert!(world.stops().is_empty(), "it was renewed");
    world.pass(Duration::from_secs(2));
    let grace = world.out.iter().find_map(|effect| match effect {
        Effect::Stop(stopped, component) if *stopped == id => Some(component.stop.grace),
        _ => None,
    });
    assert_eq!(grace, Some(Duration::from_secs(3)), "its own would be ten");
    assert!(world.notes.iter().any(|note| note.contains("more than half of the nodes")), "{:?}", world.notes);
    assert!(world.claims().is_empty() && world.starts().is_empty());
    world.fact(Fact::Stopped(id, Ok(())));
    assert!(world.starts().is_empty(), "still without consent");
    world.fact(Fact::Consent(world.now.mono.after(Duration::from_secs(5))));
    assert_eq!(world.starts().len(), 1);
}

#[test]
fn a_strict_singleton_leaves_a_place_that_is_not_its_own_before_it_runs_elsewhere() {
    let (mut world, id) = strict();
    world.fact(Fact::Share(Share { placed: 1, ..Share::default() }));
    assert_eq!((world.stops(), world.claims()), (vec![id.clone()], vec![]), "nothing serves elsewhere yet");
    world.fact(Fact::Stopped(id, Ok(())));
    assert_eq!(world.claims(), [false], "now another may have it");
}

#[test]
fn one_that_must_not_run_beside_another_is_not_started_while_the_other_goes_whatever_the_plan_has_heard() {
    let (mut world, old) = World::warm(|c| c.restart_order = RestartOrder::StopFirst);
    let of = |fingerprint: &str| crate::hash::hash64(fingerprint.as_bytes()).max(1);
    world.fact(Fact::Share(Share { count: 1, placed: 1, of: of("v1"), ..Share::default() }));
    world.fact(Fact::Suspect(old.clone()));
    for _ in 0..3 {
        world.fact(Fact::Checked(old.clone(), Err("no answer".into())));
    }
    assert_eq!(world.stops(), std::slice::from_ref(&old), "it is sick and goes");
    world.fact(Fact::Define(component(|c| c.restart_order = RestartOrder::StopFirst), "v2".into()));
    assert!(world.starts().is_empty(), "the old one is not gone yet");
    world.fact(Fact::Stopped(old, Ok(())));
    assert_eq!(world.starts().len(), 1);
}
