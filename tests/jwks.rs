//! The key engine against a key server of our own whose faults the tests choose.

mod discovery;
mod disk;
mod files;
mod hostile;
mod pace;
mod redirect;
mod reload;
mod rig;
mod server;
mod tls;
