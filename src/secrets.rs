//! Secrets from files.

use std::path::Path;

use tollgate_core::secret::{Secret, SecretSource};

/// Longest secret read from a file, in bytes.
const MAX: u64 = 64 * 1024;

/// The secret a source stands for, now. One trailing line break of a file is not part of it.
///
/// # Errors
/// Says which file cannot be read, or is empty, or is larger than 64 KiB.
pub fn resolve(source: &SecretSource) -> Result<Secret, String> {
    let path = match source {
        SecretSource::Inline(secret) => return Ok(secret.clone()),
        SecretSource::File(path) => Path::new(path),
    };
    let shown = path.display();
    let size = std::fs::metadata(path)
        .map_err(|error| format!("the secret file `{shown}` cannot be read: {error}"))?
        .len();
    if size > MAX {
        return Err(format!("the secret file `{shown}` is larger than 64 KiB"));
    }
    let mut bytes = std::fs::read(path)
        .map_err(|error| format!("the secret file `{shown}` cannot be read: {error}"))?;
    trim_line_break(&mut bytes);
    if bytes.is_empty() {
        Err(format!("the secret file `{shown}` is empty"))
    } else {
        Ok(Secret::new(bytes))
    }
}

/// Takes one line break off the end: editors and `echo` put it there.
pub fn trim_line_break(bytes: &mut Vec<u8>) {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
}

/// The `Authorization` values of upstream keys.
///
/// # Errors
/// A key that cannot be read, or that cannot stand in a header.
pub fn upstream_credentials(sources: &[SecretSource]) -> Result<Vec<Secret>, String> {
    sources
        .iter()
        .map(|source| {
            let secret = resolve(source)?;
            if !secret.expose().iter().all(u8::is_ascii_graphic) {
                return Err(
                    "an `upstream_key` holds characters that cannot stand in a header".to_owned()
                );
            }
            Ok(Secret::new([b"Bearer ".as_slice(), secret.expose()].concat()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_is_not_part_of_the_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        for (content, expected) in
            [("abc", "abc"), ("abc\n", "abc"), ("abc\r\n", "abc"), ("abc\n\n", "abc\n")]
        {
            std::fs::write(&path, content).unwrap();
            let secret = resolve(&SecretSource::File(path.display().to_string())).unwrap();
            assert_eq!(secret.expose(), expected.as_bytes(), "{content:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_or_empty_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key").display().to_string();
        assert!(resolve(&SecretSource::File(path.clone())).unwrap_err().contains(&path));
        std::fs::write(&path, "\n").unwrap();
        assert!(resolve(&SecretSource::File(path.clone())).unwrap_err().contains("empty"));
    }

    #[test]
    fn an_upstream_key_becomes_a_bearer_credential() {
        let key = SecretSource::Inline(Secret::new("sk-1"));
        assert_eq!(upstream_credentials(&[key]).unwrap()[0].expose(), b"Bearer sk-1");
        assert!(upstream_credentials(&[SecretSource::Inline(Secret::new("a\nb"))]).is_err());
    }
}
