//! Models and caps in forms.

use tollgate_core::denial::Reason;

use super::{Bodies, errors, no, verdict};

const POLICY: &str = "
models: [{ name: whisper, aliases: [stt] }]
routes:
  - match: { paths: [/v1/audio/transcriptions], methods: [POST] }
    scopes: []
    model: { from: 'form:model', scope: 'model:{model}', default: stt }
    caps: { input_bytes: 1000 }
    fields: { deny: [prompt] }
";

fn part(disposition: &str, value: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{value}\r\n")
}

#[test]
fn the_model_of_a_form_is_checked() {
    let harness = Bodies::new(POLICY);
    let file = part("name=\"file\"; filename=\"a.wav\"", "RIFF");
    let model = |name: &str| part("name=\"model\"", name);
    let ask = |scopes: &str, content_type: &str, body: &str| {
        verdict(&harness.ask(
            scopes,
            "/v1/audio/transcriptions",
            &[("content-type", content_type)],
            body.as_bytes(),
        ))
    };
    let form = "multipart/form-data; boundary=b";
    let expect = |expected: Result<(), (Reason, Option<&str>)>| {
        expected.map_err(|(reason, param)| (reason, param.map(str::to_owned)))
    };
    for (says, scopes, body, expected) in [
        ("open", "model:whisper", format!("{file}{}--b--\r\n", model("whisper")), Ok(())),
        ("an alias", "model:whisper", format!("{}{file}--b--\r\n", model("stt")), Ok(())),
        (
            "without the scope",
            "x",
            format!("{}{file}--b--\r\n", model("stt")),
            no(Reason::ModelForbidden, "model"),
        ),
        (
            "unknown",
            "model:other",
            format!("{}--b--\r\n", model("other")),
            no(Reason::ModelForbidden, "model"),
        ),
        ("none: the default", "model:whisper", format!("{file}--b--\r\n"), Ok(())),
        (
            "none: the default needs its scope",
            "x",
            format!("{file}--b--\r\n"),
            no(Reason::ModelForbidden, "model"),
        ),
        (
            "empty",
            "model:whisper",
            format!("{}--b--\r\n", model("")),
            no(Reason::MalformedRequest, "model"),
        ),
        (
            "twice",
            "model:whisper",
            format!("{0}{0}--b--\r\n", model("whisper")),
            no(Reason::MalformedRequest, "model"),
        ),
        (
            "a denied field",
            "model:whisper",
            format!("{}--b--\r\n", part("name=\"prompt\"", "x")),
            no(Reason::FieldForbidden, "prompt"),
        ),
        (
            "too long",
            "model:whisper",
            format!("{}--b--\r\n", part("name=\"x\"", &"x".repeat(1000))),
            Err((Reason::BodyTooLarge, None)),
        ),
    ] {
        assert_eq!(ask(scopes, form, &body), expect(expected), "{says}");
    }
    let body = format!("{}--b--\r\n", model("whisper"));
    for content_type in [
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=\"b\"; x",
        "text/plain",
    ] {
        assert_eq!(
            ask("model:whisper", content_type, &body),
            Err((Reason::UnsupportedMediaType, None)),
            "{content_type}"
        );
    }
}

#[test]
fn caps_hold_in_forms() {
    let harness = Bodies::new(
        "
models: [{ name: small }, { name: large }]
tiers: [{ name: premium, models: [large], scope: 'tier:premium', caps: { max_tokens: 20, images: 1 } }]
routes:
  - match: { paths: [/x], methods: [POST] }
    scopes: []
    model: { from: 'form:model' }
    caps: { max_tokens: 10, n: 2, files: 1 }
  - match: { paths: [/tier], methods: [POST] }
    scopes: []
    model: { from: 'form:model' }
",
    );
    let (small, large) = (part("name=\"model\"", "small"), part("name=\"model\"", "large"));
    let file = part("name=\"image[]\"; filename=\"a.png\"", "PNG");
    let field = |name: &str, value: &str| part(&format!("name=\"{name}\""), value);
    for (says, path, parts, expected) in [
        (
            "within",
            "/x",
            format!("{small}{file}{}{}", field("max_tokens", "10"), field("n", "2")),
            Ok(()),
        ),
        (
            "too many tokens",
            "/x",
            format!("{small}{}", field("max_tokens", "11")),
            no(Reason::FieldForbidden, "max_tokens"),
        ),
        (
            "by another name",
            "/x",
            format!("{}{small}", field("max_new_tokens", "11")),
            no(Reason::FieldForbidden, "max_new_tokens"),
        ),
        (
            "too many answers",
            "/x",
            format!("{small}{}", field("n", "3")),
            no(Reason::FieldForbidden, "n"),
        ),
        (
            "too many files",
            "/x",
            format!("{small}{file}{file}"),
            no(Reason::FieldForbidden, "files"),
        ),
        (
            "no integer",
            "/x",
            format!("{small}{}", field("n", "2.0")),
            no(Reason::MalformedRequest, "n"),
        ),
        ("nothing", "/x", format!("{small}{}", field("n", "")), no(Reason::MalformedRequest, "n")),
        (
            "twice",
            "/x",
            format!("{small}{0}{0}", field("n", "1")),
            no(Reason::MalformedRequest, "n"),
        ),
        (
            "another case",
            "/x",
            format!("{small}{}", field("N", "9")),
            no(Reason::MalformedRequest, "n"),
        ),
        (
            "as a file",
            "/x",
            format!("{small}{}", part("name=\"n\"; filename=\"n\"", "1")),
            no(Reason::MalformedRequest, "n"),
        ),
        (
            "the caps of a tier",
            "/tier",
            format!("{large}{}", field("max_tokens", "21")),
            no(Reason::FieldForbidden, "max_tokens"),
        ),
        (
            "within those",
            "/tier",
            format!("{large}{file}{file}{}", field("max_tokens", "20")),
            Ok(()),
        ),
        ("no tier", "/tier", format!("{small}{}", field("max_tokens", "99")), Ok(())),
    ] {
        let body = format!("{parts}--b--\r\n");
        let answer = harness.ask(
            "tier:premium",
            path,
            &[("content-type", "multipart/form-data; boundary=b")],
            body.as_bytes(),
        );
        assert_eq!(
            verdict(&answer),
            expected.map_err(|(reason, param)| (reason, param.map(str::to_owned))),
            "{says}"
        );
    }
}

#[test]
fn what_a_form_does_not_show_is_an_error() {
    let with = |keys: &str| {
        errors(&format!(
            "routes:\n  - {{ match: {{ paths: [/x], methods: [POST] }}, scopes: [], model: {{ from: 'form:model' }}, {keys} }}"
        ))
    };
    assert!(
        with("caps: { images: 1 }")
            .contains("caps.images: the route reads a form, where `images` cannot be counted")
    );
    assert!(with("tools: 'tool:{name}'").contains("`tools` is about JSON"));
}
