//! The timeline of the cluster: what happened, where, when and why.
//!
//! Each node writes down the last of what happened at it, in blocks that travel as rows; what all nodes say is put
//! together by time when somebody reads it. A core without IO: it knows nothing of how blocks travel, and who is alive
//! only when told.

use serde::{Deserialize, Serialize};

use crate::model::happening::What;
use crate::time::Wall;

mod merged;
mod ring;

pub use merged::{Filter, Timeline, Told};
pub use ring::{BLOCKS, Block, KEPT, Ring};

/// Bytes of a text at most; a longer one loses its end. Two lines of a wide terminal: a reason, and the last line that
/// an instance wrote.
pub const TEXT_MAX: usize = 400;

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A component, by name.
    Component(String),
    /// An instance, by id.
    Instance(String),
    /// An event source, by name.
    Source(String),
    /// A setting, by name.
    Setting(String),
    /// A node, by name.
    Node(String),
}

impl Subject {
    /// The kind in a word, and the name.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Component(name) => ("component", name),
            Self::Instance(id) => ("instance", id),
            Self::Source(name) => ("source", name),
            Self::Setting(name) => ("setting", name),
            Self::Node(name) => ("node", name),
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// On the clock of the node that wrote it down.
    pub at: Wall,
    /// What.
    pub what: What,
    /// To what.
    pub subject: Subject,
    /// The component that it concerns, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Why, and what there is to know; at most [`TEXT_MAX`] bytes.
    pub text: String,
    /// What several nodes see each for itself has the same mark with all of them, and is shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once: Option<String>,
}

impl Entry {
    /// An entry that one node alone writes. A text that begins with the word for what happened loses it.
    #[must_use]
    pub fn new(at: Wall, what: What, subject: Subject, component: Option<&str>, text: &str) -> Self {
        let text = text.strip_prefix(&format!("{what}: ")).unwrap_or(text);
        let text = match text.len() > TEXT_MAX {
            true => format!("{}…", &text[..text.floor_char_boundary(TEXT_MAX - '…'.len_utf8())]),
            false => text.to_owned(),
        };
        Self { at, what, subject, component: component.map(str::to_owned), text, once: None }
    }

    /// The same, seen by several nodes each for itself.
    #[must_use]
    pub fn once(self, mark: String) -> Self {
        Self { once: Some(mark), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_says_no_word_twice_and_a_long_one_is_cut_between_two_letters() {
        let entry = |text: &str| Entry::new(Wall(1), What::Starting, Subject::Node("n".into()), None, text).text;
        assert_eq!(entry("starting: 1 request waits"), "1 request waits");
        let long = entry(&"ü".repeat(TEXT_MAX));
        assert!(long.len() <= TEXT_MAX && long.ends_with("ü…"), "{long}");
    }

    #[test]
    fn an_entry_of_a_later_release_is_still_one() {
        let json = r#"{"at":5,"what":"exploded","subject":{"node":"n1"},"text":"x","more":1}"#;
        let entry: Entry = serde_json::from_str(json).expect("an entry");
        assert_eq!((entry.what, entry.subject.parts()), (What::Unknown, ("node", "n1")));
    }
}
