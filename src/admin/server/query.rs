//! The query of a URL and the names in its path: decoded, known, and each given once.
//!
//! Knows nothing of what the parameters do.

use std::collections::BTreeMap;

use crate::admin::api::ApiError;

/// Parameters of a request, all of them known.
#[derive(Debug)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads `query` (without `?`), in which only `known` parameters may stand.
    ///
    /// # Errors
    /// An unknown parameter, with the nearest known one; one given twice; a broken escape.
    pub(super) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, ApiError> {
        let mut values = BTreeMap::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(&name.replace('+', " "))?, decode(&value.replace('+', " "))?);
            if !known.contains(&name.as_str()) {
                let near = crate::model::suggest::nearest(&name, known.iter().copied());
                let mut error = ApiError::invalid(format!("query parameter {name:?} is not known here"));
                error.hint = Some(match (near, known) {
                    (Some(near), _) => format!("did you mean {near}?"),
                    (None, []) => "this path takes none".to_owned(),
                    (None, known) => format!("allowed are {}", known.join(", ")),
                });
                error.suggestion = near.map(str::to_owned);
                return Err(error);
            }
            if values.contains_key(&name) {
                return Err(ApiError::invalid(format!("query parameter {name} is given twice")));
            }
            values.insert(name, value);
        }
        Ok(Self(values))
    }

    /// A parameter as text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A parameter that is on or off; given without a value it is on.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(wrong(name, other, "true or false")),
        }
    }

    /// A parameter that is a number of at most `max`.
    pub(super) fn number(&self, name: &str, max: u64) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if number <= max => Ok(Some(number)),
            _ => Err(wrong(name, text, &format!("a whole number, 0 to {max}"))),
        }
    }

    /// A parameter that is a name or an id.
    pub(super) fn parsed<T>(&self, name: &str) -> Result<Option<T>, ApiError>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|error| ApiError::invalid(format!("query parameter {name}: {text:?} {error}")))
    }
}

fn wrong(name: &str, value: &str, allowed: &str) -> ApiError {
    ApiError::invalid(format!("query parameter {name} is {value:?}; allowed is {allowed}"))
}

/// Undoes percent escapes.
///
/// # Errors
/// An escape that is none, or bytes that are no UTF-8.
pub(super) fn decode(text: &str) -> Result<String, ApiError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            return Err(ApiError::invalid(format!("{text:?} in the URL has a % without two hexadecimal digits")));
        };
        bytes.push(byte);
        rest = after.get(2..).unwrap_or_default();
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid(format!("{text:?} in the URL is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_unknown_ones_are_refused_with_the_nearest() {
        let query = Query::parse(Some("tail=5&follow&path=%2Fa+b%3F"), &["tail", "follow", "path"]).expect("a query");
        assert_eq!(query.number("tail", 10).expect("a number"), Some(5));
        assert!(query.flag("follow").expect("a flag"));
        assert_eq!(query.text("path"), Some("/a b?"));
        let error = Query::parse(Some("tial=5"), &["tail"]).expect_err("unknown");
        assert_eq!(error.suggestion.as_deref(), Some("tail"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in ["tail=1&tail=2", "tail=%zz", "tail=%f", "tail=%ff", "x"] {
            assert!(Query::parse(Some(bad), &["tail"]).is_err(), "{bad}");
        }
        let query = Query::parse(Some("tail=11&follow=maybe"), &["tail", "follow"]).expect("a query");
        assert!(query.number("tail", 10).is_err());
        assert!(query.flag("follow").is_err());
    }
}
