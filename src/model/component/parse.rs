//! From an untrusted document to a component: every field once, every error of the document at once.
//!
//! Knows nothing of where the document came from, nor of the other components.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use serde_json::Value;

use crate::id::ComponentName;
use crate::model::cfg;
use crate::model::component::defaults as d;
use crate::model::component::{
    Component, Health, LogOptions, RestartOrder, Singleton, Stop, Workload, rollout, scale, settings, singleton,
    volumes, workload,
};
use crate::model::constraint::Constraint;
use crate::model::invalid::{Invalid, Refusal};
use crate::model::reader::{Errors, Field, Object};
use crate::model::{address, check_size};

/// Fields of the document itself.
const TOP: &[&str] = &[
    "image",
    "pinned",
    "pull",
    "credentials",
    "command",
    "entrypoint",
    "cwd",
    "port",
    "env",
    "cfg",
    "memory",
    "cpu",
    "concurrency",
    "instances",
    "min",
    "max",
    "singleton",
    "idle",
    "start_timeout",
    "request_timeout",
    "queue",
    "max_body",
    "health",
    "restart",
    "rollout",
    "volumes",
    "network",
    "log",
    "labels",
    "constraints",
    "stop",
];
const HEALTH: &[&str] = &["path", "interval", "timeout", "failures"];
const LOG: &[&str] = &["driver", "options"];
const STOP: &[&str] = &["signal", "grace"];

/// Start of the label keys that Maelstrom sets: by them it knows its containers.
const OUR_LABELS: &str = "maelstrom";

impl Component {
    /// Every field that a document may have: the path of the object (empty for the document itself) and the names.
    pub const FIELDS: &'static [(&'static str, &'static [&'static str])] = &[
        ("", TOP),
        ("image", workload::IMAGE),
        ("credentials", workload::CREDENTIALS),
        ("cfg[]", settings::CFG),
        ("memory", scale::MEMORY),
        ("concurrency", scale::CONCURRENCY),
        ("instances", scale::INSTANCES),
        ("idle", scale::IDLE),
        ("health", HEALTH),
        ("rollout", rollout::ROLLOUT),
        ("volumes[]", volumes::VOLUME),
        ("log", LOG),
        ("stop", STOP),
    ];

    /// Reads a definition.
    ///
    /// # Errors
    /// All errors of the document, in the order of its fields; then those between fields.
    pub fn parse(name: &ComponentName, doc: &Value) -> Result<Self, Invalid> {
        let mut errors = Errors::default();
        let parsed = Field::document(doc).object(TOP, &mut errors).and_then(|top| read(name, &top, &mut errors));
        if let Some(component) = &parsed {
            check_size(&component.to_doc(), &mut errors);
        }
        errors.finish(parsed)
    }

    /// Reads a definition back that [`Self::parse`] took: all of it is checked again but its size, which whatever kept it
    /// has bounded. That is half of the time, and a start reads a hundred thousand of them.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_stored(name: &ComponentName, doc: &Value) -> Result<Self, Invalid> {
        let mut errors = Errors::default();
        let parsed = Field::document(doc).object(TOP, &mut errors).and_then(|top| read(name, &top, &mut errors));
        errors.finish(parsed)
    }
}

/// Goes on after an error with the default, so that the next one is found too. `None` if nothing says what runs.
fn read(name: &ComponentName, top: &Object<'_>, e: &mut Errors) -> Option<Component> {
    let workload = workload::read(top, e);
    let is_program = matches!(workload, Some(Workload::Command(_)));
    let given_port = top.get("port").whole(1..=u32::from(u16::MAX), e).and_then(|port| u16::try_from(port).ok());
    let port = given_port.or(if is_program { None } else { Some(d::PORT) }).and_then(NonZeroU16::new);
    let fixed_port = if is_program { port } else { None };
    let env = env(top, is_program && port.is_none(), e);
    let (memory_reserve, memory_limit) = scale::memory(&top.get("memory"), e);
    let cpu = top.get("cpu").parsed(e, scale::cpu);
    let (concurrency, concurrency_target) = scale::concurrency(&top.get("concurrency"), e);
    let restart_order = restart(&top.get("restart"), fixed_port, e);
    let singleton = singleton::read(top, restart_order, e);
    let (min_instances, max_instances, max_per_node) = scale::instances(top, fixed_port, singleton, e);
    let (freeze_after, idle_timeout) = scale::idle(&top.get("idle"), e);
    let timeouts = d::TIMEOUT_MIN..=d::TIMEOUT_MAX;
    let start_timeout = top.get("start_timeout").duration(timeouts.clone(), e).unwrap_or(d::START_TIMEOUT);
    let request_timeout = top.get("request_timeout").duration(timeouts, e).unwrap_or(d::REQUEST_TIMEOUT);
    let queue = top.get("queue");
    let queue_limit = queue.whole(0..=d::QUEUE_MAX, e).unwrap_or(d::QUEUE_LIMIT);
    if queue_limit == 0 && min_instances == 0 {
        queue.refuse(e, "lets no event wait for the first instance", "1 and more, or instances.min of 1 and more");
    }
    let component = Component {
        name: name.clone(),
        port,
        env,
        cfg: settings::read(&top.get("cfg"), e),
        memory_reserve,
        memory_limit,
        cpu,
        concurrency,
        concurrency_target,
        min_instances,
        max_instances,
        max_per_node,
        singleton,
        freeze_after,
        idle_timeout,
        start_timeout,
        request_timeout,
        queue_limit,
        max_body: max_body(&top.get("max_body"), e),
        health: health(&top.get("health"), e),
        // One that must never run twice is always replaced so.
        restart_order: if singleton == Singleton::Strict { RestartOrder::StopFirst } else { restart_order },
        rollout: rollout::read(&top.get("rollout"), e),
        volumes: volumes::read(&top.get("volumes"), e),
        network: top.get("network").parsed(e, volumes::check_name),
        log: log(&top.get("log"), e),
        constraints: constraints(&top.get("constraints"), e),
        labels: top.get("labels").pairs(e, label_key, |_| Ok(())),
        stop: stop(&top.get("stop"), e),
        workload: workload?,
    };
    settings::check(&top.get("cfg"), &component, e);
    if is_program {
        for (field, wrong) in [
            ("volumes", !component.volumes.is_empty()),
            ("network", component.network.is_some()),
            ("log", component.log != LogOptions::default()),
        ] {
            if wrong {
                let problem =
                    "belongs to a container, and a program runs on the node itself with its files and network";
                top.get(field).refuse(e, problem, "nothing, or an image beside it");
            }
        }
    }
    Some(component)
}

fn env(top: &Object<'_>, port_is_ours: bool, e: &mut Errors) -> BTreeMap<String, String> {
    let key = |key: &str| {
        cfg::check_variable(key)?;
        if key == "PORT" && port_is_ours {
            return Err(Refusal::new("is set to a free port for each instance", "the field port, if it must be fixed"));
        }
        if key.len() > d::ENV_ENTRY_MAX {
            return Err(Refusal::new("is too long", format!("at most {} bytes", d::ENV_ENTRY_MAX)));
        }
        Ok(key.to_owned())
    };
    let env = top.get("env").pairs(e, key, |_| Ok(()));
    for (key, value) in &env {
        let size = key.len() + value.len() + 1;
        if size > d::ENV_ENTRY_MAX {
            let allowed = format!("at most {} bytes with its name, the kernel's bound", d::ENV_ENTRY_MAX);
            let problem = format!("is {size} bytes long with its name");
            e.add(&format!("env.{key:.60}"), String::new(), Refusal::new(problem, allowed));
        }
    }
    env
}

fn max_body(field: &Field<'_>, e: &mut Errors) -> Option<u64> {
    if scale::is_word(field, "unlimited") {
        return None;
    }
    Some(field.bytes(0..=u64::MAX >> 1, e).unwrap_or(d::MAX_BODY))
}

fn health(field: &Field<'_>, e: &mut Errors) -> Health {
    let path = |field: &Field<'_>, e: &mut Errors| {
        field.parsed(e, |text| address::check_target(text).map(|()| text.to_owned()))
    };
    let mut health = Health {
        path: None,
        interval: d::HEALTH_INTERVAL,
        timeout: d::HEALTH_TIMEOUT,
        failures: scale::at_least_one(d::HEALTH_FAILURES),
    };
    if !field.is_object() {
        health.path = path(field, e);
    } else if let Some(object) = field.object(HEALTH, e) {
        health.path = path(&object.get("path"), e);
        let interval = object.get("interval").duration(d::HEALTH_INTERVAL_MIN..=d::HEALTH_INTERVAL_MAX, e);
        let timeout = object.get("timeout").duration(d::TIMEOUT_MIN..=d::HEALTH_INTERVAL_MAX, e);
        let failures = object.get("failures").whole(1..=d::HEALTH_FAILURES_MAX, e);
        health.interval = interval.unwrap_or(health.interval);
        health.timeout = timeout.unwrap_or(health.timeout);
        health.failures = failures.map_or(health.failures, scale::at_least_one);
    }
    health
}

fn restart(field: &Field<'_>, fixed_port: Option<NonZeroU16>, e: &mut Errors) -> RestartOrder {
    let orders = [RestartOrder::StartFirst, RestartOrder::StopFirst].map(|order| (order.name(), order));
    let order = field.one_of(&orders, e);
    if let (Some(port), Some(RestartOrder::StartFirst)) = (fixed_port, order) {
        let problem = format!("would start the new program while the old one has port {port}");
        field.refuse(e, problem, "stop-first, or no port: each gets its own");
    }
    let default = if fixed_port.is_some() { RestartOrder::StopFirst } else { RestartOrder::StartFirst };
    order.unwrap_or(default)
}

fn log(field: &Field<'_>, e: &mut Errors) -> LogOptions {
    let Some(object) = field.object(LOG, e) else { return LogOptions::default() };
    let driver = object.get("driver").parsed(e, |text| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"._/:-".contains(&b);
        let form = "a driver of the container runtime, such as json-file or journald";
        let fits = (1..=255).contains(&text.len()) && text.bytes().all(inner);
        fits.then(|| text.to_owned()).ok_or_else(|| Refusal::new("is not the name of a log driver", form))
    });
    let options = object.get("options").pairs(e, |key| check_key(key, "an option name"), |_| Ok(()));
    LogOptions { driver, options }
}

fn constraints(field: &Field<'_>, e: &mut Errors) -> Vec<Constraint> {
    let mut all = Vec::new();
    for item in field.items("a list of conditions such as zone=a", e) {
        all.extend(item.parsed(e, str::parse::<Constraint>));
    }
    all.sort();
    all.dedup();
    all
}

fn label_key(key: &str) -> Result<String, Refusal> {
    let key = check_key(key, "a label key that does not start with maelstrom")?;
    if key.to_ascii_lowercase().starts_with(OUR_LABELS) {
        return Err(Refusal::new("is a label that Maelstrom sets itself", "a key that does not start with maelstrom"));
    }
    Ok(key)
}

/// A key that the container runtime can write in one line: no white space, no `=`.
fn check_key(key: &str, what: &str) -> Result<String, Refusal> {
    let fits = (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic() && b != b'=');
    let form = || format!("{what} of 1 to 255 visible ASCII characters without =");
    fits.then(|| key.to_owned()).ok_or_else(|| Refusal::new("is not a key", form()))
}

fn stop(field: &Field<'_>, e: &mut Errors) -> Stop {
    let object = field.object(STOP, e);
    let signal = object.as_ref().and_then(|object| object.get("signal").parsed(e, signal));
    let grace = object.as_ref().and_then(|o| o.get("grace").duration(Duration::ZERO..=d::STOP_GRACE_MAX, e));
    Stop { signal: signal.unwrap_or_else(|| d::STOP_SIGNAL.to_owned()), grace: grace.unwrap_or(d::STOP_GRACE) }
}

/// A known signal, with or without `SIG`, in any case.
fn signal(text: &str) -> Result<String, Refusal> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let found = d::STOP_SIGNALS.iter().find(|known| known.strip_prefix("SIG") == Some(name));
    found
        .map(|known| (*known).to_owned())
        .ok_or_else(|| Refusal::new("is not a signal that stops a program", d::STOP_SIGNALS.join(", ")))
}
