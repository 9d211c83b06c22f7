//! TLS for subcommands that call a server.

use std::sync::Arc;

use tokio_rustls::TlsConnector;

use crate::tls_roots::{self, RootsError};

/// Returns a TLS client that trusts the system's authorities, or those that `SSL_CERT_FILE` names.
///
/// # Errors
/// The system has no authorities.
pub(super) fn connector() -> Result<TlsConnector, RootsError> {
    Ok(TlsConnector::from(Arc::new(tls_roots::client_config(None)?)))
}

/// Returns a TLS client as [`connector`] does, which offers HTTP/2 only.
///
/// # Errors
/// The system has no authorities.
pub(super) fn connector_for_http2() -> Result<TlsConnector, RootsError> {
    let mut config = tls_roots::client_config(None)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
