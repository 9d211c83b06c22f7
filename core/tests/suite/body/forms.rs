//! Models in forms.

use tollgate_core::decision::Reason;

use super::{Bodies, no, verdict};

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
    let gate = Bodies::new(POLICY);
    let file = part("name=\"file\"; filename=\"a.wav\"", "RIFF");
    let model = |name: &str| part("name=\"model\"", name);
    let ask = |scopes: &str, content_type: &str, body: &str| {
        verdict(&gate.ask(scopes, "/v1/audio/transcriptions", &[("content-type", content_type)], body.as_bytes()))
    };
    let form = "multipart/form-data; boundary=b";
    let expect =
        |expected: Result<(), (Reason, Option<&str>)>| expected.map_err(|(reason, param)| (reason, param.map(str::to_owned)));
    for (says, scopes, body, expected) in [
        ("open", "model:whisper", format!("{file}{}--b--\r\n", model("whisper")), Ok(())),
        ("an alias", "model:whisper", format!("{}{file}--b--\r\n", model("stt")), Ok(())),
        ("without the scope", "x", format!("{}{file}--b--\r\n", model("stt")), no(Reason::ModelForbidden, "model")),
        ("unknown", "model:other", format!("{}--b--\r\n", model("other")), no(Reason::ModelForbidden, "model")),
        ("none: the default", "model:whisper", format!("{file}--b--\r\n"), Ok(())),
        ("none: the default needs its scope", "x", format!("{file}--b--\r\n"), no(Reason::ModelForbidden, "model")),
        ("empty", "model:whisper", format!("{}--b--\r\n", model("")), no(Reason::MalformedRequest, "model")),
        ("twice", "model:whisper", format!("{0}{0}--b--\r\n", model("whisper")), no(Reason::MalformedRequest, "model")),
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
    for content_type in ["application/json", "multipart/form-data", "multipart/form-data; boundary=\"b\"; x=y", "text/plain"] {
        assert_eq!(ask("model:whisper", content_type, &body), Err((Reason::UnsupportedMediaType, None)), "{content_type}");
    }
}
