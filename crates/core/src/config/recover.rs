//! Reading a document around the values that cannot be read, so that every error is reported at
//! once.
//!
//! Serde stops at the first value of the wrong type. The document is therefore read again without
//! that value, or with an assumed value where a key is missing, until the rest can be read. The
//! number of passes is bounded: each omits or assumes one more value, and [`MAX_ERRORS`] ends them.

use serde::de::DeserializeOwned;

use super::{
    ConfigErrorKind, Errors, OmittedPaths,
    de::{Pass, UnknownKey},
    error::{Entry, remedy_for_key},
    read_error::ReadError,
    spelling,
    tree::{Node, Value},
};

/// Most values of the wrong type that are reported at once. Unknown keys do not count.
const MAX_ERRORS: usize = 64;

/// Most unknown keys that are reported at once: each is compared with those before it.
const MAX_UNKNOWN_KEYS: usize = 512;

/// A document that was read as `T` around its errors.
#[derive(Debug)]
pub struct Partial<T> {
    /// The value without what could not be read. Unless there are no errors, it serves for finding
    /// more of them, and for nothing else. `None` when there is no such value.
    pub value: Option<T>,
    /// The errors found so far.
    pub errors: Errors,
    /// Where the value lacks what the file contains.
    pub omitted: OmittedPaths,
}

/// Reads `root` as `T`. A key of the top level that `T` lacks is not unknown if it is one of
/// `document_keys`.
pub(super) fn read<T: DeserializeOwned>(root: &Node, document_keys: &[&'static str]) -> Partial<T> {
    let mut errors = Errors::default();
    let mut omitted = OmittedPaths::default();
    let mut wrong_values = 0;
    while wrong_values < MAX_ERRORS {
        let pass = Pass::new(&omitted, document_keys);
        let result = T::deserialize(pass.deserializer(root));
        for unknown in pass.into_unknown_keys() {
            add_unknown_key(unknown, &mut errors, &mut omitted);
        }
        let ReadError { path, kind, remedy } = match result {
            Ok(value) => return Partial { value: Some(value), errors, omitted },
            Err(error) => error,
        };
        let path = path.unwrap_or_default();
        if omitted.reassume(&path) {
            continue;
        }
        let is_consequence = match &kind {
            ConfigErrorKind::MissingKey(key) => omitted.explains_missing(&path.key(key)),
            ConfigErrorKind::MissingOneOf(keys) => {
                keys.iter().any(|key| omitted.explains_missing(&path.key(key)))
            }
            _ => false,
        };
        let missing = match &kind {
            ConfigErrorKind::MissingKey(key) => Some(*key),
            _ => None,
        };
        if !is_consequence {
            wrong_values += 1;
            errors.0.push(Entry { path: path.clone(), kind, remedy, presumes: Vec::new() });
        }
        // INVARIANT: an assumed value comes with an error, of the missing key or of what explains
        // it, so that the value as a whole is never used.
        if missing.is_some_and(|key| omitted.assume(&path, key)) {
            continue;
        }
        if path.is_root() || !omitted.omit(&path) {
            break;
        }
    }
    Partial { value: None, errors, omitted }
}

/// Adds an unknown key, once for all passes.
fn add_unknown_key(unknown: UnknownKey, errors: &mut Errors, omitted: &mut OmittedPaths) {
    let UnknownKey { map, key, known } = unknown;
    let near = spelling::nearest(&key, &known);
    omitted.misname(near.map_or_else(|| map.clone(), |near| map.key(near)));
    let entry = Entry {
        path: map.key(&key),
        remedy: Some(remedy_for_key(&key, &known)),
        kind: ConfigErrorKind::UnknownKey(key),
        presumes: Vec::new(),
    };
    if errors.0.len() < MAX_UNKNOWN_KEYS && !errors.0.contains(&entry) {
        errors.0.push(entry);
    }
}

/// The keys of the struct `T`, in the order of its fields.
pub fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let nothing = Node { value: Value::Map(Vec::new()), line: 0 };
    let omitted = OmittedPaths::default();
    let pass = Pass::new(&omitted, &[]);
    // Only the names matter: a struct with a required key cannot be read from an empty map.
    drop(T::deserialize(pass.deserializer(&nothing)));
    pass.top_level_keys()
}
