//! The gate between a proxy and its inference servers.

pub mod frontend;
pub mod listener;
#[doc(hidden)]
pub mod pb;
