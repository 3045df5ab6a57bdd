//! What is known of each container of ours, and the one rule that matters most: its end is reported exactly once.
//!
//! Makes no calls; others act on what is decided here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use super::super::Exit;
use super::freezer::Freezer;
use crate::id::InstanceId;

/// How an instance was frozen; it must be thawed the same way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Frozen {
    /// It runs.
    #[default]
    No,
    /// By us, by file. Docker does not know.
    File(Freezer),
    /// Paused by Docker, at our wish or someone else's.
    Paused,
}

/// One container of ours.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    container: OnceLock<String>,
    /// Process id on this machine; 0 if unknown.
    pid: OnceLock<i64>,
    life: Mutex<Life>,
    ended: watch::Sender<bool>,
    captured: watch::Sender<bool>,
    /// Held while it is being frozen, thawed or stopped.
    pub(super) frozen: tokio::sync::Mutex<Frozen>,
}

#[derive(Debug, Default)]
struct Life {
    /// `start` has succeeded, or it was adopted: from now on its end is to be reported.
    started: bool,
    /// Its process has ended.
    ended: bool,
    code: Option<i32>,
    out_of_memory: bool,
    /// Someone was given the task to report the end.
    reported: bool,
    /// `stop` takes care of the removal.
    stopping: bool,
}

impl Instance {
    pub(super) fn new(id: InstanceId) -> Self {
        Self {
            id,
            container: OnceLock::new(),
            pid: OnceLock::new(),
            life: Mutex::default(),
            ended: watch::Sender::new(false),
            captured: watch::Sender::new(false),
            frozen: tokio::sync::Mutex::default(),
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id that Docker gave it; none until it is created.
    pub(super) fn container(&self) -> Option<&str> {
        self.container.get().map(String::as_str)
    }

    pub(super) fn set_container(&self, container: String) {
        // Set once by whoever created or found it; a second value could only be the same.
        _ = self.container.set(container);
    }

    pub(super) fn pid(&self) -> i64 {
        self.pid.get().copied().unwrap_or(0)
    }

    pub(super) fn set_pid(&self, pid: i64) {
        _ = self.pid.set(pid);
    }

    /// It runs and its end is to be reported. True if the end came already and the caller must report it.
    #[must_use]
    pub(super) fn set_started(&self) -> bool {
        let mut life = self.life();
        life.started = true;
        life.take_report()
    }

    pub(super) fn is_started(&self) -> bool {
        self.life().started
    }

    /// Its process ended. True if the caller must report it; that is so for exactly one of all callers.
    #[must_use]
    pub(super) fn set_ended(&self, code: Option<i32>) -> bool {
        let mut life = self.life();
        if !life.ended {
            life.ended = true;
            life.code = code;
        }
        let report = life.take_report();
        drop(life);
        self.ended.send_replace(true);
        report
    }

    pub(super) fn is_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits for the end of its process.
    pub(super) async fn wait_ended(&self) {
        // Cannot fail: the sender is in self.
        drop(self.ended.subscribe().wait_for(|ended| *ended).await);
    }

    /// The kernel killed something in it for its memory.
    pub(super) fn set_out_of_memory(&self) {
        self.life().out_of_memory = true;
    }

    /// Someone stops it and will remove it.
    pub(super) fn set_stopping(&self) {
        self.life().stopping = true;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.life().stopping
    }

    /// How it ended. A process that the kernel killed for its memory has the code of SIGKILL; if another process of
    /// the container was the victim, the code says something else and memory was not the end of it.
    pub(super) fn exit(&self) -> Exit {
        let life = self.life();
        let killed = matches!(life.code, Some(137) | None);
        Exit { code: life.code, out_of_memory: life.out_of_memory && killed && !life.stopping }
    }

    /// All that it wrote is in the log book.
    pub(super) fn set_captured(&self) {
        self.captured.send_replace(true);
    }

    pub(super) async fn wait_captured(&self) {
        drop(self.captured.subscribe().wait_for(|captured| *captured).await);
    }
}

impl Life {
    fn take_report(&mut self) -> bool {
        let report = self.started && self.ended && !self.reported;
        self.reported |= report;
        report
    }
}

/// All containers of ours that are being started, run, or are being reported.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<BTreeMap<InstanceId, Arc<Instance>>>);

impl Table {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Arc<Instance>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new entry; none if there is one with this id.
    pub(super) fn insert(&self, id: &InstanceId) -> Option<Arc<Instance>> {
        let mut table = self.lock();
        if table.contains_key(id) {
            return None;
        }
        let instance = Arc::new(Instance::new(id.clone()));
        table.insert(id.clone(), Arc::clone(&instance));
        Some(instance)
    }

    pub(super) fn get(&self, id: &InstanceId) -> Option<Arc<Instance>> {
        self.lock().get(id).cloned()
    }

    pub(super) fn contains(&self, id: &InstanceId) -> bool {
        self.lock().contains_key(id)
    }

    /// Removes this very entry; a later one with the same id stays.
    pub(super) fn remove(&self, instance: &Arc<Instance>) {
        let mut table = self.lock();
        if table.get(&instance.id).is_some_and(|found| Arc::ptr_eq(found, instance)) {
            table.remove(&instance.id);
        }
    }

    /// All whose end is still to come and to be reported.
    pub(super) fn running(&self) -> Vec<Arc<Instance>> {
        self.lock().values().filter(|instance| instance.is_started() && !instance.is_ended()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        Instance::new("api-00000001".parse().expect("an id"))
    }

    #[test]
    fn the_end_is_reported_by_exactly_one_however_often_it_is_seen() {
        let instance = instance();
        assert!(!instance.set_started());
        assert!(instance.set_ended(Some(3)));
        assert!(!instance.set_ended(None));
        assert_eq!(instance.exit(), Exit { code: Some(3), out_of_memory: false });
    }

    #[test]
    fn an_end_before_the_start_is_through_is_reported_by_the_start() {
        let instance = instance();
        assert!(!instance.set_ended(Some(1)));
        assert!(instance.set_started());
        assert!(!instance.set_ended(Some(1)));
    }

    #[test]
    fn only_a_killed_process_that_nobody_stopped_ran_out_of_memory() {
        let one = instance();
        one.set_out_of_memory();
        assert!(!one.set_ended(Some(1)));
        assert!(!one.exit().out_of_memory);
        let other = instance();
        other.set_out_of_memory();
        assert!(!other.set_ended(Some(137)));
        assert!(other.exit().out_of_memory);
        other.set_stopping();
        assert!(!other.exit().out_of_memory);
    }

    #[test]
    fn removing_an_old_entry_leaves_a_new_one_with_the_same_id() {
        let table = Table::default();
        let id = "api-00000001".parse().expect("an id");
        let old = table.insert(&id).expect("free");
        assert!(table.insert(&id).is_none());
        table.remove(&old);
        let new = table.insert(&id).expect("free again");
        table.remove(&old);
        assert!(table.get(&id).is_some_and(|found| Arc::ptr_eq(&found, &new)));
    }
}
