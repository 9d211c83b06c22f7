//! Credentials outside of the core: fetched key sets, the cache of verified tokens, and calls of
//! introspection endpoints.

pub mod introspection;
pub mod jwks;
pub mod token_cache;
