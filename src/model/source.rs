//! An event source: what activates a component. Each kind has a file here that says what its section of the document
//! means, and a line in `triggers!`.
//!
//! Knows nothing of the components that exist, nor of how events are taken in.

use serde_json::Value;

use crate::id::{ComponentName, SourceName};
use crate::model::reader::{Errors, Object};

mod cron;
pub mod defaults;
mod doc;
mod http;
mod once;
mod parse;
mod request;
mod sqs;
#[cfg(test)]
mod tests;

pub use cron::{Cron, Delivery, Gap, Missed, Overlap, Repeat};
pub use http::Http;
pub use once::Once;
pub use request::Request;
pub use sqs::{Refused, Sqs};

/// A validated event source definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Unique in the cluster.
    pub name: SourceName,
    /// What it activates.
    pub component: ComponentName,
    /// A disabled source is kept and does nothing.
    pub enabled: bool,
    /// Where events come from.
    pub trigger: Trigger,
}

/// What one kind of trigger is in a document: the object under its name.
trait Section: Sized {
    /// The field of the document that holds it, and the word for the kind.
    const NAME: &'static str;
    /// Its fields.
    const FIELDS: &'static [&'static str];

    /// Reads it; every error is noted.
    fn read(object: &Object<'_>, errors: &mut Errors) -> Option<Self>;

    /// All of it, defaults written out.
    fn to_doc(&self) -> Value;
}

/// Makes [`Trigger`] of the kinds that there are.
macro_rules! triggers {
    ($($(#[$doc:meta])* $kind:ident,)+) => {
        /// Where events come from.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Trigger {
            $($(#[$doc])* $kind($kind),)+
        }

        impl Trigger {
            /// The kinds, as documents name them.
            pub const NAMES: &'static [&'static str] = &[$(<$kind as Section>::NAME,)+];
            /// The fields of a document.
            const TOP: &'static [&'static str] = &[parse::COMMON[0], parse::COMMON[1], $(<$kind as Section>::NAME,)+];

            /// The kind, as documents name it.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$kind(_) => <$kind as Section>::NAME,)+
                }
            }

            fn to_doc(&self) -> Value {
                match self {
                    $(Self::$kind(section) => section.to_doc(),)+
                }
            }

            /// Reads the section that is there. Each is read even if there is one too many: all errors at once.
            fn read(top: &Object<'_>, errors: &mut Errors) -> Option<Self> {
                let mut read = None;
                $(
                    let object = top.get(<$kind as Section>::NAME).object(<$kind as Section>::FIELDS, errors);
                    let section = object.and_then(|object| <$kind as Section>::read(&object, errors));
                    read = read.or(section.map(Self::$kind));
                )+
                read
            }
        }

        impl Source {
            /// Every field that a document may have: the path of the object (empty for the document itself) and the
            /// names.
            pub const FIELDS: &'static [(&'static str, &'static [&'static str])] =
                &[("", Trigger::TOP), $((<$kind as Section>::NAME, <$kind as Section>::FIELDS),)+];
        }
    };
}

triggers! {
    /// Requests to a host and path.
    Http,
    /// A schedule.
    Cron,
    /// A queue.
    Sqs,
    /// One event, later.
    Once,
}
