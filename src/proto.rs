//! Envoy's and OpenTelemetry's messages, generated from `proto/` while building. They stay inside `frontend` and `observe::trace`.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]

include!(concat!(env!("OUT_DIR"), "/protos.rs"));
