//! The wire: messages, listeners, and the bound on what is in flight.

mod calls;
mod http;
mod memory;
mod messages;
mod tls;
