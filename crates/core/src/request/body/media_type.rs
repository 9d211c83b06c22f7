//! Media types and their parameters: those of a request (RFC 9110 section 8.3.1) and of the parts of a form.

use thiserror::Error;

/// A parameter: `charset=utf-8`, or `boundary="a=b"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameter<'a> {
    /// The name as written.
    pub(super) name: &'a str,
    /// The value without its quotes.
    pub(super) value: &'a str,
    /// Whether the value is in quotes.
    pub(super) quoted: bool,
}

/// A parameter that readers do not read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum ParameterError {
    #[error("what follows a `;` is not a parameter of the form `name=value`")]
    Syntax,
    #[error("the value of a parameter is empty, or has characters that need quotes around it")]
    NeedsQuotes,
    #[error("a quoted value has no end, or a backslash before its end")]
    Quotes,
    #[error("a quoted value is followed by something else than `;`")]
    AfterQuotes,
    #[error("it has a tab, where readers take only a space")]
    Tab,
}

/// The parameters after a media type: `; charset=utf-8`. A `;` at the end is ignored, as by every reader.
#[derive(Clone, Debug)]
pub(super) struct Parameters<'a>(&'a str);

/// Splits a content type into its media type and its parameters.
pub(super) fn split(text: &str) -> (&str, Parameters<'_>) {
    let at = memchr::memchr(b';', text.as_bytes()).unwrap_or(text.len());
    let (media, rest) = text.split_at_checked(at).unwrap_or((text, ""));
    (media.trim_matches(' '), Parameters(rest))
}

impl<'a> Parameters<'a> {
    /// Reads one parameter from the text after its `;`.
    fn parameter(&mut self, text: &'a str) -> Result<Parameter<'a>, ParameterError> {
        let (name, rest) = token(text);
        let rest =
            rest.strip_prefix('=').filter(|_| !name.is_empty()).ok_or(ParameterError::Syntax)?;
        let (value, quoted, rest) = if let Some(rest) = rest.strip_prefix('"') {
            let (value, rest) = split_once(rest, b'"').ok_or(ParameterError::Quotes)?;
            // Readers differ on what a backslash before the quote escapes.
            if value.ends_with('\\') {
                return Err(ParameterError::Quotes);
            }
            (value, true, rest)
        } else {
            let (value, rest) = token(rest);
            (value, false, rest)
        };
        self.0 = rest;
        let ends = matches!(after_spaces(rest).as_bytes().first(), None | Some(b';'));
        match (ends && (quoted || !value.is_empty()), quoted) {
            (true, _) => Ok(Parameter { name, value, quoted }),
            _ if after_spaces(rest).starts_with('\t') => Err(ParameterError::Tab),
            (false, true) => Err(ParameterError::AfterQuotes),
            (false, false) => Err(ParameterError::NeedsQuotes),
        }
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = Result<Parameter<'a>, ParameterError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = after_spaces(self.0);
        if rest.is_empty() {
            return None;
        }
        let Some(rest) = rest.strip_prefix(';') else { return Some(Err(ParameterError::Syntax)) };
        let rest = after_spaces(rest);
        if rest.starts_with('\t') {
            return Some(Err(ParameterError::Tab));
        }
        self.0 = rest;
        (!rest.is_empty()).then(|| self.parameter(rest))
    }
}

/// Whether a charset is UTF-8, under its name or the one that many clients write.
pub(super) fn is_utf8(charset: &str) -> bool {
    charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8")
}

/// What follows the spaces at the beginning of a text.
fn after_spaces(text: &str) -> &str {
    let spaces = text.bytes().take_while(|byte| *byte == b' ').count();
    text.get(spaces..).unwrap_or_default()
}

/// What is before and after the first of these bytes, which must be ASCII. The searches of `str` take
/// longer for short texts (`cargo bench --bench body`, "form of short parameters of a type").
pub(super) fn split_once(text: &str, byte: u8) -> Option<(&str, &str)> {
    let at = memchr::memchr(byte, text.as_bytes())?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Splits a token (RFC 9110 section 5.6.2) off the beginning of a text.
fn token(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|byte| !is_token(byte)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// Whether a byte may be in a token.
#[inline]
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)).copied().unwrap_or(false)
}

/// The bytes that may be in a token.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static TOKEN: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        bytes[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut rest: &[u8] = b"!#$%&'*+-.^_`|~";
    while let [byte, more @ ..] = rest {
        bytes[*byte as usize] = true;
        rest = more;
    }
    bytes
};

#[cfg(test)]
mod tests {
    use super::*;

    /// A name, a value, and whether it is in quotes.
    type Read = (String, String, bool);

    fn read(text: &str) -> (String, Result<Vec<Read>, ParameterError>) {
        let (media, parameters) = split(text);
        let list = parameters
            .map(|found| found.map(|p| (p.name.to_owned(), p.value.to_owned(), p.quoted)))
            .collect();
        (media.to_owned(), list)
    }

    #[test]
    fn parameters_are_read_as_every_reader_reads_them() {
        for (text, expected) in [
            ("a/b", vec![]),
            ("a/b;", vec![]),
            ("a/b ; ", vec![]),
            ("a/b;x=1", vec![("x", "1", false)]),
            ("a/b ; x=1 ;y=\"2;=, \" ", vec![("x", "1", false), ("y", "2;=, ", true)]),
            ("a/b; x*=utf-8''1;", vec![("x*", "utf-8''1", false)]),
            ("a/b; x=\"\"", vec![("x", "", true)]),
            ("a/b; x=\"C:\\d\"", vec![("x", "C:\\d", true)]),
        ] {
            let expected: Vec<_> =
                expected.into_iter().map(|(n, v, q)| (n.to_owned(), v.to_owned(), q)).collect();
            assert_eq!(read(text), ("a/b".to_owned(), Ok(expected)), "{text}");
        }
    }

    #[test]
    fn what_a_reader_refuses_or_reads_otherwise_is_an_error() {
        use ParameterError::{AfterQuotes, NeedsQuotes, Quotes, Syntax, Tab};
        for (text, error) in [
            ("a/b; x", Syntax),
            ("a/b;; x=1", Syntax),
            ("a/b; x =1", Syntax),
            ("a/b; x= 1", NeedsQuotes),
            ("a/b; x=", NeedsQuotes),
            ("a/b; x=1 2", NeedsQuotes),
            ("a/b; x=1=2", NeedsQuotes),
            ("a/b; x=1, c/d", NeedsQuotes),
            ("a/b; =1", Syntax),
            ("a/b; x=\"1", Quotes),
            ("a/b; x=\"1\"2", AfterQuotes),
            ("a/b;\tx=1", Tab),
            ("a/b; \tx=1", Tab),
            ("a/b; x=1\t; y=2", Tab),
            ("a/b; x=\"1\"\t", Tab),
            ("a/b; x=\"1\\\"; y=\"2\"", Quotes),
        ] {
            assert_eq!(read(text).1, Err(error), "{text}");
        }
    }
}
