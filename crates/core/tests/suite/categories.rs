//! Prompt categories: errors in the configuration, their combination with other rules for the body,
//! and the text that is classified.

use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};
use tollgate_core::denial::Reason;

use crate::{
    body::{Bodies, errors, no},
    properties::cases,
};

const CATEGORIES: &str = "
categories:
  - { name: general, scopes: [] }
  - { name: code, scopes: ['category:code'], patterns: ['needle', '(?m)^first line$'] }
";

fn policy(keys: &str) -> String {
    format!(
        "{CATEGORIES}routes:\n  - match: {{ methods: [POST], paths: [/x] }}\n    scopes: []\n{keys}"
    )
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let list = |list: &str| {
        format!("categories: {list}\nroutes: [{{ match: {{ paths: [/health] }}, public: true }}]")
    };
    let rows = [
        (list("[{ name: '', scopes: [] }]"), "categories[0].name: `` is no name of a category"),
        (list("[{ name: 'a b', scopes: [] }]"), "`a b` is no name of a category"),
        (list("[{ name: a, scopes: [] }, { name: a, scopes: [] }]"), "categories[1].name: two categories"),
        (list("[{ name: a, scopes: ['a b'] }]"), "categories[0].scopes[0]: `a b` is not a scope"),
        (list("[{ name: a }]"), "scopes"),
        (list("[{ name: a, scopes: [], patterns: [x, '('] }]"), "categories[0].patterns[1]: `(` is no pattern: unclosed group"),
        (list("[{ name: a, scopes: [], patterns: ['x*'] }]"), "finds the empty text"),
        (list("[{ name: a, scopes: [], patterns: ['(?=x)'] }]"), "look-around"),
        (list("[{ name: a, scopes: [], patterns: ['\\w{999}{99}'] }]"), "would take more"),
        (list(&format!("[{{ name: a, scopes: [], patterns: [{}] }}]", vec!["x"; 257].join(", "))), "at most 256"),
        (list(&format!("[{{ name: a, scopes: [], patterns: [{}] }}]", "x".repeat(1025))), "1 to 1024 bytes"),
        (policy("    categories: {}\n"), "set `declared` or `classify`"),
        (policy("    categories: { declared: {} }\n"), "set `header` or `field`"),
        (policy("    categories: { declared: { header: authorization } }\n"), "is no header for a category"),
        (policy("    categories: { declared: { header: 'a b' } }\n"), "is no header for a category"),
        (policy("    categories: { declared: { field: category } }\n"), "is not a JSON pointer"),
        (policy("    categories: { classify: true, must_agree: true }\n"), "set `declared` and `classify`"),
        (policy("    categories: { classify: true, default: other }\n"), "no category `other`"),
        (policy("    categories: { classify: true, scan_bytes: 0 }\n"), "scan_bytes"),
        (policy("    categories: { classify: true, scan_bytes: 99999999 }\n"), "at most 16777216"),
        (policy("    categories: { declared: { header: x-c }, default: general }\n"), "every request must declare"),
        (policy("    categories: { classify: true }\n    mcp: {}\n"), "an MCP server gets no prompts"),
        (policy("    categories: { classify: true }\n    model: { from: 'form:model' }\n"), "`categories` is about JSON"),
        (policy("    categories: { classify: true }\n    model: { from: 'body:/prompt' }\n"), "read for something else"),
        (
            "routes:\n  - { match: { methods: [POST], paths: [/x] }, scopes: [], categories: { classify: true } }".to_owned(),
            "there are no `categories`",
        ),
        (
            "categories: [{ name: a, scopes: [] }]\nroutes:\n  - { match: { methods: [POST], paths: [/x] }, scopes: [], categories: { \
             classify: true } }"
                .to_owned(),
            "has `patterns`",
        ),
        (
            format!("{CATEGORIES}routes: [{{ match: {{ paths: [/x] }}, public: true, categories: {{ classify: true }} }}]"),
            "has no meaning",
        ),
    ];
    for (policy, expected) in rows {
        let errors = errors(&policy);
        assert!(errors.contains(expected), "{expected}: {errors}");
    }
}

#[test]
fn text_is_found_whatever_else_is_read() {
    let everything = "    model: { from: body, adapters: { fields: [/lora_path] } }
    caps: { max_tokens: 10, prompts: 3, images: 1 }
    raise: { multimodal: 'infer:multimodal' }
    tools: 'tool:{name}'
";
    let denied = || no(Reason::CategoryForbidden, "category");
    for (name, more) in [
        ("nothing else", String::new()),
        ("everything else", everything.to_owned()),
        ("media", "    fields: { deny: [priority], media: inline }\n".to_owned()),
        (
            "only named fields",
            "    fields: { allow: [model, messages, prompt, input, text, documents, input_ids, metadata] }\n".to_owned(),
        ),
        ("a declared category", String::new()),
    ] {
        let declared =
            if name == "a declared category" { "declared: { field: /metadata/category, required: false }, " } else { "" };
        let bodies = Bodies::new(&policy(&format!("{more}    categories: {{ {declared}classify: true, default: general }}\n")));
        bodies.hold(&[
            ("nothing is found", "", "/x", r#"{"model":"m","messages":[{"content":"hay"}]}"#, Ok(())),
            ("a message", "", "/x", r#"{"model":"m","messages":[{"content":"a needle"}]}"#, denied()),
            ("with the scope", "category:code", "/x", r#"{"model":"m","messages":[{"content":"a needle"}]}"#, Ok(())),
            ("a part", "", "/x", r#"{"model":"m","messages":[{"content":[{"type":"text","text":"needle"}]}]}"#, denied()),
            (
                "a part of a part",
                "",
                "/x",
                r#"{"model":"m","messages":[{"content":[{"content":[{"text":"needle"}]}]}]}"#,
                denied(),
            ),
            (
                "the output of a tool",
                "",
                "/x",
                r#"{"model":"m","input":[{"type":"function_call_output","output":"needle"}]}"#,
                denied(),
            ),
            ("a prompt", "", "/x", r#"{"model":"m","prompt":"needle"}"#, denied()),
            ("prompts", "", "/x", r#"{"model":"m","prompt":["hay",["needle"]]}"#, denied()),
            ("llama.cpp's object", "", "/x", r#"{"model":"m","prompt":{"prompt_string":"needle"}}"#, denied()),
            ("documents", "", "/x", r#"{"model":"m","documents":[{"text":"needle"},"hay"]}"#, denied()),
            ("text", "", "/x", r#"{"model":"m","text":["needle"]}"#, denied()),
            ("a line of its own", "", "/x", r#"{"model":"m","messages":[{"content":"hay"},{"content":"first line"}]}"#, denied()),
            ("tokens", "", "/x", r#"{"model":"m","prompt":[1]}"#, denied()),
            ("tokens in a list", "", "/x", r#"{"model":"m","prompt":["hay",[1,2]]}"#, denied()),
            ("tokens by name", "", "/x", r#"{"model":"m","input_ids":[[1]]}"#, denied()),
            ("no tokens", "", "/x", r#"{"model":"m","input_ids":null,"prompt":"hay"}"#, Ok(())),
            ("a number for a content", "", "/x", r#"{"model":"m","messages":[{"content":7}]}"#, denied()),
            ("a role is no text", "", "/x", r#"{"model":"m","messages":[{"role":"needle","content":null}]}"#, Ok(())),
        ]);
    }
}

#[test]
fn text_is_looked_at_up_to_its_bound() {
    let bodies = Bodies::new(&policy(
        "    categories: { classify: true, scan_bytes: 64, default: general }\n",
    ));
    let prompt = |text: &str| format!(r#"{{"prompt":"{text}"}}"#);
    let large = Err((Reason::BodyTooLarge, None));
    let (just, over) = (prompt(&"a".repeat(63)), prompt(&"a".repeat(64)));
    let (escaped, pieces) = (
        prompt(&"\\u0061".repeat(63)),
        format!(r#"{{"prompt":["{}"]}}"#, vec!["aaaa"; 13].join("\",\"")),
    );
    let hidden = prompt(&format!("{}needle", "\\u0061".repeat(80)));
    let base64 = format!(
        r#"{{"messages":[{{"content":[{{"type":"image_url","image_url":{{"url":"data:,{}"}}}}]}}]}}"#,
        "a".repeat(500)
    );
    bodies.hold(&[
        ("as much as is looked at", "category:code", "/x", &just, Ok(())),
        ("one more", "category:code", "/x", &over, large),
        ("escapes count by what they stand for", "category:code", "/x", &escaped, Ok(())),
        ("pieces count together", "category:code", "/x", &pieces, large),
        ("nothing hides behind the bound", "", "/x", &hidden, large),
        ("an image is no text", "", "/x", &base64, Ok(())),
    ]);
}

proptest! {
    #![proptest_config(cases(200))]

    /// A needle is found exactly if the text contains it, however the text is escaped and split.
    #[test]
    fn escapes_hide_nothing(
        before in "[a-m\n\"\\\\\u{e9}\u{1f600}]{0,40}",
        found in any::<bool>(),
        after in "[a-m\n\"\\\\\u{e9}\u{1f600}]{0,40}",
        escape in prop::collection::vec(0..3u8, 100).prop_map(|kinds| kinds),
        place in 0..4usize,
    ) {
        let text = format!("{before}{}{after}", if found { "needle" } else { "neeedle" });
        let mut kinds = escape.iter().cycle();
        let mut written = String::new();
        for c in text.chars() {
            let kind = *kinds.next().unwrap();
            match c {
                _ if kind == 2 => written.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}"))),
                '\n' => written.push_str("\\n"),
                '"' | '\\' => written.extend(['\\', c]),
                _ => written.push(c),
            }
        }
        let body = match place {
            0 => format!(r#"{{"prompt":"{written}"}}"#),
            1 => format!(r#"{{"messages":[{{"role":"user","content":"{written}"}}]}}"#),
            2 => format!(r#"{{"messages":[{{"content":[{{"type":"text","text":"hay"}},{{"text":"{written}","type":"text"}}]}}]}}"#),
            _ => format!(r#"{{"input":["hay","{written}"]}}"#),
        };
        let bodies = Bodies::new(&policy("    categories: { classify: true, default: general }\n"));
        prop_assert_eq!(bodies.json("", "/x", &body).verdict().is_err(), found, "{}", body);
    }
}
