//! Arguments that may be read from elsewhere: what stands on a command line is seen by everybody who may list processes.

use std::io::{self, Read as _};

use anyhow::Context as _;
use tollgate_core::secret::Secret;

/// Most that is read from standard input.
const MAX_INPUT: u64 = 64 << 20;

/// A token: `-` is standard input, `@FILE` a file, anything else the token itself.
///
/// # Errors
/// What cannot be read.
pub(super) fn token(argument: &str) -> anyhow::Result<Secret> {
    match (argument, argument.strip_prefix('@')) {
        ("-", _) => Ok(Secret::new(
            stdin().context("cannot read the token from standard input")?.trim_ascii(),
        )),
        (_, Some(path)) => secret_file(path),
        _ => Ok(Secret::new(argument.trim())),
    }
}

/// A secret in a file, without the white space around it.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn secret_file(path: &str) -> anyhow::Result<Secret> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{path}`"))?;
    Ok(Secret::new(bytes.trim_ascii()))
}

/// A body: `-` is standard input, `@FILE` a file, anything else the body itself. Nothing is trimmed.
///
/// # Errors
/// What cannot be read.
pub(super) fn body(argument: &str) -> anyhow::Result<Vec<u8>> {
    match (argument, argument.strip_prefix('@')) {
        ("-", _) => stdin().context("cannot read the body from standard input"),
        (_, Some(path)) => std::fs::read(path).with_context(|| format!("cannot read `{path}`")),
        _ => Ok(argument.as_bytes().to_vec()),
    }
}

/// A shared secret as a file holds it: one trailing line break is not part of it, as everywhere in the configuration.
pub(super) fn trimmed(file: &[u8]) -> &[u8] {
    let file = file.strip_suffix(b"\n").unwrap_or(file);
    file.strip_suffix(b"\r").unwrap_or(file)
}

fn stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().take(MAX_INPUT).read_to_end(&mut bytes)?;
    Ok(bytes)
}
