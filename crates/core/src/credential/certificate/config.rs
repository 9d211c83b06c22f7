//! The section `client_certificates`.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    encoding::Encoding,
    names::{NameKind, NamePattern, PatternError, Template},
};
use crate::{
    config::{Errors, Path},
    revocation::{IssuerDigest, issuer_digest},
    secret::SecretSource,
    time::Span,
};

/// The issuer of certificates whose rule names no SPIFFE ID, where the section names none.
pub const DEFAULT_ISSUER: &str = "tollgate:client-certificates";

/// The longest `max_life`.
const LONGEST_LIFE: Span = Span::from_secs(3653 * 86_400);

/// Names that a header cannot have: they are set by others, or are read for other purposes.
const TAKEN_HEADERS: [&str; 5] = ["authorization", "x-api-key", "api-key", "cookie", "host"];

/// The section `client_certificates`: how the proxy reports the certificates of clients, which
/// authorities issue them, and the identities that they stand for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificatesConfig {
    /// The header in which the proxy reports a certificate. It has to overwrite the client's own.
    /// Default: none, Envoy reports it in the check itself (`include_peer_certificate: true`).
    pub header: Option<CertificateHeaderConfig>,
    /// The certificates of the authorities in PEM, usually `file:/path`. Each is trusted by itself: a
    /// proxy reports the client's certificate alone, so that the authority that issued it has to be
    /// in here. Needed on routes that accept certificates; tokens that are bound to a certificate
    /// need none.
    pub authorities: Option<SecretSource>,
    /// The issuer in revocations, limits, audit lines and identity headers, for names that are no
    /// SPIFFE ID. For a SPIFFE ID it is its trust domain, such as `spiffe://prod.example.com`.
    /// Default `tollgate:client-certificates`.
    pub issuer: Option<String>,
    /// The identities of certificates. The first rule with a name that the certificate has applies;
    /// without one, the certificate is refused.
    #[serde(default)]
    pub identities: Vec<CertificateIdentityConfig>,
    /// The longest life of a certificate, from the begin of its period to its end. A longer one is
    /// refused. A revocation without a time of its own lasts as long. Default 398d.
    pub max_life: Option<Span>,
}

/// The section `client_certificates.header`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateHeaderConfig {
    /// The name of the header, such as `x-forwarded-client-cert`.
    pub name: String,
    /// The form of its value: `xfcc`, `pem`, `base64` or `rfc9440`.
    pub format: Encoding,
}

/// An entry of `client_certificates.identities`, with exactly one kind of name.
///
/// `{name}` in it is one part between the separators of the kind: `/` of a SPIFFE ID, `.` of
/// a DNS name, `@` of an e-mail address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateIdentityConfig {
    /// A SPIFFE ID, such as `spiffe://prod.example.com/ns/{namespace}/sa/{account}`.
    pub spiffe: Option<String>,
    /// A DNS name of the subject's alternative names, such as `{client}.clients.example.com`.
    pub dns: Option<String>,
    /// An e-mail address of the subject's alternative names, such as `{user}@example.com`.
    pub email: Option<String>,
    /// The common name of the subject: `{name}`, or one name.
    pub common_name: Option<String>,
    /// The subject, with the captures of the name. Default: the whole name.
    pub subject: Option<String>,
    /// The tenant, with the captures of the name. Default: none.
    pub tenant: Option<String>,
    /// The scopes that are granted. Default: none.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The roles of the subject. Default: none.
    #[serde(default)]
    pub roles: Vec<String>,
}

/// The compiled section.
#[derive(Clone, Debug)]
pub struct ClientCertificates {
    /// The header that has the certificate, in lower case, and the form of its value; `None` where
    /// the check itself has it.
    pub header: Option<(String, Encoding)>,
    /// The source of the authorities.
    pub authorities: Option<SecretSource>,
    /// The longest life of a certificate.
    pub max_life: Span,
    pub(super) issuer: Arc<str>,
    pub(super) issuer_digest: Arc<IssuerDigest>,
    pub(super) rules: Vec<IdentityRule>,
}

/// A compiled entry of `identities`.
#[derive(Clone, Debug)]
pub(in crate::credential) struct IdentityRule {
    pub(in crate::credential) kind: NameKind,
    pub(super) pattern: NamePattern,
    pub(super) subject: Option<Template>,
    pub(super) tenant: Option<Template>,
    pub(in crate::credential) scopes: Vec<String>,
    pub(in crate::credential) roles: Vec<String>,
}

/// A name, and the identity that a rule maps it to.
pub(in crate::credential) struct Mapped {
    pub(in crate::credential) name: String,
    pub(in crate::credential) subject: String,
    pub(in crate::credential) tenant: Option<String>,
}

impl IdentityRule {
    /// Maps a name; `None` where it does not fit.
    pub(in crate::credential) fn map(&self, name: String) -> Option<Mapped> {
        let captures = self.pattern.captures(&name)?;
        let fill = |template: &Template| template.fill(&captures);
        let subject = self.subject.as_ref().map_or_else(|| name.clone(), fill);
        let tenant = self.tenant.as_ref().map(fill);
        Some(Mapped { subject, tenant, name })
    }

    /// Returns the trust domain of a rule for SPIFFE IDs, with its scheme.
    pub(in crate::credential) fn trust_domain(&self) -> Option<String> {
        self.pattern.trust_domain()
    }
}

impl ClientCertificates {
    /// Whether a route can accept certificates: there are authorities, and identities.
    pub fn accepts_certificates(&self) -> bool {
        self.authorities.is_some() && !self.rules.is_empty()
    }

    /// Returns the issuers that certificates have in revocations, limits and audit lines.
    pub fn issuers(&self) -> impl Iterator<Item = Arc<str>> {
        let domains = self.rules.iter().filter_map(IdentityRule::trust_domain);
        std::iter::once(Arc::clone(&self.issuer)).chain(domains.map(Arc::from))
    }
}

impl ClientCertificatesConfig {
    /// Compiles the section and records every error.
    pub fn compile(&self, path: &Path, errors: &mut Errors) -> ClientCertificates {
        if let Some(header) = &self.header {
            header.check(&path.key("header").key("name"), errors);
        }
        if self.authorities.is_none() && !self.identities.is_empty() {
            errors.push(path, "`identities` need `authorities`, which issue the certificates");
        }
        if self.authorities.is_some() && self.identities.is_empty() {
            errors.push(
                path,
                "`authorities` need `identities`: without one every certificate is refused",
            );
        }
        let max_life = self.max_life.unwrap_or(Span::from_secs(398 * 86_400));
        if max_life < Span::from_secs(1) || max_life > LONGEST_LIFE {
            errors.push(&path.key("max_life"), "must be 1s to 3653d");
        }
        let issuer: Arc<str> = match self.issuer.as_deref() {
            Some(issuer) if issuer.is_empty() || issuer.chars().any(char::is_control) => {
                errors.push(&path.key("issuer"), "an issuer is text without control characters");
                DEFAULT_ISSUER.into()
            }
            Some(issuer) if issuer.starts_with("spiffe:") => {
                errors.push(&path.key("issuer"), "the issuer of a SPIFFE ID is its trust domain");
                DEFAULT_ISSUER.into()
            }
            issuer => issuer.unwrap_or(DEFAULT_ISSUER).into(),
        };
        let identities = path.key("identities");
        let rules = self.identities.iter().enumerate();
        ClientCertificates {
            header: self
                .header
                .as_ref()
                .map(|header| (header.name.to_ascii_lowercase(), header.format)),
            authorities: self.authorities.clone(),
            max_life,
            issuer_digest: issuer_digest(&issuer),
            issuer,
            rules: rules
                .filter_map(|(index, rule)| rule.compile(&identities.index(index), errors))
                .collect(),
        }
    }
}

impl CertificateHeaderConfig {
    fn check(&self, path: &Path, errors: &mut Errors) {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let name = self.name.to_ascii_lowercase();
        if name.is_empty() || !name.bytes().all(is_token) {
            errors.push(path, format!("`{}` is not the name of a header", self.name));
        } else if TAKEN_HEADERS.contains(&name.as_str()) || name.starts_with("x-tollgate-") {
            errors.push(path, format!("`{name}` has another meaning"));
        }
    }
}

impl CertificateIdentityConfig {
    /// Compiles the rule and records every error.
    pub(in crate::credential) fn compile(
        &self,
        path: &Path,
        errors: &mut Errors,
    ) -> Option<IdentityRule> {
        let names = [
            (NameKind::Spiffe, &self.spiffe),
            (NameKind::Dns, &self.dns),
            (NameKind::Email, &self.email),
            (NameKind::CommonName, &self.common_name),
        ];
        let mut named = names.into_iter().filter_map(|(kind, text)| Some((kind, text.as_ref()?)));
        let (Some((kind, text)), None) = (named.next(), named.next()) else {
            errors
                .push(path, "exactly one of `spiffe`, `dns`, `email` and `common_name` is needed");
            return None;
        };
        for (index, scope) in self.scopes.iter().enumerate() {
            let is_scope = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
            if scope.is_empty() || !scope.bytes().all(is_scope) {
                errors.push(
                    &path.key("scopes").index(index),
                    format!("`{scope}` is not a scope (RFC 6749 section 3.3)"),
                );
            }
        }
        let mut report = |key: &str, text: &str, error: PatternError| {
            errors.push(&path.key(key), format!("`{text}`: {error}"));
        };
        let pattern = match NamePattern::parse(kind, text) {
            Ok(pattern) => pattern,
            Err(error) => {
                report(kind.key(), text, error);
                return None;
            }
        };
        let mut template = |key: &str, text: Option<&str>| {
            let text = text?;
            Template::parse(text, &pattern).map_err(|error| report(key, text, error)).ok()
        };
        let subject = template("subject", self.subject.as_deref());
        let tenant = template("tenant", self.tenant.as_deref());
        let (scopes, roles) = (self.scopes.clone(), self.roles.clone());
        Some(IdentityRule { kind, pattern, subject, tenant, scopes, roles })
    }
}
