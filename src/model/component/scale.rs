//! The part of a component's document that says how much: memory, processor, concurrency, instances, idleness.
//!
//! Knows nothing of what runs.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use crate::model::component::{Singleton, defaults as d};
use crate::model::invalid::Refusal;
use crate::model::reader::{Errors, Field, Object};
use crate::model::units::{format_bytes, format_duration, parse_thousandths};

/// Fields of `memory`.
pub(super) const MEMORY: &[&str] = &["reserve", "limit"];
/// Fields of `concurrency`.
pub(super) const CONCURRENCY: &[&str] = &["limit", "target"];
/// Fields of `instances`.
pub(super) const INSTANCES: &[&str] = &["min", "max", "per_node"];
/// Fields of `idle`.
pub(super) const IDLE: &[&str] = &["freeze", "stop"];

/// Reserve and limit in bytes.
pub(super) fn memory(field: &Field<'_>, e: &mut Errors) -> (u64, Option<u64>) {
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
pub(super) fn cpu(text: &str) -> Result<NonZeroU32, Refusal> {
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

pub(super) fn concurrency(field: &Field<'_>, e: &mut Errors) -> (NonZeroU32, NonZeroU32) {
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
pub(super) fn instances(
    top: &Object<'_>,
    fixed_port: Option<NonZeroU16>,
    singleton: Singleton,
    e: &mut Errors,
) -> (u32, NonZeroU32, NonZeroU32) {
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
    let is_single = singleton != Singleton::No;
    for (number, field) in min.iter().chain(&max).filter(|(number, _)| is_single && *number > 1) {
        field.refuse(e, format!("is {number}, and a singleton has one instance at most"), "at most 1, or no singleton");
    }
    let min = min.map_or(d::MIN_INSTANCES, |(min, _)| min);
    let usual = if is_single { 1 } else { d::MAX_INSTANCES };
    let max = max.map_or_else(|| usual.max(min), |(max, _)| max);
    let field = object.as_ref().map(|object| object.get("per_node"));
    let per_node = field.as_ref().and_then(|field| field.whole(1..=d::INSTANCES_MAX, e));
    if let (Some(port), Some(2..), Some(field)) = (fixed_port, per_node, &field) {
        field.refuse(
            e,
            format!("would start programs side by side on port {port}"),
            "1, or no port: each gets its own",
        );
    }
    let per_node = per_node.unwrap_or_else(|| if fixed_port.is_some() { 1 } else { max });
    (min, at_least_one(max), at_least_one(per_node))
}

/// Until frozen and until stopped.
pub(super) fn idle(field: &Field<'_>, e: &mut Errors) -> (Option<Duration>, Duration) {
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

/// Whether the field holds exactly that word; no error is noted.
pub(super) fn is_word(field: &Field<'_>, word: &str) -> bool {
    field.scalar(&mut Errors::default()).is_some_and(|text| text.eq_ignore_ascii_case(word))
}

/// The bounds of every such field start at 1.
pub(super) fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}
