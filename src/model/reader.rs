//! Walks an untrusted document field by field and notes every error with its path.
//!
//! Knows nothing of any particular field. No text of a secret field gets into an error.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::model::invalid::{FieldError, Invalid, Refusal};
use crate::model::units::{format_bytes, format_duration, parse_bytes, parse_duration};
use crate::model::{suggest, words};

/// Errors kept of one document: more than a person reads at once, and a bound on what a hostile document costs.
const ERRORS_MAX: usize = 100;

/// Characters of a value or a key that an error shows: a line of a terminal with room for the sentence around it.
const SHOWN: usize = 60;

/// What stands in place of a secret.
pub(in crate::model) const MASK: &str = "***";

/// The errors found so far.
#[derive(Debug, Default)]
pub(in crate::model) struct Errors {
    list: Vec<FieldError>,
    more: usize,
}

impl Errors {
    /// Notes an error; `value` is what the user is shown.
    pub(in crate::model) fn add(&mut self, field: &str, value: String, refusal: Refusal) {
        if self.list.len() < ERRORS_MAX {
            let Refusal { problem, allowed } = refusal;
            self.list.push(FieldError { field: field.to_owned(), value, problem, allowed });
        } else {
            self.more += 1;
        }
    }

    /// The parsed value if there was no error.
    pub(in crate::model) fn finish<T>(mut self, parsed: Option<T>) -> Result<T, Invalid> {
        if self.more > 0 {
            let problem = format!("has {} more errors", self.more);
            let allowed = "none; the first ones are above".to_owned();
            self.list.push(FieldError { field: "document".into(), value: String::new(), problem, allowed });
        }
        match parsed {
            Some(parsed) if self.list.is_empty() => Ok(parsed),
            _ => Err(Invalid(self.list)),
        }
    }
}

/// A place in the document, filled or not.
#[derive(Debug, Clone)]
pub(in crate::model) struct Field<'a> {
    path: String,
    value: Option<&'a Value>,
    secret: bool,
}

/// The fields of an object.
#[derive(Debug)]
pub(in crate::model) struct Object<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The field of that name; null counts as absent.
    pub(in crate::model) fn get(&self, name: &str) -> Field<'a> {
        let value = self.map.get(name).filter(|value| !value.is_null());
        Field { path: join(&self.path, name), value, secret: false }
    }
}

impl<'a> Field<'a> {
    /// The whole document.
    pub(in crate::model) fn document(value: &'a Value) -> Self {
        Self { path: String::new(), value: Some(value), secret: true }
    }

    /// The same field, whose value no error shows.
    pub(in crate::model) fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// Whether there is anything but null.
    pub(in crate::model) fn is_given(&self) -> bool {
        self.value.is_some()
    }

    /// Whether it holds an object: for fields that have a short and a long form.
    pub(in crate::model) fn is_object(&self) -> bool {
        self.value.is_some_and(Value::is_object)
    }

    /// Whether it holds a list without elements.
    pub(in crate::model) fn is_empty_list(&self) -> bool {
        self.value.and_then(Value::as_array).is_some_and(Vec::is_empty)
    }

    /// Notes that the field is wrong.
    pub(in crate::model) fn refuse(&self, errors: &mut Errors, problem: impl Into<String>, allowed: impl Into<String>) {
        let path = if self.path.is_empty() { "document" } else { &self.path };
        errors.add(path, self.shown(), Refusal::new(problem, allowed));
    }

    /// The fields of an object; each name that is not known is an error that proposes the nearest known one.
    pub(in crate::model) fn object(&self, known: &[&str], errors: &mut Errors) -> Option<Object<'a>> {
        let value = self.value?;
        let Some(map) = value.as_object() else {
            self.refuse(errors, "is not an object", format!("an object with the fields {}", known.join(", ")));
            return None;
        };
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            let near = suggest::nearest(name, known.iter().copied()).or_else(|| compose_name(name, known));
            let near = near.map_or_else(String::new, |near| format!(", did you mean {near}?"));
            let problem = format!("is not a field{near}");
            errors.add(&join(&self.path, name), shorten(name), Refusal::new(problem, known.join(", ")));
        }
        Some(Object { path: self.path.clone(), map })
    }

    /// The elements of a list.
    pub(in crate::model) fn items(&self, form: &str, errors: &mut Errors) -> Vec<Self> {
        let Some(value) = self.value else { return Vec::new() };
        let Some(list) = value.as_array() else {
            self.refuse(errors, "is not a list", form);
            return Vec::new();
        };
        let place = |(index, item)| Self { path: format!("{}[{index}]", self.path), value: Some(item), ..*self };
        list.iter().enumerate().map(place).collect()
    }

    /// A text, a number or a truth value as text: YAML turns `10` and `yes` into the latter two.
    pub(in crate::model) fn scalar(&self, errors: &mut Errors) -> Option<Cow<'a, str>> {
        let value = self.value?;
        let text = match (value.as_str(), value.is_number() || value.is_boolean()) {
            (Some(text), _) => Cow::Borrowed(text),
            (None, true) => Cow::Owned(value.to_string()),
            (None, false) => {
                self.refuse(errors, "is not a text", "a text");
                return None;
            }
        };
        if text.contains('\0') {
            self.refuse(errors, "has a zero byte in it", "a text without zero bytes");
            return None;
        }
        Some(text)
    }

    /// A text that a syntax check takes.
    pub(in crate::model) fn parsed<T>(
        &self,
        errors: &mut Errors,
        parse: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Option<T> {
        let text = self.scalar(errors)?;
        parse(&text).map_err(|refusal| self.refuse(errors, refusal.problem, refusal.allowed)).ok()
    }

    /// A whole number in a range.
    pub(in crate::model) fn whole(&self, range: RangeInclusive<u32>, errors: &mut Errors) -> Option<u32> {
        self.parsed(errors, |text| {
            // 50.0 is 50: some YAML writers have only one kind of number.
            let digits = text.strip_suffix(".0").unwrap_or(text);
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let number = if plain { digits.parse().ok() } else { None };
            number.filter(|number| range.contains(number)).ok_or_else(|| {
                let problem = if plain { "is out of range" } else { "is not a whole number" };
                Refusal::new(problem, format!("{} to {}", range.start(), range.end()))
            })
        })
    }

    /// A duration in a range.
    pub(in crate::model) fn duration(&self, range: RangeInclusive<Duration>, errors: &mut Errors) -> Option<Duration> {
        self.parsed(errors, |text| {
            let duration = parse_duration(text)?;
            let bounds = format!("{} to {}", format_duration(*range.start()), format_duration(*range.end()));
            let problem = if duration < *range.start() { "is too short" } else { "is too long" };
            range.contains(&duration).then_some(duration).ok_or_else(|| Refusal::new(problem, bounds))
        })
    }

    /// An amount of bytes in a range.
    pub(in crate::model) fn bytes(&self, range: RangeInclusive<u64>, errors: &mut Errors) -> Option<u64> {
        self.parsed(errors, |text| {
            let bytes = parse_bytes(text)?;
            let bounds = format!("{} to {}", format_bytes(*range.start()), format_bytes(*range.end()));
            let problem = if bytes < *range.start() { "is too small" } else { "is too large" };
            range.contains(&bytes).then_some(bytes).ok_or_else(|| Refusal::new(problem, bounds))
        })
    }

    /// True or false.
    pub(in crate::model) fn flag(&self, errors: &mut Errors) -> Option<bool> {
        self.one_of(&[("true", true), ("false", false)], errors)
    }

    /// One of a few words; case does not matter.
    pub(in crate::model) fn one_of<T: Copy>(&self, choices: &[(&str, T)], errors: &mut Errors) -> Option<T> {
        self.parsed(errors, |text| {
            let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
            found.map(|(_, choice)| *choice).ok_or_else(|| {
                let names = || choices.iter().map(|(name, _)| *name);
                let near = suggest::nearest(text, names()).filter(|_| !self.secret);
                let near = near.map_or_else(String::new, |near| format!(", did you mean {near}?"));
                Refusal::new(format!("is not a choice{near}"), names().collect::<Vec<_>>().join(", "))
            })
        })
    }

    /// A command line: a text that is split like a shell does it, or a list of words.
    pub(in crate::model) fn command_line(&self, errors: &mut Errors) -> Vec<String> {
        if self.value.is_some_and(Value::is_array) {
            let items = self.items("", errors);
            return items.iter().filter_map(|item| item.scalar(errors)).map(Cow::into_owned).collect();
        }
        let form = "a text such as \"server --port 80\" or a list such as [server, --port, \"80\"]";
        if self.value.is_some_and(Value::is_object) {
            self.refuse(errors, "is not a command line", form);
            return Vec::new();
        }
        let line = self.parsed(errors, words::split);
        if line.as_ref().is_some_and(Vec::is_empty) {
            self.refuse(errors, "is empty", form);
        }
        line.unwrap_or_default()
    }

    /// Names with values: an object, or a list of `NAME=VALUE`. No error shows a value.
    pub(in crate::model) fn pairs(
        &self,
        errors: &mut Errors,
        name: impl Fn(&str) -> Result<String, Refusal>,
        value: impl Fn(&str) -> Result<(), Refusal>,
    ) -> BTreeMap<String, String> {
        let form = "an object, or a list of NAME=VALUE";
        let mut given: Vec<(String, Cow<'a, str>, Self)> = Vec::new();
        if let Some(map) = self.value.and_then(Value::as_object) {
            for (key, item) in map {
                let field = Self { path: join(&self.path, key), value: Some(item), secret: true };
                given.extend(field.scalar(errors).map(|text| (key.clone(), text, field)));
            }
        } else {
            for item in self.clone().secret().items(form, errors) {
                let Some(text) = item.scalar(errors) else { continue };
                match text.split_once('=') {
                    Some((key, text)) => given.push((key.to_owned(), Cow::Owned(text.to_owned()), item)),
                    None => item.refuse(errors, "has no =", "NAME=VALUE"),
                }
            }
        }
        let mut pairs = BTreeMap::new();
        for (key, text, field) in given {
            if let Err(refusal) = value(&text) {
                field.refuse(errors, refusal.problem, refusal.allowed);
            }
            match name(&key) {
                Err(refusal) => errors.add(&field.path, shorten(&key), refusal),
                Ok(name) if pairs.contains_key(&name) => {
                    errors.add(&field.path, shorten(&key), Refusal::new("is given twice", "each name once"));
                }
                Ok(name) => drop(pairs.insert(name, text.into_owned())),
            }
        }
        pairs
    }

    /// The value as an error shows it.
    fn shown(&self) -> String {
        let Some(value) = self.value else { return String::new() };
        if let Some(map) = value.as_object() {
            return format!("an object of {}", map.len());
        }
        if let Some(list) = value.as_array() {
            return format!("a list of {}", list.len());
        }
        if self.secret {
            return MASK.to_owned();
        }
        value.as_str().map_or_else(|| value.to_string(), shorten)
    }
}

/// A text as JSON, cut short; what stands between `://` and the last `@` may be a login and is hidden.
fn shorten(text: &str) -> String {
    let mut text = Cow::Borrowed(text);
    if let Some((scheme, rest)) = text.split_once("://")
        && let Some((_, rest)) = rest.rsplit_once('@')
    {
        text = Cow::Owned(format!("{scheme}://{MASK}@{rest}"));
    }
    let mut start: String = text.chars().take(SHOWN).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    Value::String(start).to_string()
}

/// The path of a field in an object. A name is cut short, and control characters in it reach no terminal.
fn join(path: &str, name: &str) -> String {
    // Our own names, which are nearly all.
    if path.is_empty() && (1..=SHOWN).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return name.to_owned();
    }
    let mut name = match name {
        "" => Cow::Borrowed("\"\""),
        _ => Cow::Borrowed(name),
    };
    if name.chars().count() > SHOWN {
        name = Cow::Owned(name.chars().take(SHOWN).chain(['…']).collect());
    }
    if name.contains(char::is_control) {
        name = Cow::Owned(name.escape_debug().to_string());
    }
    if path.is_empty() { name.into_owned() } else { format!("{path}.{name}") }
}

/// Our name for a field of a compose file or of the earlier Maelstrom, for those that no slip of the finger explains.
fn compose_name<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let ours = match name {
        "environment" | "environment_variables" => "env",
        "healthcheck" | "health_check" | "httphealthcheckpath" => "health",
        "httpport" | "ports" | "expose" => "port",
        "mem_limit" | "mem_reservation" | "reservememory" | "limitmemory" => "memory",
        "cpus" | "cpushares" => "cpu",
        "working_dir" | "workdir" => "cwd",
        "networks" | "network_mode" | "networkname" => "network",
        "logging" | "logdriver" => "log",
        "stop_signal" | "stop_grace_period" => "stop",
        "pull_policy" => "pull",
        "maxconcurrency" | "max_concurrency" => "concurrency",
        "mininstances" | "min_instances" => "min",
        "maxinstances" | "max_instances" => "max",
        "idletimeoutseconds" | "idle_timeout" => "idle",
        "maxdurationseconds" | "timeout" => "request_timeout",
        "restartorder" | "restart_order" => "restart",
        "expression" | "cron" => "schedule",
        "tz" | "zone" => "timezone",
        "hostname" => "host",
        _ => return None,
    };
    known.iter().copied().find(|known| *known == ours)
}
