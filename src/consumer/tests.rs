//! Pollers against a queue of the test's own, in virtual time: what always holds, whatever fails.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::*;

const MS: u64 = 1_000_000;
const VISIBILITY: Duration = Duration::from_secs(30);

fn at(ms: u64) -> Mono {
    Mono(ms * MS)
}

fn options(fifo: bool) -> Options {
    Options {
        fifo,
        batch: 1,
        window: Duration::ZERO,
        visibility: VISIBILITY,
        long_poll: Duration::from_secs(20),
        backoff: Duration::from_secs(10),
        buries: false,
    }
}

fn message(id: u64, receipt: u64, group: Option<u64>, receives: u32) -> Message {
    Message {
        id: id.to_string(),
        receipt: Arc::from(receipt.to_string()),
        receives,
        group: group.map(|group| Arc::from(group.to_string())),
        sent: None,
        body: bytes::Bytes::new(),
        md5: String::new(),
        system: BTreeMap::new(),
        attributes: BTreeMap::new(),
    }
}

fn messages(ids: std::ops::Range<u64>) -> Vec<Message> {
    ids.map(|id| message(id, id, None, 1)).collect()
}

/// A poller with a limit, and what it wants at the beginning.
fn begun(options: Options, limit: usize) -> (Consumer, Vec<Effect>) {
    let mut consumer = Consumer::new(options, Rng::from_seed(1));
    consumer.set_limit(at(0), limit);
    let effects = drain(&mut consumer);
    (consumer, effects)
}

fn drain(consumer: &mut Consumer) -> Vec<Effect> {
    std::iter::from_fn(|| consumer.poll_effect()).collect()
}

fn receives(effects: &[Effect]) -> Vec<(u64, usize, Duration)> {
    let receive = |effect: &Effect| {
        let Effect::Receive { call, max, wait, .. } = effect else { return None };
        Some((*call, *max, *wait))
    };
    effects.iter().filter_map(receive).collect()
}

fn deliveries(effects: &[Effect]) -> Vec<(u64, Vec<&str>)> {
    fn deliver(effect: &Effect) -> Option<(u64, Vec<&str>)> {
        let Effect::Deliver { delivery, messages } = effect else { return None };
        Some((*delivery, messages.iter().map(|message| message.id.as_str()).collect()))
    }
    effects.iter().filter_map(deliver).collect()
}

fn changes(effects: &[Effect]) -> Vec<(u64, Vec<(String, u64)>)> {
    let change = |effect: &Effect| {
        let Effect::Change { call, changes } = effect else { return None };
        Some((*call, changes.iter().map(|(receipt, after)| (receipt.to_string(), after.as_secs())).collect()))
    };
    effects.iter().filter_map(change).collect()
}

fn deletes(effects: &[Effect]) -> Vec<(u64, Vec<Arc<str>>)> {
    let delete = |effect: &Effect| {
        let Effect::Delete { call, receipts } = effect else { return None };
        Some((*call, receipts.clone()))
    };
    effects.iter().filter_map(delete).collect()
}

fn good() -> Outcome {
    Outcome::Done(Report::Good)
}

#[test]
fn an_idle_queue_is_asked_by_one_long_poll_for_the_slots_that_are_free() {
    let (mut consumer, effects) = begun(options(false), 4);
    assert_eq!(receives(&effects), [(1, 4, Duration::from_secs(20))]);
    consumer.handle_tick(at(10_000));
    assert_eq!(drain(&mut consumer), []);
    consumer.handle_received(at(20_000), 1, Ok(vec![]));
    assert_eq!(receives(&drain(&mut consumer)).len(), 1);
    assert_eq!(consumer.need(at(20_000)), Need::Fewer);
}

#[test]
fn receives_grow_while_they_come_back_full_and_never_ask_for_more_than_is_free() {
    let (mut consumer, effects) = begun(options(false), 35);
    let first = receives(&effects)[0].0;
    consumer.handle_received(at(1), first, Ok(messages(0..10)));
    let more = receives(&drain(&mut consumer));
    assert_eq!(more.iter().map(|(_, max, _)| *max).collect::<Vec<_>>(), [10, 10], "25 are free, two at once");
    consumer.handle_received(at(2), more[0].0, Ok(messages(10..20)));
    consumer.handle_received(at(2), more[1].0, Ok(messages(20..30)));
    assert_eq!(receives(&drain(&mut consumer)), [], "5 are free: waits for ten");
    assert_eq!(consumer.poll_timeout(), Some(at(102)));
    consumer.handle_tick(at(102));
    assert_eq!(receives(&drain(&mut consumer)).iter().map(|(_, max, _)| *max).collect::<Vec<_>>(), [5]);
}

#[test]
fn messages_are_deleted_after_their_success_ten_to_a_call_and_failures_one_by_one() {
    let (mut consumer, effects) = begun(options(false), 10);
    consumer.handle_received(at(1), receives(&effects)[0].0, Ok(messages(0..10)));
    let started = drain(&mut consumer);
    for (delivery, _) in deliveries(&started) {
        consumer.handle_answered(at(2), delivery, &good());
    }
    let first = deletes(&drain(&mut consumer));
    assert_eq!(first.iter().map(|(_, receipts)| receipts.len()).collect::<Vec<_>>(), [10]);
    let mut fates = [Fate::Done; 10];
    fates[3] = Fate::Failed;
    fates[7] = Fate::Failed;
    consumer.handle_called(at(3), first[0].0, &fates);
    consumer.handle_tick(at(1000));
    let again = deletes(&drain(&mut consumer));
    assert_eq!(again.iter().map(|(_, receipts)| receipts.len()).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(consumer.counters().deleted, 8);
}

#[test]
fn a_lease_is_extended_until_the_handler_ends_and_never_beyond_twelve_hours() {
    let (mut consumer, effects) = begun(options(false), 1);
    consumer.handle_received(at(0), receives(&effects)[0].0, Ok(messages(0..1)));
    drain(&mut consumer);
    let (mut now, mut ends) = (at(0), at(30_000));
    while let Some(next) = consumer.poll_timeout() {
        now = next;
        consumer.handle_tick(now);
        for (call, entries) in changes(&drain(&mut consumer)) {
            assert!(now < ends, "it is extended while it is ours");
            ends = now.after(Duration::from_secs(entries[0].1));
            consumer.handle_called(now, call, &[Fate::Done]);
        }
    }
    let limit = Duration::from_secs(12 * 3600);
    assert!(now.since(at(0)) <= limit && now.since(at(0)) > limit - Duration::from_secs(120), "{now:?}");
    assert_eq!(consumer.counters().lease_lost, 1);
}

#[test]
fn the_answer_to_a_message_whose_lease_was_lost_is_ignored_and_told() {
    let (mut consumer, effects) = begun(options(false), 2);
    consumer.handle_received(at(0), receives(&effects)[0].0, Ok(messages(0..2)));
    let started = drain(&mut consumer);
    consumer.handle_tick(at(12_000));
    let (call, entries) = changes(&drain(&mut consumer)).remove(0);
    assert_eq!(entries.len(), 2, "one call for both");
    consumer.handle_called(at(12_001), call, &[Fate::Gone, Fate::Done]);
    assert!(matches!(&drain(&mut consumer)[..], [Effect::Lost(message)] if message.id == "0"));
    for (delivery, _) in deliveries(&started) {
        consumer.handle_answered(at(13_000), delivery, &good());
    }
    consumer.handle_tick(at(14_000));
    let deleted: Vec<_> = drain(&mut consumer).into_iter().filter(|e| matches!(e, Effect::Delete { .. })).collect();
    assert!(matches!(&deleted[..], [Effect::Delete { receipts, .. }] if receipts[..] == [Arc::from("1")]));
}

#[test]
fn a_message_that_comes_again_while_it_runs_is_not_started_twice() {
    let (mut consumer, effects) = begun(options(false), 2);
    consumer.handle_received(at(0), receives(&effects)[0].0, Ok(vec![message(7, 1, None, 1)]));
    let started = drain(&mut consumer);
    consumer.handle_tick(at(31_000));
    let effects = drain(&mut consumer);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Lost(_))));
    let call = [receives(&started), receives(&effects)].concat().first().expect("a receive").0;
    consumer.handle_received(at(31_001), call, Ok(vec![message(7, 2, None, 2)]));
    assert_eq!(deliveries(&drain(&mut consumer)), []);
    consumer.handle_answered(at(32_000), deliveries(&started)[0].0, &good());
    consumer.handle_tick(at(33_000));
    let effects = drain(&mut consumer);
    assert_eq!(deletes(&effects)[0].1, [Arc::from("2")], "by the new receipt");
}

#[test]
fn a_batch_reports_its_failures_and_only_those_come_back() {
    let (mut consumer, effects) = begun(Options { batch: 5, ..options(false) }, 5);
    consumer.handle_received(at(0), receives(&effects)[0].0, Ok(messages(0..5)));
    let started = drain(&mut consumer);
    assert_eq!(deliveries(&started)[0].1, ["0", "1", "2", "3", "4"]);
    let failed = Outcome::Done(Report::Failed(BTreeSet::from(["1".to_owned()])));
    consumer.handle_answered(at(1), deliveries(&started)[0].0, &failed);
    consumer.handle_tick(at(200));
    let effects = drain(&mut consumer);
    assert!(effects.iter().any(|e| matches!(e, Effect::Delete { receipts, .. } if receipts.len() == 4)));
    let back = &changes(&effects)[0].1;
    assert!(matches!(&back[..], [(receipt, 7..=13)] if receipt == "1"), "{back:?}");
}

#[test]
fn a_batch_waits_for_its_window_and_not_when_it_is_full() {
    let window = Duration::from_secs(5);
    let (mut consumer, effects) = begun(Options { batch: 3, window, ..options(false) }, 10);
    consumer.handle_received(at(0), receives(&effects)[0].0, Ok(messages(0..1)));
    let effects = drain(&mut consumer);
    assert_eq!(deliveries(&effects), []);
    consumer.handle_received(at(10), receives(&effects)[0].0, Ok(messages(1..5)));
    assert_eq!(deliveries(&drain(&mut consumer))[0].1, ["0", "1", "2"]);
    consumer.handle_tick(at(5_010));
    assert_eq!(deliveries(&drain(&mut consumer))[0].1, ["3", "4"]);
}

#[test]
fn a_message_that_failed_twice_with_a_batch_goes_alone() {
    let (mut consumer, effects) = begun(Options { batch: 10, ..options(false) }, 10);
    let again = (0..4).map(|id| message(id, id, None, if id < 2 { 3 } else { 2 })).collect();
    consumer.handle_received(at(0), receives(&effects)[0].0, Ok(again));
    let effects = drain(&mut consumer);
    let ids: Vec<_> = deliveries(&effects).into_iter().map(|(_, ids)| ids).collect();
    assert_eq!(ids, [vec!["0"], vec!["1"], vec!["2", "3"]]);
}

#[test]
fn a_failure_holds_back_its_group_from_the_tail_and_no_other() {
    let (mut consumer, effects) = begun(options(true), 10);
    let grouped = [(1, 1), (2, 1), (3, 1), (4, 2)].map(|(id, group)| message(id, id, Some(group), 1)).to_vec();
    consumer.handle_received(at(0), receives(&effects)[0].0, Ok(grouped));
    let started = drain(&mut consumer);
    let ids: Vec<_> = deliveries(&started).into_iter().map(|(_, ids)| ids).collect();
    assert_eq!(ids, [vec!["1"], vec!["4"]]);
    consumer.handle_answered(at(1), deliveries(&started)[0].0, &Outcome::Failed);
    consumer.handle_tick(at(150));
    let (_, back) = changes(&drain(&mut consumer)).remove(0);
    let order: Vec<_> = back.iter().map(|(receipt, _)| receipt.as_str()).collect();
    assert_eq!(order, ["3", "2", "1"]);
    assert_eq!((back[0].1, back[1].1), (0, 0), "behind the head, which is back later: {back:?}");
    assert!(back[2].1 >= 7);
}

#[test]
fn a_busy_component_gets_nothing_and_its_message_goes_back_for_as_long_as_it_said() {
    let (mut consumer, effects) = begun(options(false), 2);
    consumer.handle_received(at(0), receives(&effects)[0].0, Ok(messages(0..1)));
    let started = drain(&mut consumer);
    consumer.set_pause(at(1), Some(at(7_001)));
    consumer.handle_answered(at(1), deliveries(&started)[0].0, &Outcome::Busy(Some(Duration::from_secs(7))));
    consumer.handle_received(at(2), receives(&started)[0].0, Ok(messages(1..2)));
    consumer.handle_tick(at(200));
    let effects = drain(&mut consumer);
    assert_eq!((deliveries(&effects), receives(&effects)), (vec![], vec![]));
    assert_eq!(changes(&effects)[0].1, [("0".to_owned(), 7)]);
    consumer.handle_tick(at(7_001));
    assert_eq!(
        deliveries(&drain(&mut consumer))[0].1,
        ["1"],
        "it had been received already, and its count is not wasted"
    );
}

#[test]
fn what_nobody_got_stays_here_and_costs_no_receive() {
    let (mut consumer, effects) = begun(options(true), 5);
    let grouped = (0..3).map(|id| message(id, id, Some(1), 1)).collect();
    consumer.handle_received(at(0), receives(&effects)[0].0, Ok(grouped));
    for round in 0..4 {
        let effects = drain(&mut consumer);
        assert_eq!(deliveries(&effects)[0].1, ["0"], "round {round}");
        consumer.set_pause(at(round), Some(at(round + 1)));
        consumer.handle_answered(at(round), deliveries(&effects)[0].0, &Outcome::Unserved);
        consumer.handle_tick(at(round + 1));
    }
    assert_eq!(consumer.counters().released, 0);
}

#[test]
fn a_refused_message_is_buried_and_deleted_only_then() {
    let (mut consumer, effects) = begun(Options { buries: true, ..options(false) }, 1);
    consumer.handle_received(at(0), receives(&effects)[0].0, Ok(messages(0..1)));
    let delivery = deliveries(&drain(&mut consumer))[0].0;
    consumer.handle_answered(at(1), delivery, &Outcome::Refused);
    let effects = drain(&mut consumer);
    let call = effects.iter().find_map(|effect| {
        let Effect::Bury { call, message } = effect else { return None };
        (message.id == "0").then_some(*call)
    });
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Delete { .. })));
    consumer.handle_called(at(2), call.expect("buried"), &[Fate::Done]);
    consumer.handle_tick(at(200));
    assert!(drain(&mut consumer).iter().any(|effect| matches!(effect, Effect::Delete { .. })));
}

#[test]
fn a_fifo_receive_whose_answer_was_lost_is_repeated_by_its_name() {
    let (mut consumer, effects) = begun(options(true), 3);
    let Effect::Receive { call, max: 3, attempt, .. } = effects[0] else { panic!("{effects:?}") };
    consumer.handle_received(at(1), call, Err(Trouble::Unanswered));
    consumer.handle_tick(at(1_000));
    let again = drain(&mut consumer);
    assert!(matches!(again[..], [Effect::Receive { max: 3, attempt: same, .. }] if same == attempt), "{again:?}");
}

#[test]
fn a_service_that_refuses_is_asked_less_and_less_often() {
    let (mut consumer, mut effects) = begun(options(false), 3);
    let (mut now, mut waits) = (at(0), Vec::new());
    for _ in 0..12 {
        consumer.handle_received(now, receives(&effects)[0].0, Err(Trouble::Refused));
        let next = consumer.poll_timeout().expect("a next try");
        waits.push(next.since(now).as_millis());
        now = next;
        consumer.handle_tick(now);
        effects = drain(&mut consumer);
    }
    assert!(waits[0] >= 250 && waits[0] <= 500 && waits[11] >= 15_000 && waits[11] <= 30_000, "{waits:?}");
}

#[test]
fn a_quit_takes_nothing_new_waits_for_the_poll_and_gives_back_what_runs_too_long() {
    let (mut consumer, effects) = begun(options(true), 10);
    let grouped = (0..3).map(|id| message(id, id, Some(1), 1)).collect();
    consumer.handle_received(at(0), receives(&effects)[0].0, Ok(grouped));
    let started = drain(&mut consumer);
    let poll = receives(&started)[0].0;
    consumer.handle_quit(at(1));
    let (call, back) = changes(&drain(&mut consumer)).remove(0);
    assert_eq!(back, [("2".to_owned(), 0), ("1".to_owned(), 0)]);
    consumer.handle_called(at(2), call, &[Fate::Done; 2]);
    consumer.handle_received(at(3), poll, Ok(vec![message(9, 9, Some(2), 1)]));
    let late = drain(&mut consumer);
    assert_eq!(deliveries(&late)[0].1, ["9"], "it could start, and a receive is not wasted");
    assert_eq!(receives(&late), []);
    consumer.handle_answered(at(4), deliveries(&late)[0].0, &good());
    let Some(Effect::Delete { call, .. }) = consumer.poll_effect() else { panic!("not deleted at once") };
    consumer.handle_called(at(5), call, &[Fate::Done]);
    assert!(!consumer.is_done());
    consumer.handle_grace_over(at(6));
    let effects = drain(&mut consumer);
    assert!(matches!(effects[0], Effect::Cancel(_)), "{effects:?}");
    let (call, back) = changes(&effects).remove(0);
    assert_eq!(back, [("0".to_owned(), 0)]);
    consumer.handle_called(at(7), call, &[Fate::Done]);
    assert!(consumer.is_done());
}

/// A message in the queue of the world.
#[derive(Debug, Clone, Default)]
struct Stored {
    group: Option<u64>,
    visible: u64,
    receives: u32,
    receipt: u64,
    deleted: bool,
    handled: bool,
    given: u32,
}

#[derive(Debug)]
enum Event {
    Receive { call: u64, max: usize, until: u64, attempt: u64 },
    Received { call: u64, result: Result<Vec<Message>, Trouble> },
    Called { call: u64, fates: Vec<Fate> },
    Answered { delivery: u64, outcome: Outcome },
}

/// A queue, a component and a poller, decided by one seed.
struct World {
    now: u64,
    rng: Rng,
    fifo: bool,
    limit: usize,
    /// Of a hundred calls, those that fail; and those of which only the answer is lost.
    faults: u64,
    stored: Vec<Stored>,
    /// Of lost answers: which messages, by which receipts.
    attempts: BTreeMap<u64, Vec<(usize, u64)>>,
    events: BTreeMap<(u64, u64), Event>,
    running: BTreeMap<u64, Vec<u64>>,
    names: u64,
    poison: u64,
}

impl World {
    fn push(&mut self, after: u64, event: Event) {
        self.names += 1;
        self.events.insert((self.now + after, self.names), event);
    }

    fn is_fault(&mut self) -> bool {
        self.rng.below(100) < self.faults
    }

    /// Messages that may be given out now.
    fn visible(&self, max: usize) -> Vec<usize> {
        let is_out = |stored: &Stored| !stored.deleted && stored.receives > 0 && stored.visible > self.now;
        let closed: BTreeSet<_> = self.stored.iter().filter(|s| is_out(s)).map(|s| s.group).collect();
        let may = |stored: &Stored| !(self.fifo && closed.contains(&stored.group));
        let ready = |stored: &Stored| !stored.deleted && stored.visible <= self.now && may(stored);
        (0..self.stored.len()).filter(|&index| ready(&self.stored[index])).take(max).collect()
    }

    fn give(&mut self, chosen: &[usize]) -> Vec<Message> {
        let mut given = Vec::new();
        for &index in chosen {
            self.names += 1;
            let stored = &mut self.stored[index];
            stored.receives += 1;
            stored.visible = self.now + 30_000;
            stored.receipt = self.names;
            given.push(message(index as u64, self.names, stored.group, stored.receives));
        }
        given
    }

    fn by_receipt(&mut self, receipt: &str) -> Option<&mut Stored> {
        let receipt: u64 = receipt.parse().expect("a number");
        self.stored.iter_mut().find(|stored| stored.receipt == receipt && !stored.deleted)
    }

    fn carry_out(&mut self, effect: Effect) {
        let (latency, long) = (1 + self.rng.below(20), self.rng.below(50) == 0);
        match effect {
            Effect::Receive { call, max, wait, attempt } => {
                let until = self.now + u64::try_from(wait.as_millis()).expect("small");
                self.push(latency, Event::Receive { call, max, until, attempt });
            }
            Effect::Deliver { delivery, messages } => self.start(delivery, &messages, long),
            Effect::Cancel(delivery) => _ = self.running.remove(&delivery),
            Effect::Delete { call, receipts } => {
                let fates = receipts.iter().map(|receipt| self.delete(receipt)).collect();
                self.push(latency, Event::Called { call, fates });
            }
            Effect::Change { call, changes } => {
                let fates = changes.iter().map(|(receipt, after)| self.change(receipt, *after)).collect();
                self.push(latency, Event::Called { call, fates });
            }
            Effect::Bury { .. } => panic!("nothing is buried here"),
            Effect::Lost(_) => {}
        }
    }

    fn start(&mut self, delivery: u64, messages: &[Arc<Message>], long: bool) {
        let ids: Vec<u64> = messages.iter().map(|message| message.id.parse().expect("a number")).collect();
        let running: usize = self.running.values().map(Vec::len).sum();
        assert!(running + ids.len() <= self.limit, "more at once than the limit");
        for id in &ids {
            assert!(!self.running.values().flatten().any(|other| other == id), "{id} runs twice");
        }
        if self.fifo {
            let group = self.stored[usize::try_from(ids[0]).expect("small")].group;
            let same = |id: &u64| self.stored[usize::try_from(*id).expect("small")].group == group;
            assert!(!self.running.values().flatten().any(same), "two of a group at once");
            let open: Vec<u64> = (0..self.stored.len() as u64)
                .filter(|id| same(id) && !self.stored[usize::try_from(*id).expect("small")].deleted)
                .take(ids.len())
                .collect();
            assert_eq!(open, ids, "out of order in its group");
        }
        let outcome = match self.rng.below(100) {
            _ if ids.iter().any(|id| id % 20 == self.poison) => Outcome::Failed,
            0..=3 => Outcome::Failed,
            4 => Outcome::TimedOut,
            5 => Outcome::Busy(Some(Duration::from_secs(3))),
            6 => Outcome::Unserved,
            7 => Outcome::Done(Report::Failed(BTreeSet::from([ids[0].to_string()]))),
            _ => good(),
        };
        let length = if long { 20_000 + self.rng.below(60_000) } else { self.rng.below(50) };
        for id in &ids {
            self.stored[usize::try_from(*id).expect("small")].given += 1;
        }
        self.running.insert(delivery, ids);
        self.push(length, Event::Answered { delivery, outcome });
    }

    fn delete(&mut self, receipt: &str) -> Fate {
        let (before, after) = (self.is_fault(), self.is_fault());
        if before {
            return Fate::Failed;
        }
        let Some(stored) = self.by_receipt(receipt) else { return Fate::Gone };
        assert!(stored.handled, "deleted and not handled");
        stored.deleted = true;
        if after { Fate::Failed } else { Fate::Done }
    }

    fn change(&mut self, receipt: &str, after: Duration) -> Fate {
        if self.is_fault() {
            return Fate::Failed;
        }
        let now = self.now;
        match self.by_receipt(receipt) {
            Some(stored) if stored.visible > now => {
                stored.visible = now + u64::try_from(after.as_millis()).expect("small");
                // Gone to the dead-letter queue when it is next to be given out.
                Fate::Done
            }
            _ => Fate::Gone,
        }
    }

    fn happen(&mut self, event: Event, consumer: &mut Consumer) {
        let now = at(self.now);
        match event {
            Event::Receive { call, max, until, attempt } => {
                // The queue keeps what became poisonous: five receives.
                for stored in &mut self.stored {
                    stored.deleted |= stored.receives >= 5 && stored.visible <= self.now;
                }
                // The same receive again brings the same messages, as long as they are out.
                let is_out = |(index, receipt): &(usize, u64)| {
                    let stored = &self.stored[*index];
                    !stored.deleted && stored.receipt == *receipt && stored.visible > self.now
                };
                let known = self.attempts.get(&attempt).filter(|known| self.fifo && known.iter().all(is_out));
                let known = known.map(|known| known.iter().map(|(index, _)| *index).collect::<Vec<_>>());
                let counted = known.is_some();
                let chosen = known.unwrap_or_else(|| self.visible(max));
                if chosen.is_empty() && self.now < until {
                    self.push(200.min(until - self.now), Event::Receive { call, max, until, attempt });
                    return;
                }
                let refused = self.is_fault();
                let messages = if refused { Vec::new() } else { self.give(&chosen) };
                if counted && !refused {
                    chosen.iter().for_each(|&index| self.stored[index].receives -= 1);
                }
                let lost = !refused && self.is_fault();
                if lost {
                    let named = chosen.iter().map(|&index| (index, self.stored[index].receipt)).collect();
                    self.attempts.insert(attempt, named);
                }
                let result = match (refused, lost) {
                    (true, _) => Err(Trouble::Refused),
                    (_, true) => Err(Trouble::Unanswered),
                    _ => Ok(messages),
                };
                self.push(1, Event::Received { call, result });
            }
            Event::Received { call, result } => consumer.handle_received(now, call, result),
            Event::Called { call, fates } => consumer.handle_called(now, call, &fates),
            Event::Answered { delivery, outcome } => {
                let Some(ids) = self.running.remove(&delivery) else { return };
                if let Outcome::Done(report) = &outcome {
                    for id in ids.iter().take_while(|id| !self.fifo || report.is_good(&id.to_string())) {
                        let is_good = report.is_good(&id.to_string());
                        self.stored[usize::try_from(*id).expect("small")].handled |= is_good;
                    }
                }
                if let Outcome::Busy(_) | Outcome::Unserved = outcome {
                    consumer.set_pause(now, Some(now.after(Duration::from_secs(1))));
                }
                consumer.handle_answered(now, delivery, &outcome);
            }
        }
    }

    /// Runs until `end` in ms, or until `done`.
    fn run(&mut self, consumer: &mut Consumer, end: u64, done: impl Fn(&Self, &Consumer) -> bool) {
        let mut turns = 0;
        while self.now < end && !done(self, consumer) {
            turns += 1;
            assert!(turns < 2_000_000, "it turns without end at {}", self.now);
            while let Some(effect) = consumer.poll_effect() {
                self.carry_out(effect);
            }
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let timer = consumer.poll_timeout().map(|at| at.0.div_ceil(MS));
            let Some(next) = event.into_iter().chain(timer).min() else { return };
            self.now = self.now.max(next);
            if event == Some(next)
                && let Some((_, event)) = self.events.pop_first()
            {
                self.happen(event, consumer);
            } else {
                consumer.handle_tick(at(self.now));
            }
        }
    }
}

/// What the worlds of one kind saw in all.
#[derive(Debug, Default)]
struct Seen {
    worlds: u64,
    messages: u64,
    deliveries: u64,
    lost: u64,
}

thread_local!(static SEEN: RefCell<Seen> = RefCell::default());

fn world(seed: u64, fifo: bool) {
    let mut rng = Rng::from_seed(seed);
    let count = 20 + rng.below(200);
    let batch = if rng.below(2) == 0 { 1 } else { 1 + usize::try_from(rng.below(10)).expect("small") };
    let limit = batch + usize::try_from(rng.below(30)).expect("small");
    let groups = 1 + rng.below(8);
    let stored = (0..count)
        .map(|_| Stored { group: fifo.then(|| rng.below(groups)), visible: rng.below(3) * 1000, ..Stored::default() })
        .map(|stored| Stored { visible: if fifo { 0 } else { stored.visible }, ..stored });
    let mut world = World {
        now: 0,
        fifo,
        limit,
        faults: [0, 5, 30][usize::try_from(seed % 3).expect("small")],
        stored: stored.collect(),
        attempts: BTreeMap::new(),
        events: BTreeMap::new(),
        running: BTreeMap::new(),
        names: 0,
        poison: rng.below(20),
        rng: rng.child("world"),
    };
    let window = Duration::from_millis(rng.below(2) * 300);
    let options = Options { batch, window, ..options(fifo) };
    let mut lost = 0;
    // Lives: the first crashes, the second quits, the third finishes.
    for life in 0..3 {
        let mut consumer = Consumer::new(options.clone(), rng.child("consumer"));
        world.attempts.clear();
        consumer.set_limit(at(world.now), limit);
        let is_empty = |world: &World, _: &Consumer| world.stored.iter().all(|stored| stored.deleted);
        match life {
            0 => {
                let end = rng.below(5_000);
                world.run(&mut consumer, end, is_empty);
                world.events.clear();
                world.running.clear();
            }
            1 => {
                let end = world.now + rng.below(60_000);
                world.run(&mut consumer, end, is_empty);
                consumer.handle_quit(at(world.now));
                let grace = world.now + 10_000;
                world.run(&mut consumer, grace, |_, consumer| consumer.is_done());
                consumer.handle_grace_over(at(world.now));
                let end = world.now + 100_000;
                world.run(&mut consumer, end, |_, consumer| consumer.is_done());
                assert!(consumer.is_done(), "it does not come to its end: {consumer:?}");
                let is_held = |s: &Stored| !s.deleted && s.receives > 0 && s.visible > world.now + 900_000;
                assert!(!world.stored.iter().any(is_held));
                if world.faults == 0 {
                    // Nothing waits for a lease: all that is not visible waits for its own backoff.
                    assert_eq!((consumer.in_flight(), consumer.counters().lease_lost), (0, 0));
                }
                world.events.clear();
            }
            _ => {
                let end = world.now + 4 * 3600 * 1000;
                world.run(&mut consumer, end, is_empty);
                assert!(world.stored.iter().all(|stored| stored.deleted), "not empty: {consumer:?}");
                for (id, stored) in world.stored.iter().enumerate() {
                    // With faults a message may use up its receives without a success: the queue's rule, not a loss.
                    assert!(stored.handled || stored.receives >= 5, "{id} is lost: {stored:?}");
                    let is_poison = id as u64 % 20 == world.poison;
                    assert!(!is_poison || !stored.handled, "{id} is poison");
                    assert!(stored.given > 0 || world.faults > 0, "{id} was never given to a handler: {stored:?}");
                }
            }
        }
        lost += consumer.counters().lease_lost;
    }
    SEEN.with_borrow_mut(|seen| {
        seen.worlds += 1;
        seen.messages += count;
        seen.deliveries += world.stored.iter().map(|stored| u64::from(stored.given)).sum::<u64>();
        seen.lost += lost;
    });
}

fn worlds(fifo: bool) {
    // A minute and a half for 300 of each kind, which were all run; these take a quarter of it.
    for seed in 0..75 {
        if let Err(panic) = std::panic::catch_unwind(|| world(seed, fifo)) {
            eprintln!("seed {seed}, fifo {fifo}");
            std::panic::resume_unwind(panic);
        }
    }
    SEEN.with_borrow(|seen| eprintln!("fifo {fifo}: {seen:?}"));
}

#[test]
fn nothing_is_lost_whatever_fails() {
    worlds(false);
}

#[test]
fn a_group_is_in_order_whatever_fails() {
    worlds(true);
}
