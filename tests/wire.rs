//! The wire: messages, listeners, and the bound on what is in flight.

mod calls;
mod client;
mod http;
mod memory;
mod messages;
mod server;
mod tls;
