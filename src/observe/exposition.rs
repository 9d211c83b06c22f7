//! The metrics as OpenMetrics text, made on request. The state of other modules is an argument,
//! [`Status`], so that nothing is stored twice.

mod network_bans;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
        NoLabelSet, text,
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};
use tollgate_core::{ban::Kind, route::OnOutage};

pub use self::network_bans::NetworkBanStatus;
use super::{
    audit::{Dropped, QueueUsage},
    check_result::CheckResult,
    metrics::{BUCKETS, DecisionCounters, Durations, Metrics, OutageAllowed},
    process::{ProcessMetrics, ProcessStatus},
    subjects::SubjectRow,
    trace::SpanCounts,
};
use crate::{
    secrets::SecretStatus,
    store::{
        BanStatus, Circuit, EscrowStatus, KeyReplicaStatus, LeaseStatus, LocalStatus, NodeStatus,
        ReplicaStatus, ReservationStatus, StoreStatus,
    },
};

/// The content type of the exposition.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The state of the other modules at the time of a request.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Whether `/readyz` reports ready.
    pub ready: bool,
    /// The keys of each issuer.
    pub jwks: Vec<JwksStatus>,
    /// The state of the store; `None` in an exposition without a store.
    pub store: Option<StoreStatus>,
    /// The state of the local fallback; `None` where no route uses it.
    pub local: Option<LocalStatus>,
    /// The budget for messages; `None` without listeners.
    pub in_flight: Option<InFlightStatus>,
    /// The copy of the API keys in Redis; `None` where Redis is no source.
    pub api_keys: Option<ApiKeyStatus>,
    /// The state of the token cache.
    pub tokens: TokenStatus,
    /// The refusals of limits that are remembered.
    pub refusals: u64,
    /// The certificates of the listeners with TLS.
    pub certificates: Vec<CertificateStatus>,
    /// The state of automatic bans; `None` where the policy has none.
    pub network_bans: Option<NetworkBanStatus>,
}

/// The period in which the certificates of a listener are valid, in seconds since 1970.
#[derive(Clone, Debug)]
pub struct CertificateStatus {
    /// The key of the listener in the configuration.
    pub listener: String,
    /// The beginning of the period.
    pub not_before: u64,
    /// The end of the period.
    pub not_after: u64,
}

/// The copy of the API keys in Redis.
#[derive(Clone, Copy, Debug)]
pub struct ApiKeyStatus {
    /// The copy itself.
    pub replica: KeyReplicaStatus,
    /// The records that name a limit or a tier that the policy does not have.
    pub misfits: usize,
}

/// The token cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenStatus {
    /// Lookups by result.
    pub lookups: [(&'static str, u64); 3],
    /// Cached tokens that were verified.
    pub entries: u64,
    /// Bytes of all cached tokens, rejected ones included.
    pub bytes: u64,
}

/// The budget for messages, `body.max_in_flight`.
#[derive(Clone, Copy, Debug, Default)]
pub struct InFlightStatus {
    /// The bytes that messages hold.
    pub bytes: u64,
    /// The bytes that messages may hold together.
    pub limit: u64,
}

/// The queues of this module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queues {
    pub(super) dropped: Dropped,
    pub(super) audit: Option<QueueUsage>,
    /// The counts of spans; `None` where tracing is off.
    pub(super) spans: Option<SpanCounts>,
}

/// The keys of one issuer.
#[derive(Clone, Debug)]
pub struct JwksStatus {
    /// The issuer as configured.
    pub issuer: String,
    /// The number of keys that may be used.
    pub keys: u64,
    /// The time since the last good fetch; `None` before there was one.
    pub age: Option<Duration>,
    /// Fetches that brought usable keys.
    pub ok: u64,
    /// Fetches that failed.
    pub failed: u64,
}

/// Returns all metrics as OpenMetrics 1.0 text.
///
/// # Errors
/// None occurs: it writes into memory.
pub(super) fn exposition(
    metrics: &Arc<Metrics>,
    status: Status,
    queues: Queues,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tollgate");
    registry.register_collector(Box::new(Scrape { metrics: Arc::clone(metrics), status, queues }));
    // These names have no prefix: dashboards and alerts for any program know them.
    let mut of_process = Registry::default();
    let status = ProcessStatus::read();
    let started = metrics.started();
    of_process.register_collector(Box::new(ProcessMetrics { started, status }));
    let mut text = String::new();
    text::encode_registry(&mut text, &registry)?;
    text::encode_registry(&mut text, &of_process)?;
    text::encode_eof(&mut text)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    status: Status,
    queues: Queues,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        encoder
            .encode_descriptor("build", "The version that runs.", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let help = "Whether requests may be sent here, as /readyz says.";
        Family::gauge(encoder, "ready", help, None)?.alone(u64::from(self.status.ready))?;
        self.checks(encoder)?;
        self.issuers(encoder)?;
        self.subjects(encoder)?;
        self.actors(encoder)?;
        self.outages(encoder)?;
        self.in_flight(encoder)?;
        self.store(encoder)?;
        self.network_bans(encoder)?;
        self.local(encoder)?;
        self.settlements(encoder)?;
        self.ledger(encoder)?;
        self.redis_keys(encoder)?;
        self.jwks(encoder)?;
        self.secrets(encoder)?;
        self.api_keys(encoder)?;
        self.tokens(encoder)?;
        self.config(encoder)?;
        self.certificates(encoder)?;
        self.audit(encoder)?;
        self.spans(encoder)
    }
}

impl Scrape {
    fn checks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let series = self.metrics.series();
        // A series appears with its first count: all reasons of all routes would be thousands.
        let mut family =
            Family::counter(encoder, "checks", "Checks by decision, reason and route.")?;
        for (route, counters) in &series.routes {
            for result in CheckResult::all() {
                let count =
                    counters.results.get(result.slot()).map_or(0, |count| count.load(Relaxed));
                if count > 0 {
                    family.count(
                        &[
                            ("decision", result.decision()),
                            ("reason", result.reason()),
                            ("route", route),
                        ],
                        count,
                    )?;
                }
            }
        }
        let help = "Checks by kind of credential, decision and reason.";
        let mut family = Family::counter(encoder, "credential_checks", help)?;
        for (kind, results) in self.metrics.credentials() {
            for result in CheckResult::all() {
                let count = results.get(result.slot()).map_or(0, |count| count.load(Relaxed));
                if count > 0 {
                    let (decision, reason) = (result.decision(), result.reason());
                    let labels = [("credential", kind), ("decision", decision), ("reason", reason)];
                    family.count(&labels, count)?;
                }
            }
        }
        let help = "Time from the start of a check to the end of its answer.";
        let mut family = Family::new(
            encoder,
            "check_duration",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (route, counters) in &series.routes {
            if counters.durations.is_empty() {
                continue;
            }
            let labels = [("route", route.as_str())];
            histogram(&mut family.0.encode_family(&labels)?, &counters.durations)?;
        }
        let help = "Checks that asked for a model, by decision; models that the file does not name are other.";
        let mut family = Family::counter(encoder, "model_checks", help)?;
        for (model, counters) in &series.models {
            family.decisions("model", model, counters)?;
        }
        let mut family =
            Family::counter(encoder, "limit_denied", "Checks that a limit had no room for.")?;
        for (limit, count) in &series.limits {
            family.count(&[("limit", limit.as_str())], count.load(Relaxed))?;
        }
        let help = "Checks that were denied by a limit whose refusal of an earlier check was remembered, without a call to the store.";
        Family::counter(encoder, "remembered_denials", help)?.total(self.metrics.remembered())?;
        let help = "Allowed checks that a rule or a limit in shadow would have denied.";
        let mut family = Family::counter(encoder, "would_deny", help)?;
        for ((route, rule, reason), count) in self.metrics.would_deny() {
            let labels = [("route", route.as_str()), ("rule", rule.as_str()), ("reason", reason)];
            family.count(&labels, count)?;
        }
        let help = "Buckets of limits that are remembered to be used up.";
        Family::gauge(encoder, "remembered_refusals", help, None)?.alone(self.status.refusals)?;
        let help =
            "Checks that were denied for a member of the request, with reason field_forbidden.";
        let mut family = Family::counter(encoder, "forbidden_members", help)?;
        for (member, count) in &series.members {
            family.count(&[("member", member.as_str())], count.load(Relaxed))?;
        }
        let help = "Checks that a panic ended.";
        Family::counter(encoder, "panics", help)?.total(self.metrics.panics())
    }

    fn issuers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Checks whose credential names an issuer of the policy, by decision.";
        let mut family = Family::counter(encoder, "issuer_checks", help)?;
        for (issuer, counters) in &self.metrics.series().issuers {
            family.decisions("issuer", issuer, counters)?;
        }
        Ok(())
    }

    fn outages(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Routes that use the store, by their behaviour in its outage.";
        let mut family = Family::gauge(encoder, "routes", help, None)?;
        for (on_outage, count) in OnOutage::ALL.iter().zip(self.metrics.series().on_outage) {
            family.value(&[("on_outage", on_outage.label())], count)?;
        }
        let help = "Requests that were allowed although the store did not answer, by on_outage.";
        let mut family = Family::counter(encoder, "outage_allowed", help)?;
        let OutageAllowed { allow, local } = self.metrics.outage_allowed();
        for (on_outage, count) in [(OnOutage::Allow, allow), (OnOutage::Local, local)] {
            family.count(&[("on_outage", on_outage.label())], count.load(Relaxed))?;
        }
        Ok(())
    }

    fn in_flight(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(InFlightStatus { bytes, limit }) = self.status.in_flight else { return Ok(()) };
        let help = "What the messages of checks in flight hold.";
        Family::gauge(encoder, "in_flight", help, Some(&Unit::Bytes))?.alone(bytes)?;
        let help = "What they may hold together, body.max_in_flight; beyond it checks are refused as overloaded.";
        Family::gauge(encoder, "in_flight_limit", help, Some(&Unit::Bytes))?.alone(limit)
    }

    fn store(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = Family::counter(
            encoder,
            "store_errors",
            "Checks for which the store could not be asked, by outage.",
        )?;
        for (outage, count) in self.metrics.outages() {
            family.count(&[("outage", outage)], count)?;
        }
        let Some(store) = &self.status.store else { return Ok(()) };
        Family::gauge(
            encoder,
            "store_up",
            "Whether the last question to the store was answered.",
            None,
        )?
        .alone(u64::from(store.up))?;
        let mut family = Family::gauge(
            encoder,
            "store_circuit",
            "The state of the store's circuit breaker: 1 for the one it is in.",
            None,
        )?;
        for state in Circuit::ALL {
            family.value(&[("state", state.label())], u64::from(state == store.circuit))?;
        }
        if store.remote {
            let help = "Time from a check's question to the store until its answer, or until it was given up.";
            let mut family = Family::new(
                encoder,
                "store_duration",
                help,
                Some(&Unit::Seconds),
                MetricType::Histogram,
            )?;
            histogram(&mut family.0, self.metrics.store())?;
            let family =
                Family::counter(encoder, "store_connections", "Connections made to the store.")?;
            family.total(store.connections)?;
            let help = "1 if the server of a connection to the store answers; the node is the one that was connected to last.";
            let mut family = Family::gauge(encoder, "store_node_up", help, None)?;
            for NodeStatus { shard, node, up } in &store.nodes {
                let shard = shard.map(|shard| shard.to_string()).unwrap_or_default();
                let node = node.as_deref().unwrap_or_default();
                family.value(&[("shard", shard.as_str()), ("node", node)], u64::from(*up))?;
            }
        }
        if let Some(buckets) = store.buckets {
            let help = "Buckets of limits that the store in memory holds; store.memory.max_buckets is the most.";
            Family::gauge(encoder, "store_buckets", help, None)?.alone(buckets)?;
        }
        if let Some(revocations) = store.revocations {
            let help = "Revocations that the store in memory holds.";
            Family::gauge(encoder, "store_revocations", help, None)?.alone(revocations)?;
        }
        if let Some(ReplicaStatus { age, revocations, max_staleness }) = store.replica {
            if let Some(age) = age {
                let help =
                    "Age of the copy of the store's revocations; absent before it was first read.";
                Family::gauge(encoder, "store_replica_age", help, Some(&Unit::Seconds))?
                    .alone(age.as_secs_f64())?;
            }
            let help = "The age beyond which each check queries the store.";
            Family::gauge(encoder, "store_replica_max_age", help, Some(&Unit::Seconds))?
                .alone(max_staleness.as_secs_f64())?;
            let help = "Revocations in the copy.";
            Family::gauge(encoder, "store_replica_revocations", help, None)?.alone(revocations)?;
        }
        if let Some(BanStatus { counts, age }) = store.bans {
            let help = "Bans that this process knows, by kind.";
            let mut family = Family::gauge(encoder, "bans", help, None)?;
            for (kind, count) in Kind::ALL.into_iter().zip(counts) {
                family.value(&[("kind", kind.label())], count)?;
            }
            if let Some(age) = age {
                let help = "Age of the copy of the store's bans; absent before it was first read.";
                Family::gauge(encoder, "bans_age", help, Some(&Unit::Seconds))?
                    .alone(age.as_secs_f64())?;
            }
        }
        if let Some(LeaseStatus { units, .. }) = store.leases {
            let help = "Units of leased limits that are held here, unspent.";
            Family::gauge(encoder, "store_leased_units", help, None)?.alone(units)?;
        }
        let ReservationStatus { open, expired } = store.reservations;
        if let Some(open) = open {
            let help = "Reservations of all replicas that are not settled yet.";
            Family::gauge(encoder, "reservations_open", help, None)?.alone(open)?;
            let help = "Reservations that this process charged because no report came in time.";
            Family::counter(encoder, "reservations_expired", help)?.total(expired)?;
        }
        Ok(())
    }

    fn redis_keys(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(ApiKeyStatus { replica, misfits }) = self.status.api_keys else { return Ok(()) };
        if let Some(age) = replica.age {
            let help = "Age of the copy of the API keys in Redis; absent before it was first read.";
            Family::gauge(encoder, "api_keys_age", help, Some(&Unit::Seconds))?
                .alone(age.as_secs_f64())?;
        }
        let help = "The age beyond which on_outage decides requests with a key of the copy.";
        Family::gauge(encoder, "api_keys_max_age", help, Some(&Unit::Seconds))?
            .alone(replica.max_staleness.as_secs_f64())?;
        let help = "Records of API keys in Redis, by whether they can be used.";
        let mut family = Family::gauge(encoder, "api_key_records", help, None)?;
        let states = [
            ("usable", (replica.keys + replica.cached).saturating_sub(misfits)),
            ("unknown_name", misfits),
            ("broken", replica.broken),
            ("uncopied", replica.uncopied),
        ];
        for (state, records) in states {
            family.value(&[("state", state)], records as u64)?;
        }
        let help =
            "Records of API keys beyond api_keys.replicate.max that were looked up, and are kept.";
        Family::gauge(encoder, "api_key_cached_records", help, None)?
            .alone(replica.cached as u64)?;
        let help = "Lookups of records of API keys that are not copied, by result.";
        let mut family = Family::counter(encoder, "api_key_lookups", help)?;
        for (result, lookups) in replica.lookups {
            family.count(&[("result", result)], lookups)?;
        }
        Ok(())
    }

    fn local(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(local) = self.status.local else { return Ok(()) };
        if let Some(age) = local.age {
            let help = "Age of the revocations that an outage would be answered with; absent before they were first read.";
            Family::gauge(encoder, "local_revocations_age", help, Some(&Unit::Seconds))?
                .alone(age.as_secs_f64())?;
        }
        let help = "Revocations that an outage would be answered with.";
        Family::gauge(encoder, "local_revocations", help, None)?.alone(local.revocations)?;
        let help = "Buckets of limits that were filled here in an outage.";
        Family::gauge(encoder, "local_buckets", help, None)?.alone(local.buckets)?;
        let EscrowStatus { counters, unreported, admitted } = local.escrow;
        let help = "Counters of tokens and slots of which this replica holds units for an outage.";
        Family::gauge(encoder, "escrow_counters", help, None)?.alone(counters)?;
        let help = "Requests that were admitted in an outage and are not reported to Redis yet.";
        Family::gauge(encoder, "escrow_unreported_requests", help, None)?.alone(unreported)?;
        let help = "Requests that were admitted from what this replica holds for an outage.";
        Family::counter(encoder, "escrow_admitted", help)?.total(admitted)
    }

    fn settlements(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.metrics.settlements();
        if !counters.is_used() {
            return Ok(());
        }
        let help = "Reports of usage that the store took, by what they changed.";
        let mut family = Family::counter(encoder, "settlements", help)?;
        for (result, count) in counters.results() {
            family.count(&[("result", result)], count)?;
        }
        let help = "Entries of the proxy's access log that were not used, or not as they were.";
        let mut family = Family::counter(encoder, "report_problems", help)?;
        for (problem, count) in counters.problems() {
            family.count(&[("problem", problem)], count)?;
        }
        let help =
            "Requests that reached an upstream and whose tokens are not known, by their end.";
        let mut family = Family::counter(encoder, "unmetered", help)?;
        for (ending, count) in counters.unmetered_requests() {
            family.count(&[("ending", ending)], count)?;
        }
        let help = "Requests that used more tokens than they held, by what they held.";
        let mut family = Family::counter(encoder, "debts", help)?;
        for (hold, count) in counters.debts() {
            family.count(&[("hold", hold)], count)?;
        }
        let help = "Tokens that requests used above what they held.";
        let mut family = Family::counter(encoder, "debt_tokens", help)?;
        for (hold, count) in counters.debt_tokens() {
            family.count(&[("hold", hold)], count)?;
        }
        let help = "Settlements that never reached the store: their holds expire.";
        let mut family = Family::counter(encoder, "settlements_dropped", help)?;
        for (cause, count) in counters.dropped() {
            family.count(&[("cause", cause)], count)?;
        }
        let help = "Calls with settlements that the store did not answer; they are repeated.";
        Family::counter(encoder, "settlement_failures", help)?.total(counters.failed_calls())
    }

    fn ledger(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.metrics.ledger();
        // Without a ledger there is nothing to count.
        let Some(status) = counters.status() else { return Ok(()) };
        let help = "Entries of all chains of the ledger.";
        Family::gauge(encoder, "ledger_entries", help, None)?.alone(status.entries)?;
        let help = "Settled requests that have no record in the ledger yet, of all replicas.";
        Family::gauge(encoder, "ledger_pending", help, None)?.alone(status.pending)?;
        let help = "Entries of the ledger that were not exported.";
        Family::gauge(encoder, "ledger_unexported", help, None)?.alone(status.unexported)?;
        let help = "Entries of the ledger that were removed, by whether they had been exported.";
        let mut family = Family::counter(encoder, "ledger_trimmed", help)?;
        for (exported, count) in counters.trimmed_entries() {
            family.count(&[("exported", exported)], count)?;
        }
        for (name, help, total) in counters.totals() {
            Family::counter(encoder, name, help)?.total(total)?;
        }
        Ok(())
    }

    fn jwks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let jwks = &self.status.jwks;
        let mut family =
            Family::gauge(encoder, "jwks_keys", "Keys of an issuer that may be used.", None)?;
        for issuer in jwks {
            family.value(&[("issuer", issuer.issuer.as_str())], issuer.keys)?;
        }
        let help = "Time since an issuer's keys were last fetched; absent before they were.";
        let mut family = Family::gauge(encoder, "jwks_age", help, Some(&Unit::Seconds))?;
        for issuer in jwks {
            if let Some(age) = issuer.age {
                let labels = [("issuer", issuer.issuer.as_str())];
                family.value(&labels, age.as_secs_f64())?;
            }
        }
        let mut family =
            Family::counter(encoder, "jwks_fetches", "Fetches of an issuer's keys, by result.")?;
        for issuer in jwks {
            for (result, count) in [("ok", issuer.ok), ("failed", issuer.failed)] {
                family.count(&[("issuer", issuer.issuer.as_str()), ("result", result)], count)?;
            }
        }
        Ok(())
    }

    fn secrets(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let secrets = self.metrics.secrets();
        if secrets.values().all(Vec::is_empty) {
            return Ok(());
        }
        let each =
            || secrets.iter().flat_map(|(purpose, all)| all.iter().map(move |one| (*purpose, one)));
        let help = "Whether a secret that is read from a file may be used.";
        let mut family = Family::gauge(encoder, "secret_usable", help, None)?;
        for (purpose, SecretStatus { file, usable, .. }) in each() {
            family.value(&[("secret", purpose), ("file", file)], u64::from(*usable))?;
        }
        let help =
            "Time since a secret was last read from its file; secrets.max_stale is the most.";
        let mut family = Family::gauge(encoder, "secret_age", help, Some(&Unit::Seconds))?;
        for (purpose, SecretStatus { file, found, .. }) in each() {
            let labels = [("secret", purpose), ("file", file.as_str())];
            family.value(&labels, found.elapsed().as_secs_f64())?;
        }
        Ok(())
    }

    fn api_keys(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sources = self.metrics.api_keys();
        if sources.is_empty() {
            return Ok(());
        }
        let help = "API keys in force, by source and state; expiring, weak and rotating are parts of usable.";
        let mut family = Family::gauge(encoder, "api_keys", help, None)?;
        for source in &sources {
            for (state, count) in source.by_state() {
                family.value(&[("source", source.source), ("state", state)], count)?;
            }
        }
        let help = "API keys that this process has seen in the last day.";
        let mut family = Family::gauge(encoder, "api_keys_used", help, None)?;
        for source in &sources {
            family.value(&[("source", source.source)], source.used)?;
        }
        let help = "When the usable API key that ends first ends, since 1970.";
        let name = "api_keys_next_end_timestamp";
        let mut family = Family::gauge(encoder, name, help, Some(&Unit::Seconds))?;
        for source in &sources {
            if let Some(end) = source.next_end {
                family.value(&[("source", source.source)], end.secs())?;
            }
        }
        let help = "Events of API keys.";
        let mut family = Family::counter(encoder, "api_key_events", help)?;
        for (event, count) in self.metrics.key_events() {
            family.count(&[("event", event)], count)?;
        }
        Ok(())
    }

    fn tokens(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let TokenStatus { lookups, entries, bytes } = self.status.tokens;
        let help = "Tokens looked up, by result: known and good, known and bad, or verified.";
        let mut family = Family::counter(encoder, "token_cache_lookups", help)?;
        for (result, count) in lookups.iter().filter(|(result, _)| !result.is_empty()) {
            family.count(&[("result", *result)], *count)?;
        }
        Family::gauge(encoder, "token_cache_entries", "Good tokens that are remembered.", None)?
            .alone(entries)?;
        let help = "Bytes that remembered tokens take, refused ones included.";
        Family::gauge(encoder, "token_cache", help, Some(&Unit::Bytes))?.alone(bytes)
    }

    fn config(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let reload = self.metrics.reload();
        let help = "Whether the last reload of the configuration failed and the one before it still serves.";
        Family::gauge(encoder, "config_reload_failed", help, None)?
            .alone(u64::from(reload.failed.load(Relaxed)))?;
        let help = "When the configuration was last loaded, well or not, since 1970.";
        Family::gauge(encoder, "config_last_reload_timestamp", help, Some(&Unit::Seconds))?
            .alone(reload.tried.load(Relaxed))?;
        let help = "When the configuration that serves was loaded, since 1970.";
        Family::gauge(encoder, "config_last_success_timestamp", help, Some(&Unit::Seconds))?
            .alone(reload.worked.load(Relaxed))
    }

    fn certificates(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if self.status.certificates.is_empty() {
            return Ok(());
        }
        let help =
            "When the first certificate of a listener's chain to end is valid from, since 1970.";
        let unit = Some(&Unit::Seconds);
        let mut family = Family::gauge(encoder, "certificate_not_before_timestamp", help, unit)?;
        for CertificateStatus { listener, not_before, .. } in &self.status.certificates {
            family.value(&[("listener", listener.as_str())], *not_before)?;
        }
        let help = "When the first certificate of a listener's chain to end expires, since 1970.";
        let mut family = Family::gauge(encoder, "certificate_not_after_timestamp", help, unit)?;
        for CertificateStatus { listener, not_after, .. } in &self.status.certificates {
            family.value(&[("listener", listener.as_str())], *not_after)?;
        }
        Ok(())
    }

    fn audit(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = Family::counter(
            encoder,
            "audit_dropped",
            "Audit lines that were not written, by cause.",
        )?;
        for (cause, count) in self.queues.dropped.by_cause() {
            family.count(&[("cause", cause)], count)?;
        }
        let Some(usage) = self.queues.audit else { return Ok(()) };
        let help = "Audit lines that wait to be written, and places taken for lines to come.";
        Family::gauge(encoder, "audit_queue", help, None)?.alone(usage.used as u64)?;
        Family::gauge(
            encoder,
            "audit_queue_limit",
            "Audit lines that may wait, audit.queue.",
            None,
        )?
        .alone(usage.slots as u64)
    }

    fn spans(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(SpanCounts { exported, full, export, rejected }) = self.queues.spans else {
            return Ok(());
        };
        let mut family =
            Family::counter(encoder, "trace_spans_exported", "Spans that the collector took.")?;
        family.0.encode_counter::<NoLabelSet, _, f64>(&exported, None)?;
        let mut family = Family::counter(
            encoder,
            "trace_spans_dropped",
            "Spans that the collector did not get or take, by cause.",
        )?;
        for (cause, count) in [("full", full), ("export", export), ("rejected", rejected)] {
            family.count(&[("cause", cause)], count)?;
        }
        Ok(())
    }

    fn subjects(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(subjects) = self.metrics.subjects() else { return Ok(()) };
        let help = "Checks of the busiest subjects since each became one of them, and of the rest as other.";
        let mut family = Family::counter(encoder, "subject_checks", help)?;
        family.count_holders("subject", &subjects)
    }

    fn actors(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(actors) = self.metrics.actors() else { return Ok(()) };
        let help =
            "Checks of the busiest actors since each became one of them, and of the rest as other.";
        let mut family = Family::counter(encoder, "actor_checks", help)?;
        family.count_holders("actor", &actors)
    }
}

/// One metric and its series.
struct Family<'e>(MetricEncoder<'e>);

impl<'e> Family<'e> {
    fn new(
        encoder: &'e mut DescriptorEncoder<'_>,
        name: &'e str,
        help: &str,
        unit: Option<&'e Unit>,
        kind: MetricType,
    ) -> Result<Self, fmt::Error> {
        encoder.encode_descriptor(name, help, unit, kind).map(Self)
    }

    /// Writes checks by subject or actor.
    fn count_holders(&mut self, label: &'static str, rows: &[SubjectRow]) -> fmt::Result {
        for SubjectRow { issuer, subject, counts } in rows {
            for (decision, count) in [("allow", counts.allow), ("deny", counts.deny)] {
                let issuer = ("issuer", issuer.as_str());
                self.count(&[issuer, (label, subject.as_str()), ("decision", decision)], count)?;
            }
        }
        Ok(())
    }

    fn counter(
        encoder: &'e mut DescriptorEncoder<'_>,
        name: &'e str,
        help: &str,
    ) -> Result<Self, fmt::Error> {
        Self::new(encoder, name, help, None, MetricType::Counter)
    }

    fn gauge(
        encoder: &'e mut DescriptorEncoder<'_>,
        name: &'e str,
        help: &str,
        unit: Option<&'e Unit>,
    ) -> Result<Self, fmt::Error> {
        Self::new(encoder, name, help, unit, MetricType::Gauge)
    }

    fn count(
        &mut self,
        labels: &impl EncodeLabelSet,
        count: impl EncodeCounterValue,
    ) -> fmt::Result {
        self.0.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)
    }

    /// Writes the two series of a name.
    fn decisions(&mut self, label: &str, name: &str, counters: &DecisionCounters) -> fmt::Result {
        for (decision, count) in [("allow", &counters.allow), ("deny", &counters.deny)] {
            self.count(&[(label, name), ("decision", decision)], count.load(Relaxed))?;
        }
        Ok(())
    }

    fn total(mut self, count: u64) -> fmt::Result {
        self.0.encode_counter::<NoLabelSet, _, f64>(&count, None)
    }

    fn value(&mut self, labels: &impl EncodeLabelSet, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    fn alone(mut self, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_gauge(&value)
    }
}

fn histogram(series: &mut MetricEncoder<'_>, durations: &Durations) -> fmt::Result {
    let (sum, counts) = durations.read();
    let bounds = BUCKETS.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
    series.encode_histogram::<NoLabelSet>(seconds(sum), counts.iter().sum(), &buckets, None)
}

#[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
