//! The lines of an export, as other commands read them.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::Context as _;

/// Calls a function with the number of each line, from 1, and its text. A line without an end is left
/// out: its export runs or was interrupted, and has not marked it as exported.
///
/// # Errors
/// The file cannot be read, or the function fails.
pub(super) fn for_each(
    path: &Path,
    mut read: impl FnMut(u64, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot open `{shown}`"))?;
    let mut lines = BufReader::new(file);
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let length = lines.read_until(b'\n', &mut text);
        length.with_context(|| format!("cannot read `{shown}`"))?;
        let Some(text) = text.strip_suffix(b"\n") else { break };
        read(line, text)?;
    }
    Ok(())
}
