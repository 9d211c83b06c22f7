//! Tollgate: the sidecar around the decision of `tollgate-core`. Everything that touches a socket, a file or a clock is here.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod case;
pub mod rfc3339;
