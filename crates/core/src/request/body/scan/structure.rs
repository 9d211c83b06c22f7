//! How much structure a body may have.
//!
//! An object or a list takes longer to read than its bytes, and so do some keys and elements. A body of
//! nothing else would take several times as long as text of its length, so each of them counts as so
//! many bytes, and a body whose structure counts as more bytes than it has is refused, beyond what any
//! body may have. Prompts with tools are below (`cargo bench --bench body`, "tools", "calls of tools").

/// What the structure of any body may count as, in bytes.
const ANY: usize = 1 << 17;

/// What takes longer than its bytes.
#[derive(Clone, Copy)]
pub(in super::super) enum Structure {
    List,
    Object,
    /// The end of a list that is too short for the automaton.
    Short,
    /// The end of an empty list or object.
    Empty,
    /// An element of a list that is not like the ones before it.
    Change,
    /// A short number with an exponent, or a short string with escapes that the automaton did not skip.
    Slow,
    /// A short key with letters beyond ASCII.
    Letters,
    /// A short key with escapes, or with letters that may fold into ASCII.
    Key,
    /// A longer one.
    LongKey,
    /// The type or the medium of a part of a message, or a number that bounds an answer.
    Member,
}

impl Structure {
    /// What it counts as, in bytes: about as many as are read in the time that it takes.
    #[inline(always)]
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Short => 6,
            Self::List => 8,
            Self::Letters => 12,
            Self::Empty | Self::Member => 16,
            Self::Object | Self::Slow => 24,
            Self::Change | Self::Key => 32,
            Self::LongKey => 64,
        }
    }
}

/// What the structure of a body of so many bytes may count as.
pub(super) fn allowed(bytes: usize) -> usize {
    bytes.saturating_add(ANY)
}
