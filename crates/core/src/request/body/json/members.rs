//! Members of objects. An object becomes a level with the first of its members that is more than a
//! scalar of which nothing is recorded: most objects of a hostile body have none (`cargo bench
//! --bench body`, "many objects").

use super::{
    super::{
        facts::ForbiddenCause,
        json_error::JsonError,
        names::Found,
        plan::{Node, TextRole, Unnamed},
        print::Print,
        scan::Syntax,
    },
    Read, Reader,
    level::{Ends, Level},
};

impl<'p> Reader<'_, 'p> {
    /// Reads an object with the members of `shape`, up to one that is more than a scalar.
    #[inline(never)]
    pub(super) fn open_object(
        &mut self,
        shape: &'p Node,
        ends: Ends,
    ) -> Result<Read, Box<JsonError>> {
        let ends = ends.with_shape(shape);
        if ends != Ends::NONE {
            return self.begin(shape, ends);
        }
        let object = self.next_level()?;
        if self.scanner.opens_empty(b'}')? {
            return Ok(Read::All);
        }
        let mut keys = self.seen.open();
        // The place of a forbidden member needs the level. Only that of the first one is recorded.
        if shape.unnamed != Unnamed::Forbid || self.facts.forbidden.is_some() {
            loop {
                let key = self.seen.read_key(&mut self.scanner, &mut keys)?;
                let member = self.node_of(shape, key)?;
                let is_skipped = member.is_none_or(Node::is_unrecorded);
                if !is_skipped || !self.scanner.scalar_value(&mut Syntax)? {
                    self.member = Some(member);
                    break;
                }
                if !self.scanner.has_next(b'}')? {
                    self.seen.close(keys);
                    return Ok(Read::All);
                }
            }
        }
        self.open(Level::object(shape, keys, object, ends))
    }

    /// Reads members of the innermost object, up to one that opens a level, or to the end of the
    /// object.
    pub(super) fn members(&mut self, node: &'p Node) -> Result<(), Box<JsonError>> {
        loop {
            let member = match self.member.take() {
                Some(member) => member,
                None => {
                    let Some(level) = self.levels.last_mut() else { return Ok(()) };
                    let key = self.seen.read_key(&mut self.scanner, &mut level.keys)?;
                    self.node_of(node, key)?
                }
            };
            if self.value_or_skip(member)? == Read::Part {
                return Ok(());
            }
            if !self.scanner.has_next(b'}')? {
                return self.close();
            }
        }
    }

    /// The node of the member with the key that was read last, of an object with the members of `shape`.
    #[inline(always)]
    fn node_of(&mut self, shape: &'p Node, key: Print) -> Result<Option<&'p Node>, Box<JsonError>> {
        let found = shape.keys.find(key, || self.seen.last());
        if shape.text_role == TextRole::Free {
            self.facts.prompt_text.add(&self.seen.last(), self.plan.prompt_text_limit);
        }
        match (found, shape.unnamed) {
            (Found::Place(place), _) | (Found::None, Unnamed::Read(place)) => {
                Ok(self.plan.node(place))
            }
            (Found::None, Unnamed::Skip) => Ok(None),
            (Found::None, Unnamed::Forbid) => {
                self.forbid("", ForbiddenCause::Unlisted);
                Ok(None)
            }
            // Go reads the key as the name that it differs from only in case.
            (Found::Variant(name), _) => Err(JsonError::CaseVariant(name.to_string()).into()),
        }
    }
}
