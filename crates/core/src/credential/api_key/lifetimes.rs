//! How long keys live.

use crate::time::{Span, Timestamp};

/// The life of a key for which nothing else is given.
pub const DEFAULT_LIFE: Span = Span::from_secs(90 * 86_400);

/// How far a time of issue may be in the future, for clocks that differ. Beyond it a key would outlive
/// `max_life`, and no revocation of its subject would end it.
const FUTURE_LEEWAY: Span = Span::from_secs(60);

/// Returns the latest time of issue that is accepted at `now`.
pub(super) const fn latest_issue(now: Timestamp) -> Timestamp {
    after(now, FUTURE_LEEWAY)
}

/// The lives of keys under a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLifetimes {
    max_life: Span,
    grace: Span,
}

impl Default for KeyLifetimes {
    fn default() -> Self {
        Self { max_life: DEFAULT_LIFE, grace: Span::from_secs(86_400) }
    }
}

impl KeyLifetimes {
    /// The lives of keys that no policy bounds, for a source that several policies may read.
    pub const UNBOUNDED: Self =
        Self { max_life: Span::from_micros(u64::MAX), grace: Span::from_secs(86_400) };

    /// Creates the lives from `max_life`, the longest life of a secret, and `grace`, for which a
    /// secret is accepted after its rotation.
    pub const fn new(max_life: Span, grace: Span) -> Self {
        Self { max_life, grace }
    }

    /// The longest life of a secret.
    pub const fn max_life(&self) -> Span {
        self.max_life
    }

    /// The time for which a secret is accepted after its rotation.
    pub const fn grace(&self) -> Span {
        self.grace
    }

    /// Returns the latest end of a secret that was issued at a time.
    pub const fn latest(&self, issued: Timestamp) -> Timestamp {
        after(issued, self.max_life)
    }

    /// Returns the end of a secret for which none is given.
    pub fn default_end(&self, issued: Timestamp) -> Timestamp {
        after(issued, self.max_life.min(DEFAULT_LIFE))
    }
}

const fn after(time: Timestamp, span: Span) -> Timestamp {
    Timestamp::from_micros(time.micros().saturating_add(span.micros()))
}
