//! The configuration file: from text to typed values, with every error at once.
//!
//! [`Document::parse`] reads YAML into a tree with lines and expands `${NAME}` in its strings.
//! [`Document::read`] deserialises the tree. The other modules own their config structs and their
//! `compile`; this module knows none of them.
//!
//! ```
//! # use serde::Deserialize;
//! # use tollgate_core::config::Document;
//! #[derive(Debug, Deserialize)]
//! struct File {
//!     replicas: u8,
//! }
//! let document = Document::parse("replicas: many", &|_| None).unwrap();
//! let errors = document.read::<File>().unwrap_err();
//! assert_eq!(errors[0].to_string(), "line 1: replicas: expected a number, found text `many`");
//! ```

mod de;
mod env;
mod error;
mod from_text;
mod mode;
mod omitted;
mod path;
mod read_error;
mod recover;
pub(crate) mod spelling;
mod tree;
mod variant;

use std::collections::HashSet;

use serde::de::DeserializeOwned;

pub(crate) use self::variant::variant_by_key;
pub use self::{
    env::{ExpandError, expand},
    error::{ConfigError, ConfigErrorKind, Errors, Found, Place},
    from_text::from_text,
    mode::Mode,
    omitted::OmittedPaths,
    path::Path,
    recover::{Partial, keys_of},
};
use self::{
    error::Entry,
    tree::{Node, Value},
};

/// A parsed file: its values and their lines.
#[derive(Debug)]
pub struct Document {
    root: Node,
}

impl Document {
    /// Reads YAML and expands `${NAME}`, `${NAME:-default}` and `$${` in every string. `env`
    /// returns the value of a name.
    ///
    /// # Errors
    /// Text that is not YAML, a repeated key, an alias, a second document, or a name without a
    /// value.
    pub fn parse(
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut root =
            tree::read(text, tree::MAX_VALUES, tree::TOO_LARGE).map_err(|error| vec![error])?;
        let mut errors = Errors::default();
        env::expand_tree(&mut root, &Path::root(), env, &mut errors);
        let document = Self { root };
        if errors.is_empty() { Ok(document) } else { Err(document.locate(errors)) }
    }

    /// Reads YAML with `max_values` at most, whose strings are what they are: nothing is expanded.
    /// `too_large` is the message about a text with more values.
    ///
    /// # Errors
    /// Text that is not YAML, a repeated key, an alias, a second document, or too many values.
    pub fn parse_records(
        text: &str,
        max_values: usize,
        too_large: &str,
    ) -> Result<Self, Vec<ConfigError>> {
        let root = tree::read(text, max_values, too_large).map_err(|error| vec![error])?;
        Ok(Self { root })
    }

    /// Whether the document has no values at all.
    pub fn is_empty(&self) -> bool {
        matches!(&self.root.value, Value::Map(entries) if entries.is_empty())
    }

    /// Reads the whole document as `T`.
    ///
    /// # Errors
    /// Every unknown key and every value of the wrong type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Vec<ConfigError>> {
        match recover::read(&self.root, &[]) {
            Partial { value: Some(value), errors, .. } if errors.is_empty() => Ok(value),
            Partial { errors, .. } => Err(self.locate(errors)),
        }
    }

    /// Reads one part of a document that several structs describe, each with keys of its own.
    /// `document_keys` are the keys of all of them, in the order in which an error lists them: see
    /// [`keys_of`].
    pub fn read_part<T: DeserializeOwned>(&self, document_keys: &[&'static str]) -> Partial<T> {
        recover::read(&self.root, document_keys)
    }

    /// Adds to errors their lines: of the place itself, or of the nearest place above it that is in
    /// the file.
    pub fn locate(&self, errors: Errors) -> Vec<ConfigError> {
        let locate = |Entry { path, mut kind, remedy, .. }: Entry| {
            if let ConfigErrorKind::Duplicate { first, .. } = &mut kind {
                first.line = self.line(&first.path);
            }
            ConfigError { line: self.line(&path), path: path.to_string(), kind, remedy }
        };
        let mut located: Vec<ConfigError> = errors.0.into_iter().map(locate).collect();
        located.sort_by_key(|error| error.line);
        let mut seen = HashSet::new();
        located.retain(|error| seen.insert(error.clone()));
        located
    }

    /// The line of a place, or of the nearest place above it that is in the file. `None` in an
    /// empty document.
    pub fn line(&self, path: &Path) -> Option<u64> {
        let mut node = &self.root;
        for step in &path.0 {
            match node.child(step) {
                Some(child) => node = child,
                None => break,
            }
        }
        Some(node.line).filter(|line| *line > 0)
    }
}

#[cfg(test)]
mod tests;
