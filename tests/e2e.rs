//! End to end: the binary as it ships, behind a real Envoy with the shipped configuration. What counts is what the upstream got.

mod ahead;
mod allow;
mod bodies;
mod cli;
mod denials;
mod drain;
mod failure;
mod keys;
mod manners;
mod mcp;
mod oldest;
mod openai;
mod outage;
mod paths;
mod python_reader;
mod reload;
mod revocation;
mod secrets;
mod tls;
mod two_models;
