//! Observability: spans in a real collector, metrics in a real Prometheus, and the files in
//! `deploy/` and `docs/` that describe them.

mod audit;
mod collector;
mod export;
mod metrics;
mod prometheus;
mod tracing;
