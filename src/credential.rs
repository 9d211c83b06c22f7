//! Credentials outside of the core: fetched key sets, and the cache of verified tokens.

pub mod jwks;
pub mod token_cache;
