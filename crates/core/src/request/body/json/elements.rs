//! Elements of lists. Those of which nothing is recorded are skipped by the scanner, up to objects.

use super::{
    super::{
        json_error::{DEPTH, JsonError},
        plan::Node,
        scan::{Scanner, Skipping, Structure, Syntax},
    },
    Read, Reader,
    level::{Ends, Level},
};

/// The elements of a list of prompts that are prompts of their own.
struct Prompts(usize);

impl<'a> Skipping<'a> for Prompts {
    const COUNTS_PROMPTS: bool = true;

    fn reads_numbers(&self) -> bool {
        false
    }

    fn open(&mut self) {}

    fn key(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Box<JsonError>> {
        scanner.skip_key()
    }

    fn close(&mut self) {}

    fn number(&mut self, _: &str) {}

    #[inline(always)]
    fn elements(&mut self, open: usize, _: usize, prompts: usize) {
        if open == 1 {
            self.0 += prompts;
        }
    }
}

impl<'p> Reader<'_, 'p> {
    /// Reads elements of the innermost list, up to one that opens a level, or to the end of the list.
    pub(super) fn elements(&mut self, node: Option<&'p Node>) -> Result<(), Box<JsonError>> {
        let prompts = self.levels.last().is_some_and(|level| level.ends.has(Ends::PROMPTS));
        match node {
            Some(node) if self.is_of_lists(node) => {
                return if prompts { self.prompts(node) } else { self.alike_elements(node) };
            }
            None if !prompts => return self.skipped_elements(),
            _ => {}
        }
        let is_skipped = node.is_none_or(Node::is_unrecorded);
        loop {
            let mut strings = 0;
            if is_skipped && matches!(self.scanner.peek(), Some(b'"' | b'-' | b'0'..=b'9')) {
                (_, strings) = self.scanner.skip_scalars(&mut Prompts(0));
                self.scanner.space();
            }
            if prompts && let Some(prompts) = self.prompts.last_mut() {
                prompts.elements += strings;
                prompts.count(self.scanner.peek());
            }
            if self.value_or_skip(node)? == Read::Part {
                return Ok(());
            }
            if !self.scanner.has_next(b']')? {
                return self.close();
            }
        }
    }

    /// Whether nothing of a list at the node is recorded but members of objects, which may be within
    /// any number of lists.
    fn is_of_lists(&self, node: &'p Node) -> bool {
        node.is_unrecorded()
            && self.element_of(node).is_some_and(|element| std::ptr::eq(element, node))
    }

    /// Reads elements of lists that are alike, up to an object that opens a level.
    fn alike_elements(&mut self, node: &'p Node) -> Result<(), Box<JsonError>> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let around = self.levels.len() - usize::from(level.alike);
        loop {
            let mut open = self.levels.len() - around;
            if !self.scanner.skip_elements(&mut open, self.deepest - around, &mut Syntax)? {
                self.levels.truncate(around);
                return self.close_ended();
            }
            self.levels.truncate(around + open);
            self.open_lists(node, around + open);
            if self.any_object(node)? == Read::Part {
                return Ok(());
            }
            if !self.scanner.has_next(b']')? {
                return self.close();
            }
        }
    }

    /// Reads elements of a list of prompts that is the innermost one, up to an object that opens a level,
    /// or to the end of the list.
    fn prompts(&mut self, node: &'p Node) -> Result<(), Box<JsonError>> {
        let list = self.levels.len();
        loop {
            let (mut open, most) = (1, self.deepest + 1 - list);
            let mut prompts = Prompts(0);
            let is_object = self.scanner.skip_elements(&mut open, most, &mut prompts)?;
            if let Some(open_prompts) = self.prompts.last_mut() {
                open_prompts.elements += prompts.0;
                if is_object && open == 1 {
                    open_prompts.count(Some(b'{'));
                }
            }
            if !is_object {
                return self.close();
            }
            self.open_lists(node, list - 1 + open);
            if self.any_object(node)? == Read::Part {
                return Ok(());
            }
            while !self.scanner.has_next(b']')? {
                if self.levels.len() == list {
                    return self.close();
                }
                self.pop()?;
            }
            if self.levels.len() > list {
                return Ok(());
            }
        }
    }

    /// Opens lists, up to this number of levels.
    fn open_lists(&mut self, node: &'p Node, levels: usize) {
        while self.levels.len() < levels {
            let level = Level::list(Some(node), self.levels.last());
            self.levels.push(level);
        }
    }

    /// Skips the elements of the innermost list, which have no node.
    fn skipped_elements(&mut self) -> Result<(), Box<JsonError>> {
        let around = self.levels.len().saturating_sub(1);
        let mut open = 1;
        while self.scanner.skip_elements(&mut open, self.deepest - around, &mut Syntax)? {
            let depth = DEPTH - self.deepest + around + open + 1;
            self.scanner.skip_value(depth, &mut Syntax)?;
            while open > 0 && !self.scanner.has_next(b']')? {
                open -= 1;
            }
            if open == 0 {
                break;
            }
        }
        self.levels.truncate(around);
        self.close_ended()
    }

    /// Reads a list of which nothing is recorded but elements, up to an object in it.
    #[inline(never)]
    pub(super) fn open_any_list(&mut self, node: &'p Node) -> Result<Read, Box<JsonError>> {
        if !self.is_of_lists(node) {
            return self.open_list(self.element_of(node));
        }
        let around = self.levels.len();
        if around >= self.deepest {
            return Err(JsonError::TooDeep.into());
        }
        if self.scanner.opens_empty(b']')? {
            return Ok(Read::All);
        }
        self.scanner.count(Structure::List)?;
        let mut open = 1;
        if !self.scanner.skip_elements(&mut open, self.deepest - around, &mut Syntax)? {
            return Ok(Read::All);
        }
        self.open_lists(node, around + open);
        self.alike_elements(node)?;
        Ok(Read::Part)
    }
}
