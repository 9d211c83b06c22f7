//! A list as a field of the log.

use std::error::Error;

/// A list of texts as a field of the log: an array in JSON, `["a", "b"]` in text.
///
/// An event of `tracing` has no fields of lists. It carries errors by reference, and an error keeps
/// its type, so a list travels as one.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
pub(crate) struct LogList(Vec<String>);

impl LogList {
    /// Creates a list of the texts of `items`.
    pub(crate) fn of(items: impl IntoIterator<Item: ToString>) -> Self {
        Self(items.into_iter().map(|item| item.to_string()).collect())
    }

    /// The texts of the list.
    pub(crate) fn items(&self) -> &[String] {
        &self.0
    }

    /// The value of the field.
    pub(crate) fn value(&self) -> &(dyn Error + 'static) {
        self
    }
}
