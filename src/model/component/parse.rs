//! From an untrusted document to a component: every field once, every error of the document at once.
//!
//! Knows nothing of where the document came from, nor of the other components.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use serde_json::Value;

use crate::id::ComponentName;
use crate::model::component::defaults as d;
use crate::model::component::{Component, Health, LogOptions, RestartOrder, Stop, Workload, volumes, workload};
use crate::model::invalid::{Invalid, Refusal};
use crate::model::reader::{Errors, Field, Object};
use crate::model::units::{format_bytes, format_duration, parse_thousandths};
use crate::model::{address, check_size};

/// Fields of the document itself.
const TOP: &[&str] = &[
    "image",
    "pull",
    "credentials",
    "command",
    "entrypoint",
    "cwd",
    "port",
    "env",
    "memory",
    "cpu",
    "concurrency",
    "instances",
    "min",
    "max",
    "idle",
    "start_timeout",
    "request_timeout",
    "queue",
    "max_body",
    "health",
    "restart",
    "volumes",
    "network",
    "log",
    "labels",
    "stop",
];
const MEMORY: &[&str] = &["reserve", "limit"];
const CONCURRENCY: &[&str] = &["limit", "target"];
const INSTANCES: &[&str] = &["min", "max", "per_node"];
const IDLE: &[&str] = &["freeze", "stop"];
const HEALTH: &[&str] = &["path", "interval", "timeout", "failures"];
const LOG: &[&str] = &["driver", "options"];
const STOP: &[&str] = &["signal", "grace"];

/// Start of the names of environment variables that Maelstrom sets.
const OUR_ENV: &str = "MAELSTROM_";
/// Start of the label keys that Maelstrom sets: by them it knows its containers.
const OUR_LABELS: &str = "maelstrom";

impl Component {
    /// Every field that a document may have: the path of the object (empty for the document itself) and the names.
    pub const FIELDS: &'static [(&'static str, &'static [&'static str])] = &[
        ("", TOP),
        ("image", workload::IMAGE),
        ("credentials", workload::CREDENTIALS),
        ("memory", MEMORY),
        ("concurrency", CONCURRENCY),
        ("instances", INSTANCES),
        ("idle", IDLE),
        ("health", HEALTH),
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
}

/// Goes on after an error with the default, so that the next one is found too. `None` if nothing says what runs.
fn read(name: &ComponentName, top: &Object<'_>, e: &mut Errors) -> Option<Component> {
    let workload = workload::read(top, e);
    let is_program = matches!(workload, Some(Workload::Command(_)));
    let given_port = top.get("port").whole(1..=u32::from(u16::MAX), e).and_then(|port| u16::try_from(port).ok());
    let port = given_port.or((!is_program).then_some(d::PORT)).and_then(NonZeroU16::new);
    let fixed_port = if is_program { port } else { None };
    let env = env(top, is_program && port.is_none(), e);
    let (memory_reserve, memory_limit) = memory(&top.get("memory"), e);
    let cpu = top.get("cpu").parsed(e, cpu);
    let (concurrency, concurrency_target) = concurrency(&top.get("concurrency"), e);
    let (min_instances, max_instances, max_per_node) = instances(top, fixed_port, e);
    let (freeze_after, idle_timeout) = idle(&top.get("idle"), e);
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
        memory_reserve,
        memory_limit,
        cpu,
        concurrency,
        concurrency_target,
        min_instances,
        max_instances,
        max_per_node,
        freeze_after,
        idle_timeout,
        start_timeout,
        request_timeout,
        queue_limit,
        max_body: max_body(&top.get("max_body"), e),
        health: health(&top.get("health"), e),
        restart_order: restart(&top.get("restart"), fixed_port, e),
        volumes: volumes::read(&top.get("volumes"), e),
        network: top.get("network").parsed(e, volumes::check_name),
        log: log(&top.get("log"), e),
        labels: top.get("labels").pairs(e, label_key, |_| Ok(())),
        stop: stop(&top.get("stop"), e),
        workload: workload?,
    };
    if is_program {
        for (field, wrong) in [
            ("volumes", !component.volumes.is_empty()),
            ("network", component.network.is_some()),
            ("log", component.log != LogOptions::default()),
        ] {
            if wrong {
                let problem = "belongs to a container, and a program runs on the node itself with its files and network";
                top.get(field).refuse(e, problem, "nothing, or an image beside it");
            }
        }
    }
    Some(component)
}

fn env(top: &Object<'_>, port_is_ours: bool, e: &mut Errors) -> BTreeMap<String, String> {
    let key = |key: &str| {
        let form = "[A-Za-z_][A-Za-z0-9_.-]*, not starting with MAELSTROM_";
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if !key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !key.bytes().all(inner) {
            return Err(Refusal::new("is not the name of an environment variable", form));
        }
        if key.starts_with(OUR_ENV) {
            return Err(Refusal::new("is a name that Maelstrom sets itself", form));
        }
        if key == "PORT" && port_is_ours {
            return Err(Refusal::new("is set to a free port for each instance", "the field port, if it must be fixed"));
        }
        if key.len() > d::ENV_ENTRY_MAX {
            return Err(Refusal::new("is too long", form));
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

/// Reserve and limit in bytes.
fn memory(field: &Field<'_>, e: &mut Errors) -> (u64, Option<u64>) {
    let reserves = |field: &Field<'_>, e: &mut Errors| {
        let bytes = field.bytes(0..=d::MEMORY_MAX, e)?;
        if (1..d::MEMORY_RESERVE_MIN).contains(&bytes) {
            let least = format_bytes(d::MEMORY_RESERVE_MIN);
            field.refuse(e, "is too small (a bare number counts bytes)", format!("0, or {least} and more"));
            return None;
        }
        Some(bytes)
    };
    if !field.is_object() {
        return (reserves(field, e).unwrap_or(d::MEMORY_RESERVE), None);
    }
    let Some(memory) = field.object(MEMORY, e) else { return (d::MEMORY_RESERVE, None) };
    let reserve = reserves(&memory.get("reserve"), e);
    let limit = memory.get("limit").bytes(d::MEMORY_LIMIT_MIN..=d::MEMORY_MAX, e);
    if let (Some(reserve), Some(limit)) = (reserve, limit)
        && limit < reserve
    {
        let reserve = format_bytes(reserve);
        memory.get("limit").refuse(e, format!("is below memory.reserve {reserve}"), format!("{reserve} and more"));
    }
    let default = limit.map_or(d::MEMORY_RESERVE, |limit| limit.min(d::MEMORY_RESERVE));
    (reserve.unwrap_or(default), limit)
}

/// Thousandths of a core from `0.5` or `500m`.
fn cpu(text: &str) -> Result<NonZeroU32, Refusal> {
    let thousandths = match text.strip_suffix('m') {
        Some(number) => parse_thousandths(number).filter(|n| n % 1000 == 0).map(|n| n / 1000),
        None => parse_thousandths(text),
    };
    let fits = |n: u64| u32::try_from(n).ok().filter(|n| *n <= d::CPU_MAX).and_then(NonZeroU32::new);
    thousandths.and_then(fits).ok_or_else(|| {
        let most = d::CPU_MAX / 1000;
        Refusal::new("is not a share of processor cores", format!("0.001 to {most} cores, such as 0.5 or 500m"))
    })
}

fn concurrency(field: &Field<'_>, e: &mut Errors) -> (NonZeroU32, NonZeroU32) {
    let range = 1..=d::CONCURRENCY_MAX;
    let (limit, target) = if field.is_object() {
        let object = field.object(CONCURRENCY, e);
        let mut get = |name| object.as_ref().and_then(|object| object.get(name).whole(range.clone(), e));
        let (limit, target) = (get("limit").unwrap_or(d::CONCURRENCY), get("target"));
        if let (Some(target), Some(object)) = (target, &object)
            && target > limit
        {
            object.get("target").refuse(e, format!("is above concurrency.limit {limit}"), format!("1 to {limit}"));
        }
        (limit, target)
    } else {
        (field.whole(range, e).unwrap_or(d::CONCURRENCY), None)
    };
    (at_least_one(limit), at_least_one(target.unwrap_or(limit * d::TARGET_PERCENT / 100)))
}

/// Min, max and per node.
fn instances(top: &Object<'_>, fixed_port: Option<NonZeroU16>, e: &mut Errors) -> (u32, NonZeroU32, NonZeroU32) {
    let object = top.get("instances").object(INSTANCES, e);
    let mut get = |name: &str, least: u32| {
        let long = object.as_ref().map(|object| object.get(name));
        let short = top.get(name);
        match long {
            Some(long) if long.is_given() && short.is_given() => {
                short.refuse(e, format!("is given here and as instances.{name}"), "one of the two");
                None
            }
            Some(long) if long.is_given() => Some((long.whole(least..=d::INSTANCES_MAX, e)?, long)),
            _ => Some((short.whole(least..=d::INSTANCES_MAX, e)?, short)),
        }
    };
    let (min, max) = (get("min", 0), get("max", 1));
    if let (Some((min, _)), Some((max, field))) = (&min, &max)
        && max < min
    {
        field.refuse(e, format!("is below the minimum of {min}"), format!("{min} and more"));
    }
    let min = min.map_or(d::MIN_INSTANCES, |(min, _)| min);
    let max = max.map_or(d::MAX_INSTANCES.max(min), |(max, _)| max);
    let field = object.as_ref().map(|object| object.get("per_node"));
    let per_node = field.as_ref().and_then(|field| field.whole(1..=d::INSTANCES_MAX, e));
    if let (Some(port), Some(2..), Some(field)) = (fixed_port, per_node, &field) {
        field.refuse(e, format!("would start programs side by side on port {port}"), "1, or no port: each gets its own");
    }
    let per_node = per_node.unwrap_or(if fixed_port.is_some() { 1 } else { max });
    (min, at_least_one(max), at_least_one(per_node))
}

/// Until frozen and until stopped.
fn idle(field: &Field<'_>, e: &mut Errors) -> (Option<Duration>, Duration) {
    let range = d::IDLE_MIN..=d::IDLE_MAX;
    let freeze_default = |stop: Duration| (d::FREEZE_AFTER < stop).then_some(d::FREEZE_AFTER);
    if !field.is_object() {
        let stop = field.duration(range, e).unwrap_or(d::IDLE_TIMEOUT);
        return (freeze_default(stop), stop);
    }
    let Some(idle) = field.object(IDLE, e) else { return (Some(d::FREEZE_AFTER), d::IDLE_TIMEOUT) };
    let stop = idle.get("stop").duration(range.clone(), e).unwrap_or(d::IDLE_TIMEOUT);
    let field = idle.get("freeze");
    if !field.is_given() {
        return (freeze_default(stop), stop);
    }
    if is_word(&field, "never") {
        return (None, stop);
    }
    let freeze = field.duration(range, e);
    if freeze.is_some_and(|freeze| freeze >= stop) {
        let stop = format_duration(stop);
        field.refuse(e, format!("is not below idle.stop {stop}"), format!("less than {stop}, or never"));
    }
    (freeze, stop)
}

fn max_body(field: &Field<'_>, e: &mut Errors) -> Option<u64> {
    if is_word(field, "unlimited") {
        return None;
    }
    Some(field.bytes(0..=u64::MAX >> 1, e).unwrap_or(d::MAX_BODY))
}

/// Whether the field holds exactly that word; no error is noted.
fn is_word(field: &Field<'_>, word: &str) -> bool {
    field.scalar(&mut Errors::default()).is_some_and(|text| text.eq_ignore_ascii_case(word))
}

fn health(field: &Field<'_>, e: &mut Errors) -> Health {
    let path = |field: &Field<'_>, e: &mut Errors| {
        field.parsed(e, |text| address::check_target(text).map(|()| text.to_owned()))
    };
    let mut health = Health {
        path: None,
        interval: d::HEALTH_INTERVAL,
        timeout: d::HEALTH_TIMEOUT,
        failures: at_least_one(d::HEALTH_FAILURES),
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
        health.failures = failures.map_or(health.failures, at_least_one);
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
    order.unwrap_or(if fixed_port.is_some() { RestartOrder::StopFirst } else { RestartOrder::default() })
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

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}
