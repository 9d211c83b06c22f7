//! The wire: messages, listeners, and the bound on what is in flight.

mod messages;
