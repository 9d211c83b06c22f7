//! The store, and what this process has for its outage.

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, registry::Unit};
use tollgate_core::ban::Kind;

use super::{ApiKeyStatus, Scrape, family::Family};
use crate::store::{
    BanStatus, Circuit, EscrowStatus, LeaseStatus, NodeStatus, ReplicaStatus, ReservationStatus,
};

impl Scrape {
    pub(super) fn store(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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
            Family::histogram(encoder, "store_duration", help)?.durations(self.metrics.store())?;
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
        let ReservationStatus { open, expired, .. } = store.reservations;
        if let Some(open) = open {
            let help = "Reservations of all replicas that are not settled yet.";
            Family::gauge(encoder, "reservations_open", help, None)?.alone(open)?;
            let help = "Reservations that this process charged because no report came in time.";
            Family::counter(encoder, "reservations_expired", help)?.total(expired)?;
        }
        Ok(())
    }

    pub(super) fn local(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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

    pub(super) fn redis_keys(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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
}
