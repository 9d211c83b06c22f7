//! The metadata of protected resources (RFC 9728), which name who issues tokens for them.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{credential::jwt::issuer::Issuers, rule::scope::ScopeRule};

/// The path below which RFC 9728 section 3.1 places the metadata of a resource.
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The metadata of a protected resource (RFC 9728 section 2): the `audience` of routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResourceMetadata {
    /// The identifier of the resource, which tokens have as their audience.
    pub resource: String,
    /// The issuers of tokens for it.
    pub authorization_servers: Vec<String>,
    /// The scopes that its routes require.
    pub scopes_supported: BTreeSet<String>,
    /// How a token is sent (RFC 6750 section 2.1).
    pub bearer_methods_supported: [&'static str; 1],
}

impl ResourceMetadata {
    /// Creates the metadata of a resource of which no route is known.
    pub(crate) fn new(resource: &str, issuers: &Issuers) -> Self {
        let issuers = issuers.list().iter().filter(|issuer| issuer.admits_audience(resource));
        // The identifier of an authorization server is an https URL (RFC 8414 section 2).
        let servers = issuers.filter(|issuer| issuer.name.starts_with("https://"));
        Self {
            resource: resource.to_owned(),
            authorization_servers: servers.map(|issuer| issuer.name.to_string()).collect(),
            scopes_supported: BTreeSet::new(),
            bearer_methods_supported: ["header"],
        }
    }

    /// Adds the scopes of a route.
    pub(crate) fn add(&mut self, scopes: &ScopeRule) {
        let (ScopeRule::All(scopes) | ScopeRule::Any(scopes)) = scopes;
        self.scopes_supported.extend(scopes.iter().cloned());
    }

    /// Whether a client that requests `path` of `host` means the metadata of this resource: the path of
    /// an https URL follows [`WELL_KNOWN`], without a slash that ends it (RFC 9728 section 3.1).
    pub fn is_at(&self, host: &str, path: &str) -> bool {
        let Some((authority, rest)) = self.resource.strip_prefix("https://").map(|url| {
            let end = url.find(['/', '?', '#']).unwrap_or(url.len());
            url.split_at(end)
        }) else {
            return false;
        };
        let rest = if rest == "/" { "" } else { rest };
        authority.eq_ignore_ascii_case(host) && path.strip_prefix(WELL_KNOWN) == Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_a_resource_has_the_path_of_its_url() {
        let is_at = |resource: &str, host: &str, path: &str| {
            ResourceMetadata::new(resource, &Issuers::default()).is_at(host, path)
        };
        const HOST: &str = "api.example.com";
        for (resource, path) in [
            ("https://api.example.com/mcp/a", "/.well-known/oauth-protected-resource/mcp/a"),
            ("https://api.example.com", "/.well-known/oauth-protected-resource"),
            ("https://API.example.com/", "/.well-known/oauth-protected-resource"),
        ] {
            assert!(is_at(resource, HOST, path), "{resource}");
        }
        for (resource, path) in [
            ("https://api.example.com/mcp/a", "/.well-known/oauth-protected-resource/mcp/ab"),
            ("https://api.example.com/mcp/a", "/.well-known/oauth-protected-resource"),
            ("https://other.example.com/mcp", "/.well-known/oauth-protected-resource/mcp"),
            ("urn:mcp", "/.well-known/oauth-protected-resource"),
        ] {
            assert!(!is_at(resource, HOST, path), "{resource}");
        }
    }
}
