//! `multipart/form-data` (RFC 7578), read so that python-multipart, Go's mime/multipart and other
//! parsers find the same fields.
//!
//! The grammar is the one that client libraries generate: no preamble, no epilogue, CRLF. Files are
//! skipped, never copied. Input that readers refuse or read otherwise is refused with its cause:
//! bare line feeds, encoded names, folded headers, transfer encodings, nested multipart, a boundary
//! inside a part, a `filename*` alone. The readers that were compared are python-multipart with
//! Starlette, Go's mime/multipart and cpp-httplib.

mod boundary;

use std::{borrow::Cow, sync::LazyLock};

use memchr::memmem;
use thiserror::Error;

pub(super) use self::boundary::boundary_of;
use self::boundary::end_occurs_in;
use super::{
    content::Kind,
    facts::{BodyFacts, ForbiddenCause, ForbiddenMember},
    field_plan::{FieldError, FieldPlan},
    json::integer,
    media_type::{self, Parameter, ParameterError, is_token, split_once},
    names::{Found, Names},
    plan::{Cap, cap_fields},
    steps,
};

/// The maximum number of parts of a form.
const PARTS: usize = 256;
/// The maximum length of the headers of one part, in bytes.
const HEADERS: usize = 4096;
/// The maximum number of the headers of one part, and of the parameters of one header. Clients send three
/// headers, and two parameters.
const LINES: usize = 16;
const PARAMETERS: usize = 16;
/// The maximum length of the model's name, in bytes.
const VALUE: usize = 4096;

/// The end of the headers of a part.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// The field that changes how all others are decoded (RFC 7578 section 4.6).
const CHARSET: &str = "_charset_";

/// A field with the number that it contains, or [`CHARSET`].
type KnownField = (Option<Cap>, &'static str);

/// The fields of numbers that limit what a request costs, and [`CHARSET`]. Each part of a form is looked
/// up (`cargo bench --bench body`, "form of small parts").
static KNOWN: LazyLock<(Names, Vec<KnownField>)> = LazyLock::new(|| {
    let fields: Vec<_> =
        cap_fields().map(|(cap, name)| (Some(cap), name)).chain([(None, CHARSET)]).collect();
    let mut names = Names::default();
    fields.iter().enumerate().for_each(|(index, (_, name))| names.set(*name, index));
    (names, fields)
});

/// The known field with this name in any case.
fn known_field(name: &str) -> Option<KnownField> {
    let (names, fields) = &*KNOWN;
    let index = match names.look_up(name) {
        Found::Place(index) => Some(index),
        Found::Variant(known) if known.eq_ignore_ascii_case(name) => names.get(known),
        Found::Variant(_) | Found::None => None,
    };
    fields.get(index?).copied()
}

/// The plan for reading a form.
#[derive(Clone, Debug, Default)]
pub struct FormPlan {
    /// The name of the field with the model.
    pub model: Option<String>,
    /// Fields that are forbidden.
    pub forbidden: Vec<String>,
    /// The only fields that are allowed.
    pub only: Option<Vec<String>>,
    /// Whether numbers that limit the cost of a request are recorded, and files counted.
    pub caps: bool,
    /// What tables say of the fields, in place of the above but for the model.
    pub fields: Option<FieldPlan>,
}

/// A form that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum FormError {
    #[error("it does not start with its boundary")]
    NoBoundary,
    #[error("the end of its boundary occurs as a boundary of its own")]
    PartOfBoundary,
    #[error("its boundary occurs where no part starts or ends")]
    StrayBoundary,
    #[error("it has no end")]
    NoEnd,
    #[error("there is something after its end")]
    Epilogue,
    #[error("it has more than {PARTS} parts")]
    TooManyParts,
    #[error(transparent)]
    Headers(#[from] HeadersError),
    #[error("`{0}` is repeated")]
    Repeated(String),
    #[error("a field differs from `{0}` only in case or space")]
    Variant(String),
    #[error("`{0}` is a file")]
    File(String),
    #[error("`{0}` is not text in UTF-8")]
    NotText(String),
    #[error("`{0}` is longer than {VALUE} bytes")]
    TooLong(String),
    #[error("`{0}` is not an integer from 0 to 2^53 - 1")]
    NotAnInteger(String),
}

/// Headers of a part that readers do not read alike, or that a reader refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum HeadersError {
    #[error("the headers of a part have no end within {HEADERS} bytes")]
    NoEnd,
    #[error("a part has more than {LINES} headers")]
    TooManyLines,
    #[error("a header of a part has more than {PARAMETERS} parameters")]
    TooManyParameters,
    #[error("a header of a part has a control character, or is not UTF-8")]
    Control,
    #[error("a line among the headers of a part is not a header")]
    Line,
    #[error("a header of a part is repeated")]
    Repeated,
    #[error("a part has no `Content-Disposition: form-data;` with a name")]
    Disposition,
    #[error("in the `Content-Disposition` of a part, {0}")]
    Parameter(#[from] ParameterError),
    #[error("the `Content-Disposition` of a part has a parameter that is unknown or repeated")]
    OtherParameter,
    #[error("the name of a field has one of the characters `%`, `;`, `=`, `\\` and `'`")]
    Name,
    #[error("a file has an empty name, which some servers take for a field")]
    EmptyFileName,
    #[error("a file name with a `;` comes before the name of the field")]
    FileNameFirst,
    #[error("a part has `filename*` but no `filename`, so that some servers take it for a field")]
    OnlyExtended,
    #[error("the `filename*` of a part is not `utf-8''` with a percent-encoded name")]
    Extended,
    #[error("a part is multipart itself, or a message")]
    Nested,
    #[error("a part has a transfer encoding, which not every server decodes")]
    Encoded,
    #[error("the field `_charset_` changes how all others are decoded")]
    Charset,
}

impl FormError {
    /// Returns the field at fault.
    pub(super) fn param(&self) -> Option<&str> {
        match self {
            Self::Repeated(name)
            | Self::Variant(name)
            | Self::File(name)
            | Self::NotText(name)
            | Self::TooLong(name)
            | Self::NotAnInteger(name) => Some(name),
            _ => None,
        }
    }
}

/// Reads from a body what `plan` selects.
pub(super) fn read<'a>(
    bytes: &'a [u8],
    boundary: &str,
    plan: &FormPlan,
) -> Result<BodyFacts<'a>, FormError> {
    if end_occurs_in(bytes, boundary) {
        return Err(FormError::PartOfBoundary);
    }
    let delimiter = format!("--{boundary}");
    let start = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let mut rest = start.strip_prefix(delimiter.as_bytes()).ok_or(FormError::NoBoundary)?;
    // Built once: a part may be shorter than the building of a finder takes.
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let head_end = memmem::Finder::new(HEAD_END);
    let mut facts =
        BodyFacts { bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX), ..BodyFacts::default() };
    let mut parts = 0;
    // `rest` begins after a delimiter: it is the end, or a part up to the next delimiter.
    loop {
        if let Some(end) = rest.strip_prefix(b"--") {
            return if end.iter().all(|b| b"\r\n".contains(b)) {
                Ok(facts)
            } else {
                Err(FormError::Epilogue)
            };
        }
        let part = rest.strip_prefix(b"\r\n").ok_or(FormError::StrayBoundary)?;
        parts += 1;
        if parts > PARTS {
            return Err(FormError::TooManyParts);
        }
        let end = finder.find(part);
        steps::count(end.unwrap_or(part.len()) / 8 + 1);
        let end = end.ok_or(FormError::NoEnd)?;
        let (inside, after) = part.split_at_checked(end).ok_or(FormError::NoEnd)?;
        rest = after.get(delimiter.len()..).ok_or(FormError::NoEnd)?;
        let inside = inside.strip_suffix(b"\r\n").ok_or(FormError::StrayBoundary)?;
        field(inside, &head_end, plan, &mut facts)?;
    }
}

fn field<'a>(
    part: &'a [u8],
    head_end: &memmem::Finder<'_>,
    plan: &FormPlan,
    facts: &mut BodyFacts<'a>,
) -> Result<(), FormError> {
    let head = part.get(..part.len().min(HEADERS)).unwrap_or(part);
    steps::count(head.len() / 4);
    let split = head_end.find(head).ok_or(HeadersError::NoEnd)?;
    let (head, rest) = part.split_at_checked(split).ok_or(HeadersError::NoEnd)?;
    let value = rest.strip_prefix(HEAD_END).ok_or(HeadersError::NoEnd)?;
    let Headers { name, file, ascii } = headers(head)?;
    // A part without a file name is text to every server, whatever its content type.
    let text = if file { None } else { text(value, ascii) };
    if let Some(fields) = &plan.fields {
        if file {
            facts.parts.add(Kind::File, 1);
        } else if text.is_none() {
            return Err(FormError::NotText(name.to_owned()));
        }
        listed(fields, name, text, facts)?;
    }
    let trimmed = name.trim();
    let is_variant = |wanted: &str| trimmed.eq_ignore_ascii_case(wanted) && name != wanted;
    for wanted in plan.only.iter().flatten().chain(&plan.forbidden).chain(&plan.model) {
        steps::count(1);
        if is_variant(wanted) {
            return Err(FormError::Variant(wanted.to_owned()));
        }
    }
    let counted = match known_field(trimmed) {
        Some((Some(_), _)) if !plan.caps => None,
        Some((_, known)) if name != known => return Err(FormError::Variant(known.to_owned())),
        found => found,
    };
    if name == CHARSET {
        return Err(HeadersError::Charset.into());
    }
    if plan.caps && file {
        facts.parts.add(Kind::File, 1);
    }
    if let Some((Some(cap), known)) = counted {
        // Servers differ on which of two fields they take.
        if facts.caps.iter().any(|number| number.name.as_ref() == known) {
            return Err(FormError::Repeated(name.to_owned()));
        }
        let value =
            text.and_then(integer).ok_or_else(|| FormError::NotAnInteger(name.to_owned()))?;
        facts.cap(cap, &known.into(), value);
    }
    if plan.model.as_deref() == Some(name) {
        if facts.model.is_some() {
            return Err(FormError::Repeated(name.to_owned()));
        }
        if file {
            return Err(FormError::File(name.to_owned()));
        }
        let model = text.ok_or_else(|| FormError::NotText(name.to_owned()))?;
        if model.len() > VALUE {
            return Err(FormError::TooLong(name.to_owned()));
        }
        facts.model = Some(Cow::Borrowed(model));
    } else if plan.forbidden.iter().any(|known| known == name)
        || plan.only.as_ref().is_some_and(|only| !only.iter().any(|known| known == name))
    {
        facts.forbid(|| ForbiddenMember::at(name, ForbiddenCause::Denied));
    }
    Ok(())
}

/// Reads a field that tables describe; `None` for a file.
fn listed<'a>(
    fields: &FieldPlan,
    name: &str,
    value: Option<&'a str>,
    facts: &mut BodyFacts<'a>,
) -> Result<(), FormError> {
    fields.read(name, value, facts).map_err(|error| match error {
        FieldError::NotAnInteger => FormError::NotAnInteger(name.to_owned()),
        FieldError::Repeated => FormError::Repeated(name.to_owned()),
        FieldError::Variant => FormError::Variant(name.to_owned()),
    })
}

/// The text of a field, unless it is not UTF-8, or not ASCII although it has to be.
fn text(value: &[u8], ascii: bool) -> Option<&str> {
    steps::count(value.len() / 8);
    std::str::from_utf8(value).ok().filter(|text| !ascii || text.is_ascii())
}

struct Headers<'a> {
    name: &'a str,
    file: bool,
    /// Whether the part names another charset than UTF-8. Servers read it as UTF-8 all the same.
    ascii: bool,
}

/// Reads the headers of a part. Servers ignore all but three of them.
fn headers(head: &[u8]) -> Result<Headers<'_>, HeadersError> {
    let head = std::str::from_utf8(head).map_err(|_| HeadersError::Control)?;
    let mut disposition = None;
    let mut content_type = None;
    for (index, line) in lines(head).enumerate() {
        let line = line?;
        if index == LINES {
            return Err(HeadersError::TooManyLines);
        }
        if has_control(line) {
            return Err(HeadersError::Control);
        }
        let (name, value) = split_once(line, b':').ok_or(HeadersError::Line)?;
        let value = value.trim_matches(' ');
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let slot = if is("content-disposition") {
            &mut disposition
        } else if is("content-type") {
            &mut content_type
        } else if is("content-transfer-encoding") && !is_unencoded(value) {
            return Err(HeadersError::Encoded);
        } else if name.is_empty() || !name.bytes().all(is_token) {
            return Err(HeadersError::Line);
        } else {
            continue;
        };
        if slot.replace(value).is_some() {
            return Err(HeadersError::Repeated);
        }
    }
    let (name, file) = parse_disposition(disposition.ok_or(HeadersError::Disposition)?)?;
    let (media, parameters) = media_type::split(content_type.unwrap_or_default());
    if starts(media, "multipart/") || starts(media, "message/") {
        return Err(HeadersError::Nested);
    }
    let mut ascii = false;
    for (index, parameter) in parameters.enumerate() {
        if index == PARAMETERS {
            return Err(HeadersError::TooManyParameters);
        }
        let Ok(Parameter { name, value, .. }) = parameter else {
            ascii = true;
            break;
        };
        ascii |= starts(name, "charset") && !media_type::is_utf8(value);
    }
    Ok(Headers { name, file, ascii })
}

/// Whether a text begins with a prefix, in any case.
fn starts(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether a line has a control character: one of ASCII, or U+0080 to U+009F.
fn has_control(line: &str) -> bool {
    // Folds, because the compiler generates vector instructions for them.
    let bytes = line.as_bytes();
    let pairs = || bytes.iter().zip(bytes.iter().skip(1));
    bytes.iter().fold(false, |found, byte| found | byte.is_ascii_control())
        || pairs().fold(false, |found, (one, next)| found | (*one == 0xc2) & (*next < 0xa0))
}

/// The lines of the headers of a part. A carriage return alone is a control character.
fn lines(head: &str) -> impl Iterator<Item = Result<&str, HeadersError>> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let Some((line, next)) = split_once(text, b'\r') else { return Some(Ok(text)) };
        rest = next.strip_prefix('\n');
        Some(rest.map(|_| line).ok_or(HeadersError::Control))
    })
}

/// Whether a transfer encoding leaves the bytes as they are. Go's reader decodes
/// `quoted-printable`, and no reader decodes `base64`.
fn is_unencoded(encoding: &str) -> bool {
    ["binary", "8bit", "7bit"].iter().any(|known| encoding.eq_ignore_ascii_case(known))
}

/// Reads `form-data; name="x"; filename="y"`: the name, and whether the part is a file.
fn parse_disposition(value: &str) -> Result<(&str, bool), HeadersError> {
    let (kind, parameters) =
        value.split_at_checked("form-data".len()).ok_or(HeadersError::Disposition)?;
    // llama.cpp's reader takes no space before the `;`.
    if !kind.eq_ignore_ascii_case("form-data") || !parameters.starts_with(';') {
        return Err(HeadersError::Disposition);
    }
    let (_, parameters) = media_type::split(parameters);
    let (mut name, mut file, mut extended) = (None, None, None);
    for (index, parameter) in parameters.enumerate() {
        let Parameter { name: key, value, .. } = parameter?;
        if index == PARAMETERS {
            return Err(HeadersError::TooManyParameters);
        }
        let slot = match key {
            "name" => {
                // Browsers write `"` as %22, and servers differ on decoding it. llama.cpp's reader
                // splits at `;` and `=` within quotes.
                if value.bytes().any(|byte| b"%;=\\'".contains(&byte)) {
                    return Err(HeadersError::Name);
                }
                &mut name
            }
            "filename" if value.is_empty() => return Err(HeadersError::EmptyFileName),
            "filename" if value.contains(';') && name.is_none() => {
                return Err(HeadersError::FileNameFirst);
            }
            "filename" => &mut file,
            "filename*" if is_extended(value) => &mut extended,
            "filename*" => return Err(HeadersError::Extended),
            "size" | "creation-date" | "modification-date" | "read-date"
                if !value.contains([';', '\\']) =>
            {
                continue;
            }
            _ => return Err(HeadersError::OtherParameter),
        };
        if slot.replace(value).is_some() {
            return Err(HeadersError::OtherParameter);
        }
    }
    // RFC 7578 section 4.2 forbids `filename*`: one reader ignores it, others do not.
    if extended.is_some() && file.is_none() {
        return Err(HeadersError::OnlyExtended);
    }
    let name = name.filter(|name| !name.is_empty()).ok_or(HeadersError::Disposition)?;
    Ok((name, file.is_some()))
}

/// Whether a value is `utf-8''` with a name (RFC 8187), which no reader refuses or finds empty.
fn is_extended(value: &str) -> bool {
    let Some((charset, name)) = value.split_once("''") else { return false };
    let mut escapes = name.split('%');
    let plain =
        |text: &str| text.bytes().all(|byte| is_token(byte) && byte != b'\'' && byte != b'*');
    charset.eq_ignore_ascii_case("utf-8")
        && !name.is_empty()
        && escapes.next().is_some_and(plain)
        && escapes.all(|rest| {
            rest.split_at_checked(2).is_some_and(|(hex, rest)| {
                hex.bytes().all(|byte| byte.is_ascii_hexdigit()) && plain(rest)
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> FormPlan {
        FormPlan {
            model: Some("model".into()),
            forbidden: vec!["stream".into()],
            ..FormPlan::default()
        }
    }

    fn model(body: &str) -> Result<Option<String>, FormError> {
        read(body.as_bytes(), "b", &plan()).map(|facts| facts.model.map(Cow::into_owned))
    }

    fn part(disposition: &str, value: &str) -> String {
        format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{value}\r\n")
    }

    const MODEL: &str = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n";

    #[test]
    fn the_model_is_found_before_and_after_files() {
        let file = part("name=\"file\"; filename=\"a.wav\"", "RIFF\r\n\r\n-\n--c\r\n--\0\"");
        for body in [
            format!("{MODEL}--b--"),
            format!("{MODEL}{file}--b--\r\n"),
            format!("{file}{MODEL}--b--\r\n"),
            format!(
                "{file}--b\r\ncontent-disposition:form-data;name=\"model\"\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nm\r\n--b--\r\n"
            ),
        ] {
            assert_eq!(model(&body), Ok(Some("m".into())), "{body}");
        }
        assert_eq!(model(&format!("{file}--b--")), Ok(None));
        assert_eq!(model("--b--"), Ok(None));
        let empty = format!("{}--b--", part("name=\"model\"", ""));
        assert_eq!(
            model(&empty),
            Ok(Some(String::new())),
            "an empty model is the caller's to refuse"
        );
    }

    #[test]
    fn the_headers_of_a_part_and_their_parameters_are_few() {
        let read = |headers: usize, disposition: usize, of_type: usize| {
            let (lines, text) = ("a: b\r\n".repeat(headers), "; a=b".repeat(of_type));
            let sizes = "; size=1".repeat(disposition);
            model(&format!(
                "--b\r\n{lines}Content-Type: text/plain{text}\r\nContent-Disposition: form-data; \
                 name=\"model\"{sizes}\r\n\r\nm\r\n--b--"
            ))
        };
        assert_eq!(read(14, 15, 16), Ok(Some("m".into())));
        assert_eq!(read(15, 0, 0), Err(HeadersError::TooManyLines.into()));
        assert_eq!(read(0, 16, 0), Err(HeadersError::TooManyParameters.into()));
        assert_eq!(read(0, 0, 17), Err(HeadersError::TooManyParameters.into()));
    }

    #[test]
    fn what_two_parsers_read_differently_is_refused() {
        let cases = [
            (format!("{MODEL}{MODEL}--b--"), "a repeated model: the first or the last"),
            (format!("{}--b--", part("name=\"model\"; filename=\"x\"", "m")), "a file for a model"),
            (format!("{}--b--", part("name=\"model\"; filename=\"\"", "m")), "an empty file name"),
            (format!("{}--b--", part("name=\"x\"; filename=\"\"", "m")), "an empty file name"),
            (format!("{}--b--", part("name=\"Model\"", "m")), "case"),
            (format!("{}--b--", part("name=\" model\"", "m")), "space"),
            (format!("{}--b--", part("name=x[]", "m")), "an unquoted name with brackets"),
            (format!("{}--b--", part("name='model'", "m")), "single quotes"),
            (format!("{}--b--", part("name=\"x;y\"", "m")), "a semicolon in a name"),
            (format!("{}--b--", part("name=\"x=model\"", "m")), "an equals sign in a name"),
            (format!("{}--b--", part("name=\"model\"; x", "m")), "a parameter without a value"),
            (format!("{}--b--", part("Name=\"model\"", "m")), "a parameter in another case"),
            (format!("{}--b--", part("name=x; filename=a b", "m")), "an unquoted space"),
            (format!("{}--b--", part("name=x; filename*=utf-8''a", "m")), "filename* alone"),
            (
                format!("{}--b--", part("name=x; filename=a; filename*=utf-8''", "m")),
                "an empty filename*",
            ),
            (
                format!("{}--b--", part("name=x; filename=a; filename*=latin1''a", "m")),
                "another charset of filename*",
            ),
            (
                format!("{}--b--", part("name=x; filename=a; filename*=utf-8''%4", "m")),
                "half an escape",
            ),
            (format!("{}--b--", part("name=x; filename*0=a", "m")), "a continuation"),
            (
                format!("{}--b--", part("filename=\"a;name=model;b\"; name=\"x\"", "m")),
                "a name within the file name",
            ),
            (
                "--b\r\nContent-Disposition: form-data ; name=\"model\"\r\n\r\nm\r\n--b--"
                    .to_owned(),
                "a space that cpp-httplib does not take",
            ),
            (format!("{}--b--", part("name*=utf-8''model", "m")), "an encoded name"),
            (format!("{}--b--", part("name=\"x\"; name*=utf-8''model", "m")), "two names"),
            (format!("{}--b--", part("name=\"x\"; name=\"model\"", "m")), "two names"),
            (format!("{}--b--", part("name=\"x\\\"; name=\\\"model\"", "m")), "a backslash"),
            (
                format!("{}--b--", part("name=\"x\"; filename=\"\\\"; name=\"model\"", "m")),
                "a backslash in a file name",
            ),
            (format!("{}--b--", part("name=\"mod%65l\"", "m")), "percent-encoding"),
            (format!("{}--b--", part("name=\"_charset_\"", "utf-16")), "RFC 7578 section 4.6"),
            (format!("{}--b--", part("name=\"x\"; other=\"1\"", "m")), "an unknown parameter"),
            (format!("{}--b--", part("name=\"\"", "m")), "no name"),
            (format!("x\r\n{MODEL}--b--"), "a preamble"),
            (format!("\r\n\r\n{MODEL}--b--"), "more than an empty preamble"),
            (format!("{MODEL}--b--\r\nx"), "an epilogue"),
            (format!("{MODEL}--b--{MODEL}--b--"), "a second form"),
            (MODEL.to_owned(), "no end"),
            (format!("{MODEL}--b-"), "half an end"),
            (format!("{MODEL}--bx\r\n"), "a longer boundary"),
            (format!("{MODEL}--b \r\n--b--"), "padding behind the boundary"),
            (format!("{}--b--", MODEL.replace("\r\n", "\n")), "bare line feeds"),
            (
                format!(
                    "{}--b--",
                    part(
                        "name=\"x\"",
                        "a\n--b\nContent-Disposition: form-data; name=\"model\"\n\nm"
                    )
                ),
                "a boundary behind a line feed",
            ),
            (format!("{}--b--", part("name=\"x\"", "a--b")), "a boundary inside a part"),
            ("--b\r\n\r\nm\r\n--b--".to_owned(), "no headers"),
            ("--b\r\nContent-Type: text/plain\r\n\r\nm\r\n--b--".to_owned(), "no disposition"),
            (
                "--b\r\nContent-Disposition: attachment; name=\"model\"\r\n\r\nm\r\n--b--"
                    .to_owned(),
                "not form-data",
            ),
            (MODEL.replacen("\r\n\r\n", "\r\n name=\"x\"\r\n\r\n", 1) + "--b--", "a folded header"),
            (
                MODEL.replacen(
                    "\r\n\r\n",
                    "\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n",
                    1,
                ) + "--b--",
                "two dispositions",
            ),
            (
                MODEL.replacen(
                    "\r\n\r\n",
                    "\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
                    1,
                ) + "--b--",
                "a transfer encoding",
            ),
            (
                MODEL.replacen(
                    "\r\n\r\n",
                    "\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n",
                    1,
                ) + "--b--",
                "nested",
            ),
            (
                MODEL.replacen(
                    "\r\n\r\n",
                    "\r\nContent-Type: text/plain; charset=utf-16\r\n\r\n\u{e9}",
                    1,
                ) + "--b--",
                "another charset, and not ASCII",
            ),
            (MODEL.replacen("\r\n\r\n", "\r\nX : y\r\n\r\n", 1) + "--b--", "a space in a header"),
        ];
        for (body, why) in cases {
            assert!(model(&body).is_err(), "{why}: {body}");
        }
        assert!(
            read(
                b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n\xff\r\n--b--",
                "b",
                &plan()
            )
            .is_err()
        );
    }

    #[test]
    fn fields_outside_the_plan_are_recorded() {
        let facts = |body: &str, plan: &FormPlan| {
            let forbidden = read(body.as_bytes(), "b", plan).unwrap().forbidden;
            forbidden.map(|member| member.name)
        };
        let stream = format!("{MODEL}{}--b--", part("name=\"stream\"", "true"));
        assert_eq!(facts(&stream, &plan()), Some("stream".into()));
        assert_eq!(facts(&format!("{MODEL}--b--"), &plan()), None);
        let only = FormPlan { only: Some(vec!["model".into()]), ..FormPlan::default() };
        assert_eq!(facts(&stream, &only), Some("stream".into()));
        let many = format!("{}--b--", part("name=\"tags[]\"", "x").repeat(PARTS));
        assert!(read(many.as_bytes(), "b", &plan()).is_ok(), "other fields may repeat");
        let more = format!("{}--b--", part("name=\"tags[]\"", "x").repeat(PARTS + 1));
        assert!(matches!(read(more.as_bytes(), "b", &plan()), Err(FormError::TooManyParts)));
    }

    #[test]
    fn parts_are_read_as_client_libraries_write_them() {
        for (head, client) in [
            ("Content-Disposition: form-data; name=model", ".NET, a name of letters"),
            (
                "Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model",
                ".NET",
            ),
            ("Content-Disposition: form-data; name=\"model\";", "a trailing semicolon"),
            (
                "content-disposition: form-data; name=\"model\"\r\ncontent-type: application/json",
                "Spring",
            ),
            (
                "Content-Type: text/plain; charset=\"us-ascii\"\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 7bit\r\nContent-Disposition: form-data; name=\"model\"",
                "Python's email package",
            ),
            (
                "Content-Disposition: form-data; name=\"model\"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit",
                "Apache HttpClient",
            ),
            ("Content-Disposition: form-data; name=\"model\"\r\nContent-Length: 1", "OkHttp 3"),
            (
                "Content-Disposition: form-data; name=\"model\"\r\nContent-ID: <a>\r\nX-Trace: \"b",
                "others",
            ),
            ("Content-Disposition: form-data; name=\"model\"; size=1", "RFC 2183"),
        ] {
            let file = part("name=file; filename=talk.wav", "RIFF");
            let named = part(
                "name=\"a\"; filename=\"C:\\d\\x;y=z.wav\"; filename*=utf-8''%C3%A9.wav",
                "RIFF",
            );
            for body in [
                format!("--b\r\n{head}\r\n\r\nm\r\n{file}{named}--b--\r\n\r\n"),
                format!("\r\n{named}{file}--b\r\n{head}\r\n\r\nm\r\n--b--"),
            ] {
                assert_eq!(model(&body), Ok(Some("m".into())), "{client}: {body}");
            }
        }
    }

    #[test]
    fn the_end_of_a_boundary_is_no_boundary() {
        for (boundary, other) in [
            ("a=b", "b\""),
            ("a=b", "b"),
            ("===============5083274918475610023==", "\""),
            ("----=_Part_7_1024.1767225600", "_Part_7_1024.1767225600\""),
        ] {
            let part = |delimiter: &str, name: &str, value: &str| {
                format!(
                    "--{delimiter}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
                )
            };
            let hidden = part(other, "model", "large");
            let form = |file: &str| {
                let parts = part(boundary, "model", "small") + &part(boundary, "x", file);
                format!("{parts}--{boundary}--\r\n")
            };
            let plan = FormPlan { model: Some("model".into()), ..FormPlan::default() };
            let read = |text: String| read(text.as_bytes(), boundary, &plan).err();
            assert_eq!(read(form("y")), None, "{boundary}");
            assert_eq!(read(form(&hidden)), Some(FormError::PartOfBoundary), "{boundary}");
        }
    }
}
