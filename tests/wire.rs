//! The transport: gRPC calls, messages, listeners, and the bound on messages in flight.

mod access_log;
mod against_tonic;
mod clients;
mod envoy_messages;
mod ext_proc;
mod grpc_calls;
mod http_and_limits;
mod message_memory;
mod servers;
mod strangers;
mod tls;
