//! The configuration file as text becomes typed values here, with every error at once.
//!
//! [`Document::parse`] reads YAML into a tree that remembers lines, expands `${NAME}` in its strings, and
//! [`Document::read`] deserialises the tree. The rooms own their config structs and their `compile`; this file
//! knows none of them.

mod de;
mod env;
mod gaps;
mod tree;

use std::fmt;

use serde::de::DeserializeOwned;

use self::tree::Node;
pub use self::{env::expand, gaps::Gaps};

/// An enum renamed to this is told by which of its variants' names is a key of the map, the first that is; the variant's
/// value is then the whole map, that key included. Only [`Document::read`] knows it.
pub(crate) const BY_KEY: &str = "told by its key";

/// One thing wrong with a file: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigError {
    /// Line in the file, from 1; `None` when the error has no place in the text.
    pub line: Option<u64>,
    /// The place as keys and indexes: `routes[2].match.paths[0]`.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Errors gathered while the rooms compile their sections. Each has a path; the document adds the line.
#[derive(Debug, Default)]
pub struct Errors(Vec<Mistake>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mistake {
    path: Path,
    message: String,
    /// Places that were read as left out, or as too short, for this to be a mistake: see [`Gaps`].
    presumes: Vec<Path>,
}

impl Errors {
    /// Notes one error at `path`.
    pub fn push(&mut self, path: &Path, message: impl Into<String>) {
        self.push_presuming(path, &[], message);
    }

    /// Notes one error at `path` that is one only if nothing was overlooked at the places `presumes`: a name that is not in
    /// another list, a key that another key asks for.
    pub fn push_presuming(&mut self, path: &Path, presumes: &[Path], message: impl Into<String>) {
        self.0.push(Mistake {
            path: path.clone(),
            message: message.into(),
            presumes: presumes.to_vec(),
        });
    }

    /// Adds what others noted.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Takes the value of an `Ok`, or notes the error at `path`.
    pub fn take<T>(&mut self, path: &Path, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.push(path, message)).ok()
    }

    /// How many were noted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The same errors in a document that holds their section under `key`.
    #[must_use]
    pub fn under(self, key: &str) -> Self {
        let below = |Path(steps): Path| {
            Path([Step::Key(key.to_owned())].into_iter().chain(steps).collect())
        };
        let below_all = |mistake: Mistake| Mistake {
            path: below(mistake.path),
            presumes: mistake.presumes.into_iter().map(below).collect(),
            ..mistake
        };
        Self(self.0.into_iter().map(below_all).collect())
    }

    /// Whether nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A place in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
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

    /// The list or the map that this place is in; the whole document is in itself.
    #[must_use]
    pub fn parent(&self) -> Self {
        Self(self.0.split_last().map_or_else(Vec::new, |(_, above)| above.to_vec()))
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

/// A parsed file: its values with their places.
#[derive(Debug)]
pub struct Document {
    root: Node,
}

impl Document {
    /// Reads YAML and expands `${NAME}`, `${NAME:-default}` and `$${` in every string. `env` answers what a name stands for.
    ///
    /// # Errors
    /// Text that is not YAML, a repeated key, an alias, a second document, or names that stand for nothing.
    pub fn parse(
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut root = tree::read(text).map_err(|error| vec![error])?;
        let mut errors = Errors::default();
        env::expand_tree(&mut root, &Path::root(), env, &mut errors);
        let document = Self { root };
        if errors.is_empty() { Ok(document) } else { Err(document.locate(errors)) }
    }

    /// Reads the whole document as `T`.
    ///
    /// # Errors
    /// Every unknown key and every value of the wrong shape, not only the first.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Vec<ConfigError>> {
        match self.read_around() {
            (Some(value), errors, _) if errors.is_empty() => Ok(value),
            (_, errors, _) => Err(self.locate(errors)),
        }
    }

    /// Reads the document as `T` around what cannot be read: the value without it, if there is one, what is wrong, and where it
    /// is missing now. The value is good for finding more mistakes, and for nothing else, unless there are no errors.
    pub fn read_around<T: DeserializeOwned>(&self) -> (Option<T>, Errors, Gaps) {
        de::read_all(&self.root)
    }

    /// Gives errors their lines: of the place itself, or of the nearest place above it that is written in the file.
    pub fn locate(&self, errors: Errors) -> Vec<ConfigError> {
        let mut located: Vec<ConfigError> = errors
            .0
            .into_iter()
            .map(|Mistake { path, message, .. }| ConfigError {
                line: self.line(&path),
                path: path.to_string(),
                message,
            })
            .collect();
        located.sort_by_key(|error| error.line);
        let mut seen = std::collections::HashSet::new();
        located.retain(|error| seen.insert(error.clone()));
        located
    }

    fn line(&self, path: &Path) -> Option<u64> {
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
