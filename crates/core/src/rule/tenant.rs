//! Tenants: a request that names a tenant names that of its credential.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{Errors, Path},
    denial::{Denial, Reason, malformed, shown},
    identity::Principal,
    pattern::Captures,
    request::{
        Request,
        body::{BodyFacts, Pointer},
        headers::IDENTITY_PREFIX,
    },
};

/// The part of a host that is the tenant.
const LABEL: &str = "{tenant}";

/// Headers that have another meaning, or that servers do not get as the client sent them.
const TAKEN_HEADERS: [&str; 7] =
    ["authorization", "x-api-key", "api-key", "cookie", "host", "connection", "content-type"];

/// `tenant` of a route: the places where a request names a tenant, each of which has to name the
/// tenant of the credential.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// A capture of every path of the route, such as `{tenant}`.
    pub path: Option<String>,
    /// A host name with one label for the tenant, such as `{tenant}.models.example.com`. Hosts have
    /// no case: a tenant with capital letters has no such host.
    pub host: Option<String>,
    /// The name of a header, such as `x-team`. It may occur once.
    pub header: Option<String>,
    /// The location of a string in the JSON body, such as `/metadata/team`.
    pub body: Option<String>,
    /// Whether a request without the header or the member of the body passes. Default false: it is
    /// refused.
    #[serde(default)]
    pub optional: bool,
}

/// The compiled `tenant` of a route.
#[derive(Clone, Debug)]
pub struct TenantRule {
    capture: Option<String>,
    /// The text before the label of the tenant, and after it.
    host: Option<(String, String)>,
    header: Option<String>,
    body: Option<Pointer>,
    optional: bool,
}

impl TenantRule {
    /// Compiles the rule and records every error. `captures` are the names that each path of the
    /// route has.
    pub(crate) fn compile(
        config: &TenantConfig,
        captures: &[Vec<String>],
        path: &Path,
        errors: &mut Errors,
    ) -> Self {
        let TenantConfig { path: capture, host, header, body, optional } = config;
        if capture.is_none() && host.is_none() && header.is_none() && body.is_none() {
            errors.push(path, "name at least one of `path`, `host`, `header` and `body`");
        }
        if *optional && header.is_none() && body.is_none() {
            let message = "a path and a host are always there; remove this";
            errors.push(&path.key("optional"), message);
        }
        let capture = capture.as_ref().map(|text| {
            let name = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let name = name.unwrap_or_default();
            if !captures.iter().all(|names| names.iter().any(|known| known == name)) {
                let message = format!(
                    "`{text}` is not a capture of every path; write `{{tenant}}` here and in \
                     `match.paths`"
                );
                errors.push_presuming(&path.key("path"), &[path.parent().key("match")], message);
            }
            name.to_owned()
        });
        let host = host.as_ref().and_then(|text| {
            let found = host_pattern(text);
            if found.is_none() {
                let message = format!(
                    "`{text}` is not a host name with the label `{LABEL}`, such as \
                     `{LABEL}.models.example.com`"
                );
                errors.push(&path.key("host"), message);
            }
            found
        });
        let header = header.as_ref().map(|name| {
            let name = name.to_ascii_lowercase();
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if name.is_empty() || !name.bytes().all(is_token) {
                errors.push(&path.key("header"), format!("`{name}` is not the name of a header"));
            } else if TAKEN_HEADERS.contains(&name.as_str()) || name.starts_with(IDENTITY_PREFIX) {
                errors.push(&path.key("header"), format!("`{name}` has another meaning"));
            }
            name
        });
        let body = body.as_ref().and_then(|text| errors.take(&path.key("body"), text.parse()));
        Self { capture, host, header, body, optional: *optional }
    }

    /// The member of the body that names the tenant.
    pub(crate) fn body(&self) -> Option<&Pointer> {
        self.body.as_ref()
    }

    /// Checks the places that need no body.
    ///
    /// # Errors
    /// `tenant_mismatch`; `malformed_request` for a header that can be read in two ways.
    pub(crate) fn check_head(
        &self,
        principal: &Principal,
        request: &Request<'_>,
        captures: &Captures,
    ) -> Result<(), Denial> {
        let tenant = tenant_of(principal)?;
        if let Some(name) = &self.capture {
            let named = captures.get(name).unwrap_or_default();
            compare("the path", named.as_bytes(), tenant)?;
        }
        if let Some((before, after)) = &self.host {
            let host = request.host.as_str();
            let label = host.strip_prefix(before.as_str());
            let label = label.and_then(|rest| rest.strip_suffix(after.as_str()));
            let label = label.filter(|label| !label.contains('.')).unwrap_or_default();
            compare("the host", label.as_bytes(), tenant)?;
        }
        if let Some(name) = &self.header {
            if request.headers.has_variant(name) {
                return Err(malformed("the header of the tenant has another spelling"));
            }
            match request.headers.one(name)? {
                Some(value) => compare("the header", value, tenant)?,
                None if self.optional => {}
                None => return Err(missing("the header", name)),
            }
        }
        Ok(())
    }

    /// Checks the member of the body.
    ///
    /// # Errors
    /// `tenant_mismatch`.
    pub(crate) fn check_body(
        &self,
        principal: &Principal,
        facts: &BodyFacts<'_>,
    ) -> Result<(), Denial> {
        let Some(pointer) = &self.body else { return Ok(()) };
        match &facts.tenant {
            Some(named) => compare("the body", named.as_bytes(), tenant_of(principal)?),
            None if self.optional => Ok(()),
            None => Err(missing("the body", &pointer.to_string())),
        }
    }
}

/// Splits a host name at the label of the tenant.
fn host_pattern(text: &str) -> Option<(String, String)> {
    let labels: Vec<&str> = text.split('.').collect();
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let place = labels.iter().position(|label| *label == LABEL)?;
    let is_good = labels.iter().enumerate().all(|(index, label)| index == place || is_label(label));
    let (before, after) = text.split_once(LABEL)?;
    is_good.then(|| (before.to_ascii_lowercase(), after.to_ascii_lowercase()))
}

fn tenant_of(principal: &Principal) -> Result<&str, Denial> {
    principal.tenant().ok_or_else(|| {
        Denial::new(
            Reason::TenantMismatch,
            "the credential has no tenant, and the route compares it with the request",
        )
        .with_message("the credential names no tenant, and this endpoint belongs to tenants")
    })
}

/// Compares byte by byte: a name in another case, or with an escape, is another name.
fn compare(place: &'static str, named: &[u8], tenant: &str) -> Result<(), Denial> {
    if named == tenant.as_bytes() {
        return Ok(());
    }
    let cause = format!(
        "{place} names the tenant `{}`, and the credential has `{}`",
        shown(&String::from_utf8_lossy(named)),
        shown(tenant)
    );
    Err(Denial::new(Reason::TenantMismatch, cause))
}

fn missing(place: &'static str, name: &str) -> Denial {
    let cause = format!("{place} names no tenant: `{}` is not there", shown(name));
    Denial::new(Reason::TenantMismatch, cause)
        .with_message("the request names no tenant, and this endpoint needs it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_label_for_the_tenant() {
        let of = |before: &str, after: &str| Some((before.to_owned(), after.to_owned()));
        for (text, expected) in [
            ("{tenant}.models.example.com", of("", ".models.example.com")),
            ("models.{tenant}.Example.com", of("models.", ".example.com")),
            ("{tenant}", of("", "")),
            ("x-{tenant}.example.com", None),
            ("{tenant}.{tenant}.com", None),
            ("{team}.example.com", None),
            ("{tenant}..com", None),
            ("*.{tenant}.com", None),
            ("example.com", None),
            ("", None),
        ] {
            assert_eq!(host_pattern(text), expected, "{text}");
        }
    }

    #[test]
    fn places_are_checked_when_the_file_is_read() {
        let errors = |config: TenantConfig, captures: &[Vec<String>]| {
            let mut errors = Errors::default();
            TenantRule::compile(&config, captures, &Path::root(), &mut errors);
            !errors.is_empty()
        };
        let text = |text: &str| Some(text.to_owned());
        let own = [vec!["tenant".to_owned()]];
        let path = |path: &str| TenantConfig { path: text(path), ..TenantConfig::default() };
        assert!(!errors(path("{tenant}"), &own));
        assert!(errors(path("tenant"), &own));
        assert!(errors(path("{team}"), &own));
        assert!(errors(path("{tenant}"), &[own[0].clone(), Vec::new()]), "one path has none");
        assert!(errors(TenantConfig::default(), &own), "no place");
        let optional = TenantConfig { optional: true, ..path("{tenant}") };
        assert!(errors(optional, &own));
        let header = |name: &str| TenantConfig { header: text(name), ..TenantConfig::default() };
        assert!(!errors(header("X-Team"), &own));
        for name in ["authorization", "x-tollgate-tenant", "a b", "", "Host"] {
            assert!(errors(header(name), &own), "{name}");
        }
        let body = |body: &str| TenantConfig { body: text(body), ..TenantConfig::default() };
        assert!(!errors(body("/metadata/team"), &own));
        assert!(errors(body("metadata"), &own));
    }
}
