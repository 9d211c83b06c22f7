//! Errors of libraries in words: an operator reads causes, not Rust types.

use std::{error::Error, io};

use rustls::{AlertDescription, CertificateError};

/// Returns the text of an error with its causes, those of TLS in words. An error of a connection
/// says little without the last of its causes.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let cause = match tls_error(error) {
            Some(error) => tls(error),
            None => error.to_string(),
        };
        // Many errors repeat their cause in their own text.
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

/// The TLS error that an error is, or that an I/O error wraps.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match wrapped {
        Some(wrapped) => wrapped.downcast_ref(),
        None => error.downcast_ref(),
    }
}

fn tls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate(error),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => "the peer requires a client certificate",
            AlertDescription::UnknownCA => "the peer does not trust the certificate's authority",
            AlertDescription::NoApplicationProtocol => "the peer speaks none of the protocols",
            AlertDescription::UnrecognisedName => "the peer does not serve this name",
            AlertDescription::ProtocolVersion => "the peer supports no common TLS version",
            AlertDescription::HandshakeFailure => "the peer refused the TLS handshake",
            _ => return "the peer ended the TLS handshake with an alert".to_owned(),
        }
        .to_owned(),
        rustls::Error::NoApplicationProtocol => "the peer speaks none of the protocols".to_owned(),
        rustls::Error::PeerIncompatible(_) => {
            "the peer supports no common TLS version or cipher suite".to_owned()
        }
        rustls::Error::InvalidMessage(_) => {
            "the peer did not answer with TLS; is TLS spoken on this port?".to_owned()
        }
        other => other.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    let text = match error {
        CertificateError::UnknownIssuer => {
            "the certificate is signed by an authority that is not trusted"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet"
        }
        CertificateError::Revoked => "the certificate is revoked",
        CertificateError::BadEncoding => "the certificate is not valid X.509",
        CertificateError::BadSignature => {
            "the certificate is not signed by the key of a trusted authority"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate is not made for this use"
        }
        CertificateError::NotValidForName => "the certificate is not valid for the name",
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            let (expected, names) = (expected.to_str(), names.join(", "));
            if names.is_empty() {
                return "the certificate names no host (it has no subjectAltName)".to_owned();
            }
            return format!("the certificate is not valid for `{expected}`, only for {names}");
        }
        // webpki's error for a certificate that is marked as an authority's.
        other if other.to_string().contains("CaUsedAsEndEntity") => {
            "the certificate is marked as an authority's, not as a server's, and is not in the file \
             of authorities"
        }
        other if other.to_string().contains("UnsupportedCertVersion") => {
            "the certificate is of an old version of X.509, and version 3 is needed"
        }
        _ => "the certificate cannot be used",
    };
    text.to_owned()
}

/// The name in `DnsName("idp.example")`, as webpki writes the names of a certificate.
fn bare(presented: &str) -> &str {
    let quoted = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    quoted.map_or(presented, |name| name.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no connection")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_are_told_once_and_tls_in_words() {
        let tls = |error: CertificateError| io::Error::other(rustls::Error::from(error));
        for (error, expected) in [
            (io::Error::other("broken"), "no connection: broken"),
            (
                tls(CertificateError::UnknownIssuer),
                "no connection: the certificate is signed by an authority that is not trusted",
            ),
            (
                tls(CertificateError::NotValidForNameContext {
                    expected: "idp.example".try_into().unwrap(),
                    presented: vec!["DnsName(\"a.example\")".into(), "IpAddress(10.0.0.1)".into()],
                }),
                "no connection: the certificate is not valid for `idp.example`, only for a.example, 10.0.0.1",
            ),
            (
                io::Error::other(rustls::Error::AlertReceived(
                    AlertDescription::CertificateRequired,
                )),
                "no connection: the peer requires a client certificate",
            ),
        ] {
            assert_eq!(describe(&Outer(error)), expected);
        }
    }
}
