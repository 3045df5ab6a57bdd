//! The part of a component's document that says what runs: an image or a program.
//!
//! Knows nothing of how often, where and for how long it runs.

use crate::model::component::{Command, Credentials, Image, PullPolicy, Workload, volumes};
use crate::model::image::ImageRef;
use crate::model::invalid::Refusal;
use crate::model::reader::{Errors, Field, MASK, Object};

/// Fields of the long form of `image`.
pub(super) const IMAGE: &[&str] = &["reference", "pull", "username", "password"];
/// Fields of `credentials`.
pub(super) const CREDENTIALS: &[&str] = &["username", "password"];

/// Reads what runs; `None` after an error that leaves it open.
pub(super) fn read(top: &Object<'_>, e: &mut Errors) -> Option<Workload> {
    let (image, command) = (top.get("image"), top.get("command"));
    if image.is_given() {
        return read_image(&image, top, e).map(Workload::Image);
    }
    if !command.is_given() {
        image.refuse(e, "is missing, and so is command", "an image such as nginx:1, or a command such as \"server\"");
        return None;
    }
    for field in ["pinned", "pull", "credentials", "entrypoint"] {
        let field = top.get(field).secret();
        if field.is_given() {
            field.refuse(e, "belongs to an image, and only a command is given", "nothing, or an image beside it");
        }
    }
    let cwd = top.get("cwd").parsed(e, volumes::absolute_path);
    let argv = command.command_line(e);
    if argv.first().is_some_and(String::is_empty) {
        command.refuse(e, "has an empty text as its program", "a program and its arguments");
    }
    if command.is_empty_list() {
        command.refuse(e, "names no program", "a program and its arguments");
    }
    Some(Workload::Command(Command { argv, cwd }))
}

fn read_image(field: &Field<'_>, top: &Object<'_>, e: &mut Errors) -> Option<Image> {
    let long = if field.is_object() { field.object(IMAGE, e) } else { None };
    let place = long.as_ref().map_or_else(|| field.clone(), |image| image.get("reference"));
    if !place.is_given() {
        place.refuse(e, "is missing", "an image such as nginx:1");
    }
    let reference = place.parsed(e, ImageRef::parse);
    let pull = choose(long.as_ref().map(|image| image.get("pull")), top.get("pull"), e);
    let policies = [PullPolicy::Always, PullPolicy::Missing, PullPolicy::Never].map(|policy| (policy.name(), policy));
    let pull = pull.one_of(&policies, e).unwrap_or_default();
    let cwd = top.get("cwd");
    if cwd.is_given() {
        cwd.refuse(e, "belongs to a program, and an image has its own working directory", "nothing");
    }
    let pinned = pinned(&top.get("pinned"), reference.as_ref(), e);
    let image = Image {
        reference: reference?.to_string(),
        pinned,
        command: top.get("command").command_line(e),
        entrypoint: top.get("entrypoint").command_line(e),
        pull,
        credentials: credentials(long.as_ref(), &top.get("credentials").secret(), e),
    };
    Some(image)
}

impl Image {
    /// What is fetched and run: the digest if one is known, whatever the tag stands for by now.
    pub fn exact(&self) -> String {
        match (&self.pinned, ImageRef::parse(&self.reference)) {
            (Some(digest), Ok(parts)) => ImageRef { tag: None, digest: Some(digest.clone()), ..parts }.to_string(),
            (Some(_), Err(_)) | (None, _) => self.reference.clone(),
        }
    }
}

/// The digest of `IMAGE@DIGEST`. One that was found for another image, as after an edit of the tag, says nothing.
fn pinned(field: &Field<'_>, reference: Option<&ImageRef>, e: &mut Errors) -> Option<String> {
    let read = field.parsed(e, |text| {
        let form = "the image, @ and a digest such as sha256:<64 hexadecimal digits>";
        let parts = ImageRef::parse(text)?;
        if parts.digest.is_some() { Ok(parts) } else { Err(Refusal::new("has no digest", form)) }
    })?;
    let of = ImageRef { digest: None, ..read.clone() };
    read.digest.filter(|_| reference == Some(&of))
}

/// The one that is given of two places for the same thing.
fn choose<'a>(long: Option<Field<'a>>, short: Field<'a>, e: &mut Errors) -> Field<'a> {
    match long {
        Some(long) if long.is_given() => {
            if short.is_given() {
                short.refuse(e, "is given here and in image", "one of the two");
            }
            long
        }
        _ => short,
    }
}

fn credentials(image: Option<&Object<'_>>, short: &Field<'_>, e: &mut Errors) -> Option<Credentials> {
    let image = image.filter(|image| CREDENTIALS.iter().any(|name| image.get(name).is_given()));
    let object = if short.is_given() { short.object(CREDENTIALS, e) } else { None };
    if image.is_some() && short.is_given() {
        short.refuse(e, "are given here and in image", "one of the two");
    }
    let object = image.or(object.as_ref())?;
    let mut get = |name: &str, form: &str| {
        let field = object.get(name).secret();
        if !field.is_given() {
            field.refuse(e, "is missing", form);
        }
        let text = field.scalar(e)?.into_owned();
        if text.is_empty() {
            field.refuse(e, "is empty", form);
        }
        Some((field, text))
    };
    let username = get("username", "the name at the registry");
    let password = get("password", "the password or token of the registry");
    let ((_, username), (field, password)) = (username?, password?);
    if password == MASK {
        field.refuse(e, "is the mask that stands for a password when it is shown", "the password itself");
    }
    Some(Credentials { username, password })
}
