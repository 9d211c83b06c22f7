//! The configuration file of a command, named in the same ways everywhere: `FILE`, `--config FILE`,
//! or `-` for standard input.

use std::path::{Path, PathBuf};

use clap::Args;

use super::argument;
use crate::config::{self, LoadError, Loaded};

/// The name of standard input in messages.
const STDIN: &str = "<stdin>";

/// The configuration file, which the command needs.
#[derive(Debug, Args)]
#[group(id = "configuration", required = true, multiple = false)]
pub struct ConfigFile {
    /// The configuration file; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same as FILE.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// The path as given.
    pub(super) fn path(&self) -> &Path {
        // One of the two is there: the group is required.
        self.file.as_deref().or(self.config.as_deref()).unwrap_or(Path::new("-"))
    }
}

/// The configuration file, where the command works without one too.
#[derive(Debug, Args)]
#[group(id = "configuration", multiple = false)]
pub struct OptionalConfigFile {
    /// The configuration file; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same as FILE.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl OptionalConfigFile {
    /// The path as given, if one is.
    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_deref().or(self.config.as_deref())
    }
}

/// A configuration that was read, with its name for messages.
#[derive(Debug)]
pub(super) struct ConfigText {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Whether the path means standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// Reads the text of the file at `path`; `-` is standard input.
///
/// # Errors
/// It cannot be read, or is no text.
pub(super) fn read(path: &Path) -> anyhow::Result<ConfigText> {
    if !is_stdin(path) {
        return Ok(ConfigText { path: path.to_owned(), text: config::read_blocking(path)? });
    }
    let bytes = argument::file(path, config::MAX_FILE)?;
    let text =
        String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("standard input is not UTF-8"))?;
    Ok(ConfigText { path: STDIN.into(), text })
}

/// Reads and compiles the file at `path`; `-` is standard input.
///
/// # Errors
/// It cannot be read, or has errors.
pub(super) fn load(path: &Path) -> anyhow::Result<Loaded> {
    let ConfigText { path, text } = read(path)?;
    let loaded: Result<Loaded, LoadError> = config::compile_file(&path, &text);
    Ok(loaded?)
}
