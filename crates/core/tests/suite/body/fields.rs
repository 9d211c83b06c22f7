//! Caps, and allowed and forbidden members.

use tollgate_core::denial::Reason;

use super::{Bodies, errors, no};

const POLICY: &str = "
routes:
  - match: { paths: [/caps], methods: [POST] }
    scopes: []
    caps: { max_tokens: 100, n: 2, best_of: 3, prompts: 2, images: 1, audio: 0 }
  - { match: { paths: [/must], methods: [POST] }, scopes: [], caps: { max_tokens: 100, require_max_tokens: true } }
  - { match: { paths: [/small], methods: [POST] }, scopes: [], caps: { input_bytes: 10 } }
  - match: { paths: [/deny], methods: [POST, GET] }
    scopes: []
    fields: { deny: [priority, chat_template, /sampling_params/custom_params] }
  - { match: { paths: [/allow], methods: [POST] }, scopes: [], fields: { allow: [model, messages] } }
  - { match: { paths: [/inline], methods: [POST] }, scopes: [], fields: { media: inline } }
";

#[test]
fn numbers_are_capped_under_every_name() {
    let over = |name| no(Reason::FieldForbidden, name);
    let malformed = |name| no(Reason::MalformedRequest, name);
    Bodies::new(POLICY).hold(&[
        ("nothing said", "", "/caps", "{}", Ok(())),
        ("at the cap", "", "/caps", r#"{"max_tokens":100,"n":2,"best_of":3}"#, Ok(())),
        ("over", "", "/caps", r#"{"max_tokens":101}"#, over("max_tokens")),
        (
            "the larger of two names counts",
            "",
            "/caps",
            r#"{"max_tokens":1,"max_completion_tokens":101}"#,
            over("max_completion_tokens"),
        ),
        (
            "the Responses API",
            "",
            "/caps",
            r#"{"max_output_tokens":101}"#,
            over("max_output_tokens"),
        ),
        (
            "SGLang",
            "",
            "/caps",
            r#"{"sampling_params":{"max_new_tokens":101}}"#,
            over("max_new_tokens"),
        ),
        (
            "SGLang, a list of settings",
            "",
            "/caps",
            r#"{"sampling_params":[{"max_new_tokens":1},{"max_new_tokens":101}]}"#,
            over("max_new_tokens"),
        ),
        ("TGI", "", "/caps", r#"{"parameters":{"max_new_tokens":101}}"#, over("max_new_tokens")),
        ("llama.cpp", "", "/caps", r#"{"n_predict":101}"#, over("n_predict")),
        ("Ollama", "", "/caps", r#"{"options":{"num_predict":101}}"#, over("num_predict")),
        ("null is absent", "", "/caps", r#"{"max_tokens":null,"sampling_params":null}"#, Ok(())),
        ("without end (llama.cpp)", "", "/caps", r#"{"n_predict":-1}"#, malformed("n_predict")),
        (
            "pydantic takes strings for numbers",
            "",
            "/caps",
            r#"{"max_tokens":"999"}"#,
            malformed("max_tokens"),
        ),
        ("and floats", "", "/caps", r#"{"max_tokens":1e1}"#, malformed("max_tokens")),
        (
            "too large for a double",
            "",
            "/caps",
            r#"{"max_tokens":9007199254740992}"#,
            malformed("max_tokens"),
        ),
        (
            "twice in a nested object",
            "",
            "/caps",
            r#"{"sampling_params":{"max_new_tokens":1,"max_new_tokens":101}}"#,
            Err((Reason::MalformedRequest, None)),
        ),
        ("in another case (Go)", "", "/caps", r#"{"Max_Tokens":101}"#, malformed("max_tokens")),
        (
            "settings that are none",
            "",
            "/caps",
            r#"{"sampling_params":"x"}"#,
            malformed("sampling_params"),
        ),
        ("n", "", "/caps", r#"{"n":3}"#, over("n")),
        ("best_of", "", "/caps", r#"{"best_of":4}"#, over("best_of")),
        ("named at all", "", "/must", r#"{"max_completion_tokens":5}"#, Ok(())),
        ("not named", "", "/must", r#"{"max_tokens":null}"#, over("max_tokens")),
    ]);
}

#[test]
fn prompts_and_parts_are_counted() {
    let over = |name| no(Reason::FieldForbidden, name);
    Bodies::new(POLICY).hold(&[
        ("one", "", "/caps", r#"{"prompt":"a"}"#, Ok(())),
        ("two", "", "/caps", r#"{"prompt":["a","b"]}"#, Ok(())),
        ("three", "", "/caps", r#"{"prompt":["a","b","c"]}"#, over("prompts")),
        ("one prompt in tokens", "", "/caps", r#"{"prompt":[1,2,3,4]}"#, Ok(())),
        ("three in tokens", "", "/caps", r#"{"input":[[1],[2],[3]]}"#, over("prompts")),
        ("a conversation is one", "", "/caps", r#"{"input":[{"role":"user"},{"role":"user"},{"role":"user"}]}"#, Ok(())),
        ("documents to rerank", "", "/caps", r#"{"documents":[{"a":"x"},{"a":"x"},{"a":"x"}]}"#, over("prompts")),
        ("one image", "", "/caps", r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"x"}}]}]}"#, Ok(())),
        (
            "two images",
            "",
            "/caps",
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"x"}},{"image_url":"y"}]}]}"#,
            over("images"),
        ),
        ("Ollama's lists", "", "/caps", r#"{"messages":[{"images":["a","b"]}]}"#, over("images")),
        ("SGLang's lists", "", "/caps", r#"{"image_data":["a","b"]}"#, over("images")),
        ("audio", "", "/caps", r#"{"messages":[{"content":[{"input_audio":{"data":"x"}}]}]}"#, over("audio")),
        ("bytes", "", "/small", r#"{"a":12345}"#, Err((Reason::BodyTooLarge, None))),
        ("bytes at the cap", "", "/small", r#"{"a":1234}"#, Ok(())),
    ]);
}

#[test]
fn members_are_denied_and_allowed() {
    let denied = |name| no(Reason::FieldForbidden, name);
    Bodies::new(POLICY).hold(&[
        ("none of them", "", "/deny", r#"{"model":"m","sampling_params":{"top_k":1}}"#, Ok(())),
        ("priority", "", "/deny", r#"{"priority":0}"#, denied("priority")),
        ("even null", "", "/deny", r#"{"chat_template":null}"#, denied("chat_template")),
        ("escaped", "", "/deny", r#"{"prior\u0069ty":1}"#, denied("priority")),
        ("another case (Go)", "", "/deny", r#"{"Priority":1}"#, no(Reason::MalformedRequest, "priority")),
        ("further down", "", "/deny", r#"{"sampling_params":{"custom_params":{}}}"#, denied("sampling_params.custom_params")),
        (
            "further down in a list",
            "",
            "/deny",
            r#"{"sampling_params":[{"custom_params":1}]}"#,
            denied("sampling_params.custom_params"),
        ),
        ("not where it means nothing", "", "/deny", r#"{"metadata":{"priority":1}}"#, Ok(())),
        ("allowed", "", "/allow", r#"{"model":"m","messages":[]}"#, Ok(())),
        ("not allowed", "", "/allow", r#"{"model":"m","kv_transfer_params":{}}"#, denied("kv_transfer_params")),
        (
            "inline",
            "",
            "/inline",
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AA"}}]}]}"#,
            Ok(()),
        ),
        (
            "a URL",
            "",
            "/inline",
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"http://169.254.169.254/"}}]}]}"#,
            denied("url"),
        ),
        ("a URL as a string", "", "/inline", r#"{"messages":[{"content":[{"image_url":"https://x"}]}]}"#, denied("url")),
        ("an escaped URL", "", "/inline", r#"{"messages":[{"content":[{"image_url":"\u0068ttps://x"}]}]}"#, denied("url")),
        (
            "a file",
            "",
            "/inline",
            r#"{"messages":[{"content":[{"type":"video_url","video_url":{"url":"file:///etc/passwd"}}]}]}"#,
            denied("url"),
        ),
        ("a bare path (SGLang)", "", "/inline", r#"{"image_data":["/srv/a.png"]}"#, denied("url")),
        (
            "Anthropic's source",
            "",
            "/inline",
            r#"{"messages":[{"content":[{"type":"image","source":{"type":"url","url":"https://x"}}]}]}"#,
            denied("url"),
        ),
        (
            "what a model said may hold URLs",
            "",
            "/inline",
            r#"{"messages":[{"tool_calls":[{"url":"https://x"}],"content":"see https://x"}]}"#,
            Ok(()),
        ),
        ("a schema may hold any key", "", "/inline", r#"{"tools":[{"Type":1,"url":"https://x"}]}"#, Ok(())),
    ]);
    // A method without a body has no members.
    let harness = Bodies::new(POLICY);
    let claims = crate::token::Members::claims("https://secret.example");
    let token = crate::token::signed(
        crate::keys::Signer::Hs256(crate::harness::SECRET),
        crate::token::Members::header("HS256", "k").json(),
        claims.json(),
    );
    let authorization = format!("Bearer {token}");
    let list: [(&str, &[u8]); 1] = [("authorization", authorization.as_bytes())];
    let get = |body| harness.0.ask_with_body("GET", "/deny", &list, body).verdict();
    assert_eq!(get(tollgate_core::request::RawBody::None), Ok(()));
    assert_eq!(
        get(tollgate_core::request::RawBody::Whole(b"{\"priority\":1}")),
        Err(Reason::UnsupportedMediaType)
    );
}

#[test]
fn what_makes_no_sense_does_not_compile() {
    let route = |keys: &str| {
        format!("routes: [{{ match: {{ paths: [/x], methods: [POST] }}, scopes: [], {keys} }}]")
    };
    for (keys, expected) in [
        ("caps: {}", "set at least one cap"),
        ("caps: { require_max_tokens: true, n: 1 }", "set `max_tokens` too"),
        ("caps: { input_bytes: 0 }", "input_bytes"),
        ("fields: {}", "set `deny`, `allow` or `media`"),
        ("fields: { deny: [''] }", "not a JSON pointer"),
        ("fields: { deny: [a], allow: [a] }", "allowed and denied"),
        ("caps: { n: 1 }, fields: { deny: [n] }", "already read"),
        ("model: { from: body }, fields: { deny: [model] }", "already read"),
        ("raise: {}", "set `multimodal` or `audio`"),
        ("tools: 'tool'", "is not a scope for tools"),
        ("mcp: { tools: 'a b{name}' }", "is not a scope for tools"),
        ("mcp: { methods: [tools/call] }", "always needs a scope"),
        ("model: { from: 'form:model' }, caps: { images: 1 }", "cannot be counted"),
        ("resource_metadata: 'http://x'", "is not an https URL"),
    ] {
        let found = errors(&route(keys));
        assert!(found.contains(expected), "{keys}: {found}");
    }
    assert!(
        errors("routes: [{ match: { paths: [/x] }, public: true, caps: { n: 1 } }]")
            .contains("`caps` has no meaning")
    );
}
