//! `multipart/form-data` (RFC 7578), read so that python-multipart, Go's mime/multipart and other
//! parsers find the same fields.
//!
//! The grammar is the one that client libraries generate: no preamble, no epilogue, CRLF, quoted
//! names. Files are skipped, never copied. Input that only lenient parsers accept is refused: bare
//! line feeds, unquoted or encoded names, folded headers, transfer encodings, nested multipart, a
//! boundary inside a part.

use std::borrow::Cow;

use memchr::memmem;
use thiserror::Error;

use super::{
    content::Kind,
    facts::{BodyFacts, ForbiddenCause, ForbiddenMember},
    field_plan::{FieldError, FieldPlan},
    json::integer,
    plan::cap_fields,
};
use crate::denial::{Denial, Reason};

/// The maximum number of parts of a form.
const PARTS: usize = 256;
/// The maximum length of the headers of one part, in bytes.
const HEADERS: usize = 4096;
/// The maximum length of the model's name, in bytes.
const VALUE: usize = 4096;

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
    #[error("its boundary occurs where no part starts or ends")]
    StrayBoundary,
    #[error("it has no end")]
    NoEnd,
    #[error("there is something after its end")]
    Epilogue,
    #[error("it has more than {PARTS} parts")]
    TooManyParts,
    #[error("the headers of a part do not conform to RFC 7578, or can be read in two ways")]
    Headers,
    #[error("`{0}` is repeated")]
    Repeated(String),
    #[error("a field differs from `{0}` only in case or space")]
    Variant(String),
    #[error("`{0}` is a file")]
    File(String),
    #[error("`{0}` is not text in UTF-8 of at most {VALUE} bytes")]
    NotText(String),
    #[error("`{0}` is not an integer from 0 to 2^53 - 1")]
    NotAnInteger(String),
}

impl FormError {
    /// Returns the field at fault.
    pub(super) fn param(&self) -> Option<&str> {
        match self {
            Self::Repeated(name)
            | Self::Variant(name)
            | Self::File(name)
            | Self::NotText(name)
            | Self::NotAnInteger(name) => Some(name),
            _ => None,
        }
    }
}

/// Returns the boundary of a content type.
///
/// Clients choose letters, digits, `-` and `_`. Parsers differ on quoting, case and spaces of other
/// characters.
pub(super) fn boundary(content_type: &str) -> Result<&str, Denial> {
    let unsupported = |cause| {
        Denial::new(Reason::UnsupportedMediaType, cause)
            .with_message("send the body as `multipart/form-data`")
    };
    let (media, parameter) = content_type.split_once(';').ok_or_else(|| {
        unsupported("the content type is not multipart/form-data with a boundary")
    })?;
    if !media.trim_end_matches(' ').eq_ignore_ascii_case("multipart/form-data") {
        return Err(unsupported("the content type is not multipart/form-data"));
    }
    let value = parameter
        .trim_matches(' ')
        .split_once('=')
        .filter(|(name, _)| name.eq_ignore_ascii_case("boundary"))
        .map(|(_, value)| {
            value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
        });
    match value {
        Some(value) if (1..=70).contains(&value.len()) && value.bytes().all(is_plain) => Ok(value),
        _ => Err(unsupported("the content type has no plain boundary, or another parameter")),
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Reads from a body what `plan` selects.
pub(super) fn read<'a>(
    bytes: &'a [u8],
    boundary: &str,
    plan: &FormPlan,
) -> Result<BodyFacts<'a>, FormError> {
    let delimiter = format!("--{boundary}");
    let mut rest = bytes.strip_prefix(delimiter.as_bytes()).ok_or(FormError::NoBoundary)?;
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let mut facts =
        BodyFacts { bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX), ..BodyFacts::default() };
    let mut parts = 0;
    // `rest` begins after a delimiter: it is the end, or a part up to the next delimiter.
    loop {
        if let Some(end) = rest.strip_prefix(b"--") {
            return if matches!(end, b"" | b"\r\n") { Ok(facts) } else { Err(FormError::Epilogue) };
        }
        let part = rest.strip_prefix(b"\r\n").ok_or(FormError::StrayBoundary)?;
        parts += 1;
        if parts > PARTS {
            return Err(FormError::TooManyParts);
        }
        let end = finder.find(part).ok_or(FormError::NoEnd)?;
        let (inside, after) = part.split_at_checked(end).ok_or(FormError::NoEnd)?;
        rest = after.get(delimiter.len()..).ok_or(FormError::NoEnd)?;
        let inside = inside.strip_suffix(b"\r\n").ok_or(FormError::StrayBoundary)?;
        field(inside, plan, &mut facts)?;
    }
}

fn field<'a>(part: &'a [u8], plan: &FormPlan, facts: &mut BodyFacts<'a>) -> Result<(), FormError> {
    let head = part.get(..part.len().min(HEADERS)).unwrap_or(part);
    let split = memmem::find(head, b"\r\n\r\n").ok_or(FormError::Headers)?;
    let (head, rest) = part.split_at_checked(split).ok_or(FormError::Headers)?;
    let value = rest.strip_prefix(b"\r\n\r\n").ok_or(FormError::Headers)?;
    let Headers { name, file, text } = headers(head)?;
    if let Some(fields) = &plan.fields {
        if file {
            facts.parts.add(Kind::File, 1);
        }
        listed(fields, name, value, text && !file, facts)?;
    }
    let variant = |wanted: &str| name != wanted && name.trim().eq_ignore_ascii_case(wanted);
    let listed = plan.only.iter().flatten().chain(&plan.forbidden).chain(&plan.model);
    let counted = plan.caps.then(cap_fields).into_iter().flatten();
    for wanted in
        listed.map(String::as_str).chain(["_charset_"]).chain(counted.map(|(_, name)| name))
    {
        if variant(wanted) {
            return Err(FormError::Variant(wanted.to_owned()));
        }
    }
    // RFC 7578 section 4.6: the field changes how all others are decoded.
    if name == "_charset_" {
        return Err(FormError::Headers);
    }
    if plan.caps && file {
        facts.parts.add(Kind::File, 1);
    }
    if plan.caps
        && let Some((cap, known)) = cap_fields().find(|(_, known)| *known == name)
    {
        // Servers differ on which of two fields they take.
        if facts.caps.iter().any(|number| number.name.as_ref() == known) {
            return Err(FormError::Repeated(name.to_owned()));
        }
        let number = Some(value)
            .filter(|_| text && !file)
            .and_then(|value| integer(std::str::from_utf8(value).ok()?));
        let value = number.ok_or_else(|| FormError::NotAnInteger(name.to_owned()))?;
        facts.cap(cap, &known.into(), value);
    }
    if plan.model.as_deref() == Some(name) {
        if facts.model.is_some() {
            return Err(FormError::Repeated(name.to_owned()));
        }
        if file {
            return Err(FormError::File(name.to_owned()));
        }
        let value = Some(value)
            .filter(|value| text && value.len() <= VALUE)
            .and_then(|value| std::str::from_utf8(value).ok());
        facts.model =
            Some(Cow::Borrowed(value.ok_or_else(|| FormError::NotText(name.to_owned()))?));
    } else if plan.forbidden.iter().any(|known| known == name)
        || plan.only.as_ref().is_some_and(|only| !only.iter().any(|known| known == name))
    {
        facts.forbid(|| ForbiddenMember::at(name, ForbiddenCause::Denied));
    }
    Ok(())
}

/// Reads a field that tables describe. Text that is not UTF-8, or not said to be, is what a file is: bytes.
fn listed<'a>(
    fields: &FieldPlan,
    name: &str,
    value: &'a [u8],
    text: bool,
    facts: &mut BodyFacts<'a>,
) -> Result<(), FormError> {
    let value = Some(value).filter(|_| text).and_then(|value| std::str::from_utf8(value).ok());
    fields.read(name, value, facts).map_err(|error| match error {
        FieldError::NotAnInteger => FormError::NotAnInteger(name.to_owned()),
        FieldError::Repeated => FormError::Repeated(name.to_owned()),
        FieldError::Variant => FormError::Variant(name.to_owned()),
    })
}

struct Headers<'a> {
    name: &'a str,
    file: bool,
    /// Whether the part is plain text in UTF-8, according to its headers.
    text: bool,
}

fn headers(head: &[u8]) -> Result<Headers<'_>, FormError> {
    let head = std::str::from_utf8(head).map_err(|_| FormError::Headers)?;
    let mut disposition = None;
    let mut content_type = None;
    for line in head.split("\r\n") {
        if line.chars().any(char::is_control) {
            return Err(FormError::Headers);
        }
        let (name, value) = line.split_once(':').ok_or(FormError::Headers)?;
        let value = value.trim_matches(' ');
        let slot = match name.to_ascii_lowercase().as_str() {
            "content-disposition" => &mut disposition,
            "content-type" => &mut content_type,
            "content-length" if value.bytes().all(|byte| byte.is_ascii_digit()) => continue,
            "content-transfer-encoding" if ["binary", "8bit", "7bit"].contains(&value) => continue,
            _ => return Err(FormError::Headers),
        };
        if slot.replace(value).is_some() {
            return Err(FormError::Headers);
        }
    }
    let (name, file) =
        parse_disposition(disposition.ok_or(FormError::Headers)?).ok_or(FormError::Headers)?;
    let content_type = content_type.unwrap_or("text/plain").to_ascii_lowercase();
    if content_type.starts_with("multipart/") || content_type.starts_with("message/") {
        return Err(FormError::Headers);
    }
    let text = matches!(
        content_type.as_str(),
        "text/plain"
            | "text/plain; charset=utf-8"
            | "text/plain;charset=utf-8"
            | "text/plain; charset=\"utf-8\""
    );
    Ok(Headers { name, file, text })
}

/// Reads `form-data; name="x"; filename="y"`: the name, and whether the part is a file.
fn parse_disposition(value: &str) -> Option<(&str, bool)> {
    let kind = value.get(.."form-data".len())?;
    let mut rest = value.get(kind.len()..).filter(|_| kind.eq_ignore_ascii_case("form-data"))?;
    let (mut name, mut file) = (None, None);
    while !rest.is_empty() {
        let (key, after) = rest
            .trim_start_matches(' ')
            .strip_prefix(';')?
            .trim_start_matches(' ')
            .split_once("=\"")?;
        let (text, after) = after.split_once('"')?;
        if text.contains('\\') {
            return None;
        }
        // Browsers write `"` as %22, and servers differ on decoding it, so a name must not contain
        // it.
        let slot = match key {
            "name" if !text.contains('%') => &mut name,
            "filename" => &mut file,
            _ => return None,
        };
        if slot.replace(text).is_some() {
            return None;
        }
        rest = after;
    }
    Some((name.filter(|name| !name.is_empty())?, file.is_some()))
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
    fn what_two_parsers_read_differently_is_refused() {
        let cases = [
            (format!("{MODEL}{MODEL}--b--"), "a repeated model: the first or the last"),
            (format!("{}--b--", part("name=\"model\"; filename=\"x\"", "m")), "a file for a model"),
            (format!("{}--b--", part("name=\"model\"; filename=\"\"", "m")), "an empty file name"),
            (format!("{}--b--", part("name=\"Model\"", "m")), "case"),
            (format!("{}--b--", part("name=\" model\"", "m")), "space"),
            (format!("{}--b--", part("name=model", "m")), "an unquoted name"),
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
            (format!("{}--b--", part("name=\"x\"; size=\"1\"", "m")), "an unknown parameter"),
            (format!("{}--b--", part("name=\"\"", "m")), "no name"),
            (format!("x\r\n{MODEL}--b--"), "a preamble"),
            (format!("\r\n{MODEL}--b--"), "an empty preamble"),
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
                MODEL.replacen("\r\n\r\n", "\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1)
                    + "--b--",
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
                    "\r\nContent-Type: text/plain; charset=utf-16\r\n\r\n",
                    1,
                ) + "--b--",
                "another charset",
            ),
            (MODEL.replacen("\r\n\r\n", "\r\nX: y\r\n\r\n", 1) + "--b--", "an unknown header"),
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
    fn boundaries_are_plain() {
        for value in [
            "multipart/form-data; boundary=x-_9",
            "Multipart/Form-Data;boundary=\"x-_9\"",
            "multipart/form-data; Boundary=x-_9",
        ] {
            assert_eq!(boundary(value).unwrap(), "x-_9", "{value}");
        }
        let long = format!("multipart/form-data; boundary={}", "b".repeat(71));
        for value in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"\"",
            "multipart/form-data; boundary=\"a",
            "multipart/form-data; boundary=a b",
            "multipart/form-data; boundary=a, b",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=a; charset=utf-8",
            "multipart/form-data; boundary*=utf-8''a",
            "multipart/form-data; boundary=a'b",
            "multipart/mixed; boundary=a",
            "application/x-www-form-urlencoded",
            "application/json",
            &long,
        ] {
            assert_eq!(
                boundary(value).unwrap_err().reason,
                Reason::UnsupportedMediaType,
                "{value}"
            );
        }
    }
}
