//! Path patterns: literals, `{x}` for one segment, `{x*}` and `/*` for the rest.

use std::collections::BTreeMap;

/// A path pattern as written in `match.paths`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub(super) segments: Vec<Segment>,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// These bytes.
    Literal(String),
    /// One segment that is not empty.
    One(String),
    /// Everything that is left, at least one character. Only at the end.
    Rest(String),
    /// `/*`: what came before, and everything below. Only at the end.
    Below,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest =
            text.strip_prefix('/').ok_or_else(|| format!("`{text}` does not start with `/`"))?;
        let mut segments = Vec::new();
        let mut parts = rest.split('/').peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            let segment = segment(part)?;
            if !last && matches!(segment, Segment::Rest(_) | Segment::Below) {
                return Err(format!("`{part}` in `{text}` can only be the last segment"));
            }
            if !last && segment == Segment::Literal(String::new()) {
                return Err(format!("`{text}` has an empty segment (`//`)"));
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
            return Err(format!("`{text}` names a capture twice"));
        }
        Ok(pattern)
    }

    /// Whether `path` is covered, and how closely: one rank for each segment, literals highest. Of several patterns that
    /// cover a path, the one with the greatest ranks is the best match.
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

    /// Whether both end at a same place of the table, whatever their captures are called: `/docs/*` ends at `/docs`, too.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let ends = other.ends();
        self.ends().iter().any(|end| ends.contains(end))
    }

    /// The places of the table at which it ends, without names.
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

    /// The names of its captures.
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

fn segment(part: &str) -> Result<Segment, String> {
    if part == "*" {
        return Ok(Segment::Below);
    }
    if let Some(inner) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        let (name, rest) = inner.strip_suffix('*').map_or((inner, false), |name| (name, true));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!(
                "`{part}` is not a capture; write `{{name}}` or `{{name*}}`, with letters, digits and `_`"
            ));
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
        return Err(format!(
            "`{part}` is not a path segment; a pattern has no `* {{ }} % ? # \\ ;` inside a segment and no dot segments"
        ));
    }
    Ok(Segment::Literal(part.to_owned()))
}

/// What the captures of a route matched, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures(pub(super) BTreeMap<String, String>);

impl Captures {
    /// The value of one.
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
    fn patterns_that_meet() {
        for (a, b, meet) in [
            ("/docs", "/docs/*", true),
            ("/docs/", "/docs/*", true),
            ("/docs/{x*}", "/docs/*", true),
            ("/docs/{x}", "/docs/*", false),
            ("/v2/{a}/infer", "/v2/{b}/infer", true),
            ("/v2/{a}", "/v2/models", false),
            ("/v1/x", "/v1/x", true),
        ] {
            let (a, b) = (Pattern::parse(a).unwrap(), Pattern::parse(b).unwrap());
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (meet, meet), "{a:?} {b:?}");
        }
    }

    #[test]
    fn what_is_covered_and_how_closely() {
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
    fn what_could_mean_something_else_is_refused() {
        for text in [
            "", "v1", "//", "/a//b", "/a/*/b", "/{x*}/b", "/a*", "/{}", "/{*}", "/{a-b}", "/a{x}",
            "/..", "/a/./b", "/a?b", "/a#b", "/a%2fb", "/a;b", "/a b", "/\u{e9}", "/{x}/{x}",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
