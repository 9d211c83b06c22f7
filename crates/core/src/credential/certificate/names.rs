//! The names of a certificate, and the identities that they stand for.

use thiserror::Error;
use x509_parser::prelude::{GeneralName, X509Certificate};

use crate::text::is_identifier;

/// The longest SPIFFE ID, in bytes (SPIFFE-ID section 2.3).
const MAX_SPIFFE_ID: usize = 2048;

/// A kind of names in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::credential) enum NameKind {
    /// A SPIFFE ID: the only URI of the subject's alternative names.
    Spiffe,
    /// A DNS name of the subject's alternative names.
    Dns,
    /// An e-mail address of the subject's alternative names.
    Email,
    /// The common name of the subject.
    CommonName,
}

impl NameKind {
    /// The character between the parts of such a name; a common name has one part.
    const fn separator(self) -> Option<char> {
        match self {
            Self::Spiffe => Some('/'),
            Self::Dns => Some('.'),
            Self::Email => Some('@'),
            Self::CommonName => None,
        }
    }

    /// The tag of such an alternative name (RFC 5280 section 4.2.1.6).
    const fn tag(self) -> Option<u32> {
        match self {
            Self::Spiffe => Some(6),
            Self::Dns => Some(2),
            Self::Email => Some(1),
            Self::CommonName => None,
        }
    }

    /// The key of a rule.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Spiffe => "spiffe",
            Self::Dns => "dns",
            Self::Email => "email",
            Self::CommonName => "common_name",
        }
    }
}

/// The reason why the names of a certificate are refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum NameError {
    #[error("the alternative names of the certificate cannot be read")]
    Unreadable,
    #[error("the certificate has more than one {0} that fits")]
    Several(&'static str),
    #[error("the certificate has a {0} with characters that such a name cannot have")]
    Malformed(&'static str),
    #[error("the certificate has a SPIFFE ID beside another URI, or more than one common name")]
    NotAlone,
}

/// Returns the names of one kind, each checked.
///
/// # Errors
/// A name that is ambiguous, or not well-formed.
pub(super) fn names(
    certificate: &X509Certificate<'_>,
    kind: NameKind,
) -> Result<Vec<String>, NameError> {
    let mut names = Vec::new();
    if kind == NameKind::CommonName {
        for name in certificate.subject().iter_common_name() {
            names.push(name.as_str().map_err(|_| NameError::Malformed(kind.key()))?);
        }
        // Of two, each reader may take another one.
        if names.len() > 1 {
            return Err(NameError::NotAlone);
        }
    } else {
        let listed = certificate.subject_alternative_name().map_err(|_| NameError::Unreadable)?;
        for name in listed.iter().flat_map(|list| &list.value.general_names) {
            match (kind, name) {
                (NameKind::Spiffe, GeneralName::URI(name))
                | (NameKind::Dns, GeneralName::DNSName(name))
                | (NameKind::Email, GeneralName::RFC822Name(name)) => names.push(name),
                // One that is no text would be a second name for other readers.
                (_, GeneralName::Invalid(tag, _)) if kind.tag() == Some(tag.0) => {
                    return Err(NameError::Unreadable);
                }
                _ => {}
            }
        }
        // X509-SVID section 2: exactly one URI.
        if kind == NameKind::Spiffe {
            names = match (names.iter().any(|name| name.starts_with("spiffe:")), names.len()) {
                (true, 2..) => return Err(NameError::NotAlone),
                (true, _) => names,
                (false, _) => Vec::new(),
            };
        }
    }
    let is_good = |name: &str| match kind {
        NameKind::Spiffe => is_spiffe_id(name),
        NameKind::Dns => is_dns_name(name),
        NameKind::Email => {
            name.bytes().all(|byte| byte.is_ascii_graphic()) && name.split('@').count() == 2
        }
        NameKind::CommonName => is_identifier(name),
    };
    match names.iter().all(|name| is_good(name)) {
        // DNS names have no case (RFC 5280 section 4.2.1.6).
        true if kind == NameKind::Dns => Ok(names.iter().map(|n| n.to_ascii_lowercase()).collect()),
        true => Ok(names.into_iter().map(str::to_owned).collect()),
        false => Err(NameError::Malformed(kind.key())),
    }
}

/// Whether a text is a SPIFFE ID (SPIFFE-ID section 2): scheme and trust domain in lower case, no
/// port, query or fragment, no empty or dotted segment.
pub(in crate::credential) fn is_spiffe_id(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else { return false };
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(d, path)| (d, Some(path)));
    let is_domain_char = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    let is_segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    text.len() <= MAX_SPIFFE_ID
        && !domain.is_empty()
        && domain.bytes().all(is_domain_char)
        && path.is_none_or(|path| path.split('/').all(is_segment))
}

/// Returns the trust domain of a SPIFFE ID, with its scheme.
pub(in crate::credential) fn trust_domain(id: &str) -> &str {
    let end = id.match_indices('/').nth(2).map_or(id.len(), |(at, _)| at);
    id.get(..end).unwrap_or(id)
}

fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// A pattern of names: parts that are equal, and `{name}` for one part that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamePattern {
    kind: NameKind,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Capture(String),
}

/// The reason why a text is no pattern or template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum PatternError {
    #[error("`{{name}}` is a whole part of the name, without other characters beside it")]
    PartOfPart,
    #[error("`{0}` is not a capture; write `{{name}}` with letters, digits and `_`")]
    Capture(String),
    #[error("it names the capture `{0}` twice")]
    Repeated(String),
    #[error("no name of this kind has these characters")]
    Impossible,
    #[error("the trust domain of a SPIFFE ID is written out, such as `spiffe://prod.example.com/`")]
    AnyTrustDomain,
    #[error("the pattern has no capture `{0}`")]
    Unknown(String),
}

impl NamePattern {
    pub(super) fn parse(kind: NameKind, text: &str) -> Result<Self, PatternError> {
        let text = if kind == NameKind::Dns { text.to_ascii_lowercase() } else { text.to_owned() };
        let mut parts: Vec<Part> = Vec::new();
        for part in split(kind, &text) {
            parts.push(match capture(part)? {
                Some(name) => {
                    if parts.contains(&Part::Capture(name.to_owned())) {
                        return Err(PatternError::Repeated(name.to_owned()));
                    }
                    Part::Capture(name.to_owned())
                }
                None => Part::Literal(part.to_owned()),
            });
        }
        let pattern = Self { kind, parts };
        // A name that fits has to be possible: every capture is replaced by a letter.
        let sample: Vec<&str> = pattern
            .parts
            .iter()
            .map(|part| if let Part::Literal(text) = part { text } else { "x" })
            .collect();
        let sample = sample.join(&kind.separator().map(String::from).unwrap_or_default());
        let is_possible = match kind {
            NameKind::Spiffe => is_spiffe_id(&sample),
            NameKind::Dns => is_dns_name(&sample),
            NameKind::Email => sample.split('@').count() == 2,
            NameKind::CommonName => is_identifier(&sample),
        };
        if !is_possible {
            return Err(PatternError::Impossible);
        }
        if kind == NameKind::Spiffe && matches!(pattern.parts.get(2), Some(Part::Capture(_))) {
            return Err(PatternError::AnyTrustDomain);
        }
        Ok(pattern)
    }

    /// Returns the trust domain of a pattern for SPIFFE IDs, with its scheme.
    pub(super) fn trust_domain(&self) -> Option<String> {
        match (self.kind, self.parts.get(2)) {
            (NameKind::Spiffe, Some(Part::Literal(domain))) => Some(format!("spiffe://{domain}")),
            _ => None,
        }
    }

    /// Returns the captured parts, where the name fits.
    pub(super) fn captures<'n>(&self, name: &'n str) -> Option<Vec<(&str, &'n str)>> {
        let parts = split(self.kind, name);
        if parts.len() != self.parts.len() {
            return None;
        }
        let mut captures = Vec::new();
        for (pattern, part) in self.parts.iter().zip(parts) {
            match pattern {
                Part::Literal(text) if text == part => {}
                Part::Capture(name) if !part.is_empty() => captures.push((name.as_str(), part)),
                _ => return None,
            }
        }
        Some(captures)
    }

    fn has(&self, name: &str) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Capture(own) if own == name))
    }
}

fn split(kind: NameKind, text: &str) -> Vec<&str> {
    match kind.separator() {
        Some(separator) => text.split(separator).collect(),
        None => vec![text],
    }
}

/// The name in a part such as `{name}`; `None` for other text.
fn capture(part: &str) -> Result<Option<&str>, PatternError> {
    if !part.contains(['{', '}']) {
        return Ok(None);
    }
    let name = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
    match name {
        Some(name) if is_capture_name(name) => Ok(Some(name)),
        Some(name) if !name.contains(['{', '}']) => Err(PatternError::Capture(part.to_owned())),
        _ => Err(PatternError::PartOfPart),
    }
}

fn is_capture_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A text with captures of a pattern in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

impl Template {
    pub(super) fn parse(text: &str, pattern: &NamePattern) -> Result<Self, PatternError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, from)) = rest.split_once('{') {
            parts.push(Part::Literal(before.to_owned()));
            let (name, after) =
                from.split_once('}').ok_or_else(|| PatternError::Capture(format!("{{{from}")))?;
            if !is_capture_name(name) {
                return Err(PatternError::Capture(format!("{{{name}}}")));
            }
            if !pattern.has(name) {
                return Err(PatternError::Unknown(name.to_owned()));
            }
            parts.push(Part::Capture(name.to_owned()));
            rest = after;
        }
        if rest.contains('}') {
            return Err(PatternError::Capture(rest.to_owned()));
        }
        parts.push(Part::Literal(rest.to_owned()));
        Ok(Self(parts))
    }

    /// Returns the text with the captured parts of a name.
    pub(super) fn fill(&self, captures: &[(&str, &str)]) -> String {
        let value = |name: &str| {
            captures.iter().find(|(own, _)| *own == name).map_or("", |(_, value)| *value)
        };
        let texts = self.0.iter().map(|part| match part {
            Part::Literal(text) => text.as_str(),
            Part::Capture(name) => value(name),
        });
        texts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_is_compared_whole() {
        let pattern = NamePattern::parse(NameKind::Spiffe, "spiffe://a.example/ns/{ns}/sa/{sa}");
        let pattern = pattern.unwrap();
        let subject = Template::parse("{ns}/{sa}", &pattern).unwrap();
        let filled = |id: &str| pattern.captures(id).map(|captures| subject.fill(&captures));
        assert_eq!(filled("spiffe://a.example/ns/x/sa/y").as_deref(), Some("x/y"));
        for other in [
            "spiffe://a.example/ns/x/sa/y/z",
            "spiffe://a.example/ns/x/sa/",
            "spiffe://a.example.evil/ns/x/sa/y",
            "spiffe://b.example/ns/x/sa/y",
            "spiffe://A.example/ns/x/sa/y",
            "https://a.example/ns/x/sa/y",
            "spiffe://a.example/ns/x",
        ] {
            assert_eq!(filled(other), None, "{other}");
        }
        assert_eq!(trust_domain("spiffe://a.example/ns/x"), "spiffe://a.example");
        assert_eq!(trust_domain("spiffe://a.example"), "spiffe://a.example");
    }

    #[test]
    fn only_well_formed_ids_are_ids() {
        for good in ["spiffe://a", "spiffe://a/b", "spiffe://a-b_c.d/B.c-d_e/f"] {
            assert!(is_spiffe_id(good), "{good}");
        }
        let long = format!("spiffe://a/{}", "b".repeat(MAX_SPIFFE_ID));
        for bad in [
            "spiffe:///b",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a:1/b",
            "spiffe://u@a/b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/b%2fc",
            "spiffe://a/b\0",
            "SPIFFE://a/b",
            "spiffe://A/b",
            &long,
        ] {
            assert!(!is_spiffe_id(bad), "{bad}");
        }
    }

    #[test]
    fn patterns_are_checked_when_they_are_read() {
        use NameKind::{CommonName, Dns, Email, Spiffe};
        let error = |kind, text: &str| NamePattern::parse(kind, text).unwrap_err();
        assert_eq!(error(Spiffe, "spiffe://{td}/a"), PatternError::AnyTrustDomain);
        assert_eq!(error(Spiffe, "https://a/b"), PatternError::Impossible);
        assert_eq!(error(Dns, "a-{x}.example.com"), PatternError::PartOfPart);
        assert_eq!(error(Dns, "{x}.{x}.com"), PatternError::Repeated("x".into()));
        assert_eq!(error(Dns, "{a-b}.com"), PatternError::Capture("{a-b}".into()));
        assert_eq!(error(Dns, "{a{b}.com"), PatternError::PartOfPart);
        assert_eq!(error(Dns, "{}.com"), PatternError::Capture("{}".into()));
        assert_eq!(error(Email, "example.com"), PatternError::Impossible);
        assert_eq!(error(CommonName, "a\nb"), PatternError::Impossible);
        let pattern = NamePattern::parse(Dns, "{Name}.Clients.example.com");
        assert!(pattern.is_ok(), "{pattern:?}");
        let pattern = NamePattern::parse(Email, "{user}@example.com").unwrap();
        assert_eq!(
            Template::parse("{other}", &pattern).unwrap_err(),
            PatternError::Unknown("other".into())
        );
        assert!(pattern.captures("a@example.com").is_some());
        assert!(
            pattern.captures("a@b@example.com").is_none()
                && pattern.captures("@example.com").is_none()
        );
    }
}
