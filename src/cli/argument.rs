//! Arguments that may be read from a file or from standard input: every user of the machine can see
//! the command lines of processes.

use std::{
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, anyhow};
use tollgate_core::secret::Secret;

use crate::{
    bounded_file::{self, FileError},
    secrets,
    store::{InvalidRevocation, check_note},
};

/// The most bytes of a body, from a file or from standard input.
const MAX_INPUT: usize = 64 << 20;

/// Reads a token: `-` is standard input, `@FILE` a file, anything else the token itself.
///
/// # Errors
/// The file or standard input cannot be read.
pub(super) fn token(argument: &str) -> anyhow::Result<Secret> {
    match (argument, argument.strip_prefix('@')) {
        ("-", _) => Ok(Secret::new(
            stdin(secrets::MAX).context("cannot read the token from standard input")?.trim_ascii(),
        )),
        (_, Some(path)) => secret_file(path),
        _ => Ok(Secret::new(argument.trim())),
    }
}

/// Reads a note or a reason: one line.
///
/// # Errors
/// The text is empty, too long, or has control characters.
pub(super) fn note(text: &str) -> Result<String, InvalidRevocation> {
    check_note(text).map(|()| text.to_owned())
}

/// Reads a secret from a file, without the white space around it.
///
/// # Errors
/// The file cannot be read.
pub(super) fn secret_file(path: &str) -> anyhow::Result<Secret> {
    Ok(Secret::new(file(path, secrets::MAX)?.trim_ascii()))
}

/// Reads a file of at most `max` bytes; `-` is standard input. A file is a regular one: a pipe can be
/// read in no other way than as standard input, which waits for its writer.
///
/// # Errors
/// The file cannot be read.
pub(super) fn file(path: impl AsRef<Path>, max: usize) -> anyhow::Result<Vec<u8>> {
    let path = path.as_ref();
    if path == Path::new("-") {
        return stdin(max).context("cannot read standard input");
    }
    bounded_file::read_blocking(path, max).map_err(|error| match error {
        FileError::Unreadable { error, .. } => {
            anyhow!("cannot read `{}`: {error}", path.display())
        }
        error => error.into(),
    })
}

/// Reads a body: `-` is standard input, `@FILE` a file, anything else the body itself. Nothing is
/// trimmed.
///
/// # Errors
/// The file or standard input cannot be read.
pub(super) fn body(argument: &str) -> anyhow::Result<Vec<u8>> {
    match (argument, argument.strip_prefix('@')) {
        ("-", _) => stdin(MAX_INPUT).context("cannot read the body from standard input"),
        (_, Some(path)) => file(path, MAX_INPUT),
        _ => Ok(argument.as_bytes().to_vec()),
    }
}

/// Removes one trailing line break from a shared secret, as the configuration does.
pub(super) fn trimmed(file: &[u8]) -> &[u8] {
    let file = file.strip_suffix(b"\n").unwrap_or(file);
    file.strip_suffix(b"\r").unwrap_or(file)
}

/// Reads standard input, which waits for its writer: the user of the command line can end it.
fn stdin(max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().take(max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {max} bytes"),
        ));
    }
    Ok(bytes)
}
