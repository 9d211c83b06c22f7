//! What is missing from a value that was read around mistakes, so that no second mistake is made of the first.

use super::{Errors, Mistake, Path, Step};

/// Where a value lacks what is written in the file, because it could not be read.
#[derive(Debug, Default)]
pub struct Gaps {
    /// Values that were left out. Elements of a list are missing from it: those behind them have moved up.
    left_out: Vec<Path>,
    /// Where a key with another name was probably meant.
    misnamed: Vec<Path>,
}

impl Gaps {
    pub(super) fn new(left_out: Vec<Path>, misnamed: Vec<Path>) -> Self {
        Self { left_out, misnamed }
    }

    /// Of the errors that a value with these gaps gave, those that the file as it is written has, at their places in it.
    #[must_use]
    pub fn real(&self, errors: Errors) -> Errors {
        let written = errors.0.into_iter().map(|mistake| Mistake {
            path: self.written(&mistake.path),
            presumes: mistake.presumes.iter().map(|path| self.written(path)).collect(),
            ..mistake
        });
        Errors(written.filter(|mistake| !self.is_doubtful(mistake)).collect())
    }

    /// An error at a place that has a gap below it may come from the gap, and so may one that presumes what is near one.
    fn is_doubtful(&self, mistake: &Mistake) -> bool {
        self.left_out.iter().chain(&self.misnamed).any(|gap| {
            starts_with(gap, &mistake.path)
                || mistake
                    .presumes
                    .iter()
                    .any(|presumed| starts_with(gap, presumed) || starts_with(presumed, gap))
        })
    }

    /// The place in the file of a place in the value.
    fn written(&self, path: &Path) -> Path {
        let mut written = Path::root();
        for step in &path.0 {
            written = match step {
                Step::Key(key) => written.key(key),
                Step::Index(index) => {
                    let left_out = |at: &usize| self.left_out.contains(&written.index(*at));
                    // As many elements of the file are passed over as were left out before this one. The range is long enough:
                    // every step that is not taken is one gap.
                    let all = 0..=index.saturating_add(self.left_out.len());
                    let at = all.filter(|at| !left_out(at)).nth(*index).unwrap_or(*index);
                    written.index(at)
                }
            };
        }
        written
    }
}

fn starts_with(path: &Path, start: &Path) -> bool {
    path.0.starts_with(&start.0)
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
        let gaps = Gaps::new(
            vec![path("routes.1"), path("routes.3"), path("routes.4.match.paths.0")],
            Vec::new(),
        );
        for (read, written) in [
            ("routes.0", "routes.0"),
            ("routes.1.scopes", "routes.2.scopes"),
            ("routes.2.match.paths.0", "routes.4.match.paths.1"),
            ("routes.3", "routes.5"),
            ("limits.1", "limits.1"),
        ] {
            assert_eq!(gaps.written(&path(read)), path(written), "{read}");
        }
    }

    #[test]
    fn an_error_that_a_gap_may_have_made_is_not_told() {
        for (gap, misnamed, at, presumes, told) in [
            ("limits.0", false, "routes.0.limits.0", "limits", false),
            ("limits.0.burst", false, "routes.0.limits.0", "limits", false),
            ("routes.1.model", false, "routes.1.limits.0", "routes.1.model", false),
            ("routes.1.model", false, "routes.0.limits.0", "routes.0.model", true),
            ("routes.0.scopes", false, "routes.0", "", false),
            ("routes.0.scopes", false, "routes.0.match.paths.0", "", true),
            ("limits", true, "routes.0.limits.0", "limits", false),
            ("issuers", true, "routes.0.limits.0", "limits", true),
            // A key that is like no other may have been any of them.
            ("", true, "routes.0.limits.0", "limits", false),
            ("", true, "routes.0.limits.0", "", true),
        ] {
            let gaps = if misnamed {
                Gaps::new(vec![], vec![path(gap)])
            } else {
                Gaps::new(vec![path(gap)], vec![])
            };
            let mut errors = Errors::default();
            let presumed: Vec<Path> =
                [path(presumes)].into_iter().filter(|path| *path != Path::root()).collect();
            errors.push_presuming(&path(at), &presumed, "x");
            assert_eq!(gaps.real(errors).len(), usize::from(told), "{gap} {at} {presumes}");
        }
    }
}
