//! The boundary of a form, which the readers of servers find in different ways.

use memchr::memmem;
use thiserror::Error;

use super::super::media_type::{self, Parameter, ParameterError, Parameters};
use crate::denial::{Denial, Reason};

/// The maximum length of a boundary. RFC 2046 has 70, which some clients exceed and no reader holds
/// them to.
const BOUNDARY: usize = 128;

/// A content type whose boundary readers do not read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
enum BoundaryError {
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    #[error("it has no boundary")]
    Missing,
    #[error("it has two boundaries")]
    Repeated,
    #[error("a boundary is 1 to {BOUNDARY} letters, digits and characters of `'()+_,-./:=? `")]
    Characters,
    #[error("it has another charset than utf-8")]
    Charset,
    #[error("it has a parameter with `*`, `;` or a backslash")]
    Other,
    #[error("a parameter beside the boundary has `boundary` in it")]
    Elsewhere,
    #[error("it has a space before a `;` or at its end")]
    Padding,
}

/// Returns the boundary of a content type.
///
/// The alphabet is that of RFC 2046 section 5.1.1. Outside of quotes only characters of a token are
/// read, because Go's reader refuses the others. Other parameters are read over, as by every
/// reader, unless one of them finds a boundary in them.
pub(in crate::request::body) fn boundary_of(content_type: &str) -> Result<&str, Denial> {
    let (media, parameters) = media_type::split(content_type);
    if !media.eq_ignore_ascii_case("multipart/form-data") {
        return Err(Denial::new(
            Reason::UnsupportedMediaType,
            "the content type is not multipart/form-data with a boundary",
        )
        .with_message("send the body as `multipart/form-data`"));
    }
    // Older versions of cpp-httplib read up to the `;`, and include the space.
    let padded = |part: &str| part.ends_with([' ', '\t']);
    let found = match content_type.split(';').skip(1).any(padded) {
        true => Err(BoundaryError::Padding),
        false => read_boundary(parameters),
    };
    found.map_err(|error| {
        let error = format!("the content type of the form was refused: {error}");
        Denial::new(Reason::UnsupportedMediaType, error.clone()).with_message(error)
    })
}

fn read_boundary(parameters: Parameters<'_>) -> Result<&str, BoundaryError> {
    let mut found = None;
    let mentions = |text: &str| text.to_ascii_lowercase().contains("boundary");
    for parameter in parameters {
        let Parameter { name, value, .. } = parameter?;
        if name.eq_ignore_ascii_case("boundary") {
            if !is_boundary(value) {
                return Err(BoundaryError::Characters);
            }
            if found.replace(value).is_some() {
                return Err(BoundaryError::Repeated);
            }
        } else if mentions(name) || mentions(value) {
            // Older versions of cpp-httplib read the first `boundary=` of the whole header.
            return Err(BoundaryError::Elsewhere);
        } else if name.eq_ignore_ascii_case("charset") {
            // Starlette decodes every name and value with it.
            if !media_type::is_utf8(value) {
                return Err(BoundaryError::Charset);
            }
        } else if name.contains('*') || value.contains([';', '\\']) {
            return Err(BoundaryError::Other);
        }
    }
    found.ok_or(BoundaryError::Missing)
}

/// Whether a value has the alphabet of RFC 2046 section 5.1.1. A space at an end is padding to some
/// readers.
fn is_boundary(value: &str) -> bool {
    (1..=BOUNDARY).contains(&value.len())
        && !value.starts_with(' ')
        && !value.ends_with(' ')
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b))
}

/// Whether the end of a boundary with `=` occurs as a boundary of its own.
///
/// cpp-httplib splits the parameter at each `=` and takes what is after the last one, with the closing
/// quote, for the boundary. It searches the whole body for it, and would find other fields.
pub(super) fn end_occurs_in(bytes: &[u8], boundary: &str) -> bool {
    let Some((_, end)) = boundary.rsplit_once('=') else { return false };
    let occurs = |delimiter: String| memmem::find(bytes, delimiter.as_bytes()).is_some();
    occurs(format!("--{end}\"\r\n")) || (!end.is_empty() && occurs(format!("--{end}\r\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_have_the_alphabet_of_rfc_2046() {
        for (value, expected) in [
            ("multipart/form-data; boundary=x-_9", "x-_9"),
            ("Multipart/Form-Data;boundary=\"x-_9\"", "x-_9"),
            ("multipart/form-data ; Boundary=x-_9;", "x-_9"),
            (
                "multipart/form-data; boundary=dart-http-boundary-3k_Q.xT+0a",
                "dart-http-boundary-3k_Q.xT+0a",
            ),
            ("multipart/form-data; boundary=a'b", "a'b"),
            ("multipart/form-data; boundary=\"==='()+_,-./:=? b==\"", "==='()+_,-./:=? b=="),
            ("multipart/form-data; boundary=a; charset=UTF-8", "a"),
            ("multipart/form-data; charset=\"utf-8\"; boundary=\"a=\"; type=\"x/y\"", "a="),
        ] {
            assert_eq!(boundary_of(value).unwrap(), expected, "{value}");
        }
        let long = format!("multipart/form-data; boundary={}", "b".repeat(BOUNDARY + 1));
        for (value, message) in [
            ("multipart/form-data", "no boundary"),
            ("multipart/form-data; charset=utf-8", "no boundary"),
            ("multipart/form-data; boundary=", "need quotes"),
            ("multipart/form-data; boundary=\"\"", "1 to 128"),
            ("multipart/form-data; boundary=\"a", "quoted value"),
            ("multipart/form-data; boundary=a b", "need quotes"),
            ("multipart/form-data; boundary=a=b", "need quotes"),
            ("multipart/form-data; boundary=a, b", "need quotes"),
            ("multipart/form-data; boundary=\"a b \"", "1 to 128"),
            ("multipart/form-data; boundary=\"a;b\"", "1 to 128"),
            ("multipart/form-data; boundary=a%b", "1 to 128"),
            ("multipart/form-data; boundary=a; boundary=b", "two boundaries"),
            ("multipart/form-data; boundary=a; charset=utf-16", "another charset"),
            ("multipart/form-data; boundary=a; x=\"b;boundary=c\"", "has `boundary` in it"),
            ("multipart/form-data; xboundary=c; boundary=b", "has `boundary` in it"),
            ("multipart/form-data; x=\"boundary=c\"; boundary=b", "has `boundary` in it"),
            ("multipart/form-data; Boundary=b; xBOUNDARY=c", "has `boundary` in it"),
            ("multipart/form-data; boundary=\"b\" ; x=y", "a space before"),
            ("multipart/form-data; boundary=b ;", "a space before"),
            ("multipart/form-data; boundary*=utf-8''a", "has `boundary` in it"),
            ("multipart/form-data; boundary=a; flag", "name=value"),
            ("multipart/mixed; boundary=a", "send the body as"),
            ("application/x-www-form-urlencoded", "send the body as"),
            ("application/json", "send the body as"),
            (&long, "1 to 128"),
        ] {
            let denial = boundary_of(value).unwrap_err();
            assert_eq!(denial.reason, Reason::UnsupportedMediaType, "{value}");
            let text = denial.message.unwrap_or_default();
            assert!(text.contains(message), "{value}: {text}");
        }
    }
}
