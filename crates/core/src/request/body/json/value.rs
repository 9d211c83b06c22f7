//! Values that the plan reads: what is expected of them, and what is recorded.

use super::{
    super::{
        facts::{ForbiddenCause, ForbiddenMember},
        json_error::JsonError,
        plan::{Expect, Node, TextRole, Unnamed},
        scan::Structure,
        steps,
    },
    Read, Reader, integer,
    level::Ends,
};

impl<'p> Reader<'_, 'p> {
    /// Reads a value that is no object, and of which nothing is recorded unless it is in it.
    #[inline]
    pub(super) fn unrecorded(&mut self, node: &'p Node) -> Result<Read, Box<JsonError>> {
        steps::count(1);
        match self.scanner.peek() {
            Some(b'"') => {
                self.scanner.skip_string()?;
                Ok(Read::All)
            }
            Some(b'[') => self.open_any_list(node),
            _ => {
                self.scanner.skip_scalar()?;
                Ok(Read::All)
            }
        }
    }

    /// Reads a value of which something is expected or recorded.
    #[inline(never)]
    pub(super) fn recorded(&mut self, node: &'p Node) -> Result<Read, Box<JsonError>> {
        steps::count(1);
        let first = self.scanner.peek();
        match &node.expect {
            Expect::Field(name) => {
                self.facts.forbid(|| ForbiddenMember::at(name.clone(), ForbiddenCause::Denied));
                return self.skip();
            }
            // A member that is null is one that is left out.
            Expect::Denied if first != Some(b'n') => {
                self.forbid("", ForbiddenCause::Denied);
                return self.skip();
            }
            _ => {}
        }
        self.facts.prompt_text.opaque |= match node.text_role {
            TextRole::None | TextRole::Free => false,
            // A number in place of text is a token.
            TextRole::Text => matches!(first, Some(b'-' | b'0'..=b'9')),
            TextRole::Opaque => first != Some(b'n'),
        };
        match first {
            Some(b'{') => self.object(node),
            Some(b'[') => self.list(node),
            Some(b'"') => {
                let string = self.scanner.string()?;
                self.string(node, &string).map(|()| Read::All)
            }
            _ => self.scalar(node).map(|()| Read::All),
        }
    }

    fn object(&mut self, node: &'p Node) -> Result<Read, Box<JsonError>> {
        if node.has_marks {
            self.mark(node);
        }
        match &node.expect {
            Expect::Text(_) | Expect::Texts(_) | Expect::Cap(..) | Expect::List => {
                Err(self.wrong_type())
            }
            Expect::AtMost(most) => {
                self.forbid("", ForbiddenCause::Over(*most));
                self.skip()
            }
            Expect::Tool => self.open_object(self.shape(node), Ends::TOOL),
            Expect::Media(kind) => {
                self.scanner.count(Structure::Member)?;
                if let Some(parts) = self.parts() {
                    parts.keyed.add(*kind);
                }
                self.open_object(self.shape(node), Ends::NONE)
            }
            Expect::Prompts { .. } if self.shape(node).reads_members() => {
                self.open_object(self.shape(node), Ends::PROMPTS)
            }
            Expect::Prompts { .. } => {
                self.add_prompts(self.facts.prompts, 1);
                self.skip()
            }
            _ => self.any_object(node),
        }
    }

    /// Reads an object of which only members may be recorded.
    pub(super) fn any_object(&mut self, node: &'p Node) -> Result<Read, Box<JsonError>> {
        let shape = self.shape(node);
        if shape.reads_members() { self.open_object(shape, Ends::NONE) } else { self.skip() }
    }

    fn list(&mut self, node: &'p Node) -> Result<Read, Box<JsonError>> {
        match &node.expect {
            Expect::Text(_)
            | Expect::Cap(..)
            | Expect::Container { lists: false }
            | Expect::Tool => Err(self.wrong_type()),
            Expect::AtMost(most) => self.empty_list(*most).map(|()| Read::All),
            Expect::Texts(_) | Expect::Media(_) | Expect::Reference => self.open_list(Some(node)),
            Expect::Prompts { conversation } => {
                self.open_prompts(self.element_of(node), *conversation)
            }
            _ => self.open_list(self.element_of(node)),
        }
    }

    /// The node of the elements of a list at `node`.
    pub(super) fn element_of(&self, node: &Node) -> Option<&'p Node> {
        node.element.and_then(|place| self.plan.node(place))
    }

    /// A list where a number must be: only an empty one says nothing.
    fn empty_list(&mut self, most: u64) -> Result<(), Box<JsonError>> {
        let before = self.scanner.rest();
        self.skip()?;
        steps::count(before.len() - self.scanner.rest().len());
        let inside = before.get(1..before.len() - self.scanner.rest().len()).unwrap_or_default();
        if inside.bytes().any(|byte| !byte.is_ascii_whitespace() && byte != b']') {
            self.forbid("", ForbiddenCause::Over(most));
        }
        Ok(())
    }

    /// Records a number, `true` or `false`; `null` is a value that is left out.
    fn scalar(&mut self, node: &Node) -> Result<(), Box<JsonError>> {
        let scalar = self.scanner.scalar()?;
        if scalar == "null" {
            return Ok(());
        }
        let is_boolean = matches!(scalar, "true" | "false");
        if node.has_marks {
            self.mark(node);
            if let Some(values) = node.values
                && is_boolean
            {
                self.look_up(values, scalar);
            }
        }
        match &node.expect {
            Expect::Cap(cap, name) => {
                self.scanner.count(Structure::Member)?;
                let number =
                    integer(scalar).ok_or_else(|| JsonError::NotAnInteger(name.to_string()))?;
                self.facts.cap(*cap, name, number);
            }
            Expect::AtMost(most) => {
                let within = is_boolean || integer(scalar).is_some_and(|number| number <= *most);
                if !within {
                    self.forbid("", ForbiddenCause::Over(*most));
                }
            }
            Expect::Text(_)
            | Expect::Texts(_)
            | Expect::Container { .. }
            | Expect::Tool
            | Expect::List => return Err(self.wrong_type()),
            _ => {}
        }
        Ok(())
    }

    /// Notes what a value that is there needs, and what it counts as.
    pub(super) fn mark(&mut self, node: &Node) {
        if let Some(scope) = node.scope {
            self.facts.scopes |= 1 << scope;
        }
        if let Some(kind) = node.part
            && let Some(parts) = self.parts()
        {
            parts.keyed.add(kind);
        }
    }

    /// A value that its table must list.
    pub(super) fn look_up(&mut self, values: usize, value: &str) {
        let Some(table) = self.plan.node(values) else { return };
        let place = match (table.keys.get(value), table.unnamed) {
            (Some(place), _) => self.plan.node(place),
            (None, Unnamed::Forbid) => {
                self.forbid_value(value, ForbiddenCause::Unlisted);
                None
            }
            (None, _) => None,
        };
        let Some(place) = place else { return };
        if place.expect == Expect::Denied {
            self.forbid_value(value, ForbiddenCause::Denied);
        }
        if let Some(scope) = place.scope {
            self.facts.scopes |= 1 << scope;
        }
        if let Some(kind) = place.part
            && let Some(parts) = self.parts()
        {
            parts.typed.add(kind);
        }
    }

    fn forbid_value(&mut self, value: &str, cause: ForbiddenCause) {
        if self.facts.forbidden.is_none() {
            self.forbid(&format!("={value}"), cause);
        }
    }

    /// The error of a value whose type is not the one that its member must have.
    #[cold]
    pub(super) fn wrong_type(&self) -> Box<JsonError> {
        JsonError::WrongType((*self.seen.last()).to_owned()).into()
    }
}
