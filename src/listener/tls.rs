//! TLS and mTLS on a listener, with certificates that change while it runs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, crypto};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Limits;
use super::config::TlsConfig;
use super::stream::Socket;

/// Why a set of TLS files is not used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is not there, or not PEM, or holds nothing of the kind it is for.
    #[error("cannot read {what} from `{path}`: {error}")]
    File {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What went wrong.
        error: pem::Error,
    },
    /// An authority that cannot be used as one.
    #[error("cannot use the authorities in `{path}`: {error}")]
    Authorities {
        /// The file of `client_ca`.
        path: PathBuf,
        /// What went wrong.
        error: rustls::Error,
    },
    /// Authorities nobody can be verified against.
    #[error("cannot verify clients with the authorities in `{path}`: {error}")]
    Verifier {
        /// The file of `client_ca`.
        path: PathBuf,
        /// What went wrong.
        error: VerifierBuilderError,
    },
    /// A certificate and a key that do not go together, or a kind of key that is not served.
    #[error("cannot serve `{cert}` with the key in `{key}`: {error}")]
    Pair {
        /// The file of `cert`.
        cert: PathBuf,
        /// The file of `key`.
        key: PathBuf,
        /// What went wrong.
        error: rustls::Error,
    },
}

/// The TLS side of a listener. Clones share the certificates; keep one to reload them.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<TlsConfig>,
    alpn: &'static [&'static [u8]],
    current: Arc<ArcSwap<ServerConfig>>,
    handshakes: Arc<Semaphore>,
    handshake_timeout: Duration,
}

impl Tls {
    pub(super) fn load(
        config: &TlsConfig,
        alpn: &'static [&'static [u8]],
        limits: &Limits,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(server_config(config, alpn)?)),
            config: Arc::new(config.clone()),
            alpn,
            handshakes: Arc::new(Semaphore::new(limits.max_handshakes)),
            handshake_timeout: limits.handshake_timeout,
        })
    }

    /// The files to watch.
    #[must_use]
    pub fn files(&self) -> &TlsConfig {
        &self.config
    }

    /// Reads the files again, for connections from now on. Blocks while it reads.
    ///
    /// Sessions are not resumed across this, so a client that the new authorities do not know is not let in by an old handshake;
    /// its open connections end at the latest with their `age`.
    ///
    /// # Errors
    /// When they do not load; then the ones in use stay in use. Files that are replaced one after the other give that for a
    /// moment: call again when the next one changes.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(server_config(&self.config, self.alpn)?));
        Ok(())
    }

    /// Shakes hands, or waits for a turn to, for as long as a handshake may take.
    pub(super) async fn accept(&self, socket: Socket) -> io::Result<TlsStream<Socket>> {
        timeout(self.handshake_timeout, async {
            let _permit = self.handshakes.acquire().await.map_err(io::Error::other)?;
            TlsAcceptor::from(self.current.load_full()).accept(socket).await
        })
        .await?
    }
}

fn server_config(config: &TlsConfig, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let TlsConfig { cert, key, client_ca } = config;
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let pair = |error| TlsError::Pair { cert: cert.clone(), key: key.clone(), error };

    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| TlsError::Verifier { path: path.clone(), error })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| file("a private key", key, error))?;
    let mut server = builder.with_single_cert(certificates(cert)?, private).map_err(pair)?;
    server.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(server)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |error| file("certificates", path, error);
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(wrong)?
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    if chain.is_empty() {
        return Err(wrong(pem::Error::NoItemsFound));
    }
    Ok(chain)
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Authorities { path: path.to_owned(), error })?;
    }
    Ok(roots)
}

fn file(what: &'static str, path: &Path, error: pem::Error) -> TlsError {
    TlsError::File { what, path: path.to_owned(), error }
}
