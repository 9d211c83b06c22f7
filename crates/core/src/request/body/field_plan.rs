//! Fields of a form and parameters of a query, as tables describe them: names with text for values.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    content::{Kind, is_external},
    facts::{BodyFacts, ForbiddenCause, ForbiddenMember},
    json::integer,
    member_plan::{Wanted, part},
    members::{Class, Count, TableId, Tables},
    names::{Found, Names},
    plan::{Cap, bounds_answer},
};

/// The fields that a table lists.
#[derive(Clone, Debug, Default)]
pub struct FieldPlan {
    names: Names,
    fields: Vec<Field>,
    /// Whether fields without a row pass.
    unknown_pass: bool,
    /// How much text of the prompt is handed out.
    text: usize,
    /// Put before names in refusals: `?` for a query.
    mark: &'static str,
}

/// One field of a form.
#[derive(Clone, Debug, Default)]
struct Field {
    denied: bool,
    most: Option<u64>,
    cap: Option<(Cap, Arc<str>)>,
    prompts: bool,
    part: Option<Kind>,
    scope: Option<u8>,
    reference: bool,
    adapter: bool,
    text: bool,
    hidden: bool,
    /// An object: a form has none, and a server that reads JSON in a field would read past the table.
    object: bool,
    /// The values that it may have, and whether each is denied.
    values: Option<BTreeMap<String, bool>>,
}

/// Why a field is refused as malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldError {
    /// A number that counts is none.
    NotAnInteger,
    /// A number that counts is given twice.
    Repeated,
    /// Its name differs from a listed one only in case or space.
    Variant,
}

impl FieldPlan {
    /// The fields of `table`.
    pub fn new(tables: &Tables, id: TableId, wanted: &Wanted<'_>, query: bool) -> Self {
        let mut plan = Self {
            unknown_pass: wanted.opened.unknown_pass,
            text: wanted.text,
            mark: if query { "?" } else { "" },
            ..Self::default()
        };
        let Some(table) = tables.get(id) else { return plan };
        plan.unknown_pass |= table.unknown_pass;
        for (name, member) in &table.members {
            let count = match &member.class {
                Class::Capped(count) | Class::Scoped(_, Some(count)) => Some(*count),
                _ => None,
            };
            let cap = count.filter(|_| wanted.caps).and_then(|count| match count {
                Count::Tokens if bounds_answer(name) => Some(Cap::Tokens),
                Count::Tokens => Some(Cap::MoreTokens),
                Count::Choices => Some(Cap::Choices),
                Count::BestOf => Some(Cap::BestOf),
                _ => None,
            });
            let values =
                member.values.and_then(|id| Some((id, tables.get(id)?))).map(|(id, table)| {
                    let listed = table.members.iter().map(|(value, member)| {
                        (value.to_string(), wanted.opened.denies(id, value, &member.class))
                    });
                    let opened =
                        wanted.opened.unlisted(id, |value| table.members.contains_key(value));
                    listed.chain(opened.map(|value| (value.to_owned(), false))).collect()
                });
            let field = Field {
                denied: wanted.opened.denies(id, name, &member.class),
                most: if let Class::AtMost(most) = member.class { Some(most) } else { None },
                cap: cap.map(|cap| (cap, Arc::clone(name))),
                prompts: wanted.caps && count == Some(Count::Prompts),
                part: count.and_then(part),
                scope: if let Class::Scoped(scope, _) = &member.class {
                    tables.scope(scope)
                } else {
                    None
                },
                reference: (member.media || member.refers) && !member.inline,
                adapter: member.adapter,
                text: wanted.text > 0 && member.text,
                hidden: wanted.text > 0 && member.hidden,
                object: member.of.is_some() && !member.media,
                values,
            };
            plan.names.set(Arc::clone(name), plan.fields.len());
            plan.fields.push(field);
        }
        for name in wanted.opened.unlisted(id, |name| table.members.contains_key(name)) {
            plan.names.set(name, plan.fields.len());
            plan.fields.push(Field::default());
        }
        plan
    }

    /// Records the facts of a field. `value` is `None` for a file.
    pub(super) fn read<'a>(
        &self,
        name: &str,
        value: Option<&'a str>,
        facts: &mut BodyFacts<'a>,
    ) -> Result<(), FieldError> {
        let place = |suffix: String| format!("{}{name}{suffix}", self.mark);
        let Some(field) = self.names.get(name).and_then(|at| self.fields.get(at)) else {
            if self.names.look_up(name.trim()) != Found::None {
                return Err(FieldError::Variant);
            }
            if !self.unknown_pass {
                let cause = ForbiddenCause::Unlisted;
                facts.forbid(|| ForbiddenMember::at(place(String::new()), cause));
            }
            return Ok(());
        };
        let object = || {
            field.object && value.is_some_and(|value| value.trim_start().starts_with(['{', '[']))
        };
        if field.denied || object() {
            facts.forbid(|| ForbiddenMember::at(place(String::new()), ForbiddenCause::Denied));
            return Ok(());
        }
        if value == Some("") {
            return Ok(());
        }
        if let Some((cap, name)) = &field.cap {
            if facts.caps.iter().any(|known| known.name == *name) {
                return Err(FieldError::Repeated);
            }
            let number = value.and_then(integer).ok_or(FieldError::NotAnInteger)?;
            facts.cap(*cap, name, number);
        }
        if let Some(most) = field.most {
            let within = value.is_some_and(|value| {
                matches!(value, "true" | "false" | "True" | "False")
                    || integer(value).is_some_and(|number| number <= most)
            });
            if !within {
                facts.forbid(|| {
                    ForbiddenMember::at(place(String::new()), ForbiddenCause::Over(most))
                });
            }
        }
        if let Some(scope) = field.scope {
            facts.scopes |= 1 << scope;
        }
        if let Some(kind) = field.part.filter(|_| value.is_some()) {
            facts.parts.add(kind, 1);
        }
        if field.prompts {
            facts.prompts = facts.prompts.saturating_add(1);
        }
        facts.prompt_text.opaque |= field.hidden;
        let Some(value) = value else { return Ok(()) };
        if field.reference {
            facts.external_reference |= is_external(value);
        }
        if field.adapter {
            facts.adapters.push(value.into());
        }
        if field.text {
            let prompt = &mut facts.prompt_text;
            prompt.truncated |= prompt.text.len() + value.len() >= self.text;
            if !prompt.truncated {
                prompt.text.push_str(value);
                prompt.text.push('\n');
            }
        }
        if let Some(values) = &field.values {
            let cause = match values.get(value) {
                Some(false) => return Ok(()),
                Some(true) => ForbiddenCause::Denied,
                None => ForbiddenCause::Unlisted,
            };
            let shown: String = value.chars().take(64).collect();
            facts.forbid(|| ForbiddenMember::at(place(format!("={shown}")), cause));
        }
        Ok(())
    }
}
