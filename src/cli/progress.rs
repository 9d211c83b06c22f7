//! What is being done at the moment, for somebody who waits at a terminal: one line on standard error that is taken away again.

use std::io::{self, IsTerminal as _, Write};

/// One line of progress. Scripts and log files get none.
pub(super) struct Progress(Option<Box<dyn Write>>);

impl Progress {
    /// On standard error, if that is a terminal.
    pub(super) fn stderr() -> Self {
        Self(io::stderr().is_terminal().then(|| Box::new(io::stderr()) as Box<dyn Write>))
    }

    /// Says what is being done now. A terminal that cannot be written to is no reason to stop.
    pub(super) fn now(&mut self, what: &str) {
        if let Some(out) = &mut self.0 {
            // Back to the start of the line, and everything behind the cursor away (ECMA-48, EL).
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
