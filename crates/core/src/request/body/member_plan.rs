//! A plan from tables: each table becomes a place with its names, each row a place with what it says.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    content::Kind,
    members::{Class, Count, Member, TableId, Tables, ToolName},
    plan::{
        Cap, Expect, Node, Plan, PlanError, Pointer, SourceKey, Text, TextRole, Unnamed,
        bounds_answer,
    },
};

/// What the operator opens of what tables deny.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Groups that are open.
    pub groups: Vec<String>,
    /// Members, and values, by their tables.
    pub members: BTreeSet<(TableId, String)>,
    /// Whether members that no table lists are plain.
    pub unknown_pass: bool,
}

impl Opened {
    /// Whether a member that its table denies is denied nevertheless.
    pub(super) fn denies(&self, table: TableId, name: &str, class: &Class) -> bool {
        match class {
            Class::Denied(group) => {
                let open = group.as_ref().is_some_and(|group| self.groups.contains(group));
                !open && !self.members.contains(&(table, name.to_owned()))
            }
            _ => false,
        }
    }

    /// Members of a table that it does not list and that are opened by name.
    pub(super) fn unlisted<'o>(
        &'o self,
        table: TableId,
        listed: impl Fn(&str) -> bool + 'o,
    ) -> impl Iterator<Item = &'o str> {
        self.members
            .iter()
            .filter(move |(home, name)| *home == table && !listed(name))
            .map(|(_, name)| name.as_str())
    }
}

/// What rules need of a body that tables describe.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// The member that names the model.
    pub model: Option<&'a str>,
    /// Whether numbers and prompts are counted for caps.
    pub caps: bool,
    /// Whether the names of tools are handed out.
    pub tools: bool,
    /// How much text of the prompt is handed out, in bytes.
    pub text: usize,
    /// What is opened.
    pub opened: Opened,
}

impl Plan {
    /// The plan of a body whose document has the members of `root`.
    pub fn members(tables: &Tables, root: TableId, wanted: &Wanted<'_>) -> Self {
        let mut plan = Self::default();
        plan.prompt_text_limit = wanted.text;
        let mut builder = Builder {
            plan: &mut plan,
            tables,
            wanted,
            places: HashMap::new(),
            rows: HashMap::new(),
            regions: HashMap::new(),
            media: Vec::new(),
            denied: 0,
        };
        builder.denied = builder.plan.add(Node::of(Expect::Denied));
        let root = builder.table(root);
        builder.finish();
        let mut document =
            builder.plan.node(root).cloned().unwrap_or_else(|| Node::of(Expect::Any));
        document.expect = Expect::Container { lists: false };
        if let Some(model) = wanted.model {
            let place = builder.plan.add(Node::of(Expect::Text(Text::Model)));
            document.keys.set(model, place);
        }
        if let Some(node) = plan.nodes.first_mut() {
            *node = document;
        }
        plan
    }

    /// Hands out the string at `pointer` as the category of the prompt, in a plan from tables.
    ///
    /// # Errors
    /// A place that is denied.
    pub fn category_in_members(&mut self, pointer: &Pointer) -> Result<(), PlanError> {
        let mut at = 0;
        let Some((last, path)) = pointer.keys().split_last() else { return Ok(()) };
        for key in path {
            let known = self.node(at).and_then(|node| node.keys.get(key));
            let mut node = known
                .and_then(|place| self.node(place))
                .cloned()
                .unwrap_or_else(|| Node::of(Expect::Any));
            if node.expect == Expect::Denied {
                return Err(PlanError::Denied(key.clone()));
            }
            if let Some(shape) = node.object.take().and_then(|place| self.node(place)) {
                node.keys = shape.keys.clone();
                node.unnamed = shape.unnamed;
            }
            node.expect = Expect::Container { lists: false };
            let place = self.add(node);
            if let Some(parent) = self.nodes.get_mut(at) {
                parent.keys.set(key.as_str(), place);
            }
            at = place;
        }
        let place = self.add(Node::of(Expect::Text(Text::Category)));
        if let Some(parent) = self.nodes.get_mut(at) {
            parent.keys.set(last.as_str(), place);
        }
        Ok(())
    }
}

/// A row as it is read: its address, and the name where that matters.
type RowKey = (*const Member, Option<Arc<str>>);

struct Builder<'a> {
    plan: &'a mut Plan,
    tables: &'a Tables,
    wanted: &'a Wanted<'a>,
    places: HashMap<TableId, usize>,
    rows: HashMap<RowKey, usize>,
    /// Places of everything below members without a table: with or without text, searched for media or not.
    regions: HashMap<(bool, bool), usize>,
    /// Places of objects that describe a medium and have no table.
    media: Vec<usize>,
    denied: usize,
}

impl Builder<'_> {
    /// The place of an object that a table describes.
    fn table(&mut self, id: TableId) -> usize {
        if let Some(place) = self.places.get(&id) {
            return *place;
        }
        let place = self.plan.add(Node { table: true, ..Node::of(Expect::Any) });
        self.places.insert(id, place);
        let Some(table) = self.tables.get(id) else { return place };
        let is_source = self.wanted.text > 0
            && table.members.get("data").is_some_and(|data| data.text)
            && table.members.contains_key("media_type");
        let mut keys = super::names::Names::default();
        for (name, member) in &table.members {
            let source = match name.as_ref() {
                "type" => Some(SourceKey::Type),
                "media_type" => Some(SourceKey::MediaType),
                "data" => Some(SourceKey::Data),
                _ => None,
            };
            keys.set(Arc::clone(name), self.member(id, name, member, source.filter(|_| is_source)));
        }
        for name in self.wanted.opened.unlisted(id, |name| table.members.contains_key(name)) {
            keys.set(name, self.region(false, true));
        }
        let unnamed = if table.unknown_pass || self.wanted.opened.unknown_pass {
            Unnamed::Read(self.region(false, true))
        } else {
            Unnamed::Forbid
        };
        let is_tool = self.wanted.tools
            && table.members.values().any(|member| member.names == Some(ToolName::Type));
        if let Some(node) = self.plan.nodes.get_mut(place) {
            node.keys = keys;
            node.unnamed = unnamed;
            node.tool = is_tool;
            node.has_source = is_source;
        }
        place
    }

    /// The place of the values that a table lists. Values without a row are denied unless the table says otherwise.
    fn values(&mut self, id: TableId) -> usize {
        let place = self.table(id);
        let passes = self.tables.get(id).is_some_and(|table| table.unknown_pass);
        if !passes && let Some(node) = self.plan.nodes.get_mut(place) {
            node.unnamed = Unnamed::Forbid;
        }
        place
    }

    fn member(
        &mut self,
        table: TableId,
        name: &Arc<str>,
        member: &Arc<Member>,
        source: Option<SourceKey>,
    ) -> usize {
        let wanted = self.wanted;
        if wanted.opened.denies(table, name, &member.class) {
            return self.denied;
        }
        let named =
            matches!(member.class, Class::Capped(Count::Tokens | Count::Choices | Count::BestOf));
        let key = (Arc::as_ptr(member), named.then(|| Arc::clone(name)));
        if source.is_none()
            && let Some(place) = self.rows.get(&key)
        {
            return *place;
        }
        let place = self.plan.add(Node::of(Expect::Any));
        if source.is_none() {
            self.rows.insert(key, place);
        }
        let mut node = Node::of(Expect::Any);
        let expect = match &member.class {
            Class::Capped(count) | Class::Scoped(_, Some(count)) => {
                node.part = part(*count);
                Some(*count).filter(|_| wanted.caps).and_then(|count| self.cap(count, name, member))
            }
            Class::AtMost(most) => Some(Expect::AtMost(*most)),
            Class::Model => Some(Expect::Texts(Text::Adapter)),
            Class::Plain | Class::Denied(_) | Class::Scoped(_, None) => None,
        };
        if let Class::Scoped(scope, _) = &member.class {
            node.scope = self.tables.scope(scope);
        }
        let tool = member.names.filter(|_| wanted.tools).map(|names| match names {
            ToolName::Name => Expect::Text(Text::Tool),
            ToolName::Type => Expect::Text(Text::ToolType),
        });
        node.expect = expect.or(tool).unwrap_or(Expect::Any);
        node.reference = (member.media || member.refers) && !member.inline;
        node.values = member.values.map(|values| self.values(values));
        node.source = source;
        let text = wanted.text > 0 && member.text;
        node.text_role = match source {
            Some(SourceKey::Data) => TextRole::None,
            _ if wanted.text > 0 && member.hidden => TextRole::Opaque,
            _ if text && member.skip => TextRole::Free,
            _ if text => TextRole::Text,
            _ => TextRole::None,
        };
        node.object = match member.of {
            Some(of) => Some(self.table(of)),
            None if member.skip && !text => None,
            None => Some(self.region(text, !member.skip)),
        };
        if member.media && member.of.is_none() {
            node.object = Some(self.medium());
        }
        node.element = Some(place);
        node = node.sealed();
        if matches!(node.expect, Expect::Prompts { .. }) {
            // The list's elements are counted by the list.
            let mut element = Node { expect: Expect::Any, ..node.clone() };
            let inner = self.plan.add(Node::of(Expect::Any));
            element.element = Some(inner);
            if let Some(slot) = self.plan.nodes.get_mut(inner) {
                *slot = element;
            }
            node.element = Some(inner);
        }
        if let Some(slot) = self.plan.nodes.get_mut(place) {
            *slot = node;
        }
        place
    }

    /// What is read for a cap.
    fn cap(&self, count: Count, name: &Arc<str>, member: &Member) -> Option<Expect> {
        let cap = match count {
            Count::Tokens if bounds_answer(name) => Cap::Tokens,
            Count::Tokens => Cap::MoreTokens,
            Count::Choices => Cap::Choices,
            Count::BestOf => Cap::BestOf,
            Count::Prompts => {
                let of = member.of.and_then(|of| self.tables.get(of));
                let conversation = of.is_some_and(|table| table.members.contains_key("role"));
                return Some(Expect::Prompts { conversation });
            }
            _ => return None,
        };
        Some(Expect::Cap(cap, Arc::clone(name)))
    }

    /// The place of an object that describes a medium and has no table: whatever is in it may be a reference.
    fn medium(&mut self) -> usize {
        let reference = Node { reference: true, ..Node::of(Expect::Any) };
        let reference = self.plan.add(reference.sealed());
        if let Some(node) = self.plan.nodes.get_mut(reference) {
            node.unnamed = Unnamed::Read(reference);
            node.element = Some(reference);
        }
        let region = self.region(false, true);
        let mut node = Node::of(Expect::Any);
        node.unnamed = Unnamed::Read(region);
        node.element = Some(region);
        for key in ["url", "path", "file_url", "bytes", "data", "base64"] {
            node.keys.set(key, reference);
        }
        let place = self.plan.add(node);
        self.media.push(place);
        place
    }

    /// Media within objects that describe a medium are found as everywhere else. The region's names are
    /// complete only now: some of them lead to such objects.
    fn finish(&mut self) {
        let Some(region) = self.regions.get(&(false, true)).and_then(|at| self.plan.node(*at))
        else {
            return;
        };
        let names = region.keys.clone();
        for place in &self.media {
            let Some(node) = self.plan.nodes.get_mut(*place) else { continue };
            for (name, medium) in names.iter() {
                if node.keys.get(name).is_none() {
                    node.keys.set(Arc::clone(name), medium);
                }
            }
        }
    }

    /// The place of everything below a member without a table.
    fn region(&mut self, text: bool, searched: bool) -> usize {
        if let Some(place) = self.regions.get(&(text, searched)) {
            return *place;
        }
        let place = self.plan.add(Node::of(Expect::Any));
        self.regions.insert((text, searched), place);
        let mut node = Node::of(Expect::Any);
        node.unnamed = if text || searched { Unnamed::Read(place) } else { Unnamed::Skip };
        node.element = Some(place);
        node.text_role = if text { TextRole::Free } else { TextRole::None };
        if searched {
            let tables = self.tables;
            for (name, member) in &tables.media {
                let medium = self.member(TableId(usize::MAX), name, member, None);
                node.keys.set(Arc::clone(name), medium);
            }
        }
        if let Some(slot) = self.plan.nodes.get_mut(place) {
            *slot = node;
        }
        place
    }
}

/// What a value is counted as.
pub(super) fn part(count: Count) -> Option<Kind> {
    match count {
        Count::Images => Some(Kind::Image),
        Count::Audio => Some(Kind::Audio),
        Count::Videos => Some(Kind::Video),
        Count::Files => Some(Kind::File),
        Count::Tokens | Count::Choices | Count::BestOf | Count::Prompts => None,
    }
}
