//! Whole decisions: what can only be taken away, and never given, by a change of one thing.
//!
//! Each case is a policy, a store and some requests, all of them random. One thing is changed, and
//! the requests are decided again: a scope of the token less, a larger limit, one more revocation,
//! another order of the routes. Conditions in CEL and overrides of limits are left out: they may
//! name a scope in order to refuse it.

mod scene;

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use self::scene::{Decided, Target, bans, revocations, scene, sent, sequence, target};
use super::cases;
use crate::sidecar::policy_test::{Banned, Revoked};

/// The cases of each property, unless `PROPTEST_CASES` is larger.
const CASES: u32 = 96;

proptest! {
    #![proptest_config(cases(CASES))]

    #[test]
    fn a_scope_less_never_allows(scene in scene(), sent in sent(), which in any::<usize>()) {
        let Some(policy) = scene.compile() else { return Ok(()) };
        let before = policy.decide(&sent);
        let mut fewer = sent.clone();
        if fewer.scopes.is_empty() { return Ok(()) }
        fewer.scopes.remove(which % sent.scopes.len());
        let after = policy.decide(&fewer);
        prop_assert!(before.is_allowed() || !after.is_allowed(), "{before:?}, then {after:?}");
    }

    #[test]
    fn a_scope_that_a_route_requires_in_addition_never_allows(
        scene in scene(),
        sent in sent(),
        scope in scene::scope_name(),
    ) {
        let (Some(policy), Some(stricter)) = (scene.compile(), scene.requiring(scope).compile()) else {
            return Ok(());
        };
        let (before, after) = (policy.decide(&sent), stricter.decide(&sent));
        prop_assert!(before.is_allowed() || !after.is_allowed(), "{before:?}, then {after:?}");
    }

    #[test]
    fn without_its_token_a_request_passes_public_routes_only(scene in scene(), sent in sent()) {
        let Some(policy) = scene.compile() else { return Ok(()) };
        let mut anonymous = sent;
        anonymous.has_token = false;
        if let Decided::Allowed(route) = policy.decide(&anonymous) {
            prop_assert!(scene.is_public(&route), "{route}");
        }
    }

    /// A larger limit admits at least as many requests of a sequence before it refuses one.
    #[test]
    fn a_larger_limit_never_denies_more(
        scene in scene(),
        requests in sequence(),
        which in any::<usize>(),
        more in 1..20_u64,
    ) {
        let (Some(policy), Some(larger)) = (scene.compile(), scene.enlarged(which, more).compile())
        else { return Ok(()) };
        let (before, after) = (policy.decide_all(&requests), larger.decide_all(&requests));
        for (before, after) in before.iter().zip(&after) {
            prop_assert!(after.is_allowed() || !before.is_allowed(), "{before:?}, then {after:?}");
            // From here on the larger limit has counted requests that the other has not.
            if !before.is_allowed() && after.is_allowed() { break; }
        }
    }

    /// A limit that is longer by a request later allows that request too: time only refills.
    #[test]
    fn a_request_that_waits_for_retry_after_is_never_refused_by_the_same_limits(
        scene in scene(),
        request in sent(),
        times in 1..8_usize,
    ) {
        let Some(policy) = scene.compile() else { return Ok(()) };
        let mut run = policy.run();
        let mut last = None;
        for _ in 0..times {
            last = run.retry_after(&request, 0);
        }
        let Some(wait) = last else { return Ok(()) };
        // A token may expire, and a calendar window may begin, in between: the limits do not refuse.
        let later = run.decide(&request, wait);
        prop_assert!(!later.is_limited(), "{later:?} after {wait} microseconds");
    }

    #[test]
    fn a_limit_in_shadow_changes_no_decision(
        scene in scene(),
        requests in sequence(),
        which in any::<usize>(),
    ) {
        let (Some(policy), Some(shadowed)) = (scene.compile(), scene.with_shadow(which).compile())
        else { return Ok(()) };
        prop_assert_eq!(policy.decide_all(&requests), shadowed.decide_all(&requests));
    }

    #[test]
    fn a_limit_that_goes_into_shadow_never_denies_more(
        scene in scene(),
        requests in sequence(),
        which in any::<usize>(),
    ) {
        let (Some(policy), Some(relaxed)) = (scene.compile(), scene.relaxed(which).compile())
        else { return Ok(()) };
        let (before, after) = (policy.decide_all(&requests), relaxed.decide_all(&requests));
        for (before, after) in before.iter().zip(&after) {
            prop_assert!(after.is_allowed() || !before.is_allowed(), "{before:?}, then {after:?}");
            if !before.is_allowed() && after.is_allowed() { break; }
        }
    }

    #[test]
    fn a_revocation_never_allows(
        scene in scene(),
        sent in sent(),
        others in revocations(),
        target in target(),
        at in scene::offset(),
    ) {
        let Some(policy) = scene.compile() else { return Ok(()) };
        let before = policy.with_store(&others, &[]).decide(&sent);
        let mut more = others;
        more.extend(scene::revocation(&target, at));
        let after = policy.with_store(&more, &[]).decide(&sent);
        prop_assert!(before.is_allowed() || !after.is_allowed(), "{before:?}, then {after:?}");
        // What is revoked by now, for every token that is there, passes public routes only.
        if at >= 0 && sent.is_of(&target) && let Decided::Allowed(route) = after {
            prop_assert!(scene.is_public(&route) || !sent.has_token, "{target:?}: {route}");
        }
    }

    #[test]
    fn a_ban_never_allows(
        scene in scene(),
        sent in sent(),
        others in bans(),
        target in target(),
        ends in scene::offset(),
    ) {
        let Some(policy) = scene.compile() else { return Ok(()) };
        let before = policy.with_store(&[], &others).decide(&sent);
        let mut more: Vec<Banned> = others;
        let Some(ban) = scene::ban(&target, ends) else { return Ok(()) };
        more.push(ban);
        let after = policy.with_store(&[], &more).decide(&sent);
        prop_assert!(before.is_allowed() || !after.is_allowed(), "{before:?}, then {after:?}");
        let is_network = matches!(target, Target::Network(_));
        if ends > 0 && sent.is_of(&target) && let Decided::Allowed(route) = after {
            prop_assert!(!is_network && scene.is_public(&route), "{target:?}: {route}");
        }
    }

    #[test]
    fn the_order_of_routes_and_limits_never_matters(
        scene in scene(),
        requests in sequence(),
        seed in any::<u64>(),
    ) {
        let shuffled = scene.shuffled(seed);
        match (scene.compile(), shuffled.compile()) {
            (Some(policy), Some(shuffled)) => {
                prop_assert_eq!(policy.decide_all(&requests), shuffled.decide_all(&requests));
            }
            (None, None) => {}
            (one, other) => {
                prop_assert!(false, "one order compiles: {}, {}", one.is_some(), other.is_some());
            }
        }
    }

    #[test]
    fn a_claim_that_an_issuer_requires_in_addition_never_allows(
        scene in scene(),
        sent in sent(),
        claim in scene::required_claim(),
    ) {
        let (Some(policy), Some(stricter)) = (scene.compile(), scene.requiring_claim(claim).compile())
        else { return Ok(()) };
        let (before, after) = (policy.decide(&sent), stricter.decide(&sent));
        prop_assert!(before.is_allowed() || !after.is_allowed(), "{before:?}, then {after:?}");
    }

    #[test]
    fn an_expired_token_stays_expired(
        scene in scene(),
        sent in sent(),
        waits in prop::collection::vec(0..100_000_u64, 1..4),
    ) {
        let Some(policy) = scene.compile() else { return Ok(()) };
        let expires = sent.expires_at();
        let mut at = 0;
        for wait in waits {
            at += wait;
            let decided = policy.run().decide(&sent, at * 1_000_000);
            let is_over = scene::NOW + at > expires + scene::LEEWAY;
            if let (true, true, Decided::Allowed(route)) = (is_over, sent.has_token, &decided) {
                prop_assert!(scene.is_public(route), "{route}, {at} seconds later");
            }
        }
    }

    #[test]
    fn a_decision_depends_on_nothing_but_its_values(scene in scene(), requests in sequence()) {
        let (Some(one), Some(other)) = (scene.compile(), scene.compile()) else { return Ok(()) };
        prop_assert_eq!(one.decide_all(&requests), other.decide_all(&requests));
    }
}

/// The generator must not only make requests that are refused.
#[test]
fn the_scenes_have_every_kind_of_decision() {
    use std::collections::BTreeMap;

    use proptest::{
        strategy::{Strategy as _, ValueTree as _},
        test_runner::TestRunner,
    };

    let mut runner = TestRunner::new(cases(1));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let strategy = (scene(), sequence(), target());
    for _ in 0..300 {
        let (scene, requests, target) = strategy.new_tree(&mut runner).unwrap().current();
        let Some(policy) = scene.compile() else { continue };
        let revoked: Vec<Revoked> = scene::revocation(&target, 0).into_iter().collect();
        for decided in policy.with_store(&revoked, &[]).decide_all(&requests) {
            let label = match decided {
                Decided::Allowed(_) => "allowed".to_owned(),
                Decided::Denied(reason) => reason.code().to_owned(),
                Decided::Failed => "failed".to_owned(),
            };
            *counts.entry(label).or_default() += 1;
        }
    }
    let of = |label: &str| counts.get(label).copied().unwrap_or(0);
    for (label, least) in [
        ("allowed", 100),
        ("insufficient_scope", 5),
        ("rate_limited", 5),
        ("revoked", 5),
        ("expired", 5),
        ("model_forbidden", 5),
        ("no_route", 5),
        ("tenant_mismatch", 5),
        ("missing_credential", 5),
    ] {
        assert!(of(label) >= least, "{label}: {counts:?}");
    }
}
