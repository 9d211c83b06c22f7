//! End to end: the binary as it ships, behind a real Envoy with the shipped configuration. The
//! assertions are on what the upstream received.

mod admin_api;
mod allow;
mod api_keys;
mod bans;
mod browsers;
mod budgets;
mod bursts;
mod cli;
mod cli_output;
mod denials;
mod drain;
mod embedded;
mod files;
mod head_check;
mod key_rotation;
mod large_bodies;
mod mcp;
mod metering;
mod oldest_envoy;
mod openai_client;
mod previous_version;
mod python_upstream;
mod redis_outage;
mod reload;
mod replicated_revocations_and_leases;
mod request_normalization;
mod revocation;
mod sdks;
mod secret_leaks;
mod settlement;
mod streams;
mod tls;
mod tollgate_outage;
mod two_models;
mod withheld_bodies;
