//! What instances wrote of themselves while they lived, and whether two ever lived at once.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "shared by tests only")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

/// A file to which all instances of a component add their ids.
pub struct Witness(PathBuf);

impl Witness {
    pub fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("maelstrom-witness-{}-{test}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    /// A component that is watched.
    pub fn component(&self, more: &Value) -> String {
        let mut doc = json!({
            "command": [super::cluster::sample::testapp()],
            "min": 1,
            "env": {"WITNESS": self.0},
            "stop": {"grace": "2s"},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            match (&mut doc[key.as_str()], value) {
                (Value::Object(old), Value::Object(new)) => old.extend(new.clone()),
                (old, new) => *old = new.clone(),
            }
        }
        doc.to_string()
    }

    /// The ids in the order in which they lived, each stretch once.
    pub fn stretches(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.dedup();
        lines
    }

    /// The one that was seen last.
    pub fn last(&self) -> Option<String> {
        self.stretches().pop()
    }

    /// Fails if an instance was seen again after another one.
    pub fn never_two(&self) {
        let stretches = self.stretches();
        let ids: BTreeSet<&String> = stretches.iter().collect();
        assert_eq!(ids.len(), stretches.len(), "two lived at once: {stretches:#?}");
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
