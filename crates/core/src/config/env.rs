//! `${NAME}` in strings: expanded after parsing, so a value can never become YAML, and in quoted
//! strings too.

use thiserror::Error;

use super::{
    Errors, Path,
    tree::{Node, Value},
};

/// The reason why a string cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExpandError {
    /// A `${` without its end.
    #[error("`${{` without a closing `}}`; a literal `${{` is written `$${{`")]
    Unclosed,
    /// Text between the braces that is not `[A-Za-z_][A-Za-z0-9_]*`.
    #[error("`${{{0}}}` is not a variable name; a literal `${{` is written `$${{`")]
    NotAName(String),
    /// A variable that is not set, or is empty, and has no default.
    #[error("environment variable `{0}` is not set; set it, or write `${{{0}:-default}}`")]
    NotSet(String),
}

/// Expands `${NAME}`, `${NAME:-default}` and the escape `$${` (a literal `${`) in one string.
///
/// # Errors
/// A variable that is not set and has no default, a name that is not `[A-Za-z_][A-Za-z0-9_]*`, an
/// unclosed `${`.
pub fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (inner, tail) = after.split_once('}').ok_or(ExpandError::Unclosed)?;
        let (name, default) =
            inner.split_once(":-").map_or((inner, None), |(name, default)| (name, Some(default)));
        if !is_name(name) {
            return Err(ExpandError::NotAName(name.to_owned()));
        }
        match (env(name).filter(|value| !value.is_empty()), default) {
            (Some(value), _) => out.push_str(&value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => return Err(ExpandError::NotSet(name.to_owned())),
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

pub(super) fn expand_tree(
    node: &mut Node,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    errors: &mut Errors,
) {
    match &mut node.value {
        Value::Text(text) if text.contains("${") => {
            if let Some(expanded) = errors.take(path, expand(text, env)) {
                *text = expanded;
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand_tree(item, &path.index(index), env, errors);
            }
        }
        Value::Map(entries) => {
            for (key, value) in entries {
                expand_tree(value, &path.key(key), env, errors);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".into()),
            "YAML" => Some("x: {y: z}\nw: 1".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn names_defaults_and_the_escape() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${A}", "alpha"),
            ("<${A}>${A}", "<alpha>alpha"),
            ("${NONE:-d}", "d"),
            ("${NONE:-}", ""),
            ("${EMPTY:-d}", "d"),
            ("$${A}", "${A}"),
            ("cost: $5", "cost: $5"),
            ("${YAML}", "x: {y: z}\nw: 1"),
        ] {
            assert_eq!(expand(text, &env), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn an_error_names_the_variable_and_the_remedy() {
        let not_a_name = |name: &str| ExpandError::NotAName(name.into());
        for (text, error) in [
            ("${NONE}", ExpandError::NotSet("NONE".into())),
            ("${EMPTY}", ExpandError::NotSet("EMPTY".into())),
            ("${A", ExpandError::Unclosed),
            ("${}", not_a_name("")),
            ("${1A}", not_a_name("1A")),
            ("${A B}", not_a_name("A B")),
            ("${:-x}", not_a_name("")),
        ] {
            assert_eq!(expand(text, &env), Err(error), "{text}");
        }
        assert_eq!(
            ExpandError::NotSet("A".into()).to_string(),
            "environment variable `A` is not set; set it, or write `${A:-default}`"
        );
        assert_eq!(
            ExpandError::Unclosed.to_string(),
            "`${` without a closing `}`; a literal `${` is written `$${`"
        );
    }
}
