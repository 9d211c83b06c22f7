//! The facts of tokens, principals, routes and limits, as a step lists them.

use serde_json::{Value, json};
use tollgate_core::{
    admission::AdmitRequest,
    identity::Principal,
    limit::{Charge, Counter, Hold},
    route::{OnOutage, Route},
    rule::model::ModelSource,
    time::{Span, Timestamp},
};

use crate::cli::token_view;

/// The facts of a step, by their names.
pub(super) type Facts = Vec<(&'static str, Value)>;

/// Returns the contents of a token, verified or not.
pub(super) fn token_facts(decoded: &token_view::DecodedToken, now: Timestamp) -> Facts {
    let header = [("claimed alg", "alg"), ("claimed kid", "kid"), ("claimed typ", "typ")];
    let claims = [("claimed iss", "iss"), ("claimed aud", "aud"), ("claimed sub", "sub")];
    let dates = [("claimed iat", "iat"), ("claimed nbf", "nbf"), ("claimed exp", "exp")];
    let plain = header
        .iter()
        .map(|pair| (pair, &decoded.header))
        .chain(claims.iter().map(|pair| (pair, &decoded.claims)));
    let mut facts: Facts = plain
        .filter_map(|((fact, name), object)| Some((*fact, object.get(*name)?.clone())))
        .collect();
    for (fact, name) in dates {
        let Some(value) = decoded.claims.get(name) else { continue };
        let moment = token_view::date(value, now).map(|moment| json!(format!("{value}, {moment}")));
        facts.push((fact, moment.unwrap_or_else(|| value.clone())));
    }
    facts
}

/// Returns the facts of a route.
pub(super) fn route_facts(route: &Route) -> Facts {
    let mut facts = vec![("name", json!(route.name)), ("public", json!(route.public))];
    let rates = route.limits.iter().map(|limit| &*limit.name);
    let limits: Vec<&str> = rates.chain(route.holds.iter().map(|limit| &*limit.name)).collect();
    if !limits.is_empty() {
        facts.push(("limits", json!(limits)));
    }
    facts
}

/// Returns the facts of a principal. `jti` is the token's own: a principal stores its digest.
pub(super) fn principal_facts(principal: &Principal, jti: Option<&Value>) -> Facts {
    let mut facts = vec![
        ("subject", json!(principal.subject())),
        ("holder", json!(principal.holder().label())),
    ];
    if let Some(key) = principal.key() {
        facts.push(("key id", json!(key.id)));
        facts.extend(key.tier.as_ref().map(|tier| ("tier", json!(tier))));
        facts.extend(key.models.as_ref().map(|models| ("models of the key", json!(models))));
        facts.extend(key.networks.as_ref().map(|list| ("networks of the key", json!(list))));
        let limits = key.limits.iter().map(|(name, rate)| format!("`{name}`: {rate}"));
        let limits: Vec<String> = limits.collect();
        if !limits.is_empty() {
            facts.push(("limits of the key", json!(limits)));
        }
        if key.weak {
            facts.push(("weak", json!("a foreign format; rotate the key")));
        }
    }
    facts.extend(principal.tenant().map(|tenant| ("tenant", json!(tenant))));
    facts.extend(principal.client().map(|client| ("client", json!(client))));
    let actors = principal.actors().map(|actor| {
        let is_own = actor.issuer == principal.issuer();
        let of = if is_own { String::new() } else { format!(" of `{}`", actor.issuer) };
        ("actor", json!(format!("`{}`{of}", actor.subject)))
    });
    facts.extend(actors);
    facts.push(("roles", json!(principal.roles().collect::<Vec<_>>())));
    facts.push(("scopes", json!(principal.scopes().collect::<Vec<_>>())));
    facts.extend(jti.map(|jti| ("jti", jti.clone())));
    facts.push(("good until", json!(token_view::whole_seconds(principal.expires_at()))));
    facts
}

/// Returns what a request charges and holds.
pub(super) fn limit_facts(admit_request: &AdmitRequest) -> Facts {
    let shown = |charge: &Charge| {
        let Charge { limit, interval, burst, cost, lease, is_shadow, .. } = charge;
        let every = Span::from_micros(*interval);
        let lease =
            lease.map_or(String::new(), |terms| format!(", leased by {} at most", terms.slice));
        json!(format!(
            "`{limit}`: {cost} of {burst}, one more every {every}, in bucket {}{lease}{}",
            charge.key(),
            in_shadow(*is_shadow)
        ))
    };
    let charges = admit_request.charges.iter().map(|charge| ("charge", shown(charge)));
    let holds = admit_request.reservation.iter().flat_map(|reservation| &reservation.holds);
    charges.chain(holds.map(|hold| ("hold", json!(hold_text(hold))))).collect()
}

/// Returns the words for a limit in shadow.
pub(super) const fn in_shadow(is_shadow: bool) -> &'static str {
    if is_shadow { ", in shadow" } else { "" }
}

/// Returns what a request holds of a counter.
fn hold_text(hold: &Hold) -> String {
    let Hold { limit, amount, counter, unreported, .. } = hold;
    let of = match counter {
        Counter::Bucket { interval, burst } | Counter::Rate { interval, burst } => {
            format!("{burst}, one more every {}", Span::from_micros(*interval))
        }
        Counter::Cost { limit, ends } => {
            let until = token_view::whole_seconds(ends.secs());
            format!("{limit} micro-units of cost until {until}")
        }
        Counter::Budget { limit, ends } | Counter::Requests { limit, ends } => {
            format!("{limit} until {}", token_view::whole_seconds(ends.secs()))
        }
        Counter::Slots { limit } => format!("{limit} at once"),
    };
    let ends = match counter {
        Counter::Rate { .. } | Counter::Requests { .. } => ", spent at admission".to_owned(),
        Counter::Bucket { .. } | Counter::Budget { .. } | Counter::Cost { .. }
            if unreported < amount =>
        {
            format!(", {unreported} at least if no usage is reported")
        }
        Counter::Bucket { .. }
        | Counter::Budget { .. }
        | Counter::Cost { .. }
        | Counter::Slots { .. } => String::new(),
    };
    format!("`{limit}`: {amount} of {of}{ends}, in {}{}", hold.key(), in_shadow(hold.is_shadow))
}

/// Returns the place where a request names its model, as configured.
pub(super) fn place(source: &ModelSource) -> String {
    match source {
        ModelSource::Body(pointer) => format!("body, `{}`", pointer.last()),
        ModelSource::Form(name) => format!("form:{name}"),
        ModelSource::Path(name) => format!("path:{name}"),
        ModelSource::Query(name) => format!("query:{name}"),
        ModelSource::Header(name) => format!("header:{name}"),
        ModelSource::Fixed(name) => format!("fixed:{name}"),
    }
}

/// Returns the word of the configuration.
pub(super) const fn outage_word(on_outage: OnOutage) -> &'static str {
    match on_outage {
        OnOutage::Deny => "deny",
        OnOutage::Error => "error",
        OnOutage::Allow => "allow",
        OnOutage::Local => "local",
    }
}
