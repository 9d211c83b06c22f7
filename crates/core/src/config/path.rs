//! Places in a document.

use std::fmt;

/// A place in a document, as the keys and indexes that lead to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Path(pub(super) Vec<Step>);

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// The value of a key of a map.
    Key(String),
    /// The element of a list, from 0.
    Index(usize),
}

impl Path {
    /// The whole document.
    pub fn root() -> Self {
        Self(Vec::new())
    }

    /// The value of `key` below this place.
    pub fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// The element `index` below this place.
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// The list or the map that contains this place. The parent of the whole document is the
    /// document itself.
    #[must_use]
    pub fn parent(&self) -> Self {
        Self(self.0.split_last().map_or_else(Vec::new, |(_, above)| above.to_vec()))
    }

    /// The same place in a document that contains this document below `key`.
    pub(super) fn below(&self, key: &str) -> Self {
        Self([Step::Key(key.to_owned())].into_iter().chain(self.0.iter().cloned()).collect())
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn starts_with(&self, start: &Self) -> bool {
        self.0.starts_with(&start.0)
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if at == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
