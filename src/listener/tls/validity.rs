//! The period in which a certificate chain is valid, and the warning before its end.

use std::time::Duration;

use rustls::{
    CertificateError, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, UnixTime},
    server::ParsedCertificate,
};

/// The longest time before the end at which a warning is due.
const NOTICE: Duration = Duration::from_secs(14 * 86_400);

/// The part of the period at whose rest a warning is due, where that is less than [`NOTICE`]:
/// certificates of a day are replaced within hours.
const PART: u32 = 4;

/// The period in which a chain is valid: that of its certificate that ends first. Times are since
/// 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The beginning of the period.
    pub not_before: Duration,
    /// The end of the period.
    pub not_after: Duration,
}

impl Validity {
    /// Reads the period of a chain; `None` where no certificate of it can be read.
    pub(super) fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        chain.iter().filter_map(Self::of).min_by_key(|validity| validity.not_after)
    }

    /// Reads the period from the errors of a verification before any certificate and after every
    /// one: rustls has no other way to it.
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        // Without any authority the chain is never valid; the period of the certificate is checked
        // before its issuer is looked for.
        let roots = RootCertStore::empty();
        let error_at = |secs| {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(secs));
            verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], time, &[]).err()
        };
        let not_before = match error_at(0) {
            Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
                not_before,
                ..
            })) => not_before.as_secs(),
            // Valid since 1970 or before.
            _ => 0,
        };
        let Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after,
            ..
        })) = error_at(u64::MAX)
        else {
            return None;
        };
        Some(Self {
            not_before: Duration::from_secs(not_before),
            not_after: Duration::from_secs(not_after.as_secs()),
        })
    }

    /// Why the chain is not valid at the time `now`; `None` where it is.
    pub(super) fn lapse(&self, now: Duration) -> Option<String> {
        if let Some(age) = now.checked_sub(self.not_after) {
            return Some(format!("expired {} hours ago", age.as_secs() / 3600));
        }
        let ahead = self.not_before.checked_sub(now).filter(|ahead| !ahead.is_zero())?;
        Some(format!("is not valid for another {} hours", ahead.as_secs() / 3600))
    }

    /// What is wrong with the period at the time `now`, if anything. An expired certificate is
    /// served all the same: some clients do not verify it, and for them a listener with it is
    /// better than none.
    pub(super) fn warning(&self, now: Duration) -> Option<String> {
        if let Some(lapse) = self.lapse(now) {
            return Some(format!("{lapse}: clients that verify it refuse to connect"));
        }
        let rest = self.not_after.saturating_sub(now);
        let period = self.not_after.saturating_sub(self.not_before);
        (rest < NOTICE && rest < period / PART).then(|| {
            let hours = rest.as_secs() / 3600;
            let rest = match hours {
                48.. => format!("{} days", hours / 24),
                _ => format!("{hours} hours"),
            };
            format!("expires in {rest}: clients that verify it refuse to connect then")
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    const DAY: u64 = 86_400;

    fn certificate(from: i32, until: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["tollgate.test".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_chain_is_valid_until_its_first_certificate_ends() {
        let chain = [certificate(2020, 2040), certificate(2019, 2030), certificate(2018, 2050)];
        let validity = Validity::of_chain(&chain).unwrap();
        assert_eq!(validity.not_before, Duration::from_secs(1_546_300_800), "2019-01-01");
        assert_eq!(validity.not_after, Duration::from_secs(1_893_456_000), "2030-01-01");
        assert_eq!(Validity::of_chain(&[CertificateDer::from(vec![0x30, 0])]), None);
    }

    #[test]
    fn a_warning_comes_before_the_end_and_in_time_for_short_periods() {
        for (period, rest, expected) in [
            (90 * DAY, 30 * DAY, None),
            (90 * DAY, 14 * DAY, None),
            (90 * DAY, 14 * DAY - 1, Some("expires in 13 days: ")),
            (90 * DAY, 47 * 3600, Some("expires in 47 hours: ")),
            (DAY, 7 * 3600, None),
            (DAY, 5 * 3600, Some("expires in 5 hours: ")),
            (DAY, 0, Some("expired 0 hours ago: ")),
            (DAY, DAY, None),
            (DAY, DAY + 900, Some("is not valid for another 0 hours: ")),
        ] {
            let validity = Validity {
                not_before: Duration::from_secs(1000),
                not_after: Duration::from_secs(1000 + period),
            };
            let warning = validity.warning(Duration::from_secs(1000 + period - rest));
            let begins = warning.as_deref().map(|text| text.split_inclusive(": ").next().unwrap());
            assert_eq!(begins, expected, "{period} {rest}");
        }
    }
}
