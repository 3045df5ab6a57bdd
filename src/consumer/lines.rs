//! Messages that were received and not handed over yet: in one line, or in one for each group of a FIFO queue, where
//! the next may go only when nothing of the group is under way.
//!
//! Knows nothing of messages but their numbers, which grow in the order in which they came.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

#[derive(Debug, Default)]
struct Group {
    waiting: VecDeque<u64>,
    /// Of this group, left its line and not done with.
    busy: usize,
}

#[derive(Debug)]
pub(super) struct Lines {
    fifo: bool,
    line: VecDeque<u64>,
    groups: BTreeMap<Arc<str>, Group>,
    /// Groups whose first may go, by that one: who came first goes first.
    ready: BTreeSet<(u64, Arc<str>)>,
    waiting: usize,
}

impl Lines {
    pub(super) fn new(fifo: bool) -> Self {
        Self { fifo, line: VecDeque::new(), groups: BTreeMap::new(), ready: BTreeSet::new(), waiting: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// The first of the one line.
    pub(super) fn first(&self) -> Option<u64> {
        self.line.front().copied()
    }

    /// A message came. One of a FIFO queue without group, which SQS does not make, is a group of its own kind.
    pub(super) fn push(&mut self, key: u64, group: Option<&Arc<str>>) {
        self.waiting += 1;
        self.change(group, |line| {
            line.push_back(key);
            0
        });
    }

    /// A message that had left comes back to where it was.
    pub(super) fn push_front(&mut self, key: u64, group: Option<&Arc<str>>) {
        self.waiting += 1;
        self.change(group, |line| {
            line.push_front(key);
            0
        });
        self.ended(group);
    }

    /// A message that waits is gone.
    pub(super) fn remove(&mut self, key: u64, group: Option<&Arc<str>>) {
        let mut removed = false;
        self.change(group, |line| {
            let before = line.len();
            line.retain(|waiting| *waiting != key);
            removed = line.len() < before;
            0
        });
        self.waiting -= usize::from(removed);
    }

    /// The next that may go together, at most `max`; one for which `alone` holds goes by itself.
    pub(super) fn next(&mut self, max: usize, alone: impl Fn(u64) -> bool) -> Vec<u64> {
        let group = if self.fifo { self.ready.first().map(|(_, group)| Arc::clone(group)) } else { None };
        if self.fifo && group.is_none() {
            return Vec::new();
        }
        let mut taken = Vec::new();
        self.change(group.as_ref(), |line| {
            while taken.len() < max
                && let Some(key) = line.front().copied()
            {
                if alone(key) && !taken.is_empty() {
                    break;
                }
                taken.push(key);
                line.pop_front();
                if alone(key) {
                    break;
                }
            }
            taken.len()
        });
        taken
    }

    /// All that wait in this group, the last first. None of a queue without order.
    pub(super) fn take_group(&mut self, group: Option<&Arc<str>>) -> Vec<u64> {
        if !self.fifo {
            return Vec::new();
        }
        let mut taken = Vec::new();
        self.change(group, |line| {
            taken = line.drain(..).rev().collect();
            taken.len()
        });
        taken
    }

    /// All that wait, the last first.
    pub(super) fn take_all(&mut self) -> Vec<u64> {
        let groups: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        let mut taken: Vec<u64> = groups.iter().flat_map(|group| self.take_group(Some(group))).collect();
        taken.extend(self.line.drain(..));
        taken.sort_unstable_by_key(|key| std::cmp::Reverse(*key));
        self.waiting = 0;
        taken
    }

    /// One that had left its line is done with.
    pub(super) fn ended(&mut self, group: Option<&Arc<str>>) {
        if !self.fifo {
            return;
        }
        let name = Self::name(group);
        if let Some(group) = self.groups.get_mut(&name) {
            group.busy = group.busy.saturating_sub(1);
        }
        self.settle(&name);
    }

    fn name(group: Option<&Arc<str>>) -> Arc<str> {
        group.cloned().unwrap_or_else(|| Arc::from(""))
    }

    /// Changes a line; gives how many have left it by `with`, and those are under way then.
    fn change(&mut self, group: Option<&Arc<str>>, with: impl FnOnce(&mut VecDeque<u64>) -> usize) {
        if !self.fifo {
            self.waiting -= with(&mut self.line);
            return;
        }
        let name = Self::name(group);
        let group = self.groups.entry(Arc::clone(&name)).or_default();
        if let Some(first) = group.waiting.front() {
            self.ready.remove(&(*first, Arc::clone(&name)));
        }
        let left = with(&mut group.waiting);
        group.busy += left;
        self.waiting -= left;
        self.settle(&name);
    }

    /// Whether the group may go, and whether it is still there.
    fn settle(&mut self, name: &Arc<str>) {
        let Some(group) = self.groups.get(name) else { return };
        match group.waiting.front() {
            Some(first) if group.busy == 0 => _ = self.ready.insert((*first, Arc::clone(name))),
            Some(first) => _ = self.ready.remove(&(*first, Arc::clone(name))),
            None if group.busy == 0 => _ = self.groups.remove(name),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifo(messages: &[(u64, &str)]) -> Lines {
        let mut lines = Lines::new(true);
        for (key, group) in messages {
            lines.push(*key, Some(&Arc::from(*group)));
        }
        lines
    }

    #[test]
    fn a_group_goes_on_when_all_of_it_is_done_and_others_do_not_wait_for_it() {
        let mut lines = fifo(&[(1, "a"), (2, "a"), (3, "b")]);
        assert_eq!(lines.next(1, |_| false), [1]);
        assert_eq!(lines.next(1, |_| false), [3]);
        assert!(lines.next(1, |_| false).is_empty());
        lines.ended(Some(&Arc::from("a")));
        assert_eq!(lines.next(1, |_| false), [2]);
        assert_eq!(lines.len(), 0);
        lines.push(5, Some(&Arc::from("b")));
        assert!(lines.next(1, |_| false).is_empty(), "one of its group is under way, though nothing waited behind it");
        lines.remove(5, Some(&Arc::from("b")));
        lines.ended(Some(&Arc::from("a")));
        lines.ended(Some(&Arc::from("b")));
        assert!(lines.groups.is_empty(), "a group that is done with is forgotten");
    }

    #[test]
    fn a_group_gives_its_tail_first_and_stays_closed_until_all_is_back() {
        let mut lines = fifo(&[(1, "a"), (2, "a"), (3, "a")]);
        assert_eq!(lines.next(1, |_| false), [1]);
        assert_eq!(lines.take_group(Some(&Arc::from("a"))), [3, 2]);
        lines.push(4, Some(&Arc::from("a")));
        for _ in 0..3 {
            assert!(lines.next(1, |_| false).is_empty());
            lines.ended(Some(&Arc::from("a")));
        }
        assert_eq!(lines.next(1, |_| false), [4]);
    }

    #[test]
    fn a_suspect_goes_alone() {
        let mut lines = Lines::new(false);
        (1..=5).for_each(|key| lines.push(key, None));
        let alone = |key| key == 3;
        assert_eq!(lines.next(10, alone), [1, 2]);
        assert_eq!(lines.next(10, alone), [3]);
        assert_eq!(lines.next(10, alone), [4, 5]);
    }

    #[test]
    fn what_nobody_got_is_first_again() {
        let mut lines = fifo(&[(1, "a"), (2, "a")]);
        assert_eq!(lines.next(1, |_| false), [1]);
        lines.push_front(1, Some(&Arc::from("a")));
        assert_eq!(lines.next(2, |_| false), [1, 2]);
    }
}
