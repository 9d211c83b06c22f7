//! Limits by themselves, through the core's public API: what a verdict tells a client, and the
//! arithmetic of leases and escrows, number by number. `lease` and `escrow` simulate both.

mod counts;
mod escrows;
mod free_models;
mod leases;
