//! The configuration file: its sections, and where each is compiled. The sections belong to their
//! modules.

mod foreign_keys;
mod named_files;
mod server;

use std::{fmt, path::Path as FilePath};

use schemars::JsonSchema;
use thiserror::Error;
use tollgate_core::{
    config::{ConfigError, ConfigErrorKind, Document, Errors, Path, keys_of},
    policy::{Policy, PolicyConfig},
};

pub use self::{
    foreign_keys::FOREIGN_KEYS,
    server::{AdminListenConfig, BodyConfig, ListenConfig, ServerConfig},
};
pub use crate::byte_size::ByteSize;
use crate::credential::jwks;

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
}

/// The reason why a file is not used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("`{path}` cannot be read: {error}")]
    Read {
        /// The path of the file.
        path: String,
        /// The cause of the error.
        error: std::io::Error,
    },
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
    let document = open(path)?;
    compile_document(&document).map_err(|errors| invalid(path, errors))
}

/// Reads and compiles a file, and opens the files that it names. Returns an error for each of those
/// that cannot be read on this machine.
///
/// # Errors
/// As [`load`].
pub fn load_with_files(path: &FilePath) -> Result<(Loaded, Vec<ConfigError>), LoadError> {
    let document = open(path)?;
    let loaded = compile_document(&document).map_err(|errors| invalid(path, errors))?;
    let unreadable = document.locate(named_files::unreadable(&loaded.file));
    Ok((loaded, unreadable))
}

fn open(path: &FilePath) -> Result<Document, LoadError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| LoadError::Read { path: path.display().to_string(), error })?;
    Document::parse(&text, &|name| std::env::var(name).ok()).map_err(|errors| invalid(path, errors))
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
    compile_document(&Document::parse(text, env)?)
}

fn compile_document(document: &Document) -> Result<Loaded, Vec<ConfigError>> {
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
            Ok(Loaded { file: File { server, policy }, policy: compiled })
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
