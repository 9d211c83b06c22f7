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
    /// The issuers of tokens for it. A list without elements is left out (RFC 9728 section 3.2).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorization_servers: Vec<String>,
    /// The scopes that its routes require.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub scopes_supported: BTreeSet<String>,
    /// How a token is sent (RFC 6750 section 2.1).
    pub bearer_methods_supported: [&'static str; 1],
    /// The algorithms of proofs of DPoP, where they are accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dpop_signing_alg_values_supported: Vec<String>,
}

impl ResourceMetadata {
    /// Creates the metadata of a resource of which no route is known.
    pub(crate) fn new(resource: &str, issuers: &Issuers, algs: Option<&str>) -> Self {
        let issuers = issuers.list().iter().filter(|issuer| issuer.admits_audience(resource));
        // The identifier of an authorization server is an https URL (RFC 8414 section 2).
        let servers = issuers.filter(|issuer| issuer.name.starts_with("https://"));
        Self {
            resource: resource.to_owned(),
            authorization_servers: servers.map(|issuer| issuer.name.to_string()).collect(),
            scopes_supported: BTreeSet::new(),
            bearer_methods_supported: ["header"],
            dpop_signing_alg_values_supported: algs
                .map(|algs| algs.split(' ').map(str::to_owned).collect())
                .unwrap_or_default(),
        }
    }

    /// Adds the scopes of a route.
    pub(crate) fn add(&mut self, scopes: &ScopeRule) {
        let (ScopeRule::All(scopes) | ScopeRule::Any(scopes)) = scopes;
        self.scopes_supported.extend(scopes.iter().cloned());
    }

    /// Returns how well the metadata of this resource fits a request for `target` (path and query) of
    /// `host`; `None` for another resource. Path and query of an https URL follow [`WELL_KNOWN`],
    /// without a slash that follows the host alone (RFC 9728 section 3.1).
    ///
    /// A proxy may have removed the port of `host`.
    pub fn fit(&self, host: &str, target: &str) -> Option<HostFit> {
        let url = self.resource.strip_prefix("https://")?;
        let (authority, rest) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
        let rest = match rest.strip_prefix('/') {
            Some(query) if query.is_empty() || query.starts_with('?') => query,
            _ => rest,
        };
        let target = target.strip_prefix(WELL_KNOWN)?;
        // A query of the request means something only where the resource has one.
        let is_target = match target.split_once('?') {
            Some((path, _)) if !rest.contains('?') => path == rest,
            _ => target == rest,
        };
        let fit = if authority.eq_ignore_ascii_case(host) {
            HostFit::Whole
        } else if without_port(authority).eq_ignore_ascii_case(host) {
            HostFit::WithoutPort
        } else {
            return None;
        };
        is_target.then_some(fit)
    }
}

/// How well a host fits that of a resource. The better one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostFit {
    /// The host has no port, and that of the resource has one.
    WithoutPort,
    /// Both are equal.
    Whole,
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_a_resource_has_the_path_of_its_url() {
        let fit = |resource: &str, host: &str, target: &str| {
            ResourceMetadata::new(resource, &Issuers::default(), None).fit(host, target)
        };
        const HOST: &str = "api.example.com";
        for (resource, target) in [
            ("https://api.example.com/mcp/a", "/.well-known/oauth-protected-resource/mcp/a"),
            ("https://api.example.com/mcp/a", "/.well-known/oauth-protected-resource/mcp/a?x=1"),
            ("https://api.example.com/mcp/", "/.well-known/oauth-protected-resource/mcp/"),
            ("https://api.example.com/mcp?a=b", "/.well-known/oauth-protected-resource/mcp?a=b"),
            ("https://api.example.com/?a=b", "/.well-known/oauth-protected-resource?a=b"),
            ("https://api.example.com", "/.well-known/oauth-protected-resource"),
            ("https://API.example.com/", "/.well-known/oauth-protected-resource"),
        ] {
            assert_eq!(fit(resource, HOST, target), Some(HostFit::Whole), "{resource}");
        }
        for (resource, target) in [
            ("https://api.example.com/mcp/a", "/.well-known/oauth-protected-resource/mcp/ab"),
            ("https://api.example.com/mcp/a", "/.well-known/oauth-protected-resource"),
            ("https://api.example.com/mcp?a=b", "/.well-known/oauth-protected-resource/mcp"),
            ("https://api.example.com/mcp?a=b", "/.well-known/oauth-protected-resource/mcp?a=c"),
            ("https://other.example.com/mcp", "/.well-known/oauth-protected-resource/mcp"),
            ("https://api.example.com.evil/mcp", "/.well-known/oauth-protected-resource/mcp"),
            ("urn:mcp", "/.well-known/oauth-protected-resource"),
        ] {
            assert_eq!(fit(resource, HOST, target), None, "{resource}");
        }
        let with_port = "https://api.example.com:8443/mcp";
        let path = "/.well-known/oauth-protected-resource/mcp";
        assert_eq!(fit(with_port, "api.example.com:8443", path), Some(HostFit::Whole));
        assert_eq!(fit(with_port, HOST, path), Some(HostFit::WithoutPort));
        assert_eq!(fit(with_port, "api.example.com:9443", path), None);
        assert_eq!(fit("https://[2001:db8::1]/mcp", "[2001:db8:", path), None);
    }

    #[test]
    fn a_list_without_elements_is_left_out() {
        let metadata = ResourceMetadata::new("https://api.example.com", &Issuers::default(), None);
        let expected = serde_json::json!({
            "resource": "https://api.example.com",
            "bearer_methods_supported": ["header"],
        });
        assert_eq!(serde_json::to_value(&metadata).unwrap(), expected);
    }
}
