//! TLS and mTLS on a listener, with certificates that can be reloaded.

mod error;
mod validity;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig, crypto,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
};
use tokio::{sync::Semaphore, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tollgate_core::revocation::sha256;
use tracing::warn;

pub use self::{
    error::{TlsError, TlsProblem},
    validity::Validity,
};
use super::{Limits, config::TlsConfig, stream::Socket};
use crate::{
    bounded_file,
    tls_roots::{self, RootsError},
};

/// Most bytes of a file with a certificate chain or a key.
const MAX_FILE: usize = 4 << 20;

/// The TLS side of a listener. Clones share the certificates; a clone reloads them for all.
#[derive(Debug, Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    current: Arc<ArcSwap<Current>>,
    looks: Arc<Mutex<Looks>>,
    handshakes: Arc<Semaphore>,
    handshake_timeout: Duration,
}

/// The certificates in use.
#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    validity: Option<Validity>,
}

/// What was found in the files.
#[derive(Debug)]
struct Looks {
    in_use: Digest,
    /// The last look, where it differs from what is in use.
    last: Option<Digest>,
}

type Digest = [u8; 32];

/// The content of the files.
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Pem {
    fn digest(&self) -> Digest {
        let parts = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        let parts = parts.map(|part| sha256(part.map(Vec::as_slice).unwrap_or_default()));
        sha256(parts.as_flattened())
    }
}

/// Where the certificates are, and what is negotiated with them.
#[derive(Debug)]
struct TlsFiles {
    /// The key of the listener in the configuration.
    key: String,
    config: TlsConfig,
    alpn: &'static [&'static [u8]],
}

impl Tls {
    pub(super) fn load(
        key: &str,
        config: &TlsConfig,
        alpn: &'static [&'static [u8]],
        limits: &Limits,
    ) -> Result<Self, TlsError> {
        let files = TlsFiles { key: key.to_owned(), config: config.clone(), alpn };
        let pem = files.read()?;
        let looks = Looks { in_use: pem.digest(), last: None };
        let current = files.compile(&pem)?;
        files.warn_of(&current);
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(current)),
            looks: Arc::new(Mutex::new(looks)),
            files: Arc::new(files),
            handshakes: Arc::new(Semaphore::new(limits.max_handshakes)),
            handshake_timeout: limits.handshake_timeout,
        })
    }

    /// The paths of the files.
    #[must_use]
    pub fn files(&self) -> &TlsConfig {
        &self.files.config
    }

    /// The key of the listener in the configuration.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.files.key
    }

    /// The period in which the certificates in use are valid; `None` where it cannot be read.
    #[must_use]
    pub fn validity(&self) -> Option<Validity> {
        self.current.load().validity
    }

    /// Reads the files again, for new connections. It blocks while it reads, for a bounded time.
    ///
    /// Sessions are not resumed across a reload, so that an earlier handshake does not admit a
    /// client that the new authorities do not know. Its open connections end at the latest with
    /// their maximum age.
    ///
    /// # Errors
    /// When the files cannot be used, or their certificate is not valid now and the one in use is;
    /// the previous certificates stay in use. Files that are replaced one after the other cause
    /// this for a moment.
    pub fn reload(&self) -> Result<(), TlsError> {
        let pem = self.files.read()?;
        self.put_in_use(&pem, &mut self.looks())
    }

    /// As [`Self::reload`], where the files have changed and the last call found the same content:
    /// a file may be read while it is written. Sessions go on while nothing has changed.
    ///
    /// # Errors
    /// As [`Self::reload`].
    pub fn reload_if_settled(&self) -> Result<(), TlsError> {
        let pem = self.files.read()?;
        let digest = pem.digest();
        let mut looks = self.looks();
        if looks.in_use == digest {
            looks.last = None;
            return Ok(());
        }
        if looks.last.replace(digest) == Some(digest) {
            self.put_in_use(&pem, &mut looks)
        } else {
            Ok(())
        }
    }

    fn put_in_use(&self, pem: &Pem, looks: &mut Looks) -> Result<(), TlsError> {
        let new = self.files.compile(pem)?;
        self.refuse_lapsed(&new)?;
        self.files.warn_of(&new);
        self.current.store(Arc::new(new));
        looks.in_use = pem.digest();
        Ok(())
    }

    /// Refuses a certificate that is not valid now, while the one in use is.
    fn refuse_lapsed(&self, new: &Current) -> Result<(), TlsError> {
        let now = now();
        let lapse = |current: &Current| current.validity.and_then(|validity| validity.lapse(now));
        match (lapse(new), lapse(&self.current.load())) {
            (Some(lapse), None) => {
                let path = self.files.config.cert.clone();
                Err(self.files.error("cert", TlsProblem::Lapsed { path, lapse }))
            }
            _ => Ok(()),
        }
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        // Digests: none can be left half-written by a panic.
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Performs a handshake within its timeout, which includes the wait for a permit.
    pub(super) async fn accept(&self, socket: Socket) -> io::Result<TlsStream<Socket>> {
        timeout(self.handshake_timeout, async {
            let _permit = self.handshakes.acquire().await.map_err(io::Error::other)?;
            let config = Arc::clone(&self.current.load().config);
            TlsAcceptor::from(config).accept(socket).await
        })
        .await?
    }
}

impl TlsFiles {
    /// Reads the files. It blocks.
    fn read(&self) -> Result<Pem, TlsError> {
        let TlsConfig { cert, key, client_ca } = &self.config;
        let read = |path: &PathBuf| bounded_file::read_blocking(path, MAX_FILE);
        let file = |field: &str, path| {
            read(path).map_err(|error| self.error(field, TlsProblem::of_file(error)))
        };
        let client_ca = client_ca.as_ref().map(read).transpose().map_err(|error| {
            self.error("client_ca", TlsProblem::Authorities(RootsError::File(error)))
        })?;
        Ok(Pem { cert: file("cert", cert)?, key: file("key", key)?, client_ca })
    }

    fn compile(&self, pem: &Pem) -> Result<Current, TlsError> {
        let TlsConfig { cert, key, client_ca } = &self.config;
        let in_pair =
            |error| self.error("key", TlsProblem::of_pair(cert.clone(), key.clone(), error));
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(in_pair)?;
        let builder = match client_ca.as_ref().zip(pem.client_ca.as_ref()) {
            None => builder.with_no_client_auth(),
            Some((path, pem)) => {
                let roots = tls_roots::of_pem(path, pem)
                    .map_err(|error| self.error("client_ca", TlsProblem::Authorities(error)))?;
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| {
                    self.error("client_ca", TlsProblem::Verifier { path: path.clone(), error })
                })?)
            }
        };
        let chain = self.certificates(cert, &pem.cert)?;
        let private = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|error| {
            self.error("key", TlsProblem::of_pem(key.clone(), "private key", error))
        })?;
        let validity = Validity::of_chain(&chain);
        let mut server = builder.with_single_cert(chain, private).map_err(in_pair)?;
        server.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Current { config: Arc::new(server), validity })
    }

    /// Warns of a certificate that is not valid now, or not much longer.
    fn warn_of(&self, current: &Current) {
        if let Some(warning) = current.validity.and_then(|validity| validity.warning(now())) {
            warn!(
                "{}.tls.cert: the certificate in `{}` {warning}; replace the file",
                self.key,
                self.config.cert.display()
            );
        }
    }

    fn certificates(
        &self,
        path: &Path,
        pem: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let wrong =
            |error| self.error("cert", TlsProblem::of_pem(path.to_owned(), "certificate", error));
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(wrong)?;
        if chain.is_empty() {
            return Err(wrong(pem::Error::NoItemsFound));
        }
        Ok(chain)
    }

    fn error(&self, field: &str, problem: TlsProblem) -> TlsError {
        TlsError { key: format!("{}.tls.{field}", self.key), problem }
    }
}

/// The time since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
