//! The tables of members as decisions: each member that is not plain needs what its class says, and all plain members of
//! a route pass in one body. The cases are made from the tables; `bodies.json` has those written by hand.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use tollgate_core::{
    denial::Reason,
    request::body::members::{Class, Member, Table, TableId, ToolName},
    route::preset::{
        Preset,
        members::{Catalog, MemberRoute},
        names,
    },
};

use crate::body::{Bodies, verdict};

/// How many objects a generated member is within.
const DEPTH: usize = 4;
/// Every scope that a preset's routes and members need.
const ALL: &str = "infer:text infer:embeddings infer:audio infer:multimodal infer:tensor infer:alias infer:batch \
                   tokenize models:read metrics:read ocr_api_access";
const FIXTURE: &str = include_str!("../../../../tools/members/bodies.json");

/// A preset with the groups open that no member has, so that nearly every route of clients can be asked.
fn bodies(name: &str, media: &str) -> Bodies {
    let preset = Preset::load(name).unwrap();
    let catalog = Catalog::load().unwrap();
    let members = catalog.groups(catalog.file(name).unwrap());
    let open: Vec<&str> =
        preset.closed().into_iter().filter(|group| !members.contains(group)).collect();
    Bodies::new(&format!(
        "routes: [{{ preset: {name}, media: {media}, model: {{ default: m }}, open: {open:?} }}]"
    ))
}

/// Whether a denial names the member: errors in Anthropic's form have no place for it.
fn names_member(found: &Result<(), (Reason, Option<String>)>, place: &str, path: &str) -> bool {
    match found {
        Err((Reason::FieldForbidden, Some(param))) => param == place,
        Err((Reason::FieldForbidden, None)) => path.contains("/messages"),
        _ => false,
    }
}

fn table(id: TableId) -> &'static Table {
    Catalog::load().unwrap().tables().get(id).unwrap()
}

/// A path that a listed one covers, and whether it can be asked with POST.
fn sample(route: &MemberRoute, listed: &str) -> Option<String> {
    let post = route.methods.iter().any(|method| method == "POST");
    let segment = |segment: &str| if segment.starts_with('{') { "m" } else { segment }.to_owned();
    post.then(|| listed.split('/').map(segment).collect::<Vec<_>>().join("/"))
}

/// A value that a member may have.
fn value(member: &Member) -> Value {
    match (&member.class, member.values) {
        (_, Some(values)) => table(values)
            .members
            .iter()
            .find(|(_, row)| row.class == Class::Plain)
            .map_or(json!("x"), |(value, _)| json!(value.as_ref())),
        (Class::AtMost(_) | Class::Capped(_), None) => json!(1),
        (Class::Model, None) => json!("m"),
        _ if member.names.is_some() => json!("x"),
        _ if member.of.is_some() => json!({}),
        _ if member.media || member.refers => json!("data:,x"),
        _ => json!("x"),
    }
}

/// Whether a member passes with no scope besides those of the route.
fn passes(member: &Member) -> bool {
    matches!(member.class, Class::Plain | Class::Capped(_) | Class::AtMost(_))
}

/// An object with every member that passes, and with those of the objects below.
fn plain_object(id: TableId, above: &mut Vec<TableId>) -> Value {
    let mut object = Map::new();
    above.push(id);
    for (name, member) in &table(id).members {
        if !passes(member) {
            continue;
        }
        let inner = match member.of {
            Some(of) if !above.contains(&of) && above.len() < DEPTH => plain_object(of, above),
            _ => value(member),
        };
        object.insert(name.to_string(), inner);
    }
    above.pop();
    Value::Object(object)
}

/// One member of a table and the names of the objects that it is within.
struct Case {
    path: Vec<String>,
    name: String,
    member: Member,
    /// A value of its table that is not plain.
    value: Option<(String, Class)>,
}

/// Every member and value below a table that is not plain, once for each table.
fn cases(root: TableId) -> Vec<Case> {
    let mut todo = vec![(root, Vec::<String>::new())];
    let mut done = BTreeSet::from([root]);
    let mut cases = Vec::new();
    while let Some((id, path)) = todo.pop() {
        for (name, member) in &table(id).members {
            let case = |value| Case {
                path: path.clone(),
                name: name.to_string(),
                member: member.as_ref().clone(),
                value,
            };
            if !passes(member) || matches!(member.class, Class::AtMost(_)) {
                cases.push(case(None));
            }
            for (value, row) in member.values.iter().flat_map(|values| &table(*values).members) {
                if row.class != Class::Plain {
                    cases.push(case(Some((value.to_string(), row.class.clone()))));
                }
            }
            if let Some(of) = member.of
                && passes(member)
                && done.insert(of)
            {
                let mut below = path.clone();
                below.push(name.to_string());
                todo.push((of, below));
            }
        }
    }
    cases
}

impl Case {
    /// The body with `leaf` as the member's value.
    fn body(&self, leaf: Value) -> String {
        let mut body = json!({ self.name.clone(): leaf });
        for name in self.path.iter().rev() {
            body = json!({ name.clone(): body });
        }
        let object = body.as_object_mut().unwrap();
        object.entry("model").or_insert_with(|| json!("m"));
        body.to_string()
    }

    fn place(&self) -> String {
        let mut place = self.path.join(".");
        if !place.is_empty() {
            place.push('.');
        }
        place.push_str(&self.name);
        match &self.value {
            Some((value, _)) => format!("{place}={value}"),
            None => place,
        }
    }
}

/// Whether a body of this route may name `m` as its model beside what it is about.
fn without_model(route: &MemberRoute, body: &str) -> String {
    if route.json.is_some_and(|id| table(id).members.contains_key("model")) {
        return body.to_owned();
    }
    let mut body: Value = serde_json::from_str(body).unwrap();
    body.as_object_mut().unwrap().remove("model");
    body.to_string()
}

/// Every JSON route of clients of every preset: the preset's name, its policy, the route, a path.
fn every_route(mut visit: impl FnMut(&str, &Bodies, &MemberRoute, &str)) {
    let catalog = Catalog::load().unwrap();
    for name in names() {
        let policy = bodies(name, "any");
        for route in &catalog.file(name).unwrap().routes {
            for path in route.paths.iter().filter_map(|listed| sample(route, listed)) {
                let closed = verdict(&policy.json(ALL, &path, "")).err();
                let closed = closed.is_some_and(|(reason, _)| reason == Reason::NoRoute);
                if route.json.is_some() && !closed {
                    visit(name, &policy, route, &path);
                }
            }
        }
    }
}

#[test]
fn all_plain_members_of_a_route_pass_in_one_body() {
    let mut count = 0;
    every_route(|name, policy, route, path| {
        let body = plain_object(route.json.unwrap(), &mut Vec::new());
        let body = without_model(route, &body.to_string());
        let found = verdict(&policy.json(ALL, path, &body));
        assert_eq!(found, Ok(()), "{name} {path}: {body}");
        count += 1;
    });
    assert!(count > 80, "{count} routes");
}

#[test]
fn every_member_that_is_not_plain_needs_what_its_class_says() {
    let rights: Vec<&str> = ALL.split_whitespace().collect();
    let mut count = 0;
    let mut wrong = Vec::new();
    every_route(|name, policy, route, path| {
        for case in cases(route.json.unwrap()) {
            let class = case.value.as_ref().map_or(&case.member.class, |(_, class)| class);
            let leaf = match &case.value {
                Some((value, _)) => json!(value),
                None => match class {
                    Class::AtMost(most) => json!(most + 1),
                    _ => value(&case.member),
                },
            };
            let body = without_model(route, &case.body(leaf));
            let place = case.place();
            // The route's own scope may be the member's.
            let scopes: Vec<&str> = match class {
                Class::Scoped(scope, _) => {
                    rights.iter().copied().filter(|known| known != scope).collect()
                }
                _ => rights.clone(),
            };
            let found = verdict(&policy.json(&scopes.join(" "), path, &body));
            let good = match class {
                Class::Denied(_) | Class::AtMost(_) => names_member(&found, &place, path),
                Class::Scoped(..) => {
                    let missing = matches!(&found, Err((Reason::InsufficientScope, _)));
                    missing && verdict(&policy.json(ALL, path, &body)) == Ok(())
                }
                // The right to models is held by another test.
                Class::Model | Class::Plain | Class::Capped(_) => found == Ok(()),
            };
            count += 1;
            if !good {
                wrong.push(format!("{name} {path}: {place} is {class}, came to {found:?}: {body}"));
            }
        }
    });
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 2000, "{count} cases");
}

#[test]
fn a_member_without_a_row_is_denied_with_its_name() {
    every_route(|name, policy, route, path| {
        if table(route.json.unwrap()).unknown_pass {
            return;
        }
        let body = without_model(route, r#"{"model":"m","brand_new":1}"#);
        let found = verdict(&policy.json(ALL, path, &body));
        assert!(names_member(&found, "brand_new", path), "{name} {path}: {found:?}");
        let query = verdict(&policy.json(ALL, &format!("{path}?brand_new=1"), r#"{"model":"m"}"#));
        assert!(query.is_err(), "{name} {path}: a parameter that no table has");
    });
}

#[test]
fn the_bodies_of_the_fixture_come_to_what_it_says() {
    let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
    let catalog = Catalog::load().unwrap();
    let mut wrong = Vec::new();
    for name in names() {
        let policy = bodies(name, "inline");
        let file = catalog.file(name).unwrap();
        for (path, body) in fixture["pass"].as_object().unwrap() {
            if file.find("POST", path).is_none() {
                continue;
            }
            let found = verdict(&policy.json(ALL, path, &body.to_string()));
            if found != Ok(()) {
                wrong.push(format!("{name} {path}: an ordinary client came to {found:?}"));
            }
        }
        for kind in ["refused", "scoped", "capped"] {
            for case in
                fixture[kind].as_array().unwrap().iter().filter(|case| case["preset"] == name)
            {
                let path = case["path"].as_str().unwrap();
                let path: String = path
                    .split('/')
                    .map(|s| if s.starts_with('{') { "m" } else { s })
                    .collect::<Vec<_>>()
                    .join("/");
                let mut body = case["body"].clone();
                let route = file.find("POST", case["path"].as_str().unwrap()).unwrap();
                if route.json.is_some_and(|id| table(id).members.contains_key("model"))
                    && let Some(object) = body.as_object_mut()
                {
                    object.entry("model").or_insert_with(|| json!("m"));
                }
                let scope = case["scope"].as_str().filter(|_| kind == "scoped");
                let scopes: Vec<&str> =
                    ALL.split_whitespace().filter(|known| Some(*known) != scope).collect();
                let found = verdict(&policy.json(&scopes.join(" "), &path, &body.to_string()));
                let good = match (kind, &found) {
                    // Which of two members of one object comes first is the client's choice.
                    ("refused", Err((Reason::FieldForbidden, Some(param)))) => {
                        let object = |place: &str| {
                            place.rsplit_once('.').map(|(object, _)| object.to_owned())
                        };
                        let refused = case["refused"].as_str().unwrap();
                        param == "url" || object(param) == object(refused)
                    }
                    ("refused", Err((Reason::FieldForbidden, None))) => path.contains("/messages"),
                    ("scoped", Err((Reason::InsufficientScope, _))) => true,
                    ("scoped", Ok(())) => scope.is_none() || scope == Some("model"),
                    ("capped", Ok(())) => true,
                    _ => false,
                };
                if !good {
                    wrong.push(format!("{name} {path} {kind} {case}: came to {found:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} verdicts:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn tools_are_named_wherever_they_are_declared() {
    let policy = Bodies::new("routes: [{ preset: vllm, tools: 'tool:{name}' }]");
    let chat = "/v1/chat/completions";
    let named = |tool: &str| format!(r#"{{"model":"m","messages":[],"tools":[{tool}]}}"#);
    for (tool, needs) in [
        (r#"{"type":"function","function":{"name":"search"}}"#, "search"),
        (r#"{"type":"custom","custom":{"name":"grep"}}"#, "grep"),
    ] {
        let body = named(tool);
        assert_eq!(
            verdict(&policy.json("infer:text", chat, &body)),
            Err((Reason::ToolForbidden, Some("tools".into()))),
            "{body}"
        );
        let scopes = format!("infer:text tool:{needs}");
        assert_eq!(verdict(&policy.json(&scopes, chat, &body)), Ok(()), "{body}");
    }
    let nameless = policy.json("infer:text", chat, &named("{}"));
    assert_eq!(verdict(&nameless), Err((Reason::MalformedRequest, Some("tools".into()))));
    assert!(
        Catalog::load().unwrap().tables_of("openai").any(|id| table(id)
            .members
            .values()
            .any(|member| member.names == Some(ToolName::Type)))
    );
}
