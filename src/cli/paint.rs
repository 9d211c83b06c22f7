//! Colours for output on a terminal.

use std::{
    env,
    ffi::OsString,
    fmt::{self, Display},
    io::{self, IsTerminal as _},
};

/// Whether to colour. Not without a terminal, with `NO_COLOR` set (no-color.org), or with
/// `TERM=dumb`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint(bool);

impl Paint {
    /// Detects whether standard output takes colours.
    #[must_use]
    pub fn stdout() -> Self {
        Self::detect(io::stdout().is_terminal(), |name| env::var_os(name))
    }

    /// Detects whether standard error takes colours.
    #[must_use]
    pub fn stderr() -> Self {
        Self::detect(io::stderr().is_terminal(), |name| env::var_os(name))
    }

    fn detect(terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = variable("TERM").is_some_and(|value| value == "dumb");
        Self(terminal && !refused && !dumb)
    }

    /// Marks a good result.
    pub(super) fn good<T: Display>(self, text: T) -> Painted<T> {
        self.with("32", text)
    }

    /// Marks a bad result.
    pub(super) fn bad<T: Display>(self, text: T) -> Painted<T> {
        self.with("1;31", text)
    }

    /// Marks a result that needs attention.
    pub(super) fn warn<T: Display>(self, text: T) -> Painted<T> {
        self.with("33", text)
    }

    /// Marks a secondary text.
    pub(super) fn dim<T: Display>(self, text: T) -> Painted<T> {
        self.with("2", text)
    }

    fn with<T: Display>(self, style: &'static str, text: T) -> Painted<T> {
        Painted { style: self.0.then_some(style), text }
    }
}

/// A text in its colour. Widths count the text alone.
pub(super) struct Painted<T> {
    /// The parameters of the SGR sequence (ECMA-48).
    style: Option<&'static str>,
    text: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(style) = self.style else { return self.text.fmt(f) };
        write!(f, "\x1b[{style}m")?;
        self.text.fmt(f)?;
        f.write_str("\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(terminal: bool, variables: &[(&str, &str)]) -> Paint {
        Paint::detect(terminal, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn only_a_terminal_that_wants_it_is_coloured() {
        assert_eq!(detect(true, &[("TERM", "xterm")]), Paint(true));
        assert_eq!(
            detect(true, &[("NO_COLOR", "")]),
            Paint(true),
            "an empty NO_COLOR says nothing"
        );
        assert_eq!(detect(true, &[("NO_COLOR", "1")]), Paint(false));
        assert_eq!(detect(true, &[("TERM", "dumb")]), Paint(false));
        assert_eq!(detect(false, &[("TERM", "xterm")]), Paint(false));
    }

    #[test]
    fn a_colour_does_not_move_what_stands_behind_it() {
        assert_eq!(format!("{:<5}|", Paint(true).good("ok")), "\u{1b}[32mok   \u{1b}[0m|");
        assert_eq!(format!("{:<5}|", Paint(false).good("ok")), "ok   |");
    }
}
