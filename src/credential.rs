//! Credentials at the edge: key sets that are fetched, and tokens that were verified before.

pub mod jwks;
pub mod token_cache;
