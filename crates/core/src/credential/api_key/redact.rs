//! Errors of records without what may be a key: an operator may write one into any member, and
//! errors are logged.

use crate::config::{ConfigError, ConfigErrorKind};

/// Beginnings of keys.
const PREFIXES: [&str; 2] = ["tgk_", "sk-"];

/// The longest word with letters and digits that is shown.
const LONGEST: usize = 24;

/// What is shown in place of a word that may be a key.
const INSTEAD: &str = "[may be a key]";

/// Returns the errors without words that may be keys.
pub(super) fn without_keys(errors: Vec<ConfigError>) -> Vec<ConfigError> {
    errors.into_iter().map(without_key).collect()
}

fn without_key(error: ConfigError) -> ConfigError {
    let ConfigError { line, path, kind, remedy } = error;
    let text = kind.to_string();
    let shown = text_without_keys(&text);
    let kind = if shown == text { kind } else { ConfigErrorKind::Invalid(shown) };
    let remedy = remedy.map(|remedy| text_without_keys(&remedy));
    ConfigError { line, path: text_without_keys(&path), kind, remedy }
}

/// Returns a text without words that may be keys.
pub(super) fn text_without_keys(text: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '/' | '=' | '~');
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c| is_part(c) != is_part(first)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word);
        shown.push_str(if is_part(first) && may_be_key(word) { INSTEAD } else { word });
        rest = after;
    }
    shown
}

fn may_be_key(word: &str) -> bool {
    let has_prefix = PREFIXES.iter().any(|prefix| {
        let start = word.get(..prefix.len());
        word.len() > prefix.len() && start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    });
    let is_mixed =
        word.contains(|c: char| c.is_ascii_digit()) && word.contains(|c: char| c.is_alphabetic());
    has_prefix || (word.len() > LONGEST && is_mixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_may_be_keys_are_not_shown() {
        for (text, expected) in [
            ("`tgk_7Jk2mN4pQ8rT_x` is no id", "`[may be a key]` is no id"),
            ("found text `sk-1…`", "found text `[may be a key]…`"),
            ("unknown key `0123456789abcdef0123456789abcdef`", "unknown key `[may be a key]`"),
            ("keys[0].labels.SK-proj", "keys[0].labels.[may be a key]"),
            ("the prefix `tgk_`", "the prefix `tgk_`"),
            (
                "keys[0].limits.per-subject-and-per-model",
                "keys[0].limits.per-subject-and-per-model",
            ),
            ("2026-11-29T00:00:00.000000Z", "2026-11-29T00:00:00.000000Z"),
            ("é `ci`", "é `ci`"),
            ("", ""),
        ] {
            assert_eq!(text_without_keys(text), expected);
        }
    }
}
