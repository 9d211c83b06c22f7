//! The section `observe` of the configuration.

use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_core::config::{Errors, Path};

use crate::observe::trace::TracingConfig;

/// The section `observe`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObserveConfig {
    /// Spans for an OpenTelemetry collector. Default: none.
    pub tracing: Option<TracingConfig>,
    /// How many subjects get their own series in `tollgate_subject_checks_total`, the busiest ones;
    /// the rest count as `other`. At most 1000. Default 0, none: a subject is often a person, and
    /// readers of metrics need not learn who sent requests.
    #[serde(default)]
    pub subjects: u32,
    /// How many actors get their own series in `tollgate_actor_checks_total`, the busiest ones; the
    /// rest count as `other`. At most 1000. Default 0, none.
    #[serde(default)]
    pub actors: u32,
}

impl ObserveConfig {
    /// Most subjects, and most actors, with series of their own: each has two series, and a new one
    /// costs one pass over all of them.
    const MOST_SUBJECTS: u32 = 1000;

    /// Adds the errors of the section.
    pub fn validate(&self, path: &Path, errors: &mut Errors) {
        for (key, count) in [("subjects", self.subjects), ("actors", self.actors)] {
            if count > Self::MOST_SUBJECTS {
                let most = Self::MOST_SUBJECTS;
                let message = format!("`{count}` is more than {most}, the most there may be");
                errors.push(&path.key(key), message);
            }
        }
        if let Some(tracing) = &self.tracing {
            tracing.validate(&path.key("tracing"), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_subjects_are_refused() {
        for (subjects, good) in [(0, true), (1000, true), (1001, false)] {
            let mut errors = Errors::default();
            ObserveConfig { subjects, ..ObserveConfig::default() }
                .validate(&Path::root().key("observe"), &mut errors);
            assert_eq!(errors.is_empty(), good, "{subjects}");
            let mut errors = Errors::default();
            ObserveConfig { actors: subjects, ..ObserveConfig::default() }
                .validate(&Path::root().key("observe"), &mut errors);
            assert_eq!(errors.is_empty(), good, "{subjects} actors");
        }
    }
}
