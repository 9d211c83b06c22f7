//! The automaton of an operator's patterns, complete when the policy is compiled: a text costs one
//! step for each byte, whatever it contains.
//!
//! The engines of the `regex` crate build the states of their automaton while they search. A text
//! that is made for a pattern needs another state for each byte; they then follow all paths of the
//! pattern at once, at a thousand times the cost. The time is linear in the text, but its factor is
//! the size of the patterns, and any client could cause it. A pattern whose complete automaton
//! exceeds a limit is therefore refused.
//!
//! Word boundaries are ASCII, as in RE2: an automaton of bytes cannot find those of Unicode.

use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartKind, dense},
    nfa::thompson,
    util::{primitives::StateID, start},
};
use regex_syntax::hir::{Capture, Hir, HirKind, Literal, Look, Repetition};
use thiserror::Error;

/// The maximum size in bytes of an automaton.
pub(super) const AUTOMATON: usize = 2 * 1024 * 1024;
/// The maximum size in bytes of what an automaton is built from.
const PARTS: usize = 1024 * 1024;
/// The maximum memory in bytes for building an automaton.
const BUILDING: usize = 16 * 1024 * 1024;
/// The maximum depth of groups.
const NEST: u32 = 32;
/// The number of states whose patterns are remembered while a text is read.
const RECENT: usize = 64;

/// Patterns without an automaton.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum AutomatonError {
    /// A pattern is malformed.
    #[error("`{pattern}` is no pattern: {cause}")]
    Syntax { pattern: String, cause: String },
    /// The automaton exceeds the size limit.
    #[error("the automaton takes more than {AUTOMATON} bytes")]
    TooLarge,
    /// The automaton cannot be built.
    #[error("the patterns cannot be compiled: {0}")]
    Build(String),
}

/// Returns the message for a pattern whose automaton is too large.
pub(super) fn too_large(pattern: &str) -> String {
    format!(
        "`{pattern}` is refused: its automaton would take more than {AUTOMATON} bytes, because a \
         text could make it slow; repeat less (`.*` in place of `.{{0,200}}`), or use classes of \
         ASCII (`[a-z]` in place of `\\w`)"
    )
}

/// A parsed pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Hir);

impl Pattern {
    /// Parses a pattern in the syntax of the `regex` crate.
    pub(super) fn parse(text: &str) -> Result<Self, AutomatonError> {
        let parsed = regex_syntax::ParserBuilder::new().nest_limit(NEST).build().parse(text);
        parsed.map(|hir| Self(ascii_boundaries(hir))).map_err(|error| {
            let cause = match &error {
                regex_syntax::Error::Parse(error) => error.kind().to_string(),
                regex_syntax::Error::Translate(error) => error.kind().to_string(),
                _ => error.to_string(),
            };
            AutomatonError::Syntax { pattern: text.to_owned(), cause }
        })
    }
}

/// The complete automaton of some patterns.
#[derive(Clone, Debug)]
pub(super) struct Automaton {
    dfa: dense::DFA<Vec<u32>>,
    start: StateID,
}

impl Automaton {
    /// Builds the automaton that finds each of the patterns anywhere in a text.
    pub(super) fn build(patterns: &[Pattern]) -> Result<Self, AutomatonError> {
        let hirs: Vec<&Hir> = patterns.iter().map(|pattern| &pattern.0).collect();
        let config = thompson::Config::new()
            .nfa_size_limit(Some(PARTS))
            .which_captures(thompson::WhichCaptures::None);
        let nfa = thompson::Compiler::new().configure(config).build_many_from_hir(&hirs);
        let nfa = nfa.map_err(|error| match error.size_limit() {
            Some(_) => AutomatonError::TooLarge,
            None => AutomatonError::Build(error.to_string()),
        })?;
        // All matches are found; by default the first one hides the others.
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Unanchored)
            .accelerate(false)
            .dfa_size_limit(Some(AUTOMATON))
            .determinize_size_limit(Some(BUILDING));
        let built = dense::Builder::new().configure(config).build_from_nfa(&nfa);
        let dfa = built.map_err(|error| {
            if error.is_size_limit_exceeded() {
                AutomatonError::TooLarge
            } else {
                AutomatonError::Build(error.to_string())
            }
        })?;
        let start = dfa.start_state(&start::Config::new().anchored(Anchored::No));
        let start = start.map_err(|error| AutomatonError::Build(error.to_string()))?;
        Ok(Self { dfa, start })
    }

    /// Whether one of the patterns matches anywhere in a text.
    pub(super) fn is_match(&self, text: &str) -> bool {
        let mut state = self.start;
        for byte in text.bytes() {
            state = self.dfa.next_state(state, byte);
            if self.dfa.is_special_state(state) && self.dfa.is_match_state(state) {
                return true;
            }
        }
        self.dfa.is_match_state(self.dfa.next_eoi_state(state))
    }

    /// Calls `found` with the index of each pattern that matches anywhere in a text, some of them
    /// several times.
    pub(super) fn find(&self, text: &str, mut found: impl FnMut(usize)) {
        let mut state = self.start;
        let mut recent = [StateID::ZERO; RECENT];
        for byte in text.bytes() {
            state = self.dfa.next_state(state, byte);
            // A text may reach one such state with each of its bytes.
            if self.dfa.is_special_state(state)
                && self.dfa.is_match_state(state)
                && let Some(known) = recent.get_mut(state.as_usize() / self.dfa.stride() % RECENT)
                && *known != state
            {
                *known = state;
                self.matches(state, &mut found);
            }
        }
        let state = self.dfa.next_eoi_state(state);
        if self.dfa.is_match_state(state) {
            self.matches(state, &mut found);
        }
    }

    fn matches(&self, state: StateID, found: &mut impl FnMut(usize)) {
        for at in 0..self.dfa.match_len(state) {
            found(self.dfa.match_pattern(state, at).as_usize());
        }
    }
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
