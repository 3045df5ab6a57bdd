//! Settings (`cfg`): how they are called, whose they are, and in which form a component is given one.
//!
//! Knows nothing of how a value is kept, nor of who may see it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::id::ComponentName;
use crate::model::invalid::Refusal;

/// The longest name in bytes. Variables of large frameworks have up to 80 (`SPRING_DATASOURCE_HIKARI_...`); with the
/// name of a component in front it fits a key of the registry.
pub const NAME_MAX: usize = 120;

/// The longest value in bytes. A row of the registry has 64 KiB; what stands around the value (version, nonce, tag,
/// lengths) takes some 40 bytes, and a round number is easier to remember.
pub const VALUE_MAX: usize = 63 * 1024;

/// The variable that names the directory of the files of an instance.
pub const DIRECTORY: &str = "MAELSTROM_CFG";

/// Start of the names of environment variables that Maelstrom sets.
const OURS: &str = "MAELSTROM_";

/// What a name may be made of, for refusals.
const FORM: &str = "[A-Za-z_][A-Za-z0-9_.-]*, not starting with MAELSTROM_";

/// Checks the name of an environment variable that a user sets.
///
/// # Errors
/// It is none, or it is one of ours.
pub fn check_variable(name: &str) -> Result<(), Refusal> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !name.bytes().all(inner) {
        return Err(Refusal::new("is not the name of an environment variable", FORM));
    }
    if name.starts_with(OURS) {
        return Err(Refusal::new("is a name that Maelstrom sets itself", FORM));
    }
    Ok(())
}

/// Checks the name of a variable that a setting is delivered in.
fn check_own_variable(name: &str) -> Result<(), Refusal> {
    check_variable(name)?;
    if name == "PORT" {
        return Err(Refusal::new("is set by Maelstrom", "the field port of the component"));
    }
    if name.len() > NAME_MAX {
        return Err(Refusal::new(format!("is {} bytes long", name.len()), format!("at most {NAME_MAX} bytes")));
    }
    Ok(())
}

/// The name of a setting: could be that of an environment variable, and is at most [`NAME_MAX`] bytes long.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CfgName(Arc<str>);

impl CfgName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CfgName {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        check_own_variable(text)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for CfgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for CfgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One setting among all: that of a component hides the one of the same name that is for all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CfgKey {
    /// Whose; none is for all.
    pub component: Option<ComponentName>,
    /// How it is called.
    pub name: CfgName,
}

impl CfgKey {
    /// Its name in the registry: `NAME`, or `component/NAME`.
    pub fn row_name(&self) -> String {
        match &self.component {
            Some(component) => format!("{component}/{}", self.name),
            None => self.name.to_string(),
        }
    }

    /// Reads [`Self::row_name`] back; none if it is none.
    pub fn from_row_name(text: &str) -> Option<Self> {
        let (component, name) = match text.split_once('/') {
            Some((component, name)) => (Some(component.parse().ok()?), name),
            None => (None, text),
        };
        Some(Self { component, name: name.parse().ok()? })
    }

    /// How it is named on a command line of `maelctl cfg`.
    pub fn flags(&self) -> String {
        match &self.component {
            Some(component) => format!("{} --component {component}", self.name),
            None => self.name.to_string(),
        }
    }
}

impl fmt::Display for CfgKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.component {
            Some(component) => write!(f, "setting {} of component {component}", self.name),
            None => write!(f, "setting {}", self.name),
        }
    }
}

/// In which form an instance is given a setting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivery {
    /// As an environment variable of this name.
    Variable(String),
    /// As a file, which the instance may only read.
    File {
        /// Absolute: at exactly this path, which only a container can have. Else its name in the directory that the
        /// variable [`DIRECTORY`] names.
        path: String,
        /// A variable that holds the path.
        variable: Option<String>,
    },
}

impl Delivery {
    /// The environment variable that it sets, if any.
    pub fn variable(&self) -> Option<&str> {
        match self {
            Self::Variable(name) => Some(name),
            Self::File { variable, .. } => variable.as_deref(),
        }
    }
}

/// That a component uses a setting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CfgUse {
    /// Which; the component's own one if there is one, else the one for all.
    pub name: CfgName,
    /// How it gets it.
    pub to: Delivery,
}

impl CfgUse {
    /// As a variable of its own name.
    pub fn plain(name: CfgName) -> Self {
        let to = Delivery::Variable(name.to_string());
        Self { name, to }
    }
}

impl FromStr for CfgUse {
    type Err = Refusal;
    /// Reads the short form: `NAME`, `NAME=VARIABLE`, `NAME=/path` or `NAME=./file`.
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let Some((name, to)) = text.split_once('=') else { return Ok(Self::plain(text.parse()?)) };
        let to = match to.starts_with(['/', '.']) {
            true => Delivery::File { path: check_path(to)?, variable: None },
            false => Delivery::Variable(check_target(to)?),
        };
        Ok(Self { name: name.parse()?, to })
    }
}

/// A variable that a setting is to be delivered in.
pub(in crate::model) fn check_target(text: &str) -> Result<String, Refusal> {
    check_own_variable(text).map(|()| text.to_owned())
}

/// A file that a setting is to be delivered in: an absolute path, or a name, with `./` in front or not.
pub(in crate::model) fn check_path(text: &str) -> Result<String, Refusal> {
    const PATHS: &str = "an absolute path such as /etc/tls.key (containers only), or a name such as tls.key for a file in \
                         the directory that the variable MAELSTROM_CFG names";
    if text.starts_with('/') {
        return match crate::model::component::absolute_path(text) {
            Ok(path) if path != "/" => Ok(path),
            Ok(_) => Err(Refusal::new("is the root, which the image fills", PATHS)),
            Err(refusal) => Err(Refusal::new(refusal.problem, PATHS)),
        };
    }
    let name = text.strip_prefix("./").unwrap_or(text);
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let fits = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(inner) && name != "." && name != "..";
    fits.then(|| name.to_owned()).ok_or_else(|| Refusal::new("is not a path or a name", PATHS))
}

/// A setting on its way into an instance. `Debug` does not show the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Given {
    /// In which form.
    pub to: Delivery,
    /// The value. Of a variable it is a text without zero bytes.
    pub value: Arc<[u8]>,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} = ***", self.to)
    }
}

impl Given {
    /// Makes a value fit for its form: a variable loses the line feeds at its end, as `$(cat FILE)` of a shell does,
    /// and must be a text.
    ///
    /// # Errors
    /// It is no text; the sentence continues with what it is and shows nothing of it.
    pub fn new(to: Delivery, value: &[u8]) -> Result<Self, String> {
        let value = match &to {
            Delivery::File { .. } => value,
            Delivery::Variable(name) => {
                let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'));
                let text = text.ok_or_else(|| {
                    format!("is no text, and an environment variable ({name}) must be one; take it as a file")
                })?;
                text.trim_end_matches(['\r', '\n']).as_bytes()
            }
        };
        Ok(Self { to, value: value.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_could_be_that_of_a_variable() {
        for good in ["DATABASE_URL", "tls.key", "_", "a-b", &"x".repeat(NAME_MAX)] {
            assert_eq!(good.parse::<CfgName>().expect(good).as_str(), good);
        }
        for bad in ["", "1A", "a b", "a/b", "a=b", "ä", "MAELSTROM_X", "PORT", &"x".repeat(NAME_MAX + 1)] {
            assert!(bad.parse::<CfgName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_comes_back_from_its_name_in_the_registry_and_no_two_share_one() {
        let key = |component: Option<&str>| CfgKey {
            component: component.map(|name| name.parse().expect("a name")),
            name: "A".parse().expect("a name"),
        };
        for key in [key(None), key(Some("api")), key(Some("a"))] {
            assert_eq!(CfgKey::from_row_name(&key.row_name()), Some(key));
        }
        assert_ne!(key(None).row_name(), key(Some("a")).row_name());
        for none in ["", "/", "a/", "/A", "A/B", "a/b/c", "a/1"] {
            assert_eq!(CfgKey::from_row_name(none), None, "{none}");
        }
        let longest = format!("{}/{}", "c".repeat(crate::id::NAME_MAX), "N".repeat(NAME_MAX));
        assert!(CfgKey::from_row_name(&longest).is_some());
    }

    #[test]
    fn the_short_form_says_variable_or_file() {
        let to = |text: &str| text.parse::<CfgUse>().map(|one| one.to).map_err(|refusal| refusal.to_string());
        let file = |path: &str| Ok(Delivery::File { path: path.into(), variable: None });
        assert_eq!(to("A"), Ok(Delivery::Variable("A".into())));
        assert_eq!(to("A=B"), Ok(Delivery::Variable("B".into())));
        assert_eq!(to("A=/etc//a"), file("/etc/a"));
        assert_eq!(to("A=./a.key"), file("a.key"));
        for bad in ["", "=B", "A=", "A=1", "A=/", "A=/a/../b", "A=..", "A=./a/b", "A=MAELSTROM_CFG", "A=PORT"] {
            assert!(to(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variable_loses_line_feeds_at_its_end_and_a_file_is_what_it_was() {
        let variable = || Delivery::Variable("A".into());
        let file = || Delivery::File { path: "a".into(), variable: None };
        assert_eq!(&*Given::new(variable(), b" a\nb \r\n\n").expect("text").value, b" a\nb ");
        assert_eq!(&*Given::new(file(), b"a\n\xff\0").expect("bytes").value, b"a\n\xff\0");
        for bad in [&b"hush\xff"[..], b"hush\0"] {
            let error = Given::new(variable(), bad).expect_err("no text");
            assert!(error.contains("as a file") && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_value_is_in_no_debug_text() {
        let given = Given::new(Delivery::Variable("A".into()), b"hush").expect("text");
        assert_eq!(format!("{given:?}"), "Variable(\"A\") = ***");
    }
}
