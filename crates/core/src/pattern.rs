//! Path patterns: literals, `{x}` for one segment, `{x*}` and `/*` for the rest.

use std::collections::BTreeMap;

use thiserror::Error;

/// A path pattern of `match.paths`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub(super) segments: Vec<Segment>,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// A segment of exactly these bytes.
    Literal(String),
    /// `{x}`: any segment that is not empty.
    One(String),
    /// `{x*}`: the rest of the path, at least one character. Only allowed at the end.
    Rest(String),
    /// `/*`: the path before it and everything below. Only allowed at the end.
    Below,
}

/// A text that is not a path pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// The text is not an absolute path.
    #[error("`{0}` does not start with `/`")]
    NotAbsolute(String),
    /// `{x*}` or `*` is followed by another segment.
    #[error("`{segment}` in `{pattern}` can only be the last segment")]
    NotLast {
        /// The segment that must be the last one.
        segment: String,
        /// The whole text.
        pattern: String,
    },
    /// The text contains `//`.
    #[error("`{0}` has an empty segment (`//`)")]
    EmptySegment(String),
    /// Two captures have the same name.
    #[error("`{0}` names a capture twice")]
    RepeatedCapture(String),
    /// A segment in braces is not a capture.
    #[error(
        "`{0}` is not a capture; write `{{name}}` or `{{name*}}`, with letters, digits and `_`"
    )]
    Capture(String),
    /// A segment contains characters that have a meaning of their own.
    #[error(
        "`{0}` is not a path segment; a pattern has no `* {{ }} % ? # \\ ;` inside a segment and no \
         dot segments"
    )]
    Segment(String),
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// ```
    /// use tollgate_core::pattern::Pattern;
    ///
    /// let pattern = Pattern::parse("/v1/models/{model*}")?;
    /// assert_eq!(pattern.names(), ["model"]);
    /// // Ranks of the literal segments; the rest adds none.
    /// assert_eq!(pattern.covers("/v1/models/Qwen/Qwen2"), Some(vec![2, 2]));
    /// assert_eq!(pattern.covers("/v1/models"), None);
    /// # Ok::<(), tollgate_core::pattern::PatternError>(())
    /// ```
    ///
    /// # Errors
    /// The first part of the text that is not allowed in a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let rest =
            text.strip_prefix('/').ok_or_else(|| PatternError::NotAbsolute(text.to_owned()))?;
        let mut segments = Vec::new();
        let mut parts = rest.split('/').peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            let segment = segment(part)?;
            if !last && matches!(segment, Segment::Rest(_) | Segment::Below) {
                return Err(PatternError::NotLast {
                    segment: part.to_owned(),
                    pattern: text.to_owned(),
                });
            }
            if !last && segment == Segment::Literal(String::new()) {
                return Err(PatternError::EmptySegment(text.to_owned()));
            }
            segments.push(segment);
        }
        let pattern = Self { segments };
        let names = pattern.names();
        if names
            .iter()
            .enumerate()
            .any(|(index, name)| names.iter().take(index).any(|earlier| earlier == name))
        {
            return Err(PatternError::RepeatedCapture(text.to_owned()));
        }
        Ok(pattern)
    }

    /// Returns how closely the pattern covers `path`: one rank for each segment, literals highest.
    ///
    /// Of several patterns that cover a path, the one with the greatest ranks is the best match.
    pub fn covers(&self, path: &str) -> Option<Vec<u8>> {
        let mut rest = Some(path.strip_prefix('/')?);
        let mut ranks = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            if *segment == Segment::Below {
                return Some(ranks);
            }
            let (part, tail) = rest.map(|rest| {
                rest.split_once('/').map_or((rest, None), |(part, tail)| (part, Some(tail)))
            })?;
            match segment {
                Segment::Literal(text) if text == part => ranks.push(2),
                Segment::One(_) if !part.is_empty() => ranks.push(1),
                Segment::Rest(_) => return rest.filter(|rest| !rest.is_empty()).map(|_| ranks),
                _ => return None,
            }
            rest = tail;
        }
        rest.is_none().then_some(ranks)
    }

    /// Whether both patterns end at a common node of the route table, regardless of the names of
    /// their captures. `/docs/*` also ends at `/docs`.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let ends = other.ends();
        self.ends().iter().any(|end| ends.contains(end))
    }

    /// Returns the nodes of the route table at which the pattern ends, without names.
    fn ends(&self) -> Vec<Vec<Segment>> {
        let nameless = |segment: &Segment| match segment {
            Segment::Literal(text) => Segment::Literal(text.clone()),
            Segment::One(_) => Segment::One(String::new()),
            Segment::Rest(_) | Segment::Below => Segment::Rest(String::new()),
        };
        let end: Vec<Segment> = self.segments.iter().map(nameless).collect();
        let Some((Segment::Below, above)) = self.segments.split_last() else { return vec![end] };
        let above: Vec<Segment> = above.iter().map(nameless).collect();
        let slash = [above.as_slice(), &[Segment::Literal(String::new())]].concat();
        vec![above, slash, end]
    }

    /// Returns the names of the captures.
    pub fn names(&self) -> Vec<String> {
        self.segments
            .iter()
            .filter_map(|segment| match segment {
                Segment::One(name) | Segment::Rest(name) => Some(name.clone()),
                Segment::Literal(_) | Segment::Below => None,
            })
            .collect()
    }
}

fn segment(part: &str) -> Result<Segment, PatternError> {
    if part == "*" {
        return Ok(Segment::Below);
    }
    if let Some(inner) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        let (name, rest) = inner.strip_suffix('*').map_or((inner, false), |name| (name, true));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(PatternError::Capture(part.to_owned()));
        }
        return Ok(if rest {
            Segment::Rest(name.to_owned())
        } else {
            Segment::One(name.to_owned())
        });
    }
    if matches!(part, "." | "..")
        || !part.bytes().all(|b| {
            b.is_ascii_graphic()
                && !matches!(b, b'{' | b'}' | b'*' | b'%' | b'?' | b'#' | b'\\' | b';')
        })
    {
        return Err(PatternError::Segment(part.to_owned()));
    }
    Ok(Segment::Literal(part.to_owned()))
}

/// The values of the captures of a path, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures(pub(super) BTreeMap<String, String>);

impl Captures {
    /// Returns the value of the capture `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read() {
        let one = |name: &str| Segment::One(name.into());
        let literal = |text: &str| Segment::Literal(text.into());
        for (text, segments) in [
            ("/", vec![literal("")]),
            ("/v1/models", vec![literal("v1"), literal("models")]),
            ("/infer/", vec![literal("infer"), literal("")]),
            ("/v2/{m}/infer", vec![literal("v2"), one("m"), literal("infer")]),
            (
                "/v1/models/{model*}",
                vec![literal("v1"), literal("models"), Segment::Rest("model".into())],
            ),
            ("/static/*", vec![literal("static"), Segment::Below]),
            ("/*", vec![Segment::Below]),
        ] {
            assert_eq!(Pattern::parse(text).unwrap().segments, segments, "{text}");
        }
    }

    #[test]
    fn patterns_overlap_or_not() {
        for (a, b, expected) in [
            ("/docs", "/docs/*", true),
            ("/docs/", "/docs/*", true),
            ("/docs/{x*}", "/docs/*", true),
            ("/docs/{x}", "/docs/*", false),
            ("/v2/{a}/infer", "/v2/{b}/infer", true),
            ("/v2/{a}", "/v2/models", false),
            ("/v1/x", "/v1/x", true),
        ] {
            let (a, b) = (Pattern::parse(a).unwrap(), Pattern::parse(b).unwrap());
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (expected, expected), "{a:?} {b:?}");
        }
    }

    #[test]
    fn paths_are_covered_with_ranks() {
        for (pattern, path, ranks) in [
            ("/v1/models", "/v1/models", Some(vec![2, 2])),
            ("/v1/models", "/v1/models/", None),
            ("/v1/models", "/v1", None),
            ("/v1/{x}", "/v1/models", Some(vec![2, 1])),
            ("/v1/{x}", "/v1/", None),
            ("/v1/{x*}", "/v1/a/b", Some(vec![2])),
            ("/v1/{x*}", "/v1", None),
            ("/docs/*", "/docs", Some(vec![2])),
            ("/docs/*", "/docs/a/b", Some(vec![2])),
            ("/docs/*", "/docsx", None),
            ("/infer/", "/infer/", Some(vec![2, 2])),
            ("/", "/", Some(vec![2])),
            ("/", "/x", None),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().covers(path), ranks, "{pattern} {path}");
        }
    }

    #[test]
    fn ambiguous_patterns_are_refused() {
        for text in [
            "", "v1", "//", "/a//b", "/a/*/b", "/{x*}/b", "/a*", "/{}", "/{*}", "/{a-b}", "/a{x}",
            "/..", "/a/./b", "/a?b", "/a#b", "/a%2fb", "/a;b", "/a b", "/\u{e9}", "/{x}/{x}",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
