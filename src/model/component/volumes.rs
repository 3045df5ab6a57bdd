//! The mounts of a component: short and long form, paths and names.
//!
//! Knows nothing of what is on any disk.

use std::collections::BTreeSet;

use crate::model::component::{Volume, VolumeKind};
use crate::model::invalid::Refusal;
use crate::model::reader::{Errors, Field};

/// Fields of the long form of one volume.
pub(super) const VOLUME: &[&str] = &["type", "source", "target", "read_only"];

const FORM: &str = "SOURCE:TARGET or SOURCE:TARGET:ro, where SOURCE is an absolute path or the name of a volume";
const PATH_FORM: &str = "an absolute path such as /data, without . and .. in it";
const NAME_FORM: &str = "[A-Za-z0-9][A-Za-z0-9_.-]*, at most 255 bytes";

/// Longest path in bytes: `PATH_MAX` of Linux without its final zero.
const PATH_MAX: usize = 4095;

/// Reads the list; two mounts on one target are an error.
pub(super) fn read(field: &Field<'_>, e: &mut Errors) -> Vec<Volume> {
    let mut targets = BTreeSet::new();
    let mut volumes = Vec::new();
    for item in field.items(&format!("a list of {FORM}, or of objects"), e) {
        let volume = if item.is_object() { long(&item, e) } else { item.parsed(e, short) };
        let Some(volume) = volume else { continue };
        if !targets.insert(volume.target.clone()) {
            item.refuse(e, format!("mounts on {} a second time", volume.target), "one mount for each target");
        }
        volumes.push(volume);
    }
    volumes
}

fn short(text: &str) -> Result<Volume, Refusal> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts[..] {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        _ => return Err(Refusal::new("is not a volume", FORM)),
    };
    let kind = if source.starts_with(['/', '.', '~']) { VolumeKind::Bind } else { VolumeKind::Volume };
    let within = |what: &str, refusal: Refusal| Refusal::new(format!("has a {what} that {}", refusal.problem), FORM);
    let source = check_source(kind, source).map_err(|refusal| within("source", refusal))?;
    let target = check_target(target).map_err(|refusal| within("target", refusal))?;
    Ok(Volume { kind, source, target, read_only })
}

fn long(item: &Field<'_>, e: &mut Errors) -> Option<Volume> {
    let object = item.object(VOLUME, e)?;
    let kinds = [VolumeKind::Bind, VolumeKind::Volume, VolumeKind::Tmpfs].map(|kind| (kind.name(), kind));
    let (kind, source, target) = (object.get("type"), object.get("source"), object.get("target"));
    let named = kind.one_of(&kinds, e);
    let is_path = || source.scalar(&mut Errors::default()).is_some_and(|text| text.starts_with(['/', '.', '~']));
    let guess = || if is_path() { VolumeKind::Bind } else { VolumeKind::Volume };
    let kind = named.unwrap_or_else(guess);
    if kind == VolumeKind::Tmpfs && source.is_given() {
        source.refuse(e, "is given, and a tmpfs has no source", "nothing");
    }
    if kind != VolumeKind::Tmpfs && !source.is_given() {
        source.refuse(e, "is missing", "an absolute path for bind, a name for volume");
    }
    if !target.is_given() {
        target.refuse(e, "is missing", PATH_FORM);
    }
    let from = source.parsed(e, |text| check_source(kind, text)).unwrap_or_default();
    let read_only = object.get("read_only").flag(e).unwrap_or(false);
    Some(Volume { kind, source: from, target: target.parsed(e, check_target)?, read_only })
}

fn check_source(kind: VolumeKind, text: &str) -> Result<String, Refusal> {
    match kind {
        VolumeKind::Bind => absolute_path(text),
        VolumeKind::Volume => check_name(text),
        VolumeKind::Tmpfs => Ok(String::new()),
    }
}

fn check_target(text: &str) -> Result<String, Refusal> {
    match absolute_path(text)?.as_str() {
        "/" => Err(Refusal::new("is the root, which the image fills", PATH_FORM)),
        path => Ok(path.to_owned()),
    }
}

/// An absolute path without empty segments and without a `/` at its end.
pub(in crate::model) fn absolute_path(text: &str) -> Result<String, Refusal> {
    let refuse = |problem: &str| Err(Refusal::new(problem, PATH_FORM));
    if !text.starts_with('/') {
        return refuse("is not absolute, and each node would see another place");
    }
    if text.len() > PATH_MAX {
        return refuse("is longer than 4095 bytes");
    }
    let segments: Vec<&str> = text.split('/').filter(|segment| !segment.is_empty()).collect();
    if segments.iter().any(|segment| matches!(*segment, "." | "..")) {
        return refuse("has . or .. in it");
    }
    Ok(format!("/{}", segments.join("/")))
}

/// A name of the container runtime: of a volume or a network.
pub(super) fn check_name(text: &str) -> Result<String, Refusal> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let fits = text.len() <= 255 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(inner);
    fits.then(|| text.to_owned()).ok_or_else(|| Refusal::new("is not a name of the container runtime", NAME_FORM))
}
