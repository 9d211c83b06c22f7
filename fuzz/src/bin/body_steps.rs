//! The work of reading a body, in steps: whatever a client sends, it is linear in the bytes, with
//! one constant for every plan, and for forms.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tollgate_core::{
    request::body::{FormPlan, Plan, Wanted, steps},
    route::preset::members::Catalog,
};
use tollgate_fuzz::{body_of, post};

/// Only the model; everything with the prompt's text; JSON-RPC; the tables of a preset.
static PLANS: LazyLock<[Plan; 4]> = LazyLock::new(|| {
    let model = || {
        let mut plan = Plan::default();
        plan.model(&"/model".parse().unwrap()).unwrap();
        plan
    };
    let mut all = model();
    all.adapter(&"/lora_path".parse().unwrap()).unwrap();
    all.caps().unwrap();
    all.forbid(&"/priority".parse().unwrap()).unwrap();
    all.tools();
    all.content();
    all.prompt_text(1 << 16).unwrap();
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
    [model(), all, rpc, preset]
});

/// How often an input is repeated as the content of a message, so that what is costly in it is
/// more than what every body costs.
const TIMES: usize = 64;

fuzz_target!(|input: &[u8]| {
    let form = FormPlan { model: Some("model".into()), caps: true, ..FormPlan::default() };
    let mut within = br#"{"model":"m","messages":[{"content":["#.to_vec();
    for at in 0..TIMES {
        within.extend_from_slice(if at > 0 { b"," } else { b"" });
        within.extend_from_slice(input);
    }
    within.extend_from_slice(b"]}]}");
    for body in [input, within.as_slice()] {
        for plan in &*PLANS {
            bounded(body, || drop(body_of(post("application/json", body)).unwrap().json(plan)));
        }
    }
    let content_type = "multipart/form-data; boundary=b";
    bounded(input, || drop(body_of(post(content_type, input)).unwrap().form(&form)));
});

fn bounded(body: &[u8], read: impl FnOnce()) {
    steps::take();
    read();
    let (taken, bytes) = (steps::take(), body.len() as u64);
    assert!(taken <= steps::FIXED + steps::MOST * bytes, "{taken} steps for {bytes} bytes");
}
