//! The reader of JSON bodies: one pass, driven by a [`Plan`], that refuses what two readers could
//! read differently.
//!
//! The whole body is checked against RFC 8259 without building a tree. In every object that the
//! plan reads, a repeated key is refused (Python takes the last, others the first), and so is a key
//! that differs from a selected one only in case (Go's `encoding/json` folds case). Keys are
//! compared after unescaping. Only the values that the plan selects are kept.
//!
//! The objects and lists that are open are a list of [`Level`]s. One loop ([`Reader::levels`])
//! reads the next member or element of the innermost one, so that a level costs a push and a pop.
//! What the plan ignores is skipped by the scanner.

mod elements;
mod level;
mod members;
mod text;
mod value;

use self::level::{Ends, Level, ObjectParts, OpenPrompts};
use super::{
    facts::{BodyFacts, ForbiddenCause, ForbiddenMember, Message},
    json_error::{DEPTH, JsonError, STRINGS},
    plan::{Node, Plan},
    scan::{RawString, Scanner, Structure, Syntax},
    seen_keys::SeenKeys,
};

/// The largest integer that every JSON reader represents exactly (RFC 8259 section 6).
const INTEGER: u64 = (1 << 53) - 1;

/// Reads from a body what `plan` selects.
pub(super) fn read<'a>(bytes: &'a [u8], plan: &Plan) -> Result<BodyFacts<'a>, JsonError> {
    read_boxed(bytes, plan).map_err(|error| *error)
}

/// As [`read`]. A boxed error keeps the results of the functions below in registers.
fn read_boxed<'a>(bytes: &'a [u8], plan: &Plan) -> Result<BodyFacts<'a>, Box<JsonError>> {
    let scanner = Scanner::new(bytes)?;
    let mut reader = Reader {
        seen: SeenKeys::new(scanner.text()),
        scanner,
        plan,
        levels: Vec::with_capacity(8),
        member: None,
        deepest: DEPTH,
        parts: Vec::new(),
        prompts: Vec::new(),
        tool: ToolState::default(),
        outer_tools: Vec::new(),
        source: Source::default(),
        outer_sources: Vec::new(),
        facts: BodyFacts {
            bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            ..BodyFacts::default()
        },
    };
    reader.document()?;
    Ok(reader.facts)
}

/// What is known of a tool while its object is read.
#[derive(Debug, Default)]
struct ToolState {
    /// The tool has a name.
    is_named: bool,
    /// The type of the tool identifies it, as for tools that the server runs itself.
    has_own_type: bool,
}

/// The members of a source (Anthropic's images and documents): what `data` is depends on those beside it.
#[derive(Default)]
struct Source<'a> {
    data: Option<RawString<'a>>,
    base64: bool,
    medium: bool,
}

/// How far a value is read.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(usize)] // With an error, it is returned in two registers.
enum Read {
    /// All of it.
    All,
    /// A part, so that another level is the innermost one.
    Part,
}

struct Reader<'a, 'p> {
    scanner: Scanner<'a>,
    plan: &'p Plan,
    /// The objects and lists that are open and read, the innermost last.
    levels: Vec<Level<'p>>,
    /// The node of the member of the innermost object whose value is next, if its key was read before
    /// the object was one of them.
    member: Option<Option<&'p Node>>,
    /// How many of them may be open: one less in a list of messages.
    deepest: usize,
    /// Keys of the open objects.
    seen: SeenKeys<'a>,
    /// The parts of the open objects that have some, the innermost last.
    parts: Vec<ObjectParts>,
    /// The prompts of the open levels that count them.
    prompts: Vec<OpenPrompts>,
    /// The innermost tool.
    tool: ToolState,
    outer_tools: Vec<ToolState>,
    /// The innermost object that is a source.
    source: Source<'a>,
    outer_sources: Vec<Source<'a>>,
    facts: BodyFacts<'a>,
}

impl<'p> Reader<'_, 'p> {
    fn document(&mut self) -> Result<(), Box<JsonError>> {
        self.scanner.space();
        let root = self.plan.node(0).ok_or(JsonError::NotAnObject)?;
        match self.scanner.peek() {
            Some(b'{') => self.message(root)?,
            Some(b'[') if self.plan.rpc => {
                self.facts.batch = true;
                self.deepest = DEPTH - 1;
                let mut more = !self.scanner.opens_empty(b']')?;
                while more {
                    self.scanner.space();
                    if self.scanner.peek() != Some(b'{') {
                        return Err(JsonError::NotAnObject.into());
                    }
                    self.message(root)?;
                    more = self.scanner.has_next(b']')?;
                }
            }
            Some(b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                return Err(JsonError::NotAnObject.into());
            }
            _ => return Err(self.scanner.syntax()),
        }
        self.scanner.space();
        if self.scanner.at_end() { Ok(()) } else { Err(self.scanner.syntax()) }
    }

    fn message(&mut self, root: &'p Node) -> Result<(), Box<JsonError>> {
        if self.plan.rpc {
            if self.facts.messages.len() >= STRINGS {
                return Err(JsonError::TooMany.into());
            }
            self.facts.messages.push(Message::default());
        }
        self.open_object(self.shape(root), Ends::NONE)?;
        self.levels()
    }

    /// Reads the values of the open levels until all of them are closed.
    fn levels(&mut self) -> Result<(), Box<JsonError>> {
        while let Some(level) = self.levels.last() {
            match level.node {
                Some(node) if level.is_object() => self.members(node)?,
                node => self.elements(node)?,
            }
        }
        Ok(())
    }

    /// Reads a value with its node; without one, skips it.
    #[inline(always)]
    fn value_or_skip(&mut self, node: Option<&'p Node>) -> Result<Read, Box<JsonError>> {
        match node {
            Some(node) if !node.is_unrecorded() => self.recorded(node),
            Some(node) if self.scanner.peek() == Some(b'{') => self.any_object(node),
            _ if self.scanner.short_value() => Ok(Read::All),
            Some(node) => self.unrecorded(node),
            None => self.skip(),
        }
    }

    /// The place whose members an object at `node` has.
    fn shape(&self, node: &'p Node) -> &'p Node {
        node.object.and_then(|place| self.plan.node(place)).unwrap_or(node)
    }

    fn open(&mut self, level: Level<'p>) -> Result<Read, Box<JsonError>> {
        self.levels.push(level);
        Ok(Read::Part)
    }

    /// The index of a level that is opened now.
    fn next_level(&self) -> Result<u8, Box<JsonError>> {
        let depth = self.levels.len();
        if depth < self.deepest {
            Ok(u8::try_from(depth).unwrap_or(u8::MAX))
        } else {
            Err(JsonError::TooDeep.into())
        }
    }

    /// Enters a list whose elements have a node, unless it is empty.
    fn open_list(&mut self, element: Option<&'p Node>) -> Result<Read, Box<JsonError>> {
        self.next_level()?;
        if self.scanner.opens_empty(b']')? {
            return Ok(Read::All);
        }
        self.scanner.count(Structure::List)?;
        let level = Level::list(element, self.levels.last());
        self.open(level)
    }

    /// Enters a list of prompts, unless it is empty.
    fn open_prompts(
        &mut self,
        element: Option<&'p Node>,
        conversation: bool,
    ) -> Result<Read, Box<JsonError>> {
        let outer = self.facts.prompts;
        let read = self.open_list(element)?;
        match self.levels.last_mut() {
            Some(level) if read == Read::Part => {
                level.ends.add(Ends::PROMPTS);
                self.prompts.push(OpenPrompts::new(outer, conversation));
            }
            _ => self.add_prompts(outer, 1),
        }
        Ok(read)
    }

    /// Enters an object whose end decides something, unless it is empty.
    #[inline(never)]
    fn begin(&mut self, shape: &'p Node, ends: Ends) -> Result<Read, Box<JsonError>> {
        let object = self.next_level()?;
        if self.scanner.opens_empty(b'}')? {
            if ends.has(Ends::TOOL) {
                return Err(JsonError::NamelessTool.into());
            }
            if ends.has(Ends::PROMPTS) {
                self.add_prompts(self.facts.prompts, 1);
            }
            return Ok(Read::All);
        }
        if ends.has(Ends::TOOL) {
            self.outer_tools.push(std::mem::take(&mut self.tool));
        }
        if ends.has(Ends::SOURCE) {
            self.outer_sources.push(std::mem::take(&mut self.source));
        }
        if ends.has(Ends::PROMPTS) {
            self.prompts.push(OpenPrompts::new(self.facts.prompts, false));
        }
        self.open(Level::object(shape, self.seen.open(), object, ends))
    }

    /// Closes the innermost level, and those around it that end with it.
    #[inline(never)]
    fn close(&mut self) -> Result<(), Box<JsonError>> {
        self.pop()?;
        self.close_ended()
    }

    /// Goes up to the next member or element, and closes the levels that have no other.
    fn close_ended(&mut self) -> Result<(), Box<JsonError>> {
        while let Some(level) = self.levels.last() {
            if self.scanner.has_next(level.close)? {
                break;
            }
            self.pop()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn pop(&mut self) -> Result<(), Box<JsonError>> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        if level.ends != Ends::NONE {
            return self.end();
        }
        if level.is_object() {
            self.seen.close(level.keys);
        }
        self.levels.truncate(self.levels.len() - 1);
        Ok(())
    }

    /// Closes a level whose end decides something.
    #[inline(never)]
    fn end(&mut self) -> Result<(), Box<JsonError>> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        let members = if level.is_object() { self.seen.close(level.keys) } else { 0 };
        if level.ends.has(Ends::PARTS)
            && let Some(parts) = self.parts.pop()
        {
            self.facts.parts.add_larger(parts.typed, parts.keyed);
        }
        if level.ends.has(Ends::SOURCE) {
            self.end_source()?;
            self.source = self.outer_sources.pop().unwrap_or_default();
        }
        if level.ends.has(Ends::TOOL) {
            if !self.tool.is_named && !self.tool.has_own_type {
                return Err(JsonError::NamelessTool.into());
            }
            self.tool = self.outer_tools.pop().unwrap_or_default();
        }
        if level.ends.has(Ends::PROMPTS)
            && let Some(prompts) = self.prompts.pop()
        {
            let own = if level.is_table() { 1 } else { prompts.elements.max(members).max(1) };
            self.add_prompts(prompts.outer, u64::try_from(own).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// Adds `own` prompts to the `outer` ones; those counted within are the same prompts, seen closer.
    fn add_prompts(&mut self, outer: u64, own: u64) {
        let within = self.facts.prompts.saturating_sub(outer);
        self.facts.prompts = outer.saturating_add(own.max(within));
    }

    /// Skips a value of any type.
    #[inline(never)]
    fn skip(&mut self) -> Result<Read, Box<JsonError>> {
        let depth = DEPTH - self.deepest + self.levels.len() + 1;
        self.scanner.skip_value(depth, &mut Syntax)?;
        Ok(Read::All)
    }

    /// Counts parts of the innermost object.
    fn parts(&mut self) -> Option<&mut ObjectParts> {
        let object = self.levels.last()?.object;
        let level = self.levels.get_mut(usize::from(object))?;
        if !level.ends.has(Ends::PARTS) {
            level.ends.add(Ends::PARTS);
            self.parts.push(ObjectParts::default());
        }
        self.parts.last_mut()
    }

    /// Forbids the value that is read, at its place: the names of the members and lists that it is in,
    /// and `value`.
    fn forbid(&mut self, value: &str, cause: ForbiddenCause) {
        if self.facts.forbidden.is_none() {
            self.facts.forbidden = Some(self.forbidden_here(value, cause));
        }
    }

    #[cold]
    fn forbidden_here(&self, value: &str, cause: ForbiddenCause) -> ForbiddenMember {
        let mut member = ForbiddenMember::here(value, cause);
        let mut end = self.seen.len();
        for level in self.levels.iter().rev() {
            if level.is_object() {
                member.within(&self.seen.text(end.wrapping_sub(1)));
                end = level.keys.first();
            } else {
                member.within("[]");
            }
        }
        member
    }
}

/// Parses an integer that every reader reads alike: digits only, no sign, fraction or exponent.
pub(super) fn integer(scalar: &str) -> Option<u64> {
    let digits = scalar.bytes().all(|byte| byte.is_ascii_digit());
    scalar.parse().ok().filter(|number| digits && *number <= INTEGER)
}

#[cfg(test)]
mod tests;
