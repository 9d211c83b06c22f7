//! A set of patterns that are matched together against a text.
//!
//! The set behaves like `regex::RegexSet`, except that word boundaries are ASCII. The lazy
//! automaton that makes sets fast gives up at the first byte beyond ASCII if a pattern has a
//! Unicode boundary. Its fallback takes fifty times as long, and any client could cause it by
//! writing `é`.

use regex_automata::{Input, MatchKind, PatternSet, meta};
use regex_syntax::hir::{Capture, Hir, HirKind, Literal, Look, Repetition};
use thiserror::Error;

/// The maximum size in bytes of the compiled patterns, and of the cache for matching them.
const COMPILED: usize = 1024 * 1024;
/// The maximum depth of groups.
const NEST: u32 = 32;

/// Patterns that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum PatternsError {
    /// A pattern is empty or too long.
    #[error("a pattern is 1 to {0} bytes long")]
    Length(usize),
    /// A pattern matches the empty text.
    #[error("`{0}` finds the empty text, and so every prompt")]
    MatchesEmpty(String),
    /// A pattern is malformed.
    #[error("`{pattern}` is no pattern: {cause}")]
    Syntax { pattern: String, cause: String },
    /// A pattern exceeds the size limit.
    #[error("`{0}` is no pattern: compiled, it would take more than {COMPILED} bytes")]
    TooLarge(String),
    /// All patterns together exceed the size limit.
    #[error("together, the patterns would take more than {COMPILED} bytes")]
    SetTooLarge,
    /// The automaton cannot be built.
    #[error("the patterns cannot be compiled: {0}")]
    Build(String),
}

/// A compiled set of patterns.
#[derive(Debug, Default)]
pub(super) struct Patterns(Option<meta::Regex>);

impl Patterns {
    /// Compiles patterns in the syntax of the `regex` crate.
    pub(super) fn compile(patterns: &[&str]) -> Result<Self, PatternsError> {
        if patterns.is_empty() {
            return Ok(Self(None));
        }
        let parsed = patterns.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
        // All matches are reported; by default the first one hides the others.
        let config = meta::Config::new()
            .match_kind(MatchKind::All)
            .nfa_size_limit(Some(COMPILED))
            .hybrid_cache_capacity(COMPILED)
            .utf8_empty(false);
        let built = meta::Builder::new().configure(config).build_many_from_hir(&parsed);
        built.map(|regex| Self(Some(regex))).map_err(|error| match (error.size_limit(), patterns) {
            (Some(_), [text]) => PatternsError::TooLarge((*text).to_owned()),
            (Some(_), _) => PatternsError::SetTooLarge,
            (None, _) => PatternsError::Build(error.to_string()),
        })
    }

    /// Whether the set has no patterns.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the indexes of the patterns that match anywhere in a text, in linear time.
    pub(super) fn find(&self, text: &str) -> impl Iterator<Item = usize> {
        let found = self.0.as_ref().map(|regex| {
            let mut found = PatternSet::new(regex.pattern_len());
            regex.which_overlapping_matches(&Input::new(text), &mut found);
            found
        });
        found
            .into_iter()
            .flat_map(|found| found.iter().map(|pattern| pattern.as_usize()).collect::<Vec<_>>())
    }
}

fn parse(text: &str) -> Result<Hir, PatternsError> {
    let parsed = regex_syntax::ParserBuilder::new().nest_limit(NEST).build().parse(text);
    parsed.map(ascii_boundaries).map_err(|error| {
        let cause = match &error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            _ => error.to_string(),
        };
        PatternsError::Syntax { pattern: text.to_owned(), cause }
    })
}

fn ascii_boundaries(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(Literal(bytes)) => Hir::literal(bytes),
        HirKind::Class(class) => Hir::class(class),
        HirKind::Look(look) => Hir::look(match look {
            Look::WordUnicode => Look::WordAscii,
            Look::WordUnicodeNegate => Look::WordAsciiNegate,
            Look::WordStartUnicode => Look::WordStartAscii,
            Look::WordEndUnicode => Look::WordEndAscii,
            Look::WordStartHalfUnicode => Look::WordStartHalfAscii,
            Look::WordEndHalfUnicode => Look::WordEndHalfAscii,
            other => other,
        }),
        HirKind::Repetition(repetition) => Hir::repetition(Repetition {
            sub: Box::new(ascii_boundaries(*repetition.sub)),
            ..repetition
        }),
        HirKind::Capture(capture) => {
            Hir::capture(Capture { sub: Box::new(ascii_boundaries(*capture.sub)), ..capture })
        }
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(ascii_boundaries).collect()),
        HirKind::Alternation(parts) => {
            Hir::alternation(parts.into_iter().map(ascii_boundaries).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use regex::RegexSet;

    use super::*;

    #[test]
    fn matches_equal_those_of_the_regex_crate() {
        let patterns = [
            r"(?i)\bwrite (a|some) code\b",
            r"(?m)^#include <",
            r"\d{3}-\d{4}",
            r"(?i)ÉTÉ",
            r"\p{Han}+",
            r"a.c",
            r"x(?s:.)y",
            r"(?x) q u i # a comment
              t",
            r"end\z",
            r"[^a]b{2,3}",
        ];
        let ours = Patterns::compile(&patterns).unwrap();
        let theirs = RegexSet::new(patterns).unwrap();
        for text in [
            "",
            "please WRITE some code now",
            "rewrite some code",
            "one\n#include <a>",
            "call 555-1234",
            "un été",
            "漢字",
            "a\u{e9}c abc a\nc",
            "x\ny",
            "quit",
            "the end",
            "the end\n",
            "cbbb ab",
            "write a code, 555-1234, \u{e9}t\u{e9}, abc, the end",
            "abc abc write a code write some code 555-1234 x\ny quit end",
        ] {
            assert_eq!(
                ours.find(text).collect::<Vec<_>>(),
                theirs.matches(text).into_iter().collect::<Vec<_>>(),
                "{text}"
            );
        }
    }

    #[test]
    fn word_boundaries_are_ascii() {
        let find = |pattern: &str, text: &str| {
            Patterns::compile(&[pattern]).unwrap().find(text).next().is_some()
        };
        assert!(
            find(r"\bcode\b", "code")
                && find(r"\bcode\b", "\u{e9}code\u{e9}")
                && !find(r"\bcode\b", "codex")
        );
        assert!(find(r"(a|\b{start}b)c", "bc") && !find(r"\Bc", "\u{e9}c") && find(r"\Bc", "ac"));
        assert!(find(r"(?:\bx)+", "\u{e9}x"));
    }

    #[test]
    fn patterns_that_are_too_large_are_refused() {
        assert!(
            Patterns::compile(&[r"\w{500}{50}"])
                .unwrap_err()
                .to_string()
                .contains("would take more")
        );
        let many: Vec<String> = (0..100).map(|n| format!(r"\w{{40}}{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(Patterns::compile(&many).unwrap_err().to_string().contains("together"));
        assert!(Patterns::compile(&["(".repeat(40).as_str()]).is_err());
        assert!(
            Patterns::compile(&[format!("{}a{}", "(".repeat(40), ")".repeat(40)).as_str()])
                .unwrap_err()
                .to_string()
                .contains("nest")
        );
    }
}
