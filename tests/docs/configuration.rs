//! `docs/configuration.md` is made from the schema. `TOLLGATE_WRITE_DOCS=1 cargo test --test main docs::configuration` writes it.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Map, Value};
use tollgate::config::FOREIGN_KEYS;

use super::{page, root};
use crate::rig::tollgate::run;

/// The sections in the order in which a file is written; others follow.
const ORDER: [&str; 14] = [
    "listen",
    "body",
    "issuers",
    "models",
    "tiers",
    "routes",
    "limits",
    "store",
    "revocation",
    "require_https",
    "audit",
    "observe",
    "log",
    "drain_timeout",
];

struct Page {
    definitions: Map<String, Value>,
    /// The place where each definition with keys is shown.
    places: BTreeMap<String, String>,
    /// Definitions of single values, which stand at the end.
    values: BTreeMap<String, String>,
    sections: Vec<(String, Value)>,
}

fn text<'a>(node: &'a Value, key: &str) -> &'a str {
    node[key].as_str().unwrap_or_default()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn anchor(place: &str) -> String {
    let kept = place.to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

impl Page {
    /// What a value may be, in words; what it needs of sections is noted.
    fn value(&mut self, node: &Value, place: &str) -> String {
        if let Some(name) = node["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
            return self.definition(name, place);
        }
        if let Some(word) = node.get("const") {
            return format!("`{}`", word.as_str().unwrap());
        }
        if let Some(words) = node["enum"].as_array() {
            return words
                .iter()
                .map(|word| format!("`{}`", word.as_str().unwrap()))
                .collect::<Vec<_>>()
                .join(", ");
        }
        for choice in ["oneOf", "anyOf"] {
            if let Some(ways) = node[choice].as_array() {
                let ways: Vec<&Value> = ways.iter().filter(|way| way["type"] != "null").collect();
                let several = ways.len() > 1;
                let words =
                    ways.into_iter().map(|way| self.way(way, place, several)).collect::<Vec<_>>();
                let plain = words.iter().all(|word| word.starts_with('`'));
                return words.join(if plain { ", " } else { ", or " });
            }
        }
        let kinds: Vec<&str> = match &node["type"] {
            Value::Array(kinds) => {
                kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect()
            }
            kind => kind.as_str().into_iter().collect(),
        };
        match kinds.as_slice() {
            ["array"] => format!(
                "list of {}",
                self.value(&node["items"], &format!("{place}[]")).replace(", or ", " or ")
            ),
            ["object"] if node.get("properties").is_some() => self.keys(node, place),
            ["object"] => "map of text to text".into(),
            ["string"] => "text".into(),
            ["boolean"] => "`true`, `false`".into(),
            ["integer"] => "integer".into(),
            ["number"] => "number".into(),
            other => panic!("{place}: a value of no known kind: {other:?} {node}"),
        }
    }

    /// One of several ways to write a value. Ways with keys are distinguished by a key that they need.
    fn way(&mut self, way: &Value, place: &str, several: bool) -> String {
        let name = way["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
        let definition = name.map_or(way, |name| &self.definitions[name]).clone();
        let keyed = definition.get("properties").is_some();
        let key =
            definition["required"].as_array().and_then(|keys| keys.first()).and_then(Value::as_str);
        match key.filter(|_| several && keyed && name.is_some()) {
            Some(key) => self.value(way, &format!("{place} with {key}")),
            None => self.value(way, place),
        }
    }

    /// Keys without a definition of their own: `{ any: list of text }`.
    fn keys(&mut self, node: &Value, place: &str) -> String {
        let keys = node["properties"].as_object().unwrap().clone();
        let keys: Vec<String> = keys
            .iter()
            .map(|(key, node)| format!("{key}: {}", self.value(node, &format!("{place}.{key}"))))
            .collect();
        format!("{{ {} }}", keys.join(", "))
    }

    fn definition(&mut self, name: &str, place: &str) -> String {
        let node = self.definitions[name].clone();
        if node.get("properties").is_some() {
            let new = !self.places.contains_key(name);
            let place =
                self.places.entry(name.to_owned()).or_insert_with(|| place.to_owned()).clone();
            if new {
                self.sections.push((place.clone(), node));
            }
            return format!("[keys](#{})", anchor(&place));
        }
        let description = text(&node, "description");
        // A single value in a notation of its own is explained once.
        if node["type"] == "string" && !description.is_empty() {
            self.values.insert(name.to_owned(), one_line(description));
            return format!("[{}](#values)", name.to_lowercase());
        }
        self.value(&node, place)
    }

    /// What the words of a value mean, where they have meanings.
    fn meanings(&self, node: &Value) -> String {
        let name = node["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
        let Some(definition) = name.map(|name| &self.definitions[name]) else {
            let inner = node["anyOf"].as_array().into_iter().flatten().chain(node.get("items"));
            return inner
                .map(|node| self.meanings(node))
                .find(|meanings| !meanings.is_empty())
                .unwrap_or_default();
        };
        let ways = definition["oneOf"].as_array().into_iter().flatten();
        let told =
            ways.filter(|way| way.get("const").is_some() && way.get("description").is_some());
        told.map(|way| {
            format!("<br>`{}`: {}", text(way, "const"), one_line(text(way, "description")))
        })
        .collect()
    }

    fn table(&mut self, node: &Value, place: &str) -> String {
        let mut table = String::from("| key | value | |\n|---|---|---|\n");
        let required: Vec<&str> =
            node["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = node["properties"].as_object().unwrap();
        let mut keys: Vec<&String> = properties.keys().collect();
        keys.sort_by_key(|key| match place {
            "" => ORDER.iter().position(|known| known == key).unwrap_or(ORDER.len()),
            _ => usize::from(!required.contains(&key.as_str())),
        });
        for key in keys {
            let node = &properties[key];
            let below = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            let value = self.value(node, &below);
            let must = if required.contains(&key.as_str()) { ", required" } else { "" };
            let meanings = self.meanings(node);
            writeln!(
                table,
                "| `{key}`{must} | {value} | {}{meanings} |",
                one_line(text(node, "description"))
            )
            .unwrap();
        }
        table
    }
}

fn written() -> String {
    let dir = tempfile::tempdir().unwrap();
    let schema: Value = serde_json::from_slice(&run(dir.path(), &["schema"]).stdout).unwrap();
    let definitions = schema["$defs"].as_object().unwrap().clone();
    let mut made = Page {
        definitions,
        places: BTreeMap::new(),
        values: BTreeMap::new(),
        sections: Vec::new(),
    };
    let mut written = include_str!("configuration.md").to_owned();
    write!(written, "\n## Sections\n\n{}", made.table(&schema, "")).unwrap();
    // Each section, then those below it.
    let mut waiting: Vec<(String, Value)> = made.sections.drain(..).rev().collect();
    while let Some((place, node)) = waiting.pop() {
        let description = one_line(text(&node, "description"));
        let description = description.replace("\\|", "|");
        let about = if description.trim_end_matches('.').trim_matches('`') == place {
            String::new()
        } else {
            description + "\n\n"
        };
        write!(written, "\n## `{place}`\n\n{about}{}", made.table(&node, &place)).unwrap();
        waiting.extend(made.sections.drain(..).rev());
    }
    written.push_str("\n## Values\n\n| | |\n|---|---|\n");
    for (name, description) in &made.values {
        writeln!(written, "| {} | {description} |", name.to_lowercase()).unwrap();
    }
    written.push_str(
        "\n## Keys of other gateways\n\nThese keys do not exist here, and `check-config` says what takes their \
         place.\n\n| key | here |\n|---|---|\n",
    );
    for (keys, here) in FOREIGN_KEYS {
        writeln!(written, "| `{}` | {here} |", keys.join("`, `")).unwrap();
    }
    written
}

#[test]
fn the_page_is_what_the_schema_says() {
    let made = written();
    if std::env::var_os("TOLLGATE_WRITE_DOCS").is_some() {
        std::fs::write(root().join("docs/configuration.md"), &made).unwrap();
    }
    assert!(
        page("docs/configuration.md") == made,
        "docs/configuration.md is not what the schema says; run `TOLLGATE_WRITE_DOCS=1 cargo test --test main docs::configuration`"
    );
}
