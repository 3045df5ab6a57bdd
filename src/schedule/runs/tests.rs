//! The rules of runs, turn by turn.

use serde_json::{Value, json};

use super::*;
use crate::id::NodeId;
use crate::model::Source;
use crate::model::source::Trigger;

const A: Holder = Holder { node: NodeId(1), life: 1 };
const B: Holder = Holder { node: NodeId(2), life: 1 };

/// Noon of some day, in milliseconds.
const NOON: u64 = 1_790_000_000_000 / 86_400_000 * 86_400_000 + 12 * 3_600_000;

fn rules(doc: Value) -> Runs {
    let mut cron = json!({"schedule": "* * * * *", "path": "/"});
    cron.as_object_mut().expect("an object").extend(doc.as_object().cloned().unwrap_or_default());
    let name: SourceName = "s".parse().expect("a name");
    let source = Source::parse(&name, &json!({"component": "c", "cron": cron})).expect("a source");
    let Trigger::Cron(cron) = source.trigger else { panic!("a schedule") };
    Runs::new(&name, &cron).expect("rules")
}

/// One node with its rules, its ledger and its clock.
struct World {
    rules: Runs,
    ledger: Ledger,
    me: Holder,
    mine: BTreeSet<(RunId, u32)>,
    gone: Vec<Holder>,
    now: u64,
}

impl World {
    /// At noon, of a schedule that was defined then.
    fn new(doc: Value) -> Self {
        let ledger = Ledger::begun(Wall(NOON));
        Self { rules: rules(doc), ledger, me: A, mine: BTreeSet::new(), gone: Vec::new(), now: NOON }
    }

    /// A turn so many seconds after noon; the planned seconds of what is fired.
    fn turn(&mut self, second: u64) -> Vec<u64> {
        self.now = NOON + second * 1000;
        let gone = self.gone.clone();
        let known = Known { me: self.me, mine: &self.mine, is_gone: &|holder| gone.contains(&holder) };
        let turn = self.rules.turn(&mut self.ledger, Wall(self.now), &known);
        self.mine.extend(turn.fire.iter().map(Run::key));
        turn.fire.iter().map(|run| (run.id().planned.0 - NOON) / 1000).collect()
    }

    fn end(&mut self, planned: u64, status: Status) {
        let id = RunId { planned: Wall(NOON + planned * 1000), is_manual: false };
        let run = self.ledger.run(id).cloned().expect("an open run");
        self.mine.remove(&run.key());
        let outcome = Outcome { status, http: None, instance: None, problem: None, output: None };
        self.rules.end(&mut self.ledger, &run, Wall(self.now), outcome, u64::MAX);
    }

    /// What ended, by planned second.
    fn ended(&self) -> Vec<(u64, u32, Status)> {
        let shown = |ended: &crate::schedule::ledger::Ended| {
            ((ended.id().planned.0 - NOON) / 1000, ended.attempt, ended.outcome.status)
        };
        self.ledger.ended().iter().map(shown).collect()
    }

    /// Another node takes over with what it knows.
    fn moves_to(&mut self, holder: Holder) {
        self.me = holder;
        self.mine.clear();
    }
}

#[test]
fn a_planned_time_is_fired_once_and_a_new_schedule_makes_up_for_nothing() {
    let mut world = World::new(json!({"missed": "all"}));
    assert_eq!(world.turn(0), [0; 0]);
    assert_eq!(world.turn(59), [0; 0]);
    assert_eq!(world.turn(60), [60]);
    assert_eq!(world.turn(61), [0; 0]);
    world.end(60, Status::Ok);
    world.moves_to(B);
    assert_eq!(world.turn(62), [0; 0]);
    assert_eq!(world.turn(120), [120]);
    assert_eq!(world.ended(), [(60, 1, Status::Ok)]);
}

#[test]
fn missed_times_are_made_up_for_as_the_rule_says() {
    for (missed, fired) in [
        ("none", vec![]),
        ("latest", vec![600]),
        ("all:3", vec![480, 540, 600]),
        ("all", vec![60, 120, 180, 240, 300, 360, 420, 480, 540, 600]),
    ] {
        let mut world = World::new(json!({"missed": missed}));
        assert_eq!(world.turn(630), fired, "{missed}");
        let skipped = world.ended().iter().filter(|(_, _, status)| *status == Status::Skipped).count();
        assert_eq!(skipped, usize::from(missed != "all"), "{missed}");
        assert_eq!(world.turn(631), [0; 0], "{missed}");
    }
    // In time is in time, also after a hand-over.
    assert_eq!(World::new(json!({"missed": "none"})).turn(604), [600]);
    // Nothing begins after its deadline.
    assert_eq!(World::new(json!({"missed": "all", "start_deadline": "2m"})).turn(630), [540, 600]);
    let mut daily = World::new(json!({"schedule": "0 13 * * *"}));
    assert_eq!(daily.turn(7201), [0; 0]);
    assert_eq!(daily.ended(), [(3600, 1, Status::Skipped)]);
}

#[test]
fn a_long_absence_of_a_dense_schedule_ends_in_a_bounded_number_of_runs() {
    let mut world = World::new(json!({"schedule": "* * * * * *", "missed": "all:7", "start_deadline": "168h"}));
    assert_eq!(world.turn(300 * 3600).len(), 7);
    assert_eq!(world.ledger.ended().len(), 1);
    // More than may be open are skipped one by one.
    let mut world = World::new(json!({"schedule": "* * * * * *", "missed": "all"}));
    assert_eq!(world.turn(3000).len(), OPEN_MAX);
}

#[test]
fn a_clock_that_steps_fires_nothing_twice_and_no_storm() {
    let mut world = World::new(json!({"missed": "all:5"}));
    assert_eq!(world.turn(60), [60]);
    assert_eq!(world.turn(0), [0; 0]);
    assert_eq!(world.turn(60), [0; 0]);
    assert_eq!(world.turn(3600).len(), 5);
    assert_eq!(world.turn(120), [0; 0]);
    assert_eq!(world.turn(3660), [3660]);
}

#[test]
fn overlap_is_decided_on_what_all_nodes_run() {
    let mut allow = World::new(json!({}));
    assert_eq!((allow.turn(60), allow.turn(120)), (vec![60], vec![120]));

    let mut forbid = World::new(json!({"overlap": "forbid"}));
    assert_eq!(forbid.turn(60), [60]);
    forbid.moves_to(B);
    assert_eq!(forbid.turn(120), [0; 0]);
    assert_eq!(forbid.ended(), [(120, 1, Status::Skipped)]);
    // The other node died: its run is lost and begun again, and forbids in its turn until it is done.
    forbid.gone.push(A);
    assert_eq!(forbid.turn(130), [60]);
    assert_eq!(forbid.ended(), [(60, 1, Status::Lost), (120, 1, Status::Skipped)]);
    forbid.end(60, Status::Ok);
    assert_eq!(forbid.turn(180), [180]);

    let mut replace = World::new(json!({"overlap": "replace"}));
    assert_eq!((replace.turn(60), replace.turn(120)), (vec![60], vec![120]));
    assert_eq!(replace.ended(), [(60, 1, Status::Replaced)]);

    let mut again = World::new(json!({"overlap": "replace", "retries": 3}));
    assert_eq!(again.turn(60), [60]);
    again.now += 59_500;
    again.end(60, Status::Failed);
    assert_eq!((again.turn(120), again.turn(121)), (vec![120], vec![]), "what is tried again replaces nothing later");

    let mut queue = World::new(json!({"overlap": "queue"}));
    assert_eq!((queue.turn(60), queue.turn(120), queue.turn(180)), (vec![60], vec![], vec![]));
    assert_eq!(queue.ended(), [(180, 1, Status::Skipped)]);
    queue.end(60, Status::Ok);
    assert_eq!(queue.turn(200), [120]);
}

#[test]
fn a_failed_run_is_tried_again_later_and_later_within_its_identity() {
    let mut world = World::new(json!({"retries": 2}));
    assert_eq!(world.turn(60), [60]);
    world.end(60, Status::Failed);
    assert_eq!(world.turn(60), [0; 0]);
    assert_eq!(world.turn(61), [60]);
    world.end(60, Status::Failed);
    assert_eq!((world.turn(62), world.turn(63)), (vec![], vec![60]));
    world.end(60, Status::Failed);
    assert_eq!(world.turn(119), [0; 0]);
    assert_eq!(world.ended(), [(60, 1, Status::Failed), (60, 2, Status::Failed), (60, 3, Status::Failed)]);
}

#[test]
fn a_run_whose_node_died_is_begun_again_unless_that_may_be_once_too_often() {
    for (delivery, fired) in [("at-least-once", vec![60]), ("at-most-once", vec![])] {
        let mut world = World::new(json!({"delivery": delivery}));
        assert_eq!(world.turn(60), [60]);
        world.moves_to(B);
        assert_eq!(world.turn(61), [0; 0], "{delivery}: it may be alive");
        world.gone.push(A);
        assert_eq!(world.turn(62), fired, "{delivery}");
        assert_eq!(world.ended(), [(60, 1, Status::Lost)], "{delivery}");
        assert_eq!(world.turn(63), [0; 0], "{delivery}");
    }
    // A life of the same node that ended is gone as well.
    let mut world = World::new(json!({}));
    assert_eq!(world.turn(60), [60]);
    world.moves_to(Holder { life: 2, ..A });
    world.gone.push(A);
    assert_eq!(world.turn(61), [60]);
}

#[test]
fn jitter_shifts_the_beginning_and_not_the_identity() {
    let mut world = World::new(json!({"jitter": "50s"}));
    let shift = world.rules.shift().as_secs() + 1;
    assert!((1..=50).contains(&shift));
    assert_eq!((world.turn(60 + shift - 2), world.turn(60 + shift)), (vec![], vec![60]));
}

#[test]
fn who_asks_by_hand_gets_a_run_at_once_and_not_a_minute_later() {
    let mut world = World::new(json!({}));
    let ask = |world: &mut World, second: u64| {
        let id = RunId { planned: Wall(NOON + second * 1000), is_manual: true };
        world.ledger.set(Run::new(id, Cause::Manual, id.planned));
    };
    ask(&mut world, 10);
    assert_eq!(world.turn(11), [10]);
    ask(&mut world, 20);
    assert_eq!(world.turn(59), [20]);
    ask(&mut world, 60);
    assert_eq!(world.turn(121), [120]);
    let skipped: Vec<_> = world.ended().into_iter().filter(|ended| ended.2 == Status::Skipped).collect();
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    for second in 200..220 {
        ask(&mut world, second);
    }
    assert!(!may_ask(&world.ledger, Wall(NOON + 220_000)));
}
