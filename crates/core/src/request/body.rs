//! The body, read only where a rule needs it, and only if all servers read it alike.

mod content;
mod distinct;
mod facts;
mod field_plan;
mod form;
mod json;
mod json_error;
mod media_type;
mod member_plan;
pub mod members;
mod names;
mod outline;
mod plan;
mod print;
mod scan;
mod seen_keys;
#[cfg(any(test, fuzzing))]
pub mod steps;
#[cfg(not(any(test, fuzzing)))]
mod steps;

pub use self::{
    content::Parts,
    facts::{BodyFacts, CappedNumber, ForbiddenCause, ForbiddenMember, Message, PromptText},
    field_plan::FieldPlan,
    form::FormPlan,
    member_plan::{Opened, Wanted},
    outline::{Background, Outline},
    plan::{Cap, Plan, PlanError, Pointer, PointerError, bounds_answer, cap_names},
};
use self::{field_plan::FieldError, media_type::Parameter};
use super::{Headers, headers::KnownHeader, path::RequestPath};
use crate::denial::{Denial, Reason, malformed, shown};

/// Reads the outline of a document, for tests.
#[cfg(test)]
pub(crate) fn outline_of(bytes: &[u8]) -> Outline<'_> {
    outline::read(bytes).unwrap()
}

/// The largest number of parameters in a query.
const PARAMETERS: usize = 64;

/// The body as the front-end received it.
#[derive(Clone, Copy, Debug)]
pub enum RawBody<'a> {
    /// No body arrived: there is none, or the proxy is not configured to send it.
    None,
    /// No body can arrive: the proxy does not send bodies over this protocol.
    Unavailable,
    /// The complete body.
    Whole(&'a [u8]),
    /// A part of the body, which the proxy truncated at its limit.
    Partial,
}

/// A body with the headers that describe it.
#[derive(Debug)]
pub struct Body<'a> {
    raw: RawBody<'a>,
    media_type: Option<&'a [u8]>,
    encoding: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    chunked: bool,
}

impl<'a> Body<'a> {
    /// Creates the body of a request whose `headers` are checked: except for Envoy's own, none of
    /// the headers read here is repeated.
    pub fn new(raw: RawBody<'a>, headers: &Headers<'a>) -> Self {
        Self {
            raw: if headers.is_only(KnownHeader::PartialBody, b"false") {
                raw
            } else {
                RawBody::Partial
            },
            media_type: headers.first(KnownHeader::ContentType),
            encoding: headers.first(KnownHeader::ContentEncoding),
            length: headers.first(KnownHeader::ContentLength),
            chunked: headers.first(KnownHeader::TransferEncoding).is_some(),
        }
    }

    /// Reads from a JSON body what `plan` selects.
    ///
    /// # Errors
    /// `unsupported_media_type` for anything but JSON in UTF-8, `body_too_large` for a truncated
    /// body, `body_unavailable` if the proxy did not send it, `malformed_request` for JSON that two
    /// readers could read differently.
    pub fn json(&self, plan: &Plan) -> Result<BodyFacts<'a>, Denial> {
        self.is_json()?;
        json::read(self.bytes()?, plan).map_err(|error| refused(&error.to_string(), error.param()))
    }

    /// Reads the outline of a JSON body, for metering.
    ///
    /// # Errors
    /// As for [`Body::json`].
    pub fn outline(&self) -> Result<Outline<'a>, Denial> {
        self.is_json()?;
        outline::read(self.bytes()?).map_err(|error| refused(&error.to_string(), error.param()))
    }

    /// Reads the JSON at the beginning of a body: the first `length` bytes, or the whole body where `length` is left
    /// out. Tensors follow it, and the content type is ignored.
    ///
    /// # Errors
    /// As for [`Body::json`]; a length that is no number of bytes of the body.
    pub fn json_prefix(&self, length: Option<&[u8]>, plan: &Plan) -> Result<BodyFacts<'a>, Denial> {
        self.is_plain()?;
        let bytes = self.bytes()?;
        let prefix = match length {
            None => bytes,
            Some(text) => number(text).and_then(|length| bytes.get(..length)).ok_or_else(|| {
                malformed("the length of the JSON is no number of bytes of the body")
            })?,
        };
        let mut facts = if prefix.is_empty() && length.is_some() {
            BodyFacts { prompts: 1, ..BodyFacts::default() }
        } else {
            json::read(prefix, plan).map_err(|error| refused(&error.to_string(), error.param()))?
        };
        facts.bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        facts.prompt_text.opaque |= prefix.len() < bytes.len();
        Ok(facts)
    }

    /// Records the parameters of a query that a table describes; without a table, every parameter is forbidden.
    ///
    /// # Errors
    /// `malformed_request` for a parameter that is repeated, or a number that is none.
    pub fn query(
        path: &RequestPath<'_>,
        plan: Option<&FieldPlan>,
        facts: &mut BodyFacts<'a>,
    ) -> Result<(), Denial> {
        let mut seen: Vec<String> = Vec::new();
        for pair in path.query_pairs() {
            let (name, value) = pair?;
            if seen.contains(&name) && !name.ends_with("[]") {
                return Err(malformed("a query parameter is repeated"));
            }
            match plan {
                Some(plan) => {
                    let mut own = BodyFacts::default();
                    plan.read(&name, Some(&value), &mut own).map_err(|error| {
                        malformed(match error {
                            FieldError::NotAnInteger => {
                                "a query parameter that counts is no number"
                            }
                            FieldError::Repeated | FieldError::Variant => {
                                "a query parameter can be read in two ways"
                            }
                        })
                        .with_param(name.clone())
                    })?;
                    facts.merge_parameter(own);
                }
                None => facts.forbid(|| {
                    let shown: String = name.chars().take(64).collect();
                    ForbiddenMember::at(format!("?{shown}"), ForbiddenCause::Unlisted)
                }),
            }
            seen.push(name);
            if seen.len() > PARAMETERS {
                return Err(malformed("the query has more than 64 parameters"));
            }
        }
        Ok(())
    }

    /// Reads from a `multipart/form-data` body (RFC 7578) what `plan` selects.
    ///
    /// # Errors
    /// As for [`Body::json`].
    pub fn form(&self, plan: &FormPlan) -> Result<BodyFacts<'a>, Denial> {
        let boundary = form::boundary_of(self.content_type()?)?;
        form::read(self.bytes()?, boundary, plan)
            .map_err(|error| refused(&error.to_string(), error.param()))
    }

    /// Returns the length of the body, regardless of its type.
    ///
    /// # Errors
    /// `body_too_large` and `body_unavailable` as for [`Body::json`].
    pub fn length(&self) -> Result<u64, Denial> {
        Ok(u64::try_from(self.bytes()?.len()).unwrap_or(u64::MAX))
    }

    fn is_plain(&self) -> Result<(), Denial> {
        if self.encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
            return Err(unsupported("the body has a content encoding"));
        }
        Ok(())
    }

    /// The one content type of a body that is not encoded.
    fn content_type(&self) -> Result<&'a str, Denial> {
        self.is_plain()?;
        let Some(value) = self.media_type else {
            return Err(unsupported("the body has no content type"));
        };
        std::str::from_utf8(value).map_err(|_| unsupported("the content type is not text"))
    }

    fn is_json(&self) -> Result<(), Denial> {
        let text = self.content_type()?;
        let (media, parameters) = media_type::split(text);
        if !media.eq_ignore_ascii_case("application/json") {
            return Err(unsupported("the content type is not application/json"));
        }
        for parameter in parameters {
            let Parameter { name, value, .. } = parameter.map_err(|error| {
                Denial::new(
                    Reason::UnsupportedMediaType,
                    format!("the content type cannot be read: {error}"),
                )
            })?;
            // Servers ignore other parameters, and detect the encoding of JSON by themselves.
            if name.to_ascii_lowercase().starts_with("charset") && !is_charset_utf8(name, value) {
                return Err(unsupported("the content type has another charset than utf-8"));
            }
        }
        Ok(())
    }

    fn bytes(&self) -> Result<&'a [u8], Denial> {
        let length = match self.length {
            None => None,
            Some(text) => match number(text) {
                Some(length) => Some(length),
                None => return Err(malformed("the content length is not a number")),
            },
        };
        match self.raw {
            RawBody::Partial => {
                Err(Denial::new(Reason::BodyTooLarge, "the proxy cut the body at its limit"))
            }
            RawBody::Unavailable => Err(Denial::new(
                Reason::BodyUnavailable,
                "the check came without the body, which the route needs",
            )),
            RawBody::Whole(bytes) => match length {
                Some(length) if length > bytes.len() => Err(Denial::new(
                    Reason::BodyTooLarge,
                    "the body is shorter than its content length: the proxy cut it",
                )),
                Some(length) if length < bytes.len() => {
                    Err(malformed("the body is longer than its content length"))
                }
                _ => Ok(bytes),
            },
            RawBody::None if self.chunked || length.is_some_and(|length| length > 0) => {
                Err(Denial::new(
                    Reason::BodyUnavailable,
                    "the proxy did not send the body; set `with_request_body` in its ext_authz filter",
                ))
            }
            RawBody::None => Ok(b""),
        }
    }
}

/// Whether a parameter is `charset`, and names UTF-8.
fn is_charset_utf8(name: &str, value: &str) -> bool {
    name.eq_ignore_ascii_case("charset") && media_type::is_utf8(value)
}

/// A number of bytes in a header: digits only.
fn number(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn unsupported(cause: &'static str) -> Denial {
    Denial::new(Reason::UnsupportedMediaType, cause)
}

/// Creates a `malformed_request` for a body that names the member at fault, if there is one.
fn refused(error: &str, param: Option<&str>) -> Denial {
    let cause = match param {
        Some(param) if !error.contains(param) => format!("{error}, at `{}`", shown(param)),
        _ => error.to_owned(),
    };
    let denial = Denial::new(Reason::MalformedRequest, cause)
        .with_message(format!("the body was refused: {error}"));
    match param {
        Some(param) => denial.with_param(param),
        None => denial,
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn ask<'a>(headers: &[(&'a str, &'a str)], raw: RawBody<'a>) -> Result<Cow<'a, str>, Reason> {
        let mut list = Headers::default();
        for (name, value) in headers {
            list.push(name, value.as_bytes());
        }
        let mut plan = Plan::default();
        plan.model(&"/model".parse().unwrap()).unwrap();
        let facts = Body::new(raw, &list).json(&plan).map_err(|denial| denial.reason)?;
        facts.model.ok_or(Reason::ModelMissing)
    }

    #[test]
    fn only_plain_json_is_read() {
        let body = RawBody::Whole(br#"{"model":"m"}"#);
        for content_type in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/json; charset=utf8",
            "application/json;",
            "application/json; ",
            "application/json; charset=utf-8;",
            "application/json; odata.metadata=minimal; IEEE754Compatible=true",
            "application/json; profile=\"https://example.com/a;b\"; version=1",
        ] {
            assert_eq!(
                ask(&[("content-type", content_type)], body).as_deref(),
                Ok("m"),
                "{content_type}"
            );
        }
        for content_type in [
            "",
            "text/plain",
            "application/jsonx",
            "application/json; charset=utf-16",
            "application/json; x",
            "application/json;; charset=utf-8",
            "application/json; charset*=utf-8''utf-16",
            "application/json; charset=\"utf-8",
            "application/json; v=1; charset=utf-16",
            "application/json; charset=utf-8, text/plain",
            "multipart/form-data; boundary=x",
            "application/json, text/plain",
        ] {
            assert_eq!(
                ask(&[("content-type", content_type)], body),
                Err(Reason::UnsupportedMediaType),
                "{content_type}"
            );
        }
        assert_eq!(ask(&[], body), Err(Reason::UnsupportedMediaType));
        for encoding in ["gzip", "identity, gzip", "zstd", ""] {
            assert_eq!(
                ask(&[("content-type", "application/json"), ("content-encoding", encoding)], body),
                Err(Reason::UnsupportedMediaType),
                "{encoding}"
            );
        }
        assert!(
            ask(&[("content-type", "application/json"), ("content-encoding", "identity")], body)
                .is_ok()
        );
    }

    #[test]
    fn a_truncated_or_absent_body_is_never_taken_for_a_complete_one() {
        let json = ("content-type", "application/json");
        let body = br#"{"model":"m"}"#;
        assert_eq!(
            ask(&[json, ("content-length", "13")], RawBody::Whole(body)).as_deref(),
            Ok("m")
        );
        assert_eq!(
            ask(&[json, ("content-length", "14")], RawBody::Whole(body)),
            Err(Reason::BodyTooLarge)
        );
        assert_eq!(
            ask(&[json, ("content-length", "12")], RawBody::Whole(body)),
            Err(Reason::MalformedRequest)
        );
        assert_eq!(
            ask(&[json, ("content-length", "+13")], RawBody::Whole(body)),
            Err(Reason::MalformedRequest)
        );
        assert_eq!(
            ask(&[json, ("x-envoy-auth-partial-body", "true")], RawBody::Whole(body)),
            Err(Reason::BodyTooLarge)
        );
        assert_eq!(
            ask(&[json, ("content-length", "13")], RawBody::None),
            Err(Reason::BodyUnavailable)
        );
        assert_eq!(
            ask(&[json, ("transfer-encoding", "chunked")], RawBody::None),
            Err(Reason::BodyUnavailable)
        );
        assert_eq!(
            ask(&[json], RawBody::None),
            Err(Reason::MalformedRequest),
            "no body at all is not JSON"
        );
        assert_eq!(ask(&[json], RawBody::Partial), Err(Reason::BodyTooLarge));
        assert_eq!(ask(&[json], RawBody::Unavailable), Err(Reason::BodyUnavailable));
        assert_eq!(
            ask(&[json, ("content-length", "0")], RawBody::Unavailable),
            Err(Reason::BodyUnavailable)
        );
    }
}
