//! The multipart reader. The first line of an input is the content type, the rest the body. In what it accepts, the most lenient parser
//! finds the same model, no second one, and no field that the plan should have noted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate_core::{
    request::body::{BodyFacts, FieldPlan, FormPlan, Wanted},
    route::preset::members::Catalog,
};
use tollgate_fuzz::{
    body_of,
    form::{Field, boundary, fields},
    post,
};

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let Ok(content_type) = std::str::from_utf8(&input[..end]) else { return };
    let body = input.get(end + 1..).unwrap_or_default();

    let plan = FormPlan {
        model: Some("model".into()),
        forbidden: vec!["stream".into()],
        ..FormPlan::default()
    };
    if let Some(facts) = read(content_type, body, &plan) {
        let found = fields(body, &boundary(content_type));
        let models: Vec<&Field> =
            found.iter().filter(|field| field.names.iter().any(|name| name == "model")).collect();
        match (&facts.model, models.as_slice()) {
            (None, []) => {}
            (Some(ours), [theirs]) => assert_eq!(ours.as_bytes(), theirs.value),
            (ours, theirs) => panic!("{ours:?} for {theirs:?}"),
        }
        let stream = found.iter().any(|field| field.names.iter().any(|name| name == "stream"));
        assert!(facts.forbidden.is_some() || !stream, "{found:?}");
        assert_eq!(facts.bytes, u64::try_from(body.len()).unwrap());
    }

    let plan = FormPlan { only: Some(vec!["file".into()]), ..FormPlan::default() };
    if let Some(facts) = read(content_type, body, &plan) {
        let found = fields(body, &boundary(content_type));
        let other = found.iter().any(|field| field.names.iter().any(|name| name != "file"));
        assert!(facts.forbidden.is_some() || !other, "{found:?}");
    }

    let catalog = Catalog::load().unwrap();
    let tables = catalog.file("vllm").unwrap().find("POST", "/v1/audio/transcriptions").unwrap();
    let fields_of =
        FieldPlan::new(catalog.tables(), tables.form.unwrap(), &Wanted::default(), false);
    let plan = FormPlan { fields: Some(fields_of), ..FormPlan::default() };
    if let Some(facts) = read(content_type, body, &plan) {
        let found = fields(body, &boundary(content_type));
        let denied = |name: &String| name == "vllm_xargs" || name == "no_such_field";
        let there = found.iter().any(|field| field.names.iter().any(denied));
        assert!(facts.forbidden.is_some() || !there, "{found:?}");
    }
});

fn read<'a>(content_type: &'a str, body: &'a [u8], plan: &FormPlan) -> Option<BodyFacts<'a>> {
    body_of(post(content_type, body))?.form(plan).ok()
}
