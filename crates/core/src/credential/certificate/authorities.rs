//! The certificate authorities of clients.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject as _};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{identity::Generation, time::Timestamp};

/// The certificate authorities that may have issued the certificates of clients.
#[derive(Debug)]
pub struct Authorities {
    anchors: Vec<TrustAnchor<'static>>,
    /// The periods of the anchors, in seconds, in the same order.
    periods: Vec<(i64, i64)>,
    generation: Generation,
}

/// The reason why a text has no authorities.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthoritiesError {
    /// The text has no certificate.
    #[error("it has no PEM block `CERTIFICATE`")]
    Empty,
    /// A block is not a certificate.
    #[error("certificate {0} cannot be read")]
    Malformed(usize),
    /// A certificate is not that of an authority.
    #[error("certificate {0} is not that of an authority: it lacks `CA:TRUE`, or may not sign")]
    NotAuthority(usize),
}

impl Authorities {
    /// Reads the certificates of a PEM text. Each is trusted by itself, so that those of
    /// intermediate authorities may be there without their roots.
    ///
    /// # Errors
    /// The text has none, or one that is not an authority's.
    pub fn from_pem(text: &[u8]) -> Result<Self, AuthoritiesError> {
        let mut authorities =
            Self { anchors: Vec::new(), periods: Vec::new(), generation: Generation::new() };
        for (index, der) in CertificateDer::pem_slice_iter(text).enumerate() {
            let number = index + 1;
            let der = der.map_err(|_| AuthoritiesError::Malformed(number))?;
            let anchor = anchor_from_trusted_cert(&der);
            let (_, certificate) =
                X509Certificate::from_der(&der).map_err(|_| AuthoritiesError::Malformed(number))?;
            let usage = certificate.key_usage().map_err(|_| AuthoritiesError::Malformed(number))?;
            let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
            if !certificate.is_ca() || !may_sign {
                return Err(AuthoritiesError::NotAuthority(number));
            }
            let anchor = anchor.map_err(|_| AuthoritiesError::Malformed(number))?;
            authorities.anchors.push(anchor.to_owned());
            let period = certificate.validity();
            authorities.periods.push((period.not_before.timestamp(), period.not_after.timestamp()));
        }
        if authorities.anchors.is_empty() { Err(AuthoritiesError::Empty) } else { Ok(authorities) }
    }

    /// The generation of the authorities.
    pub(crate) fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Whether the period of every authority has begun, so that what no authority signed at `now`
    /// none signs later.
    pub(super) fn have_begun(&self, now: Timestamp) -> bool {
        self.periods.iter().all(|(from, _)| *from <= seconds(now))
    }

    /// Verifies the chain of a client's certificate (RFC 5280 section 6): signature, period, names
    /// and key usage. The certificates of authorities have a period as well. Returns the last second
    /// of the authority's period.
    ///
    /// # Errors
    /// The first fault of the best chain.
    pub(super) fn verify(
        &self,
        der: &CertificateDer<'_>,
        now: Timestamp,
    ) -> Result<u64, webpki::Error> {
        let at = UnixTime::since_unix_epoch(Duration::from_micros(now.micros()));
        let current = |path: &VerifiedPath<'_>| {
            let index = self.anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
            let period = index.and_then(|index| self.periods.get(index));
            match period {
                Some((from, to)) if (*from..=*to).contains(&seconds(now)) => Ok(*to),
                _ => Err(webpki::Error::UnknownIssuer),
            }
        };
        let is_current = |path: &VerifiedPath<'_>| current(path).map(|_| ());
        let certificate = EndEntityCert::try_from(der)?;
        let path = certificate.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.anchors,
            &[],
            at,
            KeyUsage::client_auth(),
            None,
            Some(&is_current),
        )?;
        current(&path).map(|end| u64::try_from(end).unwrap_or(0))
    }
}

fn seconds(time: Timestamp) -> i64 {
    i64::try_from(time.secs()).unwrap_or(i64::MAX)
}
