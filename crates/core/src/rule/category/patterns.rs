//! A set of patterns that are matched together against a text, by a few complete automata.
//!
//! The set behaves like `regex::RegexSet`, except that word boundaries are ASCII. Each automaton has
//! as many of the patterns as fit its limit: patterns such as `a.+b` double its size each. A text
//! costs one step for each byte and automaton.

use thiserror::Error;

use crate::rule::automaton::{AUTOMATON, Automaton, AutomatonError, Pattern, too_large};

/// The maximum number of automata of a set.
const AUTOMATA: usize = 8;

/// Patterns that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum PatternsError {
    /// A pattern is empty or too long.
    #[error("a pattern is 1 to {0} bytes long")]
    Length(usize),
    /// A pattern matches the empty text.
    #[error("`{0}` finds the empty text, and so every prompt")]
    MatchesEmpty(String),
    /// A pattern is malformed, or cannot be built.
    #[error(transparent)]
    Pattern(#[from] AutomatonError),
    /// A pattern exceeds the size limit.
    #[error("{}", too_large(.0))]
    TooLarge(String),
    /// All patterns together exceed the size limit.
    #[error(
        "together, the patterns would take more than {AUTOMATA} automata of {AUTOMATON} bytes each; \
         patterns with `.*` between words take most"
    )]
    SetTooLarge,
}

/// A compiled set of patterns.
#[derive(Debug, Default)]
pub(super) struct Patterns(Vec<Part>);

/// Neighbouring patterns that share an automaton.
#[derive(Debug)]
struct Part {
    /// The index of the first pattern.
    first: usize,
    automaton: Automaton,
}

impl Patterns {
    /// Compiles patterns in the syntax of the `regex` crate.
    pub(super) fn compile(patterns: &[&str]) -> Result<Self, PatternsError> {
        let parsed =
            patterns.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let mut set = Self::default();
        match set.add(0, &parsed) {
            Err(PatternsError::SetTooLarge) if patterns.len() == 1 => {
                Err(PatternsError::TooLarge(patterns.concat()))
            }
            result => result.map(|()| set),
        }
    }

    /// Adds patterns with one automaton, or with one for each half.
    fn add(&mut self, first: usize, patterns: &[Pattern]) -> Result<(), PatternsError> {
        if patterns.is_empty() {
            return Ok(());
        }
        if self.0.len() >= AUTOMATA {
            return Err(PatternsError::SetTooLarge);
        }
        match Automaton::build(patterns) {
            Ok(automaton) => self.0.push(Part { first, automaton }),
            Err(AutomatonError::TooLarge) if patterns.len() > 1 => {
                let (left, right) = patterns.split_at(patterns.len() / 2);
                self.add(first, left)?;
                self.add(first + left.len(), right)?;
            }
            Err(AutomatonError::TooLarge) => return Err(PatternsError::SetTooLarge),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Whether the set has no patterns.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `found` with the index of each pattern that matches anywhere in a text, some of them
    /// several times.
    pub(super) fn find(&self, text: &str, mut found: impl FnMut(usize)) {
        for Part { first, automaton } in &self.0 {
            automaton.find(text, |pattern| found(first + pattern));
        }
    }

    /// Whether a pattern matches anywhere in a text.
    pub(super) fn is_match(&self, text: &str) -> bool {
        self.0.iter().any(|part| part.automaton.is_match(text))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use regex::RegexSet;

    use super::*;

    fn found(patterns: &Patterns, text: &str) -> Vec<usize> {
        let mut all = BTreeSet::new();
        patterns.find(text, |pattern| all.extend([pattern]));
        all.into_iter().collect()
    }

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
                found(&ours, text),
                theirs.matches(text).into_iter().collect::<Vec<_>>(),
                "{text}"
            );
        }
    }

    #[test]
    fn word_boundaries_are_ascii() {
        let find =
            |pattern: &str, text: &str| Patterns::compile(&[pattern]).unwrap().is_match(text);
        assert!(
            find(r"\bcode\b", "code")
                && find(r"\bcode\b", "\u{e9}code\u{e9}")
                && !find(r"\bcode\b", "codex")
        );
        assert!(find(r"(a|\b{start}b)c", "bc") && !find(r"\Bc", "\u{e9}c") && find(r"\Bc", "ac"));
        assert!(find(r"(?:\bx)+", "\u{e9}x"));
    }

    #[test]
    fn a_set_that_needs_several_automata_finds_the_same() {
        let patterns: Vec<String> =
            (0..24).map(|n| format!(r"(?i)\bword{n}\b.*\bend{n}\b")).collect();
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let ours = Patterns::compile(&patterns).unwrap();
        assert!((2..=AUTOMATA).contains(&ours.0.len()), "{}", ours.0.len());
        let theirs = RegexSet::new(&patterns).unwrap();
        for text in
            ["", "word3 end3", "Word23 to END23, word0 and word1 end1 end0", "end5 word5\nend5"]
        {
            assert_eq!(
                found(&ours, text),
                theirs.matches(text).into_iter().collect::<Vec<_>>(),
                "{text}"
            );
        }
    }

    #[test]
    fn patterns_whose_automaton_has_no_bound_are_refused() {
        for pattern in [
            r"\w{500}{50}",
            r"(a|b)*a(a|b){20}",
            r"[ab]*a[ab]{24}c",
            r"(?s)a.{40}b",
            r"(?i)select.{0,400}from",
            r"(x+x+)+y.{60}z",
        ] {
            let error = Patterns::compile(&[pattern]).unwrap_err();
            assert_eq!(error, PatternsError::TooLarge(pattern.to_owned()));
            assert!(error.to_string().contains("could make it slow"), "{error}");
        }
        let many: Vec<String> =
            (0..200).map(|n| format!(r"(?i)\bword{n}\b.*\bmiddle{n}\b.*\bend{n}\b")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(Patterns::compile(&many).unwrap_err().to_string().contains("together"));
    }

    #[test]
    fn patterns_that_are_malformed_are_refused() {
        assert!(Patterns::compile(&["(".repeat(40).as_str()]).is_err());
        assert!(
            Patterns::compile(&[format!("{}a{}", "(".repeat(40), ")".repeat(40)).as_str()])
                .unwrap_err()
                .to_string()
                .contains("nest")
        );
    }
}
