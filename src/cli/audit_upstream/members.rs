//! Members that a server's document has and the preset's tables do not: what a newer version reads,
//! or a plugin.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use tollgate_core::{
    request::body::members::TableId,
    route::preset::{
        Preset,
        members::{Catalog, MembersError},
    },
};

use super::server::Operation;

/// How many objects a member is within at most.
const DEPTH: usize = 8;
/// Most members that are reported.
const MAX_MEMBERS: usize = 10_000;

/// A member of one operation's requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UnknownMember {
    pub(super) operation: Operation,
    /// Its place, as a denial names it: `messages.content.uuid`, or `?model` for a parameter of the
    /// query.
    pub(super) place: String,
}

/// The members of the document's requests that the tables of the presets do not list. Operations
/// that no preset lists, or whose whole body belongs to who has the scope, have none.
///
/// # Errors
/// Tables that cannot be used, which a test keeps from happening.
pub(super) fn unknown(
    document: &Value,
    presets: &[Preset],
) -> Result<BTreeSet<UnknownMember>, MembersError> {
    let catalog = Catalog::load()?;
    let mut search = Search { document, catalog, found: BTreeSet::new() };
    let paths = document.get("paths").and_then(Value::as_object).into_iter().flatten();
    for (path, item) in paths {
        for (method, body) in item.as_object().into_iter().flatten() {
            let operation = Operation { path: path.clone(), method: method.to_ascii_uppercase() };
            for preset in presets {
                let Some((_, listed)) = preset.find(&operation.method, &operation.sample()) else {
                    continue;
                };
                let file = catalog.file(&preset.name)?;
                let Some(route) = file.find(&operation.method, listed) else { continue };
                let content = body.pointer("/requestBody/content").and_then(Value::as_object);
                for (media, table) in
                    [("application/json", route.json), ("multipart/form-data", route.form)]
                {
                    let schema = content.and_then(|content| content.get(media));
                    if let Some((schema, table)) =
                        schema.and_then(|media| media.get("schema")).zip(table)
                    {
                        search.object(&operation, schema, table, "", 0, &mut BTreeSet::new());
                    }
                }
                search.parameters(&operation, body, route.query);
            }
        }
    }
    Ok(search.found)
}

struct Search<'a> {
    document: &'a Value,
    catalog: &'a Catalog,
    found: BTreeSet<UnknownMember>,
}

impl<'a> Search<'a> {
    fn note(&mut self, operation: &Operation, place: &str) {
        if self.found.len() < MAX_MEMBERS {
            // It comes from the server and goes to a terminal.
            let place = place.chars().take(200).collect();
            self.found.insert(UnknownMember { operation: operation.clone(), place });
        }
    }

    fn parameters(&mut self, operation: &Operation, body: &Value, table: Option<TableId>) {
        let members = table.and_then(|id| self.catalog.tables().get(id));
        for parameter in body.get("parameters").and_then(Value::as_array).into_iter().flatten() {
            let name = parameter.get("name").and_then(Value::as_str);
            if parameter.get("in").and_then(Value::as_str) == Some("query")
                && let Some(name) = name
                && !members.is_some_and(|table| table.members.contains_key(name))
            {
                self.note(operation, &format!("?{name}"));
            }
        }
    }

    /// Compares the properties of a schema with a table, and so on below.
    fn object(
        &mut self,
        operation: &Operation,
        schema: &'a Value,
        id: TableId,
        prefix: &str,
        depth: usize,
        above: &mut BTreeSet<(TableId, *const Value)>,
    ) {
        let Some(table) = self.catalog.tables().get(id).filter(|table| !table.unknown_pass) else {
            return;
        };
        for object in self.objects(schema, 0) {
            let key = (id, std::ptr::from_ref(object));
            if depth >= DEPTH || !above.insert(key) {
                continue;
            }
            let properties = object.get("properties").and_then(Value::as_object);
            for (name, inner) in properties.into_iter().flatten() {
                let place = format!("{prefix}{name}");
                match table.members.get(name.as_str()) {
                    None => self.note(operation, &place),
                    Some(member) => {
                        if let Some(of) = member.of {
                            self.object(
                                operation,
                                inner,
                                of,
                                &format!("{place}."),
                                depth + 1,
                                above,
                            );
                        }
                    }
                }
            }
        }
    }

    /// The objects that a schema may be: through references, alternatives and lists.
    fn objects(&self, schema: &'a Value, depth: usize) -> Vec<&'a Value> {
        if depth > DEPTH {
            return Vec::new();
        }
        let Some(map) = schema.as_object() else { return Vec::new() };
        if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
            let target = reference.strip_prefix('#').and_then(|path| self.document.pointer(path));
            return target.map_or_else(Vec::new, |target| self.objects(target, depth + 1));
        }
        let mut objects = Vec::new();
        if map.contains_key("properties") {
            objects.push(schema);
        }
        let alternatives = |map: &'a Map<String, Value>, key: &str| {
            map.get(key).and_then(Value::as_array).into_iter().flatten()
        };
        for key in ["anyOf", "oneOf", "allOf"] {
            for inner in alternatives(map, key) {
                objects.extend(self.objects(inner, depth + 1));
            }
        }
        if let Some(items) = map.get("items") {
            objects.extend(self.objects(items, depth + 1));
        }
        objects
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_that_no_table_has_are_found_through_references() {
        let document = json!({
            "paths": {
                "/v1/chat/completions": { "post": {
                    "parameters": [{ "name": "trace", "in": "query" }, { "name": "x-request-id", "in": "header" }],
                    "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Chat" } } } },
                } },
                "/collective_rpc": { "post": { "requestBody": { "content": { "application/json": {
                    "schema": { "properties": { "anything": {} } } } } } } },
            },
            "components": { "schemas": {
                "Chat": { "properties": {
                    "model": { "type": "string" },
                    "brand_new": { "type": "integer" },
                    "messages": { "type": "array", "items": { "anyOf": [{ "$ref": "#/components/schemas/Message" }] } },
                } },
                "Message": { "properties": { "role": {}, "shiny": {}, "content": { "$ref": "#/components/schemas/Message" } } },
            } },
        });
        let presets = [Preset::load("vllm").unwrap()];
        let found = unknown(&document, &presets).unwrap();
        let places: Vec<&str> = found.iter().map(|member| member.place.as_str()).collect();
        assert_eq!(
            places,
            [
                "?trace",
                "brand_new",
                "messages.content.content",
                "messages.content.role",
                "messages.content.shiny",
                "messages.shiny"
            ]
        );
    }
}
