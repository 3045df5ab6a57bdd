//! The syntax of image references, as the OCI distribution defines it.
//!
//! Knows nothing of registries on the network, nor of how an image is fetched.

use std::fmt;
use std::net::Ipv6Addr;

use crate::model::invalid::Refusal;

const FORM: &str = "[registry[:port]/]name[:tag][@digest] in lower case, such as nginx:1.27 or host:5000/team/api:v2";

/// The longest name with its registry, as the distribution's reference parser has it.
const NAME_MAX: usize = 255;
/// The longest tag, from the same place.
const TAG_MAX: usize = 128;

/// The parts of a reference. Its `Display` puts them together again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef {
    /// Host with port if given; `None` is the runtime's default registry.
    pub registry: Option<String>,
    /// Name in the registry, such as `team/api`.
    pub name: String,
    /// Tag; `latest` if neither a tag nor a digest is given, so that one image is fetched and never all tags.
    pub tag: Option<String>,
    /// Such as `sha256:...`.
    pub digest: Option<String>,
}

impl ImageRef {
    /// Takes a reference apart. `host:5000/img` has a port and no tag.
    ///
    /// # Errors
    /// Names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refuse = |problem: &str| Refusal::new(problem, FORM);
        if text.contains("://") {
            return Err(refuse("has a scheme, and a reference has none"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest)),
            Some(_) => return Err(refuse("has no digest such as sha256:<64 hexadecimal digits> after its @")),
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if names_host(first) => (Some(first), rest),
            _ => (None, rest),
        };
        let (name, tag) = match rest.split_once(':') {
            Some((name, tag)) if is_tag(tag) => (name, Some(tag)),
            Some(_) => return Err(refuse("has a tag that is not 1 to 128 of [A-Za-z0-9_.-]")),
            None => (rest, None),
        };
        if registry.is_some_and(|host| !is_registry(host)) {
            return Err(refuse("has a registry that is not a host with an optional port"));
        }
        if !name.split('/').all(is_component) {
            return Err(refuse("has a name that is not parts of [a-z0-9] with single separators . _ __ - and /"));
        }
        if registry.map_or(0, str::len) + name.len() > NAME_MAX {
            return Err(refuse("has a name of more than 255 bytes"));
        }
        let tag = if digest.is_none() { Some(tag.unwrap_or("latest")) } else { tag };
        Ok(Self {
            registry: registry.map(str::to_owned),
            name: name.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether the first part of a path is a host: the distribution's rule, which Docker follows.
fn names_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.contains(|c: char| c.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| !is_port(port)) {
        return false;
    }
    if let Some(inner) = host.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    }
    host.split('.').all(|label| {
        let ends = !label.starts_with('-') && !label.ends_with('-');
        !label.is_empty() && ends && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// One part of a name: lower-case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let outer = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b);
    let joined = |run: &[u8]| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-');
    outer(bytes.first())
        && outer(bytes.last())
        && bytes.iter().all(allowed)
        && bytes.split(|b| b.is_ascii_lowercase() || b.is_ascii_digit()).all(joined)
}

fn is_tag(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (1..=TAG_MAX).contains(&text.len()) && !text.starts_with(['.', '-']) && text.bytes().all(inner)
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_port_is_not_a_tag() {
        let image = ImageRef::parse("host:5000/img").expect("a reference");
        assert_eq!(image.registry.as_deref(), Some("host:5000"));
        assert_eq!(image.to_string(), "host:5000/img:latest");
    }

    #[test]
    fn every_part_is_found_and_put_together_again() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for text in ["nginx:1", "localhost/a/b:v1", "ghcr.io/o/r_x__y.z--w:T_1.2-3", "[::1]:5000/i:1"] {
            assert_eq!(ImageRef::parse(text).expect(text).to_string(), text);
        }
        let full = format!("host:5000/team/api:v2@{digest}");
        let image = ImageRef::parse(&full).expect("a reference");
        assert_eq!((image.name.as_str(), image.tag.as_deref()), ("team/api", Some("v2")));
        assert_eq!(image.to_string(), full);
        let bare = ImageRef::parse(&format!("nginx@{digest}")).expect("a reference");
        assert_eq!(bare.tag, None);
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = format!("a/{}", "b".repeat(255));
        let refused = ["", ":", "a:", "a:b:c", "a b", "Nginx", "a/", "/a", "a//b", "a@", "a@sha256:12", "-a", "a___b"];
        for text in refused.into_iter().chain(["h:0/a", "h:99999/a", "https://h/a", "h_x.y/a", "a..b", "é", &long]) {
            let refusal = ImageRef::parse(text).expect_err(text);
            assert_eq!(refusal.allowed, FORM);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_it_takes_is_stable(text in "[a-zA-Z0-9:/@._\\[\\]-]{0,40}|\\PC{0,40}") {
            if let Ok(image) = ImageRef::parse(&text) {
                prop_assert_eq!(ImageRef::parse(&image.to_string()).ok(), Some(image));
            }
        }
    }
}
