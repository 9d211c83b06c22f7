//! The open objects and lists of a body.

use super::super::{content::PartCounts, plan::Node, seen_keys::OpenKeys};

/// An open object or list that is read: 16 bytes, because a hostile body opens one with each byte
/// (`cargo bench --bench body`, "deep lists").
#[derive(Clone, Copy, Debug)]
pub(super) struct Level<'p> {
    /// Of an object, the node that has its members; of a list, the node of its elements.
    pub(super) node: Option<&'p Node>,
    /// The keys of an object.
    pub(super) keys: OpenKeys,
    /// The bracket that closes it.
    pub(super) close: u8,
    /// The index of the level of the object that it is, or is in.
    pub(super) object: u8,
    /// Of a list, how many lists it is the innermost of that are within each other and have the same
    /// node.
    pub(super) alike: u8,
    pub(super) ends: Ends,
}

impl<'p> Level<'p> {
    /// An object with the members of `shape`.
    pub(super) fn object(shape: &'p Node, keys: OpenKeys, object: u8, ends: Ends) -> Self {
        Self { node: Some(shape), keys, close: b'}', object, alike: 0, ends }
    }

    /// A list whose elements have the node, in a level.
    pub(super) fn list(node: Option<&'p Node>, around: Option<&Self>) -> Self {
        let is_alike = |around: &&Self| {
            let is_same =
                around.node.zip(node).is_some_and(|(one, other)| std::ptr::eq(one, other));
            is_same && !around.is_object() && around.ends == Ends::NONE
        };
        Self {
            node,
            keys: OpenKeys::default(),
            close: b']',
            object: around.map_or(0, |around| around.object),
            alike: around.filter(is_alike).map_or(1, |around| around.alike + 1),
            ends: Ends::NONE,
        }
    }

    pub(super) fn is_object(&self) -> bool {
        self.close == b'}'
    }

    /// Whether it is an object that a table describes.
    pub(super) fn is_table(&self) -> bool {
        self.is_object() && self.node.is_some_and(|node| node.table)
    }
}

/// What is decided at the end of a level. Few levels have any of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends(u8);

impl Ends {
    /// Nothing is decided.
    pub(super) const NONE: Self = Self(0);
    /// Whether the tool has a name.
    pub(super) const TOOL: Self = Self(1);
    /// What the data of the source are.
    pub(super) const SOURCE: Self = Self(2);
    /// How many prompts there are.
    pub(super) const PROMPTS: Self = Self(4);
    /// How many parts the object counts as.
    pub(super) const PARTS: Self = Self(8);

    /// These ones, and those of an object with the members of `shape`.
    #[inline]
    pub(super) fn with_shape(self, shape: &Node) -> Self {
        Self(self.0 | u8::from(shape.tool) | u8::from(shape.has_source) << 1)
    }

    #[inline]
    pub(super) fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }

    pub(super) fn add(&mut self, one: Self) {
        self.0 |= one.0;
    }
}

/// The parts of one object.
#[derive(Debug, Default)]
pub(super) struct ObjectParts {
    /// Those that are recognised by their type.
    pub(super) typed: PartCounts,
    /// Those that are recognised by their keys.
    pub(super) keyed: PartCounts,
}

/// A level whose members or elements are prompts.
#[derive(Debug)]
pub(super) struct OpenPrompts {
    /// The prompts before it.
    pub(super) outer: u64,
    /// The elements that are prompts of their own.
    pub(super) elements: usize,
    /// Whether a list of objects is one prompt.
    conversation: bool,
}

impl OpenPrompts {
    pub(super) fn new(outer: u64, conversation: bool) -> Self {
        Self { outer, elements: 0, conversation }
    }

    /// Counts an element by its first byte. A list of numbers is one prompt in tokens; a list of
    /// messages is one conversation.
    pub(super) fn count(&mut self, first: Option<u8>) {
        self.elements += match first {
            Some(b'"' | b'[') => 1,
            Some(b'{') => usize::from(!self.conversation),
            _ => 0,
        };
    }
}
