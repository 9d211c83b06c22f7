//! The stores against the reference model and against real Redis servers: whole, slow, stopped, killed,
//! read-only, out of memory, and shared with the previous version of Tollgate.

mod api_keys;
mod api_keys_beyond_max;
mod api_keys_cli;
mod api_keys_of_engines;
mod bans;
mod batches;
mod bucket_keys;
mod checks;
mod cluster;
mod contract;
mod counting_proxy;
mod deadline;
mod differential;
mod escrow;
mod format;
mod key_uses;
mod leases;
mod ledger;
mod load;
mod local_fallback;
mod logins;
mod outages;
mod proofs;
mod redis_cluster;
mod redis_sentinels;
pub(crate) mod redis_server;
mod refusals;
mod replication;
mod requests;
mod reservations;
mod sentinels;
mod settlements;
mod shadow;
mod shards;
mod shares;
mod starvation;
