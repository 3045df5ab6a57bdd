//! A component as a document: the whole effective definition, every default written out.
//!
//! Knows nothing of parsing; `parse` of the result gives the same component.

use serde_json::{Map, Value, json};

use crate::model::cfg::{CfgUse, Delivery};
use crate::model::component::{Component, PullPolicy, RestartOrder, Volume, VolumeKind, Workload};
use crate::model::reader::MASK;
use crate::model::units::{format_bytes, format_duration};

impl Component {
    /// The canonical document. Equal components give equal documents, however they were written.
    ///
    /// It holds `credentials.password` in the clear; what people see is [`Self::redacted`].
    pub fn to_doc(&self) -> Value {
        let mut doc = Map::new();
        let mut put = |name: &str, value: Value| drop(doc.insert(name.to_owned(), value));
        match &self.workload {
            Workload::Image(image) => {
                put("image", json!(image.reference));
                if let Some(digest) = &image.pinned {
                    put("pinned", json!(format!("{}@{digest}", image.reference)));
                }
                put("pull", json!(image.pull.name()));
                let login = image.credentials.as_ref();
                put("credentials", json!(login.map(|l| json!({"username": l.username, "password": l.password}))));
                put("entrypoint", json!(image.entrypoint));
                put("command", json!(image.command));
                put("volumes", self.volumes.iter().map(volume).collect());
                put("network", json!(self.network));
                put("log", json!({"driver": self.log.driver, "options": self.log.options}));
            }
            Workload::Command(command) => {
                put("command", json!(command.argv));
                put("cwd", json!(command.cwd));
            }
        }
        put("port", json!(self.port));
        put("env", json!(self.env));
        put("cfg", self.cfg.iter().map(setting).collect());
        let limit = self.memory_limit.map(format_bytes);
        put("memory", json!({"reserve": format_bytes(self.memory_reserve), "limit": limit}));
        put("cpu", json!(self.cpu.map(|thousandths| f64::from(thousandths.get()) / 1000.0)));
        put("concurrency", json!({"limit": self.concurrency, "target": self.concurrency_target}));
        let (min, max, per_node) = (self.min_instances, self.max_instances, self.max_per_node);
        put("instances", json!({"min": min, "max": max, "per_node": per_node}));
        put("singleton", json!(self.singleton.name()));
        let freeze = self.freeze_after.map_or_else(|| "never".to_owned(), format_duration);
        put("idle", json!({"freeze": freeze, "stop": format_duration(self.idle_timeout)}));
        put("start_timeout", json!(format_duration(self.start_timeout)));
        put("request_timeout", json!(format_duration(self.request_timeout)));
        put("queue", json!(self.queue_limit));
        put("max_body", json!(self.max_body.map_or_else(|| "unlimited".to_owned(), format_bytes)));
        put(
            "health",
            json!({
                "path": self.health.path,
                "interval": format_duration(self.health.interval),
                "timeout": format_duration(self.health.timeout),
                "failures": self.health.failures,
            }),
        );
        put("restart", json!(self.restart_order.name()));
        let constraints: Vec<_> = self.constraints.iter().map(ToString::to_string).collect();
        put("constraints", json!(constraints));
        put(
            "rollout",
            json!({
                "order": self.rollout.order.name(),
                "rollback": self.rollout.rollback,
                "deadline": format_duration(self.rollout.deadline),
            }),
        );
        put("labels", json!(self.labels));
        put("stop", json!({"signal": self.stop.signal, "grace": format_duration(self.stop.grace)}));
        Value::Object(doc)
    }

    /// [`Self::to_doc`] with `***` in place of the password. It is for people: as a definition it is refused.
    pub fn redacted(&self) -> Value {
        let mut doc = self.to_doc();
        if let Some(password) = doc.pointer_mut("/credentials/password") {
            *password = json!(MASK);
        }
        doc
    }
}

impl PullPolicy {
    /// The word in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Missing => "missing",
            Self::Never => "never",
        }
    }
}

impl RestartOrder {
    /// The word in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::StartFirst => "start-first",
            Self::StopFirst => "stop-first",
        }
    }
}

impl VolumeKind {
    /// The word in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
        }
    }
}

fn setting(one: &CfgUse) -> Value {
    let file = match &one.to {
        Delivery::Variable(_) => None,
        Delivery::File { path, .. } => Some(path),
    };
    json!({"name": one.name.as_str(), "env": one.to.variable(), "file": file})
}

fn volume(volume: &Volume) -> Value {
    let source = (volume.kind != VolumeKind::Tmpfs).then_some(&volume.source);
    json!({"type": volume.kind.name(), "source": source, "target": volume.target, "read_only": volume.read_only})
}
