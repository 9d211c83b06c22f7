//! TLS files that cannot be used: key, cause and remedy in words.

use std::{io, path::PathBuf};

use rustls::{InconsistentKeys, pki_types::pem, server::VerifierBuilderError};

use crate::{bounded_file::FileError, error_text::describe, tls_roots::RootsError};

/// TLS files that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct TlsError {
    /// The key in the file, such as `listen.grpc.tls.cert`.
    pub(super) key: String,
    /// The cause of the error.
    #[source]
    pub(super) problem: TlsProblem,
}

impl TlsError {
    /// The cause of the error.
    #[must_use]
    pub fn problem(&self) -> &TlsProblem {
        &self.problem
    }
}

/// The reason why TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsProblem {
    /// The file does not exist.
    #[error("the file `{}` does not exist", .path.display())]
    Missing {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file is not readable for this process.
    #[error("no permission to read `{}`; the user of this process needs it", .path.display())]
    NotPermitted {
        /// The path of the file.
        path: PathBuf,
    },
    /// Any other failure to read the file.
    #[error(transparent)]
    NotReadable(FileError),
    /// The file has no PEM section of the right kind.
    #[error(
        "`{}` contains no {expected} in PEM, which begins with a line such as -----BEGIN {}-----",
        .path.display(), .expected.to_uppercase()
    )]
    NotPem {
        /// The path of the file.
        path: PathBuf,
        /// What the file should contain.
        expected: &'static str,
    },
    /// The PEM in the file is damaged.
    #[error("the PEM in `{}` is damaged: {cause}", .path.display())]
    DamagedPem {
        /// The path of the file.
        path: PathBuf,
        /// The damage of the file.
        cause: &'static str,
    },
    /// The private key belongs to another certificate.
    #[error(
        "the private key in `{}` does not belong to the certificate in `{}`; replace both files \
         together", .key.display(), .cert.display()
    )]
    Mismatch {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the private key.
        key: PathBuf,
    },
    /// The certificate or its key cannot be served.
    #[error(
        "cannot serve `{}` with the key in `{}`: {}",
        .cert.display(), .key.display(), describe(.error)
    )]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the private key.
        key: PathBuf,
        /// The error of rustls.
        error: rustls::Error,
    },
    /// The certificate is not valid now.
    #[error(
        "the certificate in `{}` {lapse}, and the one in use is valid; replace the file",
        .path.display()
    )]
    Lapsed {
        /// The file of the certificate.
        path: PathBuf,
        /// What is wrong with its period.
        lapse: String,
    },
    /// Authorities that cannot be loaded.
    #[error(transparent)]
    Authorities(RootsError),
    /// Authorities that cannot verify clients.
    #[error("cannot verify clients with the authorities in `{}`: {error}", .path.display())]
    Verifier {
        /// The file of `client_ca`.
        path: PathBuf,
        /// The error of rustls.
        error: VerifierBuilderError,
    },
}

impl TlsProblem {
    pub(super) fn of_file(error: FileError) -> Self {
        match error {
            FileError::Unreadable { path, error } if error.kind() == io::ErrorKind::NotFound => {
                Self::Missing { path }
            }
            FileError::Unreadable { path, error }
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                Self::NotPermitted { path }
            }
            error => Self::NotReadable(error),
        }
    }

    pub(super) fn of_pem(path: PathBuf, expected: &'static str, error: pem::Error) -> Self {
        let cause = match error {
            pem::Error::NoItemsFound => return Self::NotPem { path, expected },
            pem::Error::MissingSectionEnd { .. } => "a section has no -----END line",
            pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line is not well-formed",
            pem::Error::Base64Decode(_) => "a section is not base64",
            pem::Error::SectionTooLarge => "a section is too large",
            _ => "it cannot be parsed",
        };
        Self::DamagedPem { path, cause }
    }

    pub(super) fn of_pair(cert: PathBuf, key: PathBuf, error: rustls::Error) -> Self {
        match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                Self::Mismatch { cert, key }
            }
            error => Self::Pair { cert, key, error },
        }
    }
}
