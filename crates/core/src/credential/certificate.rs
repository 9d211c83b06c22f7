//! Client certificates (RFC 5280), X509-SVIDs of SPIFFE among them.
//!
//! The proxy ends TLS and reports the certificate that the client proved to own; whether it verified
//! it does not matter. The chain, the period, the usage and the names are verified here, against the
//! authorities of the policy, with every connection and every resumed session.

mod authorities;
mod config;
mod encoding;
mod names;

use std::{fmt, sync::Arc};

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use self::names::{NameKind, names};
pub use self::{
    authorities::{Authorities, AuthoritiesError},
    config::{
        CertificateHeaderConfig, CertificateIdentityConfig, ClientCertificates,
        ClientCertificatesConfig, DEFAULT_ISSUER,
    },
    encoding::{Encoding, EncodingError},
};
pub(super) use self::{
    config::{IdentityRule, Mapped},
    names::{is_spiffe_id, trust_domain},
};
use super::rejection::Rejection;
use crate::{
    denial::{Denial, Reason},
    identity::{
        Claims, CredentialKind, Holder, Identity, KeyVersion, Omitted, Principal, Validity,
    },
    request::Request,
    revocation::{self, ExternalDenylist, Names, issuer_digest, sha256},
    stage::Check,
    text::is_identifier,
    time::{Timestamp, rfc3339::Rfc3339},
};

/// The longest text of a certificate that is read, in bytes.
const MAX_TEXT: usize = 16 * 1024;

/// The certificate of a client, as the proxy reports it.
#[derive(Clone, Copy)]
pub struct PeerCertificate<'a> {
    text: &'a [u8],
    encoding: Encoding,
}

impl fmt::Debug for PeerCertificate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[certificate]")
    }
}

impl<'a> PeerCertificate<'a> {
    /// Finds the certificate of a request, in the one place that the policy names.
    ///
    /// # Errors
    /// `ambiguous_credential` for a header that occurs twice, `invalid_certificate` for a value
    /// longer than 16 KiB.
    pub(crate) fn of(
        request: &Request<'a>,
        config: &ClientCertificates,
    ) -> Result<Option<Self>, Denial> {
        let (text, encoding) = match &config.header {
            None => (request.peer_certificate, Encoding::Pem),
            Some((name, encoding)) => {
                let mut values = request.headers.all(name);
                let first = values.next().unwrap_or_default();
                // Of a chain in base64 the first one counts, which a client could have sent.
                let may_be_joined = *encoding == Encoding::Base64
                    && request.headers.proxy().joins_repeats
                    && first.contains(&b',');
                if values.next().is_some() || may_be_joined {
                    return Err(Denial::new(
                        Reason::AmbiguousCredential,
                        "more than one header with the certificate of the client",
                    ));
                }
                (first, *encoding)
            }
        };
        match text.len() {
            0 => Ok(None),
            1..=MAX_TEXT => Ok(Some(Self { text, encoding })),
            _ => Err(Denial::new(
                Reason::InvalidCertificate,
                "the certificate of the client is longer than 16 KiB",
            )),
        }
    }

    /// The text as the proxy sent it.
    pub(crate) const fn bytes(self) -> &'a [u8] {
        self.text
    }

    fn der(self) -> Result<Vec<u8>, Denial> {
        encoding::decode(self.text, self.encoding).map_err(|error| {
            Denial::new(
                Reason::InvalidCertificate,
                format!("the certificate that the proxy reports cannot be read: {error}"),
            )
        })
    }

    /// Returns the SHA-256 of the certificate, to which a token may be bound (RFC 8705 section 3.1).
    ///
    /// # Errors
    /// `invalid_certificate`.
    pub(crate) fn thumbprint(self) -> Result<[u8; 32], Denial> {
        self.der().map(|der| sha256(&der))
    }
}

/// Verifies a certificate at `now`.
///
/// # Errors
/// `not_ready` without authorities; `unknown_issuer`, `bad_signature`, `expired`, `not_yet_valid`,
/// and `invalid_certificate` for everything else.
pub(crate) fn verify(
    certificate: PeerCertificate<'_>,
    config: &ClientCertificates,
    authorities: Option<&Authorities>,
    denylists: &[ExternalDenylist],
    now: Timestamp,
) -> Result<Arc<Principal>, Rejection> {
    let mut check = Check::Shape;
    checks(certificate, config, authorities, denylists, now, &mut check).map(Arc::new).map_err(
        |denial| {
            // An authority whose period begins later may accept what is rejected now.
            let settled = authorities
                .filter(|_| matches!(check, Check::Signature | Check::Claims))
                .filter(|authorities| authorities.have_begun(now))
                .map(version);
            Rejection {
                kind: CredentialKind::Certificate,
                denial: Box::new(denial),
                check,
                refresh: None,
                record: None,
                introspect: None,
                settled,
            }
        },
    )
}

fn version(authorities: &Authorities) -> KeyVersion {
    KeyVersion { source: 0, generation: authorities.generation().clone() }
}

fn refuse<T>(cause: impl Into<std::borrow::Cow<'static, str>>) -> Result<T, Denial> {
    Err(Denial::new(Reason::InvalidCertificate, cause))
}

fn checks(
    certificate: PeerCertificate<'_>,
    config: &ClientCertificates,
    authorities: Option<&Authorities>,
    denylists: &[ExternalDenylist],
    now: Timestamp,
    check: &mut Check,
) -> Result<Principal, Denial> {
    let der = certificate.der()?;
    let Ok(([], parsed)) = X509Certificate::from_der(&der) else {
        return refuse("the certificate is not DER of X.509, or has bytes after its end");
    };
    *check = Check::Key;
    let Some(authorities) = authorities else {
        return Err(Denial::new(
            Reason::NotReady,
            "the authorities of client certificates are not loaded, or older than \
             secrets.max_stale",
        ));
    };
    *check = Check::Times;
    let (since, until) = period(&parsed, config, now)?;
    *check = Check::Signature;
    let authority_until =
        authorities.verify(&CertificateDer::from(der.as_slice()), now).map_err(chain_denial)?;
    check_usage(&parsed)?;
    *check = Check::Claims;
    let (rule, Mapped { name, subject, tenant }) = identity_of(&parsed, &config.rules)?;
    if !is_identifier(&subject) || tenant.as_deref().is_some_and(|tenant| !is_identifier(tenant)) {
        return refuse("the subject or the tenant of the certificate is longer than 256 bytes");
    }
    let (issuer, digest) = match rule.kind {
        NameKind::Spiffe => {
            let domain = trust_domain(&name);
            (Arc::from(domain), issuer_digest(domain))
        }
        _ => (Arc::clone(&config.issuer), Arc::clone(&config.issuer_digest)),
    };
    let is_renamed = rule.kind == NameKind::Spiffe && name != subject;
    let serial = serial(&parsed);
    let token = sha256(&der);
    let names = Names {
        issuer: &digest,
        token,
        jti: Some(&serial),
        subject: &subject,
        subject_is_client: false,
        client: None,
        tenant: tenant.as_deref(),
    };
    let foreign = denylists.iter().filter_map(|list| list.key(Some(&serial), &subject, &token));
    let keys = revocation::Keys::new(names, since, foreign.collect());
    let keys = if is_renamed { keys.with_subject_alias(&name) } else { keys };
    let identity = Identity {
        kind: CredentialKind::Certificate,
        issuer,
        subject: &subject,
        holder: match rule.kind {
            NameKind::Spiffe | NameKind::Dns => Holder::Client,
            NameKind::Email => Holder::User,
            NameKind::CommonName => Holder::Unknown,
        },
        tenant: tenant.as_deref(),
        is_tenant_fixed: false,
        client: None,
        scopes: &rule.scopes,
        omitted: Omitted::default(),
        roles: &rule.roles,
        claims: Claims::default(),
        issued_at: Some(since),
        expires_at: until,
    };
    // The last second of a period belongs to it (RFC 5280 section 4.1.2.5). A result that is
    // remembered ends with the authority as well.
    let end = Timestamp::from_secs(until.min(authority_until).saturating_add(1));
    let validity = Validity { since: now, until: end, keys: version(authorities) };
    Principal::new(identity, validity, keys)
        .map_err(|error| Denial::new(Reason::InvalidCertificate, error.to_string()))
}

/// Returns the begin and the end of the period in seconds.
fn period(
    certificate: &X509Certificate<'_>,
    config: &ClientCertificates,
    now: Timestamp,
) -> Result<(u64, u64), Denial> {
    let validity = certificate.validity();
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    let since = seconds(validity.not_before.timestamp());
    let until = seconds(validity.not_after.timestamp());
    if now.secs() < since {
        let at = Rfc3339(Timestamp::from_secs(since));
        let cause = format!("the certificate is valid from {at} on");
        return Err(Denial::new(Reason::NotYetValid, cause)
            .with_message("the client certificate is not valid yet; check the clocks"));
    }
    if now.secs() > until {
        let at = Rfc3339(Timestamp::from_secs(until));
        return Err(Denial::new(Reason::Expired, format!("the certificate expired at {at}"))
            .with_message("the client certificate has expired; get a new one"));
    }
    if until - since > config.max_life.secs() {
        return refuse(format!(
            "the period of the certificate ({} s) is longer than client_certificates.max_life ({})",
            until - since,
            config.max_life
        ));
    }
    Ok((since, until))
}

/// Puts a fault of the chain into words.
fn chain_denial(error: webpki::Error) -> Denial {
    use webpki::Error;
    let of = |reason, cause: String, message| Denial::new(reason, cause).with_message(message);
    match error {
        Error::UnknownIssuer => of(
            Reason::UnknownIssuer,
            "no authority of `client_certificates.authorities` that is valid now issued the \
             certificate"
                .to_owned(),
            "the client certificate comes from an authority that is not trusted here",
        ),
        Error::InvalidSignatureForPublicKey => of(
            Reason::BadSignature,
            "the signature of the certificate does not verify".to_owned(),
            "the signature of the client certificate does not verify",
        ),
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => of(
            Reason::InvalidCertificate,
            "the certificate is not for clients: its extended key usage lacks `clientAuth`"
                .to_owned(),
            "the client certificate is not for clients",
        ),
        Error::CaUsedAsEndEntity => of(
            Reason::InvalidCertificate,
            "the certificate is that of an authority".to_owned(),
            Reason::InvalidCertificate.text(),
        ),
        other => of(
            Reason::InvalidCertificate,
            format!("the chain of the certificate does not verify: {other}"),
            Reason::InvalidCertificate.text(),
        ),
    }
}

/// Checks that the key may sign, as a client does in the handshake (RFC 5280 section 4.2.1.3).
fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), Denial> {
    match certificate.key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.digital_signature() && !usage.value.key_cert_sign() => {
            Ok(())
        }
        Ok(Some(_)) => refuse("the key usage of the certificate is not that of a client"),
        Err(_) => refuse("the key usage of the certificate cannot be read"),
    }
}

/// Returns the first rule with a name of the certificate, and the name.
fn identity_of<'r>(
    certificate: &X509Certificate<'_>,
    rules: &'r [IdentityRule],
) -> Result<(&'r IdentityRule, Mapped), Denial> {
    for rule in rules {
        let names = names(certificate, rule.kind).map_err(name_denial)?;
        let mut fitting = names.into_iter().filter_map(|name| rule.map(name));
        match (fitting.next(), fitting.next()) {
            (Some(mapped), None) => return Ok((rule, mapped)),
            (Some(_), Some(_)) => {
                return Err(name_denial(names::NameError::Several(rule.kind.key())));
            }
            (None, _) => {}
        }
    }
    refuse("no entry of `client_certificates.identities` has a name of the certificate")
}

/// Returns the SHA-256 of a certificate in PEM, by which it is revoked, and the end of its period in
/// seconds; `None` for another text. Nothing is verified.
pub fn digest_of(text: &[u8]) -> Option<([u8; 32], u64)> {
    let der = encoding::decode(text, Encoding::Pem).ok()?;
    let Ok(([], parsed)) = X509Certificate::from_der(&der) else { return None };
    let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Some((sha256(&der), ends))
}

/// Returns the trust domain of a SPIFFE ID, with its scheme, which is the issuer of its subjects;
/// `None` for another text.
pub fn trust_domain_of(id: &str) -> Option<&str> {
    is_spiffe_id(id).then(|| trust_domain(id))
}

/// Returns the names of a certificate in PEM, percent-encoded or not, with their kinds: for an
/// operator who writes the rules. Nothing is verified.
pub fn names_of(text: &[u8]) -> Vec<(&'static str, String)> {
    let Ok(der) = encoding::decode(text, Encoding::Pem) else { return Vec::new() };
    let Ok((_, parsed)) = X509Certificate::from_der(&der) else { return Vec::new() };
    let kinds = [NameKind::Spiffe, NameKind::Dns, NameKind::Email, NameKind::CommonName];
    let of_kind = |kind: NameKind| {
        let names = names(&parsed, kind).unwrap_or_default();
        names.into_iter().map(move |name| (kind.key(), name))
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

fn name_denial(error: names::NameError) -> Denial {
    Denial::new(Reason::InvalidCertificate, error.to_string())
}

/// The serial number in lower-case hexadecimal digits, without leading zeros.
fn serial(certificate: &X509Certificate<'_>) -> String {
    let digits = crate::text::hex(certificate.raw_serial());
    let trimmed = digits.trim_start_matches('0');
    if trimmed.is_empty() { "0".to_owned() } else { trimmed.to_owned() }
}
