//! The plan for reading a JSON body: a graph of nodes, compiled once, and what to record at each.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, LazyLock},
};

use thiserror::Error;

use super::{
    content::{self, Kind},
    names::Names,
};

/// The location of a member in a JSON document: the keys of nested objects, written `/model` or
/// `/session/model` (RFC 6901, objects only).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

/// A text that is not a [`Pointer`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PointerError {
    /// The text does not start with `/`.
    #[error("`{0}` is not a JSON pointer; write `/model`")]
    NoSlash(String),
    /// The text has no key, an empty key, or too many keys.
    #[error("`{0}` is not a JSON pointer of 1 to 8 keys; write `/model`")]
    Keys(String),
}

/// A conflict between the members that a [`Plan`] selects.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// A member that contains a selected member is selected itself.
    #[error("`{0}` is read as a value of its own on this route")]
    NotAContainer(String),
    /// A member is selected for two purposes.
    #[error("`{0}` is already read for something else on this route")]
    Taken(String),
    /// A member that contains text of the prompt is selected for another purpose.
    #[error("`{0}` holds text of the prompt, and is read for something else on this route")]
    PromptTaken(String),
    /// The member is denied by the tables of a preset.
    #[error("`{0}` is denied on this route")]
    Denied(String),
    /// A location is malformed.
    #[error(transparent)]
    Pointer(#[from] PointerError),
}

impl FromStr for Pointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, PointerError> {
        let rest = text.strip_prefix('/').ok_or_else(|| PointerError::NoSlash(text.to_owned()))?;
        let keys: Vec<String> =
            rest.split('/').map(|key| key.replace("~1", "/").replace("~0", "~")).collect();
        if keys.iter().any(String::is_empty) || keys.len() > 8 {
            return Err(PointerError::Keys(text.to_owned()));
        }
        Ok(Self(keys))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|key| write!(f, "/{}", key.replace('~', "~0").replace('/', "~1")))
    }
}

impl Pointer {
    /// Returns the last key.
    pub fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// The keys from the root on.
    pub(super) fn keys(&self) -> &[String] {
        &self.0
    }
}

/// The kind of a number that limits what a request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// The number of tokens to generate, under any of the names that bound an answer.
    Tokens,
    /// The number of tokens to generate that does not bound an answer: a minimum, or tokens to think with.
    MoreTokens,
    /// The number of answers to return (`n`).
    Choices,
    /// The number of answers to generate and choose from (`best_of`).
    BestOf,
}

/// The purpose of a string that the plan selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Model,
    Adapter,
    Category,
    Tenant,
    /// The name of a tool.
    Tool,
    /// The type of a tool.
    ToolType,
    /// The method of a JSON-RPC message.
    Method,
    Name,
    Uri,
}

/// The expected type of a value, and what to record of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// Any value; nothing is recorded.
    Any,
    /// An object that contains selected members; with `lists`, or a list of such objects.
    Container { lists: bool },
    /// A string or null.
    Text(Text),
    /// A string, null, or a list of strings and nulls.
    Texts(Text),
    /// An integer or null.
    Cap(Cap, Arc<str>),
    /// A boolean, null, or an integer of at most this value.
    AtMost(u64),
    /// A forbidden member, whose presence is recorded.
    Field(String),
    /// A member that is forbidden unless it is null, whose place is recorded.
    Denied,
    /// A prompt, or a list of prompts. `conversation`: a list of objects is one prompt.
    Prompts { conversation: bool },
    /// A list or null.
    List,
    /// The declaration of one tool.
    Tool,
    /// The type of a content part. `strict`: an unknown type hides text.
    Part { strict: bool },
    /// A media object, or a list of them; strings are references.
    Media(Kind),
    /// A string that names what the server fetches or opens.
    Reference,
}

/// The role of a node in the text of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextRole {
    None,
    /// Strings at the node are text of the prompt.
    Text,
    /// Strings at the node are text of the prompt, and so are the names of members; numbers are not.
    Free,
    /// Any value at the node replaces text and cannot be read.
    Opaque,
}

/// What happens to members that the node does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// They are skipped.
    Skip,
    /// They are read with the node of this index.
    Read(usize),
    /// They are forbidden, and the name of the first is recorded.
    Forbid,
}

/// A member of a source: an object whose `data` are text or a medium, as the members beside them say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceKey {
    Type,
    MediaType,
    Data,
}

/// A node of the graph: a value of the document.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) expect: Expect,
    pub(super) keys: Names,
    pub(super) element: Option<usize>,
    pub(super) unnamed: Unnamed,
    pub(super) text_role: TextRole,
    /// The place whose members an object here has. Left out: this one.
    pub(super) object: Option<usize>,
    /// The scope that a value here needs, by its place in `Tables::scopes`.
    pub(super) scope: Option<u8>,
    /// What a value here, or each of a list, is counted as.
    pub(super) part: Option<Kind>,
    /// Whether a string here is fetched or opened by the server.
    pub(super) reference: bool,
    /// The place whose names are the values that a string or a boolean here may have.
    pub(super) values: Option<usize>,
    /// What a string here says of the source that it is in.
    pub(super) source: Option<SourceKey>,
    /// Whether one of the five above is set: nearly every value is spared the look at each.
    pub(super) has_marks: bool,
    /// Of an object: whether it is described by a table, is a tool, is a source.
    pub(super) table: bool,
    pub(super) tool: bool,
    pub(super) has_source: bool,
}

impl Node {
    pub(super) fn of(expect: Expect) -> Self {
        Self {
            expect,
            keys: Names::default(),
            element: None,
            unnamed: Unnamed::Skip,
            text_role: TextRole::None,
            object: None,
            scope: None,
            part: None,
            reference: false,
            values: None,
            source: None,
            has_marks: false,
            table: false,
            tool: false,
            has_source: false,
        }
    }

    /// Whether nothing at or below the node is read.
    fn is_plain(&self) -> bool {
        self.expect == Expect::Any && !self.reads_members() && self.element.is_none()
    }

    /// Returns the node with `has_marks` set where one of its marks is.
    pub(super) fn sealed(mut self) -> Self {
        self.has_marks = self.scope.is_some()
            || self.part.is_some()
            || self.reference
            || self.values.is_some()
            || self.source.is_some();
        self
    }

    /// Whether nothing is expected or recorded of a value at the node itself. Most values have such a
    /// node, and are spared the look at everything else.
    pub(super) fn is_unrecorded(&self) -> bool {
        matches!(self.expect, Expect::Any) && !self.has_marks && self.text_role == TextRole::None
    }

    /// Whether the members of an object at the node are read.
    pub(super) fn reads_members(&self) -> bool {
        !self.keys.is_empty() || self.unnamed != Unnamed::Skip
    }
}

/// The compiled graph. Its first node is the document.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) nodes: Vec<Node>,
    /// JSON-RPC: the document is a message or a list of messages.
    pub(super) rpc: bool,
    /// The maximum number of bytes of prompt text to collect.
    pub(super) prompt_text_limit: usize,
    /// The node of all values that may contain content parts.
    region: Option<usize>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: vec![Node::of(Expect::Container { lists: false })],
            rpc: false,
            prompt_text_limit: 0,
            region: None,
        }
    }
}

/// The members that set the number of tokens to generate, as named by OpenAI, its Responses API,
/// SGLang, TGI, llama.cpp and Ollama.
const TOKENS: [&str; 11] = [
    "/max_tokens",
    "/max_completion_tokens",
    "/max_output_tokens",
    "/max_new_tokens",
    "/sampling_params/max_new_tokens",
    "/sampling_params/max_tokens",
    "/parameters/max_new_tokens",
    "/n_predict",
    "/num_predict",
    "/options/num_predict",
    "/max_length",
];
/// The objects of a document that contain such members.
pub(super) const SETTINGS: [&str; 3] = ["sampling_params", "parameters", "options"];
const CHOICES: [&str; 3] = ["/n", "/sampling_params/n", "/n_cmpl"];
const BEST_OF: [&str; 3] = ["/best_of", "/sampling_params/best_of", "/parameters/best_of"];
/// The members that contain a prompt or a list of prompts.
const PROMPTS: [&str; 18] = [
    "prompt",
    "input",
    "inputs",
    "text",
    "texts",
    "text_input",
    "input_ids",
    "documents",
    "queries",
    "items",
    "questions",
    "instances",
    "infer_requests",
    "text_1",
    "text_2",
    "data_1",
    "data_2",
    "prompt_token_ids",
];

/// Whether a number of tokens under this name bounds an answer.
pub fn bounds_answer(name: &str) -> bool {
    answer_bound(name).is_some()
}

/// Returns the name, where a number of tokens under it bounds an answer.
pub(super) fn answer_bound(name: &str) -> Option<&'static str> {
    answer_bounds().iter().find(|known| **known == name).copied()
}

/// Returns the names under which a number of tokens bounds an answer.
pub(super) fn answer_bounds() -> &'static [&'static str] {
    static NAMES: LazyLock<[&str; TOKENS.len()]> =
        LazyLock::new(|| TOKENS.map(|place| place.rsplit('/').next().unwrap_or(place)));
    &*NAMES
}

/// The names of capped numbers at the top of a document.
pub fn cap_names() -> impl Iterator<Item = &'static str> {
    cap_fields().map(|(_, name)| name)
}

/// Returns the numbers of [`Plan::caps`] that are at the top of a document: a form has them as
/// fields.
pub(super) fn cap_fields() -> impl Iterator<Item = (Cap, &'static str)> {
    let all =
        [(Cap::Tokens, &TOKENS[..]), (Cap::Choices, &CHOICES[..]), (Cap::BestOf, &BEST_OF[..])];
    all.into_iter().flat_map(|(cap, places)| {
        let top = |place: &&'static str| place.strip_prefix('/').filter(|name| !name.contains('/'));
        places.iter().filter_map(move |place| top(place).map(|name| (cap, name)))
    })
}

impl Plan {
    pub(super) fn node(&self, at: usize) -> Option<&Node> {
        self.nodes.get(at)
    }

    pub(super) fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Returns the node of the member `key` of the node `at`, created if it does not exist.
    fn below(&mut self, at: usize, key: &str, expect: Expect) -> usize {
        if let Some(known) = self.nodes.get(at).and_then(|node| node.keys.get(key)) {
            return known;
        }
        let lists = expect == Expect::Container { lists: true };
        let new = self.add(Node::of(expect));
        if lists && let Some(node) = self.nodes.get_mut(new) {
            node.element = Some(new);
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.keys.set(key, new);
        }
        new
    }

    /// Expects a value at `pointer`.
    fn put(&mut self, pointer: &Pointer, expect: Expect, lists: bool) -> Result<(), PlanError> {
        let mut at = 0;
        let mut keys = pointer.0.iter();
        let last = keys.next_back().map_or("", String::as_str);
        for key in keys {
            at = self.below(at, key, Expect::Container { lists });
            if !self
                .nodes
                .get(at)
                .is_some_and(|node| matches!(node.expect, Expect::Container { .. }))
            {
                return Err(PlanError::NotAContainer(key.clone()));
            }
        }
        let before = self.nodes.len();
        let place = self.below(at, last, expect.clone());
        if place < before && self.nodes.get(place).is_some_and(|node| node.expect != expect) {
            return Err(PlanError::Taken(last.to_owned()));
        }
        Ok(())
    }

    /// Reads the string at `pointer` as the name of the model.
    ///
    /// # Errors
    /// A conflict with another selected member, as for the other methods.
    pub fn model(&mut self, pointer: &Pointer) -> Result<(), PlanError> {
        self.put(pointer, Expect::Text(Text::Model), false)
    }

    /// Reads the strings at `pointer` as names of adapters.
    ///
    /// # Errors
    /// See [`Plan::model`].
    pub fn adapter(&mut self, pointer: &Pointer) -> Result<(), PlanError> {
        self.put(pointer, Expect::Texts(Text::Adapter), true)
    }

    /// Reads the string at `pointer` as the category of the prompt.
    ///
    /// # Errors
    /// See [`Plan::model`].
    pub fn category(&mut self, pointer: &Pointer) -> Result<(), PlanError> {
        self.put(pointer, Expect::Text(Text::Category), false)
    }

    /// Reads the string at `pointer` as the name of the tenant.
    ///
    /// # Errors
    /// See [`Plan::model`].
    pub fn tenant(&mut self, pointer: &Pointer) -> Result<(), PlanError> {
        self.put(pointer, Expect::Text(Text::Tenant), false)
    }

    /// Records the largest number for each name of a [`Cap`], and the number of prompts.
    ///
    /// # Errors
    /// See [`Plan::model`].
    pub fn caps(&mut self) -> Result<(), PlanError> {
        for (cap, places) in
            [(Cap::Tokens, &TOKENS[..]), (Cap::Choices, &CHOICES[..]), (Cap::BestOf, &BEST_OF[..])]
        {
            for place in places {
                let name = place.rsplit('/').next().unwrap_or(place);
                self.put(&place.parse()?, Expect::Cap(cap, name.into()), true)?;
            }
        }
        for key in PROMPTS {
            self.below(0, key, Expect::Prompts { conversation: key == "input" });
        }
        Ok(())
    }

    /// Records whether there is a value at `pointer`.
    ///
    /// # Errors
    /// See [`Plan::model`].
    pub fn forbid(&mut self, pointer: &Pointer) -> Result<(), PlanError> {
        self.put(pointer, Expect::Field(pointer.0.join(".")), true)
    }

    /// Records members of the document that are not in `names` and not selected otherwise.
    pub fn only(&mut self, names: &[String]) {
        for name in names {
            self.below(0, name, Expect::Any);
        }
        if let Some(root) = self.nodes.first_mut() {
            root.unnamed = Unnamed::Forbid;
        }
    }

    /// Reads the names of the tools that the request declares or chooses.
    pub fn tools(&mut self) {
        let function = self.add(Node::of(Expect::Any));
        self.below(function, "name", Expect::Text(Text::Tool));
        let tool = self.add(Node::of(Expect::Tool));
        self.below(tool, "name", Expect::Text(Text::Tool));
        self.below(tool, "type", Expect::Text(Text::ToolType));
        if let Some(node) = self.nodes.get_mut(tool) {
            node.keys.set("function", function);
            node.keys.set("custom", function);
        }
        let mut list = Node::of(Expect::List);
        list.element = Some(tool);
        let list = self.add(list);
        let mut functions = Node::of(Expect::List);
        functions.element = Some(function);
        let functions = self.add(functions);
        let allowed = self.add(Node::of(Expect::Any));
        let choice = self.add(Node::of(Expect::Any));
        self.below(choice, "name", Expect::Text(Text::Tool));
        for (at, key, place) in [
            (allowed, "tools", list),
            (choice, "tools", list),
            (choice, "allowed_tools", allowed),
            (choice, "function", function),
            (choice, "custom", function),
            (0, "tools", list),
            (0, "functions", functions),
            (0, "tool_choice", choice),
            (0, "function_call", function),
        ] {
            if let Some(node) = self.nodes.get_mut(at) {
                node.keys.set(key, place);
            }
        }
    }

    /// Reads the document as JSON-RPC: the methods, and `name` and `uri` of their parameters.
    ///
    /// # Errors
    /// See [`Plan::model`].
    pub fn rpc(&mut self) -> Result<(), PlanError> {
        self.rpc = true;
        self.put(&"/method".parse()?, Expect::Text(Text::Method), false)?;
        self.put(&"/params/name".parse()?, Expect::Text(Text::Name), false)?;
        self.put(&"/params/uri".parse()?, Expect::Text(Text::Uri), false)
    }

    /// Collects at most `limit` bytes of the text of the prompt. Must be called last, after
    /// [`Plan::content`].
    ///
    /// # Errors
    /// A member that contains text and is selected for another purpose.
    pub fn prompt_text(&mut self, limit: usize) -> Result<(), PlanError> {
        self.prompt_text_limit = limit;
        let region = self.region.and_then(|region| self.nodes.get(region)).cloned();
        let skip = self.add(Node::of(Expect::Any));
        let mut node = region.unwrap_or_else(|| {
            // Where media are not looked at, they are no text either.
            let mut node = Node::of(Expect::Any);
            for (key, _) in content::KEYS {
                node.keys.set(key, skip);
            }
            node
        });
        node.keys.set("role", skip);
        // Whatever a part has besides its text and its media may be printed by a template.
        let schema = self.add(Node { text_role: TextRole::Free, ..Node::of(Expect::Any) });
        let mut free = node.clone();
        for key in content::SKIPPED {
            free.keys.set(key, schema);
        }
        free.text_role = TextRole::Free;
        let free = self.add(free);
        for place in [schema, free] {
            if let Some(node) = self.nodes.get_mut(place) {
                node.unnamed = Unnamed::Read(place);
                node.element = Some(place);
            }
        }
        let part = self.add(Node::of(Expect::Part { strict: true }));
        let source = self.source(free);
        for key in content::SKIPPED {
            node.keys.set(key, if key == "logprobs" { skip } else { schema });
        }
        node.keys.set("type", part);
        node.keys.set("source", source);
        node.text_role = TextRole::Text;
        node.unnamed = Unnamed::Read(free);
        let text = self.add(node);
        self.mark_text_members(text, text);
        for (key, role) in content::TEXTS
            .iter()
            .map(|key| (*key, TextRole::Text))
            .chain(content::FREE_TEXTS.map(|key| (key, TextRole::Free)))
            .chain(content::UNREADABLE.map(|key| (key, TextRole::Opaque)))
        {
            let root = self.nodes.first();
            let known = root.and_then(|root| root.keys.get(key));
            let Some(place) = known else {
                // Where only named members are allowed, this one is forbidden.
                if root.is_some_and(|root| root.unnamed != Unnamed::Forbid) {
                    let place = match role {
                        TextRole::Text => text,
                        TextRole::Free => schema,
                        _ => self.add(Node { text_role: role, ..Node::of(Expect::Any) }),
                    };
                    if let Some(root) = self.nodes.first_mut() {
                        root.keys.set(key, place);
                    }
                }
                continue;
            };
            match self.nodes.get_mut(place) {
                Some(Node { expect: Expect::Field(_) | Expect::Denied, .. }) => {}
                // Tools are read for their names as well; the rest of them is text.
                Some(node) if role == TextRole::Free && node.is_plain() => {
                    if let Some(root) = self.nodes.first_mut() {
                        root.keys.set(key, schema);
                    }
                }
                Some(_) if role == TextRole::Free => self.mark_free_text(place, schema),
                Some(node) if matches!(node.expect, Expect::Any | Expect::Prompts { .. }) => {
                    node.text_role = role;
                    if role == TextRole::Text {
                        self.mark_text_members(place, text);
                    }
                }
                _ => {
                    return Err(PlanError::PromptTaken(key.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// An object whose `data` are text or a medium, as its `type` says.
    fn source(&mut self, free: usize) -> usize {
        let mut keys = Names::default();
        for (key, source) in [
            ("type", SourceKey::Type),
            ("media_type", SourceKey::MediaType),
            ("data", SourceKey::Data),
        ] {
            let node = Node { source: Some(source), ..Node::of(Expect::Any) };
            keys.set(key, self.add(node.sealed()));
        }
        keys.set("url", self.add(Node::of(Expect::Reference)));
        self.add(Node {
            keys,
            has_source: true,
            unnamed: Unnamed::Read(free),
            ..Node::of(Expect::Any)
        })
    }

    /// Members below `place` that are not read for something else are text.
    fn mark_free_text(&mut self, place: usize, free: usize) {
        let mut todo = vec![place];
        let mut done = Vec::new();
        while let Some(at) = todo.pop() {
            if done.contains(&at) {
                continue;
            }
            done.push(at);
            let Some(node) = self.nodes.get_mut(at) else { continue };
            if node.text_role == TextRole::None {
                node.text_role = TextRole::Free;
            }
            if node.unnamed == Unnamed::Skip
                && matches!(node.expect, Expect::Any | Expect::Tool | Expect::Container { .. })
            {
                node.unnamed = Unnamed::Read(free);
            }
            todo.extend(node.element);
            todo.extend(node.keys.iter().map(|(_, place)| place));
        }
    }

    /// Reads elements and members of the node `place` that contain text with the node `text`.
    fn mark_text_members(&mut self, place: usize, text: usize) {
        let Some(node) = self.nodes.get_mut(place) else { return };
        node.element = Some(text);
        for key in content::TEXT_KEYS {
            node.keys.set(key, text);
        }
    }

    /// Counts content parts by kind and inspects their references. Must be called after the other
    /// methods: every member that the plan does not name is searched.
    pub fn content(&mut self) {
        let metadata = self.nodes.first().and_then(|root| root.keys.get("metadata"));
        let named: Vec<usize> = (0..self.nodes.len()).collect();
        let region = self.add(Node::of(Expect::Any));
        let reference = self.add(Node::of(Expect::Reference));
        let skip = self.add(Node::of(Expect::Any));
        let part = self.add(Node::of(Expect::Part { strict: false }));
        let mut keys = Names::default();
        keys.set("type", part);
        keys.set("url", reference);
        for key in content::SKIPPED {
            keys.set(key, skip);
        }
        let mut media_keys = Vec::new();
        for (key, kind) in content::KEYS {
            let mut media = Node::of(Expect::Media(kind));
            for key in ["url", "path", "file_url"] {
                media.keys.set(key, reference);
            }
            let place = self.add(media);
            if let Some(node) = self.nodes.get_mut(place) {
                node.element = Some(place);
            }
            keys.set(key, place);
            media_keys.push((key, place));
        }
        self.region = Some(region);
        if let Some(node) = self.nodes.get_mut(region) {
            node.unnamed = Unnamed::Read(region);
            node.element = Some(region);
            node.keys.clone_from(&keys);
        }
        let open = self.nodes.first().is_some_and(|root| root.unnamed != Unnamed::Forbid);
        for (key, place) in content::SCHEMAS.map(|key| (key, skip)).into_iter().chain(media_keys) {
            let known = self.nodes.first().and_then(|root| root.keys.get(key));
            let replace = match known {
                Some(known) => self.nodes.get(known).is_some_and(Node::is_plain),
                None => open,
            };
            if replace && let Some(root) = self.nodes.first_mut() {
                root.keys.set(key, place);
            }
        }
        for at in named {
            let Some(node) = self.nodes.get_mut(at) else { continue };
            match node.expect {
                Expect::Container { .. }
                    if node.unnamed == Unnamed::Skip && Some(at) != metadata =>
                {
                    node.unnamed = Unnamed::Read(region)
                }
                Expect::Prompts { .. } | Expect::Any
                    if node.keys.is_empty() && node.element.is_none() =>
                {
                    node.unnamed = Unnamed::Read(region);
                    node.element = Some(region);
                    node.keys.clone_from(&keys);
                }
                _ => {}
            }
        }
    }
}
