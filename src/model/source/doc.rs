//! An event source as a document: the whole effective definition, every default written out.
//!
//! Knows nothing of parsing; `parse` of the result gives the same source.

use serde_json::{Value, json};

use crate::model::source::Source;

impl Source {
    /// The canonical document. Equal sources give equal documents, however they were written.
    pub fn to_doc(&self) -> Value {
        json!({"component": self.component, "enabled": self.enabled, self.trigger.name(): self.trigger.to_doc()})
    }
}
