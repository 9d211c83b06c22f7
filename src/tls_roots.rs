//! The certificate authorities that outgoing TLS trusts: those of a PEM file, or the system's.

mod own_authority;

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::WebPkiServerVerifier,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use thiserror::Error;

use crate::{
    bounded_file::{self, FileError, Outstanding, Stalled, WITHIN},
    error_text::describe,
};

/// Most bytes of a file with certificate authorities.
const MAX_FILE: usize = 4 << 20;

/// The reason why no authorities can be trusted.
#[derive(Debug, Error)]
pub enum RootsError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds something that is not PEM.
    #[error("`{path}` is not a PEM file of certificates")]
    NotPem {
        /// The file at fault.
        path: String,
    },
    /// The file holds a certificate that cannot be an authority.
    #[error("`{path}` holds a certificate that cannot be used as an authority: {cause}")]
    Unusable {
        /// The file at fault.
        path: String,
        /// What is wrong with the certificate.
        cause: String,
    },
    /// The file holds no certificate.
    #[error("`{path}` holds no certificate in PEM")]
    Empty {
        /// The file at fault.
        path: String,
    },
    /// The system has no authorities.
    #[error(
        "the system trusts no certificate authorities; install ca-certificates, or name a PEM file"
    )]
    NoSystemRoots,
    /// The system's authorities cannot be read in time.
    #[error(
        "the system's certificate authorities are not read within 5 s; the file system may hang"
    )]
    SystemHangs,
    /// TLS is not available.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// The read of the system's authorities that has not ended: `SSL_CERT_FILE` may name any file.
static SYSTEM: Outstanding<(), Vec<CertificateDer<'static>>> = Outstanding::new();

/// Reads the authorities of a PEM file, or the system's where `ca` is `None`. `SSL_CERT_FILE`
/// replaces the system's. It blocks, for five seconds at most.
///
/// # Errors
/// See [`RootsError`].
pub fn load(ca: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let Some(ca) = ca else {
        let mut roots = RootCertStore::empty();
        let system =
            SYSTEM.run_blocking((), WITHIN, || rustls_native_certs::load_native_certs().certs);
        let system = system.map_err(|stalled| match stalled {
            Stalled::Hangs => RootsError::SystemHangs,
            Stalled::NoThread(error) => RootsError::Setup(error.to_string()),
        })?;
        // A system's store holds certificates that cannot be parsed; some good ones are enough.
        roots.add_parsable_certificates(system);
        return if roots.is_empty() { Err(RootsError::NoSystemRoots) } else { Ok(roots) };
    };
    of_pem(ca, &bounded_file::read_blocking(ca, MAX_FILE)?)
}

/// Returns the authorities in the content of the PEM file `ca`.
///
/// # Errors
/// See [`RootsError`].
pub fn of_pem(ca: &Path, pem: &[u8]) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    let path = || ca.display().to_string();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| RootsError::NotPem { path: path() })?;
        let unusable =
            |error: rustls::Error| RootsError::Unusable { path: path(), cause: describe(&error) };
        roots.add(certificate).map_err(unusable)?;
    }
    if roots.is_empty() { Err(RootsError::Empty { path: path() }) } else { Ok(roots) }
}

/// Creates the configuration of a TLS client that trusts these authorities; see [`load`]. A server
/// may use a certificate of `ca` itself, which is what `openssl req -x509` makes.
///
/// # Errors
/// See [`RootsError`].
pub fn client_config(ca: Option<&Path>) -> Result<ClientConfig, RootsError> {
    let (roots, own) = match ca {
        None => (load(None)?, Vec::new()),
        Some(ca) => {
            let pem = bounded_file::read_blocking(ca, MAX_FILE)?;
            let own: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            let own = own.map_err(|_| RootsError::NotPem { path: ca.display().to_string() })?;
            (of_pem(ca, &pem)?, own)
        }
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let setup = |error: &(dyn std::error::Error + 'static)| RootsError::Setup(describe(error));
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| setup(&error))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?;
    let verifier = own_authority::Verifier::new(verifier, own);
    Ok(config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_authority_is_named_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let pem = |body: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        for (content, expected) in [
            (None, "cannot be read"),
            (Some(String::new()), "holds no certificate in PEM"),
            (Some("not PEM".to_owned()), "holds no certificate in PEM"),
            (Some(pem("!")), "is not a PEM file"),
            (Some(pem("AAAA")), "cannot be used as an authority"),
        ] {
            if let Some(content) = &content {
                std::fs::write(&path, content).unwrap();
            }
            let error = load(Some(&path)).unwrap_err().to_string();
            assert!(error.contains("ca.pem") && error.contains(expected), "{content:?}: {error}");
        }
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&path, key.cert.pem()).unwrap();
        assert_eq!(load(Some(&path)).unwrap().len(), 1);
    }
}
