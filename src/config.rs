//! The configuration file: its sections, and where each is compiled. The sections belong to their
//! modules.

mod foreign_keys;
mod ledger_needs;
mod named_files;
mod proxy_needs;
mod server;

use std::{fmt, path::Path as FilePath};

use schemars::JsonSchema;
use thiserror::Error;
use tollgate_core::{
    config::{ConfigError, ConfigErrorKind, Document, Errors, Path, keys_of},
    credential::api_key::{KeyFile, KeyTable, MAX_FILE_RECORDS, PolicyNames},
    policy::{Policy, PolicyConfig},
    revocation::sha256,
};

pub use self::{
    foreign_keys::FOREIGN_KEYS,
    server::{AdminCredentialConfig, AdminListenConfig, BodyConfig, ListenConfig, ServerConfig},
};
pub use crate::adapter::settle_api::config::{ReporterConfig, SettleListenConfig};
pub use crate::byte_size::ByteSize;
use crate::{
    bounded_file::{self, FileError},
    credential::jwks,
    observe,
};

/// Most bytes of a configuration file.
pub const MAX_FILE: usize = 16 << 20;

/// Most bytes of a file of API keys.
pub const MAX_KEY_FILE: usize = 16 << 20;

/// A whole configuration file. Its sections are side by side in the file, and are read as two
/// structs.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(title = "Tollgate configuration", deny_unknown_fields)]
pub struct File {
    /// The sections of the sidecar, which change only with a restart.
    #[schemars(flatten)]
    pub server: ServerConfig,
    /// The sections of the policy, which a reload changes.
    #[schemars(flatten)]
    pub policy: PolicyConfig,
}

/// A file that was read and compiled.
#[derive(Debug)]
pub struct Loaded {
    /// The sections of the sidecar.
    pub file: File,
    /// The sections of the policy.
    pub policy: Policy,
    /// Identifies the text that was compiled.
    pub digest: TextDigest,
}

/// Identifies the text of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextDigest([u8; 32]);

impl TextDigest {
    /// Returns the digest of a text.
    pub fn of(text: &str) -> Self {
        Self::of_bytes(text.as_bytes())
    }

    /// Returns the digest of a text in bytes.
    pub fn of_bytes(text: &[u8]) -> Self {
        Self(sha256(text))
    }
}

/// The reason why a file is not used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] FileError),
    /// The file has errors.
    #[error("{}", lines(path, errors))]
    Invalid {
        /// The path of the file.
        path: String,
        /// All errors of the file.
        errors: Vec<ConfigError>,
    },
}

fn lines(path: &str, errors: &[ConfigError]) -> String {
    let lines: Vec<String> =
        errors.iter().map(|error| Located { path, error }.to_string()).collect();
    lines.join("\n")
}

/// An error with its file, as compilers write it: `file:line: place: message`.
#[derive(Debug)]
pub struct Located<'a> {
    /// The path of the file.
    pub path: &'a str,
    /// The error of the file.
    pub error: &'a ConfigError,
}

impl fmt::Display for Located<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, error } = self;
        match error.line {
            Some(line) => write!(f, "{path}:{line}: ")?,
            None => write!(f, "{path}: ")?,
        }
        if !error.path.is_empty() {
            write!(f, "{}: ", error.path)?;
        }
        f.write_str(&error.message())
    }
}

/// Reads and compiles a file.
///
/// # Errors
/// A file that cannot be read, or everything that is wrong with it at once.
pub fn load(path: &FilePath) -> Result<Loaded, LoadError> {
    compile_file(path, &read_blocking(path)?)
}

/// Reads the text of a file once.
///
/// # Errors
/// A file that cannot be read.
pub fn read_blocking(path: &FilePath) -> Result<String, LoadError> {
    Ok(bounded_file::read_text_blocking(path, MAX_FILE)?)
}

/// Reads the text of a file whose content may have changed, until two reads agree: the file may be
/// read while it is written. Text that `is_known` is returned at once.
///
/// # Errors
/// A file that cannot be read.
pub async fn read_text(
    path: &FilePath,
    is_known: impl Fn(TextDigest) -> bool,
) -> Result<String, LoadError> {
    let is_known = |bytes: &[u8]| is_known(TextDigest(sha256(bytes)));
    let bytes =
        bounded_file::read_settled(path, MAX_FILE, bounded_file::LOOK_AGAIN, is_known).await?;
    Ok(bounded_file::text(path, bytes)?)
}

/// Compiles the text of the file at `path`.
///
/// # Errors
/// Everything that is wrong with it at once.
pub fn compile_file(path: &FilePath, text: &str) -> Result<Loaded, LoadError> {
    compile(text, &environment).map_err(|errors| invalid(path, errors))
}

/// Compiles the text of the file of API keys at `path`, for a policy.
///
/// # Errors
/// Everything that is wrong with its records at once.
pub fn compile_keys(path: &FilePath, text: &str, policy: &Policy) -> Result<KeyTable, LoadError> {
    let lifetimes = policy.api_keys.as_ref().map(|keys| keys.lifetimes).unwrap_or_default();
    let names = PolicyNames {
        has_limit: &|name, quota| policy.has_limit(name, quota),
        has_tier: &|tier| policy.has_key_tier(tier),
    };
    KeyFile::compile_at(text, &lifetimes, Some(names), observe::now())
        .map_err(|errors| invalid(path, errors))
}

/// Reads the text of the file of API keys at `path`.
///
/// # Errors
/// A file that cannot be read, or is too large.
pub fn read_keys_blocking(path: &FilePath) -> Result<String, LoadError> {
    bounded_file::read_text_blocking(path, MAX_KEY_FILE).map_err(key_file_error)
}

/// Returns the error about a file of API keys, with the remedy where the file is too large.
pub fn key_file_error(error: FileError) -> LoadError {
    let FileError::TooLarge { path, max } = error else { return error.into() };
    let error = ConfigError {
        line: None,
        path: String::new(),
        kind: ConfigErrorKind::Invalid(format!(
            "a file of API keys has at most {} MiB and {MAX_FILE_RECORDS} records",
            max >> 20
        )),
        remedy: Some("keep more in Redis (`api_keys.redis: true`)".to_owned()),
    };
    invalid(&path, vec![error])
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What a file without errors needs besides itself.
#[derive(Debug)]
pub struct Notes {
    /// An error for each file that it names and that cannot be read on this machine.
    pub unreadable: Vec<ConfigError>,
    /// What its routes need of the proxy.
    pub proxy: Vec<ConfigError>,
}

/// Compiles the text of the file at `path`, opens the files that it names, and lists what its routes
/// need of the proxy.
///
/// # Errors
/// As [`compile_file`].
pub fn compile_with_notes(path: &FilePath, text: &str) -> Result<(Loaded, Notes), LoadError> {
    let document = Document::parse(text, &environment).map_err(|errors| invalid(path, errors))?;
    let loaded = compile_document(&document, TextDigest::of(text))
        .map_err(|errors| invalid(path, errors))?;
    check_keys(&loaded.policy)?;
    let mut shared = Errors::default();
    ledger_needs::check_key_files(&loaded.policy, &mut shared);
    let shared = document.locate(shared);
    if !shared.is_empty() {
        return Err(invalid(path, shared));
    }
    let notes = Notes {
        unreadable: document.locate(named_files::unreadable(&loaded.file)),
        proxy: document.locate(proxy_needs::of(&loaded.file)),
    };
    Ok((loaded, notes))
}

/// Checks the file of API keys, where it can be read: one that cannot is in [`Notes::unreadable`].
fn check_keys(policy: &Policy) -> Result<(), LoadError> {
    let Some(path) = policy.api_keys.as_ref().and_then(|keys| keys.file.as_deref()) else {
        return Ok(());
    };
    match read_keys_blocking(path) {
        Ok(text) => compile_keys(path, &text, policy).map(drop),
        Err(LoadError::Read(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn invalid(path: &FilePath, errors: Vec<ConfigError>) -> LoadError {
    LoadError::Invalid { path: path.display().to_string(), errors }
}

/// Compiles the text of a file. `env` returns the value of an environment variable.
///
/// # Errors
/// Everything that is wrong with it at once.
pub fn compile(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Vec<ConfigError>> {
    compile_document(&Document::parse(text, env)?, TextDigest::of(text))
}

fn compile_document(document: &Document, digest: TextDigest) -> Result<Loaded, Vec<ConfigError>> {
    if document.is_empty() {
        return Err(vec![empty()]);
    }
    let keys = [keys_of::<ServerConfig>(), keys_of::<PolicyConfig>()].concat();
    let (server, policy) =
        (document.read_part::<ServerConfig>(&keys), document.read_part::<PolicyConfig>(&keys));
    let (mut errors, mut omitted) = (server.errors, server.omitted);
    errors.extend(policy.errors);
    omitted.extend(policy.omitted);
    let mut found = Errors::default();
    let compiled = policy.value.as_ref().and_then(|config| Policy::compile(config, &mut found));
    if let Some(policy) = &compiled {
        jwks::validate(policy.issuers.list(), &Path::root().key("issuers"), &mut found);
    }
    if let Some(server) = &server.value {
        server.validate(compiled.as_ref(), &mut found);
    }
    errors.extend(omitted.without_consequences(found));
    match (server.value, policy.value, compiled) {
        (Some(server), Some(policy), Some(compiled)) if errors.is_empty() => {
            let compiled = compiled.with_shards(server.store.shard_by());
            let compiled = compiled.with_route_names(!server.listen.reporters().is_empty());
            Ok(Loaded { file: File { server, policy }, policy: compiled, digest })
        }
        _ => {
            let mut errors = document.locate(errors);
            errors.iter_mut().for_each(foreign_keys::explain);
            Err(errors)
        }
    }
}

/// The error of a file without any section.
fn empty() -> ConfigError {
    ConfigError {
        line: None,
        path: String::new(),
        kind: ConfigErrorKind::Empty,
        remedy: Some("write a first one with `tollgate init`".to_owned()),
    }
}

#[cfg(test)]
mod tests;
