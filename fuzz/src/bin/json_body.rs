//! The JSON reader, with every rule a route can have. What it accepts is JSON; whichever of several
//! members of one name a server takes, it finds nothing that the reader has not found; and the same
//! document in another writing is read the same.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tollgate_core::{
    request::body::{BodyFacts, Plan, Wanted},
    route::preset::members::Catalog,
};
use tollgate_fuzz::{
    body_of,
    json::{Reading, Tree},
    post,
};

/// Only the model; everything; only a list of members; JSON-RPC; the tables of a preset.
static PLANS: LazyLock<[Plan; 5]> = LazyLock::new(|| {
    let model = || {
        let mut plan = Plan::default();
        plan.model(&"/model".parse().unwrap()).unwrap();
        plan
    };
    let mut all = model();
    all.adapter(&"/lora_path".parse().unwrap()).unwrap();
    all.adapter(&"/parameters/adapter_id".parse().unwrap()).unwrap();
    all.caps().unwrap();
    all.forbid(&"/priority".parse().unwrap()).unwrap();
    all.forbid(&"/extra/cache_salt".parse().unwrap()).unwrap();
    all.tools();
    all.content();
    let mut only = model();
    only.only(&["model".into(), "messages".into()]);
    let mut rpc = Plan::default();
    rpc.rpc().unwrap();
    let catalog = Catalog::load().unwrap();
    let tables = catalog.file("vllm").unwrap().find("POST", "/v1/chat/completions").unwrap();
    let wanted = Wanted {
        model: Some("model"),
        caps: true,
        tools: true,
        text: 1 << 16,
        ..Wanted::default()
    };
    let preset = Plan::members(catalog.tables(), tables.json.unwrap(), &wanted);
    [model(), all, only, rpc, preset]
});

fuzz_target!(|body: &[u8]| {
    outlined(body);
    for (at, plan) in PLANS.iter().enumerate() {
        let Some(facts) = read(body, plan) else { continue };
        let Some(tree) = Tree::of_accepted(body) else { continue };
        for reading in Reading::ALL {
            match at {
                3 => same_messages(&tree, reading, &facts),
                _ => same_model(&tree, reading, &facts),
            }
            if at == 1 {
                nothing_missed(&tree, reading, &facts);
            }
            if at == 4 {
                no_denied_member(&tree, reading, &facts);
            }
            if at == 2
                && let Tree::Object(members) = &tree
            {
                let more = members.iter().any(|(key, _)| key != "model" && key != "messages");
                assert_eq!(more, facts.forbidden.is_some(), "{reading:?}");
            }
        }
        rewritten(body, plan, &facts);
    }
});

/// The outline is that of a JSON object, and a medium is part of the body.
fn outlined(body: &[u8]) {
    let Ok(outline) = body_of(post("application/json", body)).unwrap().outline() else { return };
    assert!(matches!(Tree::of_accepted(body), None | Some(Tree::Object(_))));
    assert!(outline.media_bytes <= body.len() as u64);
}

fn read<'a>(body: &'a [u8], plan: &Plan) -> Option<BodyFacts<'a>> {
    body_of(post("application/json", body)).unwrap().json(plan).ok()
}

fn same_model(tree: &Tree, reading: Reading, facts: &BodyFacts<'_>) {
    match (tree.get("model", reading), &facts.model) {
        (Some(Tree::Text(theirs)), Some(ours)) => assert_eq!(ours, theirs, "{reading:?}"),
        (None | Some(Tree::Word), None) => {}
        (theirs, ours) => panic!("{reading:?}: {ours:?} for {theirs:?}"),
    }
}

fn same_messages(tree: &Tree, reading: Reading, facts: &BodyFacts<'_>) {
    let messages = if facts.batch { tree.elements() } else { std::slice::from_ref(tree) };
    assert_eq!(messages.len(), facts.messages.len());
    for (theirs, ours) in messages.iter().zip(&facts.messages) {
        for (path, ours) in [
            (&["method"][..], &ours.method),
            (&["params", "name"], &ours.name),
            (&["params", "uri"], &ours.uri),
        ] {
            assert_eq!(
                theirs.at(path, reading).and_then(Tree::text),
                ours.as_deref(),
                "{reading:?} {path:?}"
            );
        }
    }
}

/// Members that the tables deny are found wherever a server may find them, and so is one that they do not list.
fn no_denied_member(tree: &Tree, reading: Reading, facts: &BodyFacts<'_>) {
    for path in [
        &["priority"][..],
        &["cache_salt"],
        &["chat_template_kwargs", "chat_template"],
        &["structured_outputs", "regex"],
        &["no_such_member"],
    ] {
        let there = !matches!(tree.at(path, reading), None | Some(Tree::Word));
        assert!(!there || facts.forbidden.is_some(), "{reading:?} {path:?}");
    }
}

/// Whatever a server may find of what a rule is about, the reader has found.
fn nothing_missed(tree: &Tree, reading: Reading, facts: &BodyFacts<'_>) {
    let at = |path: &[&str]| tree.at(path, reading);
    for path in [&["priority"][..], &["extra", "cache_salt"]] {
        assert!(at(path).is_none() || facts.forbidden.is_some(), "{reading:?} {path:?}");
    }
    for path in [&["lora_path"][..], &["parameters", "adapter_id"]] {
        for name in at(path)
            .into_iter()
            .flat_map(|value| value.elements().iter().chain([value]))
            .filter_map(Tree::text)
        {
            assert!(facts.adapters.iter().any(|known| known == name), "{reading:?} {path:?}");
        }
    }
    for path in [
        &["max_tokens"][..],
        &["max_completion_tokens"],
        &["sampling_params", "max_new_tokens"],
        &["options", "num_predict"],
        &["n"],
        &["best_of"],
    ] {
        match at(path) {
            Some(Tree::Whole(number)) => {
                let name = path.last().unwrap();
                assert!(
                    facts.caps.iter().any(|cap| *cap.name == **name && cap.value >= *number),
                    "{reading:?} {path:?}"
                );
            }
            None | Some(Tree::Word) => {}
            other => panic!("{reading:?} {path:?}: {other:?}"),
        }
    }
    let prompts = at(&["prompt"])
        .map_or(0, |prompt| prompt.elements().iter().filter(|one| one.text().is_some()).count());
    assert!(facts.prompts >= u64::try_from(prompts).unwrap(), "{reading:?}");

    let mut names: Vec<&str> = Vec::new();
    for tool in at(&["tools"]).map_or(&[][..], Tree::elements) {
        names.extend(tool.get("name", reading).and_then(Tree::text));
        names.extend(tool.at(&["function", "name"], reading).and_then(Tree::text));
    }
    for function in at(&["functions"]).map_or(&[][..], Tree::elements) {
        names.extend(function.get("name", reading).and_then(Tree::text));
    }
    for path in [
        &["tool_choice", "name"][..],
        &["tool_choice", "function", "name"],
        &["function_call", "name"],
    ] {
        names.extend(at(path).and_then(Tree::text));
    }
    for name in names {
        assert!(facts.tools.iter().any(|known| known == name), "{reading:?}: the tool {name:?}");
    }

    let (mut images, mut clips, mut foreign) = (0, 0, false);
    for message in at(&["messages"]).map_or(&[][..], Tree::elements) {
        for part in message.get("content", reading).map_or(&[][..], Tree::elements) {
            match part.get("type", reading).and_then(Tree::text) {
                Some("image_url") => images += 1,
                Some("input_audio") => clips += 1,
                _ => {}
            }
            let url =
                part.at(&["image_url", "url"], reading).or_else(|| part.get("image_url", reading));
            foreign |= url
                .and_then(Tree::text)
                .is_some_and(|url| url.starts_with("http") || url.starts_with("file:"));
        }
    }
    assert!(
        facts.parts.images >= images && facts.parts.audio >= clips,
        "{reading:?}: {images}, {clips}, {:?}",
        facts.parts
    );
    assert!(facts.external_reference || !foreign, "{reading:?}: a reference");
}

/// serde_json's writing of the same document.
fn rewritten(body: &[u8], plan: &Plan, facts: &BodyFacts<'_>) {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else { return };
    let written = serde_json::to_vec(&value).unwrap();
    let Some(again) = read(&written, plan) else {
        panic!("refused as {}", String::from_utf8_lossy(&written))
    };
    assert_eq!(again.model, facts.model);
    assert_eq!(again.forbidden.is_some(), facts.forbidden.is_some());
    assert_eq!(
        (again.prompts, again.parts, again.batch),
        (facts.prompts, facts.parts, facts.batch)
    );
    let sorted = |facts: &BodyFacts<'_>| {
        let mut names: Vec<String> =
            facts.tools.iter().chain(&facts.adapters).map(|name| (**name).to_owned()).collect();
        names.extend(facts.caps.iter().map(|cap| format!("{} {}", cap.name, cap.value)));
        names.extend(facts.messages.iter().map(|message| format!("{message:?}")));
        names.sort();
        names
    };
    assert_eq!(sorted(&again), sorted(facts));
}
