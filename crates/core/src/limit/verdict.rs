//! The result of one charge.

/// The result of one charge and the state of its bucket afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the bucket had enough units.
    pub admitted: bool,
    /// Whole units that could be taken now.
    pub remaining: u64,
    /// Microseconds until the same charge would be admitted; 0 if it was. `u64::MAX`: never.
    pub retry_after: u64,
    /// Microseconds until the bucket is full again.
    pub reset: u64,
}

impl Verdict {
    /// The verdict of a limit that is not counted and refuses nothing. What is left of it is not known.
    pub const UNCOUNTED: Self = Self { admitted: true, remaining: 0, retry_after: 0, reset: 0 };

    /// Whether the verdicts on a request admit it: each one does, except those of limits in shadow.
    /// `in_shadow` is whether the limit of each verdict is, in their order.
    pub fn all_admit(verdicts: &[Self], in_shadow: impl IntoIterator<Item = bool>) -> bool {
        let mut in_shadow = in_shadow.into_iter();
        verdicts.iter().all(|verdict| in_shadow.next().unwrap_or(false) || verdict.admitted)
    }
}
