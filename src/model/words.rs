//! Splits a command line into words as a shell does, without being a shell.
//!
//! Knows nothing of components; expands nothing and runs nothing.

use crate::model::invalid::Refusal;

const FORM: &str = "words and quotes only, such as server --name 'my api'; or a list; \
                    for anything else sh -c '...'";

/// Splits at white space outside of quotes. `'...'` is taken literally, in `"..."` a backslash guards `"`, `\`, `$`
/// and `` ` ``, elsewhere it guards the next character.
///
/// # Errors
/// An open quote or a last backslash; and what a shell would act on (`|`, `&`, `;`, `<`, `>`, `` ` ``, `$NAME`)
/// outside of quotes: no shell is there, and the program would get it literally.
pub fn split(line: &str) -> Result<Vec<String>, Refusal> {
    let refuse = |problem: String| Err(Refusal::new(problem, FORM));
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars().peekable();
    while let Some(found) = rest.next() {
        match found {
            '\'' | '"' => {
                let into = word.get_or_insert_default();
                if !quoted(found, &mut rest, into) {
                    return refuse(format!("has a {found} that is not closed"));
                }
            }
            '\\' => match rest.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return refuse("ends with a backslash".to_owned()),
            },
            '|' | '&' | ';' | '<' | '>' | '`' => {
                return refuse(format!("has {found} outside of quotes, and no shell reads it"));
            }
            '$' if rest.peek().is_some_and(|c| c.is_ascii_alphabetic() || "_{(".contains(*c)) => {
                return refuse("has a $ outside of quotes, and no shell expands it".to_owned());
            }
            _ if found.is_ascii_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(found),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Reads up to the closing quote; false if there is none.
fn quoted(quote: char, rest: &mut std::iter::Peekable<std::str::Chars<'_>>, into: &mut String) -> bool {
    while let Some(found) = rest.next() {
        if found == quote {
            return true;
        }
        let guards = quote == '"' && found == '\\';
        match rest.peek() {
            Some(&next) if guards && "\"\\$`".contains(next) => {
                into.push(next);
                rest.next();
            }
            _ => into.push(found),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        for (line, words) in [
            ("server --port 80", vec!["server", "--port", "80"]),
            ("  a\t b\n", vec!["a", "b"]),
            ("sh -c 'exec x $PORT | y'", vec!["sh", "-c", "exec x $PORT | y"]),
            (r#"say "a \"b\" \n" c\ d"#, vec!["say", r#"a "b" \n"#, "c d"]),
            ("a'b'\"c\" ''", vec!["abc", ""]),
            ("grep foo$", vec!["grep", "foo$"]),
            ("", vec![]),
        ] {
            assert_eq!(split(line).expect(line), words, "{line}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused_and_the_way_out_is_named() {
        for line in ["a | b", "a && b", "a; b", "a > b", "server $PORT", "a $(b)", "a `b`", "a 'b", "a \"b", "a\\"] {
            assert!(split(line).expect_err(line).allowed.contains("sh -c"), "{line}");
        }
    }

    proptest! {
        #[test]
        fn single_quotes_keep_any_text(words in prop::collection::vec("[^']{0,8}", 0..4)) {
            let line: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            prop_assert_eq!(split(&line.join(" ")).ok(), Some(words));
        }
    }
}
