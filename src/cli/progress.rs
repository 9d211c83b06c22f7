//! Progress on a terminal: one line on standard error, which is cleared at the end.

use std::io::{self, IsTerminal as _, Write};

/// The line of progress. Scripts and log files get none.
pub(super) struct Progress(Option<Box<dyn Write>>);

impl Progress {
    /// Shows progress on standard error, if that is a terminal.
    pub(super) fn stderr() -> Self {
        Self(io::stderr().is_terminal().then(|| Box::new(io::stderr()) as Box<dyn Write>))
    }

    /// Replaces the line. A failed write to the terminal is ignored.
    pub(super) fn now(&mut self, what: &str) {
        if let Some(out) = &mut self.0 {
            // Back to the start of the line, and clears it (ECMA-48, EL).
            let _ = write!(out, "\r\x1b[K{what} ...").and_then(|()| out.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(out) = &mut self.0 {
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }
}
