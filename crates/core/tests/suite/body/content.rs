//! Content other than text requires additional scopes.

use tollgate_core::denial::Reason;

use super::{Bodies, no};

const POLICY: &str = "
routes:
  - match: { paths: [/both], methods: [POST] }
    scopes: { any: ['infer:text', 'infer:multimodal'] }
    raise: { multimodal: 'infer:multimodal', audio: 'infer:audio' }
  - match: { paths: [/one], methods: [POST] }
    scopes: ['infer:text']
    raise: { multimodal: 'infer:multimodal' }
";

#[test]
fn content_other_than_text_needs_its_scope() {
    let more = no(Reason::InsufficientScope, "messages");
    let text = r#"{"messages":[{"role":"user","content":"hi"},{"content":[{"type":"text","text":"image_url"}]}]}"#;
    let mut rows = vec![
        ("text", "infer:text", "/both", text, Ok(())),
        ("text for who may do more", "infer:multimodal", "/both", text, Ok(())),
        (
            "a type that is none",
            "infer:text",
            "/both",
            r#"{"messages":[{"content":[{"type":7},{"type":["image"]},{"type":null}]}]}"#,
            Ok(()),
        ),
        (
            "what a tool was given",
            "infer:text",
            "/both",
            r#"{"messages":[{"content":[{"type":"tool_use","input":{"image":"x","Type":1}}]}]}"#,
            Ok(()),
        ),
        (
            "a schema",
            "infer:text",
            "/both",
            r#"{"tools":[{"type":"image","image_url":"x"}]}"#,
            Ok(()),
        ),
    ];
    let multimodal = [
        ("OpenAI", r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"x"}}]}]}"#),
        (
            "a part without a type (vLLM)",
            r#"{"messages":[{"content":[{"image_url":{"url":"x"}}]}]}"#,
        ),
        ("a type in another case", r#"{"messages":[{"content":[{"type":"IMAGE_URL"}]}]}"#),
        ("an escaped type", r#"{"messages":[{"content":[{"type":"image\u005furl"}]}]}"#),
        (
            "the Responses API",
            r#"{"input":[{"role":"user","content":[{"type":"input_image","file_id":"f"}]}]}"#,
        ),
        ("a part of the input itself", r#"{"input":[{"type":"input_image"}]}"#),
        (
            "Anthropic",
            r#"{"messages":[{"content":[{"type":"image","source":{"type":"base64","data":"x"}}]}]}"#,
        ),
        (
            "inside a tool's result",
            r#"{"messages":[{"content":[{"type":"tool_result","content":[{"type":"image"}]}]}]}"#,
        ),
        ("a document", r#"{"messages":[{"content":[{"type":"document"}]}]}"#),
        ("video", r#"{"messages":[{"content":[{"type":"video_url"}]}]}"#),
        ("SGLang's /generate", r#"{"text":"x","image_data":"y"}"#),
        ("Ollama", r#"{"prompt":"x","images":["y"]}"#),
        ("llama.cpp", r#"{"prompt":{"prompt_string":"x","multimodal_data":["y"]}}"#),
        ("a scorer's documents", r#"{"documents":[{"content":[{"type":"image_url"}]}]}"#),
        ("an unknown place", r#"{"extra":{"deep":[[{"video":"x"}]]}}"#),
    ];
    for (says, body) in multimodal {
        rows.push((says, "infer:text infer:audio", "/both", body, more));
        rows.push((says, "infer:text infer:multimodal", "/both", body, Ok(())));
    }
    let audio = [
        (
            "OpenAI",
            r#"{"messages":[{"content":[{"type":"input_audio","input_audio":{"data":"x","format":"wav"}}]}]}"#,
        ),
        ("vLLM", r#"{"messages":[{"content":[{"audio_url":{"url":"x"}}]}]}"#),
        ("SGLang", r#"{"audio_data":"x"}"#),
    ];
    for (says, body) in audio {
        rows.push((says, "infer:text infer:multimodal", "/both", body, more));
        rows.push((says, "infer:text infer:audio", "/both", body, Ok(())));
        rows.push((says, "infer:text", "/one", body, more));
        rows.push((says, "infer:text infer:multimodal", "/one", body, Ok(())));
    }
    let both = r#"{"images":["x"],"audio_data":"y"}"#;
    rows.push(("both, with one of them", "infer:text infer:audio", "/both", both, more));
    rows.push(("both, with the other", "infer:text infer:multimodal", "/both", both, more));
    rows.push((
        "both, with both",
        "infer:text infer:multimodal infer:audio",
        "/both",
        both,
        Ok(()),
    ));
    rows.push((
        "a key in another case (Go)",
        "infer:text",
        "/both",
        r#"{"Images":["x"]}"#,
        no(Reason::MalformedRequest, "images"),
    ));
    rows.push((
        "a repeated type",
        "infer:text",
        "/both",
        r#"{"messages":[{"type":"text","type":"image"}]}"#,
        Err((Reason::MalformedRequest, None)),
    ));
    Bodies::new(POLICY).hold(&rows);
    let answer = Bodies::new(POLICY).json("infer:text", "/both", both);
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.ends_with(", scope=\"infer:multimodal infer:audio\""), "{challenge}");
}
