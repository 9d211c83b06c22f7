//! `GET /v1/usage?from=&to=&by=`: the sums of the ledger. A credential that is bound to tenants sees
//! their rows only.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Response, header::ALLOW};
use http_body_util::Full;
use serde_json::json;
use tollgate_core::{
    admission::Outage,
    ledger::{
        calendar::Calendar,
        report::{Dimension, Report, ReportQuery},
        rows::{Measures, Period, RowKey},
    },
    policy::Policy,
};

use super::{
    StoreUnavailable,
    caller::{AdminAction, Caller},
    record::AdminRecord,
    unavailable,
};
use crate::{
    json_api::{self, Refusal, ok},
    store::Redis,
};

/// The path of the sums.
pub(crate) const PATH: &str = "/v1/usage";

/// The sums of a ledger.
pub trait UsageSums: Send + Sync {
    /// Returns the rows of an hour or a day.
    fn rows(&self, period: Period) -> BoxFuture<'_, Result<HashMap<RowKey, Measures>, Outage>>;

    /// Returns the time zone of the days; `None` of a ledger that notes none yet.
    fn time_zone(&self) -> BoxFuture<'_, Result<Option<String>, Outage>>;
}

impl UsageSums for Redis {
    fn rows(&self, period: Period) -> BoxFuture<'_, Result<HashMap<RowKey, Measures>, Outage>> {
        Box::pin(Redis::rows(self, period))
    }

    fn time_zone(&self) -> BoxFuture<'_, Result<Option<String>, Outage>> {
        Box::pin(self.ledger_time_zone())
    }
}

/// The sums of the admin API, and the policy that has their calendar.
pub(super) struct UsageAdmin {
    sums: Option<Arc<dyn UsageSums>>,
    policy: Box<dyn Fn() -> Arc<Policy> + Send + Sync>,
}

impl UsageAdmin {
    pub(super) fn new(
        sums: Option<Arc<dyn UsageSums>>,
        policy: impl Fn() -> Arc<Policy> + Send + Sync + 'static,
    ) -> Self {
        Self { sums, policy: Box::new(policy) }
    }
}

/// Reads a query, strictly.
fn read(query: &str, calendar: &Calendar) -> Result<ReportQuery, Refusal> {
    let (mut from, mut to, mut by) = (None, None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let place = match pair.split_once('=') {
            Some(("from", text)) if from.is_none() => (&mut from, text),
            Some(("to", text)) if to.is_none() => (&mut to, text),
            Some(("by", text)) if by.is_none() => (&mut by, text),
            _ => {
                return Err(Refusal::invalid("the query takes `from`, `to` and `by`, once each"));
            }
        };
        *place.0 = Some(place.1);
    }
    let Some(from) = from else {
        return Err(Refusal::invalid("name the first day in `from`, and the last one in `to`"));
    };
    let to = to.unwrap_or(from);
    let day = |text: &str| text.parse().map_err(|error| Refusal::invalid(format!("{error}")));
    let by = by.unwrap_or_default().replace("%2C", ",").replace("%2c", ",");
    let by = by.split(',').filter(|name| !name.is_empty()).map(str::parse::<Dimension>);
    let by = by.collect::<Result<_, _>>().map_err(|error| Refusal::invalid(error.to_string()))?;
    ReportQuery::new((day(from)?, day(to)?), by, calendar)
        .map_err(|error| Refusal::invalid(error.to_string()))
}

/// Handles a call of [`PATH`] that is authorized.
pub(super) async fn call(
    usage: Option<&UsageAdmin>,
    caller: Caller<'_>,
    (method, query): (&Method, &str),
    record: &mut AdminRecord<'_>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    if *method != Method::GET {
        return Err(json_api::not_allowed("use GET").with(ALLOW, "GET"));
    }
    record.doing("read_usage");
    caller.require(AdminAction::ReadUsage)?;
    let without = || Refusal::new(404, "not_found", "the configuration has no section `ledger`");
    let usage = usage.ok_or_else(without)?;
    let policy = (usage.policy)();
    let (Some(ledger), Some(sums)) = (&policy.ledger, &usage.sums) else { return Err(without()) };
    let query = read(query, &Calendar::of(&ledger.time_zone))?;
    let no_answer = |outage| unavailable(&StoreUnavailable::from(outage));
    let noted = sums.time_zone().await.map_err(no_answer)?;
    if noted.is_some_and(|noted| noted != ledger.time_zone) {
        return Err(Refusal::new(
            409,
            "other_time_zone",
            "the days of the ledger are those of another time zone than `ledger.time_zone`",
        ));
    }
    let mut report = Report::of(&query);
    for (place, period) in query.periods().enumerate() {
        let rows = sums.rows(period).await.map_err(no_answer)?;
        // The row of the others may have requests of other tenants.
        let sees = |key: &RowKey| match key {
            RowKey::Of { tenant, .. } => caller.sees(tenant.as_deref()),
            RowKey::Other => caller.tenants().is_none(),
        };
        report.add(place, rows.iter().filter(|(key, _)| sees(key)));
    }
    let rows: Vec<_> = report.rows().collect();
    Ok(ok(&json!({
        "time_zone": ledger.time_zone,
        "currency": policy.prices.as_ref().map(|prices| &*prices.currency),
        "rows": rows,
        "total": report.total(),
    })))
}

#[cfg(test)]
pub(super) mod tests;
