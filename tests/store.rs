//! The stores against the reference model and against real Redis servers: whole, slow, stopped, killed, read-only, out of memory.

mod asked;
mod buckets;
mod contract;
mod differential;
mod leased;
mod local;
mod outage;
mod proxy;
mod refusal;
mod replicated;
mod server;
mod together;
