//! The tables of members as decisions: each member that is not plain needs what its class says, and all plain members of
//! a route pass in one body. The cases are made from the tables; `bodies.json` has those written by hand.

use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

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

/// What the official clients send with every option that they document (`tools/members/clients.py`).
const CLIENTS: &str = include_str!("../../../../tools/members/clients.json");
/// What the Vercel AI SDK sends with every option that it documents (`tools/members/ai-sdk/record.mjs`).
const AI_SDK: &str = include_str!("../../../../tools/members/ai-sdk.json");

#[test]
fn what_the_official_clients_send_passes() {
    let catalog = Catalog::load().unwrap();
    let requests: Vec<Value> = [CLIENTS, AI_SDK]
        .into_iter()
        .flat_map(|text| {
            let fixture: Value = serde_json::from_str(text).unwrap();
            fixture["requests"].as_array().unwrap().clone()
        })
        .collect();
    let mut wrong = Vec::new();
    let mut count = 0;
    for name in names() {
        let policy = bodies(name, "inline");
        for request in &requests {
            let target = request["path"].as_str().unwrap();
            let path = target.split('?').next().unwrap();
            if catalog.file(name).unwrap().find("POST", path).is_none() {
                continue;
            }
            let body = match request["form"].as_str() {
                // Bytes, each a character.
                Some(form) => form.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect(),
                None => request["json"].to_string().into_bytes(),
            };
            let media = request["content_type"].as_str().unwrap();
            let found = verdict(&policy.ask(ALL, target, &[("content-type", media)], &body));
            count += 1;
            if found != Ok(()) {
                wrong.push(format!("{name} {path}: {}: {found:?}", request["client"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(requests.len() > 45 && count > 250, "{count} of {} requests", requests.len());
}

/// A source of choices that repeats.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.roll(list.len())]
    }
}

/// Any value, as a client may write it below a member without a table.
fn anything(dice: &mut Dice, depth: usize) -> Value {
    match dice.roll(if depth == 0 { 6 } else { 9 }) {
        0 => json!(null),
        1 => json!(true),
        2 => json!(7),
        3 => json!("text"),
        4 => json!("http://169.254.169.254/"),
        5 => json!(""),
        6 => json!([anything(dice, depth - 1), anything(dice, depth - 1)]),
        7 => json!({ "a": anything(dice, depth - 1) }),
        _ => {
            let key = *dice.pick(&["image_url", "input_audio", "file", "file_url", "url", "type"]);
            json!({ key: anything(dice, depth - 1) })
        }
    }
}

/// A value of a member: often what it takes, sometimes anything.
fn any_value(member: &Member, dice: &mut Dice, depth: usize) -> Value {
    if let Some(values) = member.values
        && dice.roll(4) > 0
    {
        let listed: Vec<&str> = table(values).members.keys().map(AsRef::as_ref).collect();
        return json!(dice.pick(&listed));
    }
    match (member.of, dice.roll(6)) {
        (Some(of), 0..=3) if depth > 0 => {
            let object = random_object(of, dice, depth - 1);
            if dice.roll(2) == 0 { object } else { json!([object]) }
        }
        _ if member.class == Class::Model => json!(["a", "b"]),
        _ => anything(dice, depth.min(2)),
    }
}

fn random_object(id: TableId, dice: &mut Dice, depth: usize) -> Value {
    let members: Vec<(&str, &Member)> =
        table(id).members.iter().map(|(name, member)| (name.as_ref(), member.as_ref())).collect();
    let mut object = Map::new();
    if members.is_empty() {
        return json!({ "any": anything(dice, 1) });
    }
    for _ in 0..=dice.roll(3) {
        // Most denied members would leave nothing to compare below the others.
        let (name, member) = *dice.pick(&members);
        if passes(member) || dice.roll(3) == 0 {
            object.insert(name.to_owned(), any_value(member, dice, depth));
        }
    }
    if dice.roll(20) == 0 {
        object.insert("brand_new".into(), json!(1));
    }
    Value::Object(object)
}

/// What `tools/members/verdict.py` makes of each body: the classes of what it finds.
fn reference(cases: &[(String, String, Value)]) -> Vec<BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program = root.join(".parts/bin/python");
    let mut child = Command::new(&program)
        .arg("-B")
        .arg(root.join("tools/members"))
        .arg("judge-all")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{} does not start ({error}); run `tools/parts python`", program.display())
        });
    let mut input = child.stdin.take().unwrap();
    let text = json!(cases).to_string();
    #[expect(clippy::disallowed_methods, reason = "both pipes of a child are used at once")]
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "the evaluator failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn random_bodies_get_the_verdict_of_the_reference_evaluator() {
    let mut dice = Dice(1);
    let mut cases = Vec::new();
    let mut ours = Vec::new();
    let catalog = Catalog::load().unwrap();
    for name in names() {
        let policy = bodies(name, "inline");
        for route in &catalog.file(name).unwrap().routes {
            let Some(root) = route.json else { continue };
            let listed = &route.paths[0];
            let Some(path) = sample(route, listed) else { continue };
            for _ in 0..40 {
                let mut body = random_object(root, &mut dice, DEPTH);
                let object = body.as_object_mut().unwrap();
                if table(root).members.contains_key("model") {
                    object.insert("model".into(), json!("m"));
                }
                let found = verdict(&policy.json(ALL, &path, &body.to_string())).map_err(|it| it.0);
                let few = "infer:text infer:embeddings infer:tensor infer:alias infer:batch tokenize models:read";
                let scoped =
                    verdict(&policy.json(few, &path, &body.to_string())).map_err(|it| it.0);
                if found == Err(Reason::NoRoute) || scoped == Err(Reason::NoRoute) {
                    continue;
                }
                cases.push((name.to_owned(), listed.clone(), body));
                ours.push((found, scoped));
            }
        }
    }
    let theirs = reference(&cases);
    let mut wrong = Vec::new();
    for (((case, (found, scoped)), classes), index) in cases.iter().zip(&ours).zip(&theirs).zip(0..)
    {
        let forbidden = classes.contains("denied") || classes.contains("reference");
        let expected = if forbidden { Err(Reason::FieldForbidden) } else { Ok(()) };
        // The route's own scope may be one of media.
        let raised = classes.contains("scoped") && !forbidden;
        let good = *found == expected
            && (!raised || *scoped == Err(Reason::InsufficientScope))
            && (raised || scoped == found || *scoped == Err(Reason::InsufficientScope));
        if !good {
            wrong.push(format!(
                "{index} {} {}: {found:?}, {scoped:?} for {classes:?}: {}",
                case.0, case.1, case.2
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 2000, "{}", cases.len());
}

#[test]
fn categories_see_every_string_that_reaches_the_prompt() {
    let policy = Bodies::new(
        "categories:
  - { name: general, scopes: [] }
  - { name: weapons, scopes: ['category:weapons'], patterns: ['plutonium'] }
routes: [{ preset: vllm, categories: { classify: true, default: general } }]",
    );
    let scopes = "infer:text infer:multimodal infer:audio tokenize";
    let found = |path: &str, body: Value| {
        let mut body = body;
        body.as_object_mut().unwrap().insert("model".into(), json!("m"));
        verdict(&policy.json(scopes, path, &body.to_string())).map_err(|refused| refused.0)
    };
    let word = "about plutonium";
    let chat = "/v1/chat/completions";
    let messages = "/v1/messages";
    let message = |message: Value| json!({ "messages": [message] });
    let block = |block: Value| json!({ "messages": [{ "role": "user", "content": [block] }] });
    for (says, path, body) in [
        ("a message", chat, message(json!({ "role": "user", "content": word }))),
        ("a refusal", chat, message(json!({ "role": "assistant", "refusal": word }))),
        ("a thought", chat, message(json!({ "role": "assistant", "reasoning_content": word }))),
        ("a part of a message", chat, block(json!({ "type": "text", "text": word }))),
        (
            "the arguments of a call",
            chat,
            message(
                json!({ "role": "assistant", "tool_calls": [{ "function": { "name": "f", "arguments": word } }] }),
            ),
        ),
        (
            "the description of a tool",
            chat,
            json!({ "tools": [{ "type": "function", "function": { "name": "f", "description": word } }] }),
        ),
        (
            "a name in a tool's schema",
            chat,
            json!({ "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "properties": { "plutonium": {} } } } }] }),
        ),
        ("a document's title", chat, json!({ "documents": [{ "title": word, "text": "x" }] })),
        ("a prompt", "/v1/completions", json!({ "prompt": ["x", word] })),
        ("the instructions", "/v1/responses", json!({ "input": "x", "instructions": word })),
        ("the system prompt", messages, json!({ "system": [{ "type": "text", "text": word }] })),
        ("a thought in a block", messages, block(json!({ "type": "thinking", "thinking": word }))),
        (
            "a document as text",
            messages,
            block(
                json!({ "type": "document", "source": { "data": word, "type": "text", "media_type": "text/plain" } }),
            ),
        ),
        ("what counting reads", "/v1/messages/count_tokens", json!({ "system": word })),
        ("what is cut into tokens", "/tokenize", json!({ "prompt": word })),
        ("tokens in place of text", "/v1/completions", json!({ "prompt": [1, 2, 3] })),
        (
            "a document in base64 of no known kind",
            messages,
            block(
                json!({ "type": "document", "source": { "type": "base64", "media_type": "text/plain", "data": "cGx1dG9uaXVt" } }),
            ),
        ),
    ] {
        assert_eq!(found(path, body), Err(Reason::CategoryForbidden), "{says}");
    }
    for (says, path, body) in [
        ("an ordinary message", chat, message(json!({ "role": "user", "content": "x" }))),
        (
            "an image, whatever its bytes spell",
            messages,
            block(
                json!({ "type": "image", "source": { "data": "plutonium", "media_type": "image/png", "type": "base64" } }),
            ),
        ),
        (
            "numbers in a tool's schema",
            chat,
            json!({ "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "minimum": 1 } } }] }),
        ),
    ] {
        assert_eq!(found(path, body), Ok(()), "{says}");
    }
    assert_eq!(
        found(chat, block(json!({ "type": "brand_new", "text": "x" }))),
        Err(Reason::FieldForbidden),
        "a part of an unknown type"
    );
}

#[test]
fn caps_count_every_member_that_costs() {
    let policy = Bodies::new(
        "routes: [{ preset: vllm, caps: { max_tokens: 100, require_max_tokens: true, prompts: 3, images: 1 } }]",
    );
    let found = |path: &str, body: &str| {
        verdict(&policy.json("infer:text infer:multimodal infer:embeddings", path, body))
    };
    let over = |name: &str| Err((Reason::FieldForbidden, Some(name.to_owned())));
    let chat = "/v1/chat/completions";
    for (path, body, expected) in [
        (chat, r#"{"model":"m","messages":[],"max_tokens":100}"#, Ok(())),
        (chat, r#"{"model":"m","messages":[],"max_tokens":101}"#, over("max_tokens")),
        (chat, r#"{"model":"m","messages":[],"min_tokens":1}"#, over("max_tokens")),
        (chat, r#"{"model":"m","max_tokens":1,"min_tokens":101}"#, over("min_tokens")),
        (
            chat,
            r#"{"model":"m","max_tokens":1,"chat_template_kwargs":{"thinking_budget":999}}"#,
            over("thinking_budget"),
        ),
        ("/v1/completions", r#"{"model":"m","max_tokens":1,"prompt":["a","b","c"]}"#, Ok(())),
        (
            "/v1/completions",
            r#"{"model":"m","max_tokens":1,"prompt":["a","b","c","d"]}"#,
            over("prompts"),
        ),
    ] {
        assert_eq!(found(path, body), expected, "{path} {body}");
    }
    let rights = "tokenize infer:embeddings";
    for (path, body) in [
        ("/v1/embeddings", r#"{"model":"m","input":"x"}"#),
        ("/tokenize", r#"{"model":"m","prompt":"x"}"#),
    ] {
        let found = verdict(&policy.json(rights, path, body));
        assert_eq!(found, Ok(()), "no member of {path} could be required");
    }
    let policy = Bodies::new("routes: [{ preset: vllm, caps: { prompts: 3 } }]");
    let found =
        |path: &str, body: &str| verdict(&policy.json("infer:text infer:embeddings", path, body));
    for (path, body, expected) in [
        ("/v1/score", r#"{"model":"m","text_1":"a","text_2":["b","c"]}"#, Ok(())),
        ("/v1/score", r#"{"model":"m","text_1":"a","text_2":["b","c","d"]}"#, over("prompts")),
        (
            "/generative_scoring",
            r#"{"model":"m","query":"q","items":["a","b","c","d"]}"#,
            over("prompts"),
        ),
        (
            "/v1/systemone",
            r#"{"model":"m","questions":{"a":{},"b":{},"c":{},"d":{}}}"#,
            over("prompts"),
        ),
        ("/v1/embeddings", r#"{"model":"m","input":[1,2,3,4,5]}"#, Ok(())),
        ("/v1/embeddings", r#"{"model":"m","input":[[1],[2],[3],[4]]}"#, over("prompts")),
        (
            "/pooling",
            r#"{"model":"m","messages":[{"role":"user","content":"a"},{"role":"user","content":"a"},{"role":"user","content":"a"},{"role":"user","content":"a"}]}"#,
            Ok(()),
        ),
    ] {
        assert_eq!(found(path, body), expected, "{path} {body}");
    }
}

#[test]
fn the_operator_opens_members() {
    let policy = Bodies::new(
        "routes: [{ preset: vllm, open: [server-tools], fields: { allow: [priority, structured_outputs.regex, brand_new, 'messages[].content[].uuid', '?trace'] } }]",
    );
    let chat = "/v1/chat/completions";
    for (path, body, allowed) in [
        (chat, r#"{"model":"m","priority":1}"#, true),
        (chat, r#"{"model":"m","structured_outputs":{"regex":"a"}}"#, true),
        (chat, r#"{"model":"m","structured_outputs":{"grammar":"a"}}"#, false),
        (chat, r#"{"model":"m","brand_new":{"image_url":"x"}}"#, false),
        (chat, r#"{"model":"m","brand_new":{"a":[1]}}"#, true),
        (chat, r#"{"model":"m","other_new":1}"#, false),
        (
            chat,
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x","uuid":"u"}]}]}"#,
            true,
        ),
        ("/v1/chat/completions?trace=1", r#"{"model":"m"}"#, true),
        ("/v1/chat/completions?other=1", r#"{"model":"m"}"#, false),
        (
            "/v1/responses",
            r#"{"model":"m","tools":[{"type":"mcp","server_url":"https://x"}]}"#,
            true,
        ),
        ("/v1/responses", r#"{"model":"m","previous_response_id":"r"}"#, false),
    ] {
        let found = verdict(&policy.json("infer:text", path, body));
        assert_eq!(found.is_ok(), allowed, "{path} {body}: {found:?}");
    }
    let policy = Bodies::new("routes: [{ preset: vllm, fields: { unknown: pass } }]");
    for (body, allowed) in [
        (r#"{"model":"m","brand_new":1}"#, true),
        (r#"{"model":"m","priority":1}"#, false),
        (r#"{"model":"m","messages":[{"role":"user","content":[{"type":"brand_new"}]}]}"#, false),
    ] {
        assert_eq!(verdict(&policy.json("infer:text", chat, body)).is_ok(), allowed, "{body}");
    }
}

#[test]
fn forms_and_queries_have_members_too() {
    let form = |fields: &[(&str, &str)]| {
        let parts = fields.iter().map(|(name, value)| {
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        });
        parts.collect::<String>() + "--b--\r\n"
    };
    let media = [("content-type", "multipart/form-data; boundary=b")];
    let path = "/v1/audio/transcriptions";
    for (preset, target, fields, expected) in [
        ("vllm", path, &[("language", "en"), ("timestamp_granularities[]", "word")][..], Ok(())),
        ("vllm", path, &[("vllm_xargs", "{}")], Err("vllm_xargs")),
        ("vllm", path, &[("use_beam_search", "true")], Err("use_beam_search")),
        ("vllm", path, &[("brand_new", "1")], Err("brand_new")),
        ("ollama", path, &[("language", "en")], Ok(())),
        (
            "llama-cpp",
            path,
            &[("chat_template_kwargs", "{\"chat_template\":\"x\"}")],
            Err("chat_template_kwargs"),
        ),
        ("llama-cpp", path, &[("lora", "1")], Err("lora")),
        ("llama-cpp", path, &[("n_probs", "100")], Err("n_probs")),
    ] {
        let policy = bodies(preset, "inline");
        let all: Vec<(&str, &str)> = [("model", "m")].iter().chain(fields).copied().collect();
        let found = verdict(&policy.ask("infer:audio", target, &media, form(&all).as_bytes()));
        let found = found.map_err(|(_, param)| param.unwrap_or_default());
        assert_eq!(found, expected.map_err(str::to_owned), "{preset} {fields:?}");
    }
    // Go reads the query before the form.
    let policy = bodies("ollama", "inline");
    let body = form(&[("model", "m")]);
    let ask = |target: &str| verdict(&policy.ask("infer:audio", target, &media, body.as_bytes()));
    assert_eq!(
        ask("/v1/audio/transcriptions?model=premium").map_err(|refused| refused.0),
        Err(Reason::MalformedRequest)
    );
    assert_eq!(
        ask("/v1/audio/transcriptions?model=m"),
        Err((Reason::FieldForbidden, Some("?model".into())))
    );
    // A route written out has no tables, and its rules hold for the query as well.
    let policy = Bodies::new(
        "routes: [{ match: { methods: [POST], paths: [/v1/audio/transcriptions] }, scopes: [], model: { from: 'form:model' }, caps: { max_tokens: 5 } }]",
    );
    let ask = |target: &str| verdict(&policy.ask("", target, &media, body.as_bytes()));
    assert_eq!(ask("/v1/audio/transcriptions?other=1"), Ok(()));
    assert_eq!(
        ask("/v1/audio/transcriptions?max_tokens=9"),
        Err((Reason::FieldForbidden, Some("?max_tokens".into())))
    );
    assert_eq!(
        ask("/v1/audio/transcriptions?model=premium").map_err(|refused| refused.0),
        Err(Reason::MalformedRequest)
    );
}
