//! The source `http`: requests from outside, chosen by host and path.
//!
//! Knows nothing of the routes that are made of it.

use serde_json::{Value, json};

use crate::model::address;
use crate::model::reader::{Errors, Object};
use crate::model::source::Section;
use crate::model::source::defaults as d;

/// Requests to a host and path prefix. At least one of the two is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Lower-case host without port: exact, or `*.` and a domain; `None` is any host.
    pub host: Option<String>,
    /// Starts with `/`, no trailing `/` unless it is `/`; matches whole segments.
    pub path: String,
    /// Whether the prefix is cut off before the component sees the path.
    pub strip_prefix: bool,
}

impl Section for Http {
    const NAME: &'static str = "http";
    const FIELDS: &'static [&'static str] = &["host", "path", "strip_prefix"];

    fn read(object: &Object<'_>, e: &mut Errors) -> Option<Self> {
        let (host, path) = (object.get("host"), object.get("path"));
        if !host.is_given() && !path.is_given() {
            host.refuse(e, "is missing, and so is path", "a host, a path or both; path / takes every request");
        }
        let parsed = host.parsed(e, address::parse_host);
        let prefix = path.parsed(e, address::parse_prefix);
        let strip_prefix = object.get("strip_prefix").flag(e).unwrap_or(false);
        Some(Self { host: parsed, path: prefix.unwrap_or_else(|| d::PREFIX.to_owned()), strip_prefix })
    }

    fn to_doc(&self) -> Value {
        json!({"host": self.host, "path": self.path, "strip_prefix": self.strip_prefix})
    }
}
