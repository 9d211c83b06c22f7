//! The values that were omitted while a document was read, so that no error is reported as a
//! consequence of another.

use super::{
    Errors, Path,
    error::Entry,
    path::Step,
    tree::{Node, Value},
};

/// The places where a value lacks what the file contains, because that could not be read.
#[derive(Clone, Debug, Default)]
pub struct OmittedPaths {
    /// Values that were omitted. Elements of a list are missing from it: those behind them have
    /// moved up.
    values: Vec<Path>,
    /// Places that an unknown key was probably meant for: the key that is spelled like it, or any
    /// key beside it.
    misnamed: Vec<Path>,
    /// Required keys that are missing, each with the value that is read in its place.
    assumed: Vec<Assumed>,
}

/// A value in the place of a missing key, so that the rest of its map can be read.
#[derive(Clone, Debug)]
struct Assumed {
    path: Path,
    map: Path,
    key: &'static str,
    /// Index in [`ASSUMED`]; beyond it, no value fits.
    attempt: usize,
}

/// The values that are tried in the place of a missing key. What is read from them is only good for
/// finding more errors, and those about the key itself are not reported.
static ASSUMED: [Node; 4] = [
    Node { value: Value::Text(String::new()), line: 0 },
    Node { value: Value::List(Vec::new()), line: 0 },
    Node { value: Value::Map(Vec::new()), line: 0 },
    Node { value: Value::Unsigned(0), line: 0 },
];

impl OmittedPaths {
    /// Adds an omitted value. Returns false if it was omitted before.
    pub(super) fn omit(&mut self, path: &Path) -> bool {
        let is_new = !self.contains(path);
        if is_new {
            self.values.push(path.clone());
        }
        is_new
    }

    /// Adds the place that an unknown key was probably meant for.
    pub(super) fn misname(&mut self, path: Path) {
        if !self.misnamed.contains(&path) {
            self.misnamed.push(path);
        }
    }

    /// Whether the value at `path` was omitted.
    pub(super) fn contains(&self, path: &Path) -> bool {
        self.values.contains(path)
    }

    /// Assumes a value for a missing key. Returns false if that was tried before.
    pub(super) fn assume(&mut self, map: &Path, key: &'static str) -> bool {
        let path = map.key(key);
        self.omit(&path);
        let is_new = !self.assumed.iter().any(|assumed| assumed.path == path);
        if is_new {
            self.assumed.push(Assumed { path, map: map.clone(), key, attempt: 0 });
        }
        is_new
    }

    /// Tries another value in the place of the missing key that an error is about. Returns false if
    /// the error is about none.
    pub(super) fn reassume(&mut self, error: &Path) -> bool {
        let mut all = self.assumed.iter_mut();
        match all.find(|assumed| error.starts_with(&assumed.path) && assumed.node().is_some()) {
            Some(assumed) => {
                assumed.attempt += 1;
                true
            }
            None => false,
        }
    }

    /// The values that are assumed for missing keys of a map.
    pub(super) fn assumed_in<'a>(
        &'a self,
        map: &'a Path,
    ) -> impl Iterator<Item = (&'static str, &'static Node)> + 'a {
        let of_map = self.assumed.iter().filter(move |assumed| assumed.map == *map);
        of_map.filter_map(|assumed| assumed.node().map(|node| (assumed.key, node)))
    }

    /// Whether a missing key at `path` follows from an error that is already known: its value was
    /// wrong, or its name.
    pub(super) fn explains_missing(&self, path: &Path) -> bool {
        self.contains(path) || self.misnamed.contains(path)
    }

    /// Adds the places of another part of the same document.
    pub fn extend(&mut self, other: Self) {
        self.assumed.extend(other.assumed);
        self.values.extend(other.values);
        other.misnamed.into_iter().for_each(|path| self.misname(path));
    }

    /// Of the errors that a value with these omissions gave, those that the file as written has, at
    /// their places in the file.
    #[must_use]
    pub fn without_consequences(&self, errors: Errors) -> Errors {
        let written = errors.0.into_iter().map(|entry| entry.moved(|path| self.written(path)));
        Errors(written.filter(|entry| !self.may_explain(entry)).collect())
    }

    /// Whether an error may follow from an omission: one below its place, or one near a place that
    /// it depends on.
    fn may_explain(&self, entry: &Entry) -> bool {
        self.values.iter().chain(&self.misnamed).any(|omitted| {
            omitted.starts_with(&entry.path)
                || entry
                    .presumes
                    .iter()
                    .any(|presumed| omitted.starts_with(presumed) || presumed.starts_with(omitted))
        })
    }

    /// The place in the file of a place in the value.
    fn written(&self, path: &Path) -> Path {
        let mut written = Path::root();
        for step in &path.0 {
            written = match step {
                Step::Key(key) => written.key(key),
                Step::Index(index) => {
                    let is_omitted = |at: &usize| self.contains(&written.index(*at));
                    // Elements that were omitted before this one are passed over. The range is long
                    // enough, because every element that is passed over is one omission.
                    let all = 0..=index.saturating_add(self.values.len());
                    let at = all.filter(|at| !is_omitted(at)).nth(*index).unwrap_or(*index);
                    written.index(at)
                }
            };
        }
        written
    }
}

impl Assumed {
    fn node(&self) -> Option<&'static Node> {
        ASSUMED.get(self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.split('.').filter(|step| !step.is_empty()).fold(Path::root(), |path, step| match step
            .parse()
        {
            Ok(index) => path.index(index),
            Err(_) => path.key(step),
        })
    }

    #[test]
    fn places_are_those_of_the_file() {
        let mut omitted = OmittedPaths::default();
        for value in ["routes.1", "routes.3", "routes.4.match.paths.0"] {
            assert!(omitted.omit(&path(value)) && !omitted.omit(&path(value)));
        }
        for (read, written) in [
            ("routes.0", "routes.0"),
            ("routes.1.scopes", "routes.2.scopes"),
            ("routes.2.match.paths.0", "routes.4.match.paths.1"),
            ("routes.3", "routes.5"),
            ("limits.1", "limits.1"),
        ] {
            assert_eq!(omitted.written(&path(read)), path(written), "{read}");
        }
    }

    #[test]
    fn an_error_that_an_omission_may_explain_is_not_reported() {
        for (place, misnamed, at, presumes, reported) in [
            ("limits.0", false, "routes.0.limits.0", "limits", false),
            ("limits.0.burst", false, "routes.0.limits.0", "limits", false),
            ("routes.1.model", false, "routes.1.limits.0", "routes.1.model", false),
            ("routes.1.model", false, "routes.0.limits.0", "routes.0.model", true),
            ("routes.0.scopes", false, "routes.0", "", false),
            ("routes.0.scopes", false, "routes.0.match.paths.0", "", true),
            ("limits", true, "routes.0.limits.0", "limits", false),
            ("issuers", true, "routes.0.limits.0", "limits", true),
            // A key that is spelled like no other may have been meant as any of them.
            ("", true, "routes.0.limits.0", "limits", false),
            ("", true, "routes.0.limits.0", "", true),
        ] {
            let mut omitted = OmittedPaths::default();
            if misnamed {
                omitted.misname(path(place));
            } else {
                omitted.omit(&path(place));
            }
            let mut errors = Errors::default();
            let presumed: Vec<Path> =
                [path(presumes)].into_iter().filter(|path| !path.is_root()).collect();
            errors.push_presuming(&path(at), &presumed, "x");
            let kept = omitted.without_consequences(errors).len();
            assert_eq!(kept, usize::from(reported), "{place} {at} {presumes}");
        }
    }
}
