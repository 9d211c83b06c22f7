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
