//! What rules and limits in shadow would deny.

use std::borrow::Cow;

use super::{Denial, Reason, cut};

/// The most denials that are recorded for one request: more than a route has conditions and other rules,
/// and some limits.
pub const MAX_WOULD_DENY: usize = 64;

/// The most characters of [`ShadowDenial::rule`], counted as JSON in ASCII needs them.
pub const MAX_RULE: usize = 80;

/// A denial by a rule or a limit in shadow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowDenial {
    /// The rule: the section of the policy, and the name of the limit or of the condition, such as
    /// `limits.per-user`.
    pub rule: String,
    /// The reason of the denial.
    pub reason: Reason,
    /// The exact cause.
    pub cause: Cow<'static, str>,
}

/// The denials of one request by rules and limits in shadow. Without one, nothing is allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WouldDeny(Option<Box<ShadowDenials>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ShadowDenials {
    list: Vec<ShadowDenial>,
}

impl WouldDeny {
    /// Records a denial. Those beyond [`MAX_WOULD_DENY`], and further ones of a rule, are left out.
    #[cold]
    pub fn record(&mut self, section: &str, name: Option<&str>, denial: Denial) {
        let rule = match name {
            Some(name) => format!("{section}.{name}"),
            None => section.to_owned(),
        };
        let rule = cut(rule, MAX_RULE);
        self.push(ShadowDenial { rule, reason: denial.reason, cause: denial.cause });
    }

    /// Adds the denials of another part of the check.
    #[inline]
    pub(crate) fn append(&mut self, other: Self) {
        for denial in other.0.into_iter().flat_map(|denials| denials.list) {
            self.push(denial);
        }
    }

    fn push(&mut self, denial: ShadowDenial) {
        let list = &mut self.0.get_or_insert_default().list;
        if list.len() < MAX_WOULD_DENY && !list.iter().any(|known| known.rule == denial.rule) {
            list.push(denial);
        }
    }

    /// Returns the result of a rule; in shadow, a denial is recorded and the request passes.
    ///
    /// # Errors
    /// The denial of a rule that is enforced.
    #[inline]
    pub(crate) fn apply(
        &mut self,
        result: Result<(), Denial>,
        is_shadow: bool,
        section: &str,
        name: Option<&str>,
    ) -> Result<(), Denial> {
        match result {
            Err(denial) if is_shadow => {
                self.record(section, name, denial);
                Ok(())
            }
            result => result,
        }
    }

    /// Whether no rule and no limit in shadow would deny the request.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The recorded denials, in the order of the check.
    pub fn iter(&self) -> impl Iterator<Item = &ShadowDenial> {
        self.0.iter().flat_map(|denials| &denials.list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_bounded_and_each_rule_is_recorded_once() {
        let mut would_deny = WouldDeny::default();
        assert!(would_deny.is_empty());
        for n in 0..3 * MAX_WOULD_DENY {
            let denial = Denial::new(Reason::RateLimited, "full");
            would_deny.record("limits", Some(&format!("limit-{}", n / 2)), denial);
        }
        let rules: Vec<_> = would_deny.iter().map(|denial| denial.rule.as_str()).collect();
        assert_eq!(rules.len(), MAX_WOULD_DENY);
        assert_eq!(rules[..2], ["limits.limit-0", "limits.limit-1"]);
        let mut long = WouldDeny::default();
        long.record("conditions", Some(&"x".repeat(300)), Denial::new(Reason::Internal, "c"));
        assert!(long.iter().all(|denial| denial.rule.chars().count() <= MAX_RULE));
    }

    #[test]
    fn only_denials_of_rules_in_shadow_pass() {
        let denied = |reason| Err(Denial::new(reason, "cause"));
        let mut would_deny = WouldDeny::default();
        for (reason, is_shadow, passes) in [
            (Reason::ConditionFailed, true, true),
            (Reason::ConditionFailed, false, false),
            (Reason::MalformedRequest, true, true),
            (Reason::MalformedRequest, false, false),
        ] {
            let result = would_deny.apply(denied(reason), is_shadow, "conditions", None);
            assert_eq!(result.is_ok(), passes, "{reason:?}");
        }
        let reasons: Vec<_> = would_deny.iter().map(|denial| denial.reason).collect();
        assert_eq!(reasons, [Reason::ConditionFailed], "once for each rule");
    }
}
