//! The key sources against a key server of the tests, whose faults the tests choose.

mod access;
mod discovery;
mod disk;
mod files;
mod flood;
mod hostile;
mod pace;
mod redirect;
mod reload;
mod rig;
pub(crate) mod server;
mod tls;
