//! Errors of a configuration file, by cause, and the collection that gathers them.

use std::fmt;

use thiserror::Error;

use super::{Path, spelling};

/// One error of a file: where it is, what is wrong, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigError {
    /// Line in the file, from 1; `None` when the error has no place in the text.
    pub line: Option<u64>,
    /// The place as keys and indexes: `routes[2].match.paths[0]`. Empty for the whole document.
    pub path: String,
    /// The cause of the error.
    pub kind: ConfigErrorKind,
    /// What to do about it, where the cause does not already contain it.
    pub remedy: Option<String>,
}

impl ConfigError {
    /// The cause and the remedy, without the place.
    pub fn message(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("{}; {remedy}", self.kind),
            None => self.kind.to_string(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message())
    }
}

/// The cause of a [`ConfigError`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
pub enum ConfigErrorKind {
    /// The text is not YAML, or is YAML that two parsers could read differently.
    #[error("not valid YAML: {0}")]
    Syntax(String),
    /// A document without any value.
    #[error("the file is empty")]
    Empty,
    /// A required key is missing.
    #[error("missing key `{0}`")]
    MissingKey(&'static str),
    /// One of several keys is required, and none is present.
    #[error("missing key {}", Alternatives(.0))]
    MissingOneOf(&'static [&'static str]),
    /// A key that has no meaning at this place.
    #[error("unknown key `{0}`")]
    UnknownKey(String),
    /// A value of another type than the key has.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// The expected type, in words.
        expected: String,
        /// The value in the file.
        found: Found,
    },
    /// A number beyond what the key can hold.
    #[error("expected {expected}, found `{found}`")]
    OutOfRange {
        /// The range, in words.
        expected: String,
        /// The number in the file.
        found: String,
    },
    /// A word that is none of the words that the key can have.
    #[error("unknown value `{value}`, expected {}", Alternatives(.known))]
    UnknownValue {
        /// The word in the file.
        value: String,
        /// The words that the key can have.
        known: &'static [&'static str],
    },
    /// A second entry for what another entry already has.
    #[error("{what} is already at {first}")]
    Duplicate {
        /// What both entries are for.
        what: String,
        /// The place of the first entry.
        first: Place,
    },
    /// A value that its section refuses. The text contains the remedy.
    #[error("{0}")]
    Invalid(String),
}

impl From<String> for ConfigErrorKind {
    fn from(message: String) -> Self {
        Self::Invalid(message)
    }
}

impl From<&str> for ConfigErrorKind {
    fn from(message: &str) -> Self {
        Self::Invalid(message.to_owned())
    }
}

/// Another place of the file that an error names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The place as keys and indexes.
    pub path: Path,
    /// Its line, once the document has added it.
    pub line: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "`{}` (line {line})", self.path),
            None => write!(f, "`{}`", self.path),
        }
    }
}

/// A value of the file as an error message shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// A key without a value.
    Nothing,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as text.
    Number(String),
    /// Text. `None` where the text may be a secret.
    Text(Option<String>),
    /// A list of values.
    List,
    /// A map of keys.
    Map,
    /// Anything that YAML does not have.
    Other,
}

/// Characters of a text that a message shows.
const SHOWN: usize = 60;

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Bool(value) => write!(f, "`{value}`"),
            Self::Number(number) => write!(f, "the number `{number}`"),
            Self::Text(None) => f.write_str("text"),
            Self::Text(Some(text)) => match text.char_indices().nth(SHOWN) {
                Some((end, _)) => write!(f, "text `{}…`", text.get(..end).unwrap_or_default()),
                None => write!(f, "text `{text}`"),
            },
            Self::List => f.write_str("a list"),
            Self::Map => f.write_str("a map"),
            Self::Other => f.write_str("something else"),
        }
    }
}

/// Words as a choice: `a`, `b` or `c`.
pub(super) struct Alternatives<'a>(pub(super) &'a [&'a str]);

impl fmt::Display for Alternatives<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Words { words: self.0, last: "or" }.fmt(f)
    }
}

/// Words in backticks, with a conjunction before the last.
pub(super) struct Words<'a> {
    pub(super) words: &'a [&'a str],
    pub(super) last: &'a str,
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.words.iter().enumerate() {
            match self.words.len() - index {
                _ if index == 0 => {}
                1 => write!(f, " {} ", self.last)?,
                _ => f.write_str(", ")?,
            }
            write!(f, "`{word}`")?;
        }
        Ok(())
    }
}

/// The remedy for an unknown key: the known key that is spelled like it, or all known keys.
pub(super) fn remedy_for_key(key: &str, known: &[&str]) -> String {
    match spelling::nearest(key, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// Errors that are gathered while a file is read and its sections are compiled. Each has a path;
/// the document adds the line.
#[derive(Debug, Default)]
pub struct Errors(pub(super) Vec<Entry>);

/// An error before it has a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Path,
    pub(super) kind: ConfigErrorKind,
    pub(super) remedy: Option<String>,
    /// Places that this error depends on: if a value there was omitted, the error may be a
    /// consequence of that. See [`OmittedPaths`](super::OmittedPaths).
    pub(super) presumes: Vec<Path>,
}

impl Entry {
    /// The same error with every place changed by `to`.
    pub(super) fn moved(mut self, to: impl Fn(&Path) -> Path) -> Self {
        self.path = to(&self.path);
        self.presumes = self.presumes.iter().map(&to).collect();
        if let ConfigErrorKind::Duplicate { first, .. } = &mut self.kind {
            first.path = to(&first.path);
        }
        self
    }
}

impl Errors {
    /// Adds one error at `path`.
    pub fn push(&mut self, path: &Path, kind: impl Into<ConfigErrorKind>) {
        self.push_presuming(path, &[], kind);
    }

    /// Adds one error at `path` that depends on the values at `presumes`: a name that is missing
    /// from another list, a key that another key requires. It is dropped when one of these values
    /// could not be read. An error that is known already, as of each route of a preset, is not
    /// added again.
    pub fn push_presuming(
        &mut self,
        path: &Path,
        presumes: &[Path],
        kind: impl Into<ConfigErrorKind>,
    ) {
        let entry = Entry {
            path: path.clone(),
            kind: kind.into(),
            remedy: None,
            presumes: presumes.to_vec(),
        };
        if !self.0.contains(&entry) {
            self.0.push(entry);
        }
    }

    /// Adds the error that the value at `path` repeats `what` of the entry at `first`. `remedy` is
    /// what to do about it. The error depends on the values at `presumes`.
    pub fn push_duplicate(
        &mut self,
        path: &Path,
        presumes: &[Path],
        what: String,
        first: &Path,
        remedy: &str,
    ) {
        let first = Place { path: first.clone(), line: None };
        self.0.push(Entry {
            path: path.clone(),
            kind: ConfigErrorKind::Duplicate { what, first },
            remedy: Some(remedy.to_owned()),
            presumes: presumes.to_vec(),
        });
    }

    /// Adds the errors of `others`.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Returns the value of an `Ok`, or adds the error at `path`.
    pub fn take<T, E: fmt::Display>(&mut self, path: &Path, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.push(path, error.to_string())).ok()
    }

    /// The number of errors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no errors.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the errors of values that are in no document.
    pub fn without_lines(self) -> Vec<ConfigError> {
        let located = |Entry { path, kind, remedy, .. }: Entry| ConfigError {
            line: None,
            path: path.to_string(),
            kind,
            remedy,
        };
        self.0.into_iter().map(located).collect()
    }

    /// The same errors in a document that contains their section below `key`.
    #[must_use]
    pub fn under(self, key: &str) -> Self {
        Self(self.0.into_iter().map(|entry| entry.moved(|path| path.below(key))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_are_words() {
        for (words, expected) in [
            (&["a"][..], "`a`"),
            (&["a", "b"], "`a` or `b`"),
            (&["a", "b", "c"], "`a`, `b` or `c`"),
        ] {
            assert_eq!(Alternatives(words).to_string(), expected);
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let shown = Found::Text(Some("é".repeat(100))).to_string();
        assert_eq!(shown, format!("text `{}…`", "é".repeat(SHOWN)));
    }

    #[test]
    fn an_unknown_key_names_its_neighbour_or_all_keys() {
        let known = ["issuers", "routes"];
        for (key, expected) in
            [("route", "did you mean `routes`?"), ("upstream", "known here: issuers, routes")]
        {
            assert_eq!(remedy_for_key(key, &known), expected);
        }
    }
}
