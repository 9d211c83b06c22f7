//! The speed of reading a body, in GB/s: `cargo bench -p tollgate-core --bench body`.
//!
//! Prints one line per body: the median of the runs, and the slowest and fastest of them. The time
//! is the thread's own CPU time (`/proc/thread-self/schedstat`), so other programs do not count.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a benchmark reads a clock"
)]

use std::{fmt::Write, hint::black_box};

use tollgate_core::{
    request::{
        Body, Headers, RawBody, RawRequest, Request,
        body::{FormPlan, Plan, Wanted},
    },
    route::preset::members::Catalog,
};

/// Makes a body of about so many bytes.
type MakeBody = fn(usize) -> String;

const RUNS: usize = 15;
/// The number of bytes that one run reads.
const RUN_BYTES: usize = 512 << 20;

/// A chat of about `size` bytes: paragraphs of English, each with a line break, as clients send
/// them.
fn chat(bytes: usize) -> String {
    let paragraph =
        "The quick brown fox jumps over the lazy dog, and the dog does not mind. ".repeat(8);
    let mut body =
        String::from(r#"{"model":"Qwen/Qwen2-72B-Instruct","max_tokens":256,"messages":["#);
    while body.len() + 700 < bytes {
        let comma = if body.ends_with('[') { "" } else { "," };
        write!(body, r#"{comma}{{"role":"user","content":"{paragraph}\n\n"}}"#).unwrap();
    }
    body.push_str("]}");
    body
}

/// A chat with one image in base64.
fn image(bytes: usize) -> String {
    format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{}"}}}}]}}]}}"#,
        "iVBORw0K".repeat(bytes / 8)
    )
}

/// A prompt in tokens.
fn tokens(bytes: usize) -> String {
    format!(r#"{{"model":"m","prompt":[{}1]}}"#, "15496,".repeat(bytes / 6))
}

/// Bodies that cost a reader more per byte than text does: many keys, many objects, depth, many
/// strings, numbers, escapes.
const HOSTILE: [(&str, MakeBody); 11] = [
    ("many keys", |bytes| list_of(bytes, &object_of(250, |key| format!(r#""{key:x}":1"#)))),
    ("long keys alike", |bytes| {
        let alike = "k".repeat(200);
        list_of(bytes, &object_of(250, |key| format!(r#""{alike}{key:x}{alike}":1"#)))
    }),
    ("keys beyond ASCII", |bytes| {
        list_of(bytes, &object_of(250, |key| format!(r#""é{key:x}":1"#)))
    }),
    ("escaped keys", |bytes| {
        list_of(bytes, &object_of(250, |key| format!(r#""\u0061{key:x}":1"#)))
    }),
    ("many objects", |bytes| list_of(bytes, r#"{"a":1}"#)),
    ("empty objects", |bytes| list_of(bytes, "{}")),
    ("nine keys each", |bytes| list_of(bytes, &object_of(9, |key| format!(r#""{key:x}":1"#)))),
    ("depth", |bytes| list_of(bytes, &format!("{}1{}", r#"{"a":"#.repeat(50), "}".repeat(50)))),
    ("short strings", |bytes| list_of(bytes, r#""a""#)),
    ("numbers", |bytes| list_of(bytes, "1")),
    ("escapes", |bytes| list_of(bytes, &format!(r#""{}""#, r"\n".repeat(500)))),
];

/// An object with so many members.
fn object_of(members: usize, member: impl Fn(usize) -> String) -> String {
    let members: Vec<String> = (0..members).map(member).collect();
    format!("{{{}}}", members.join(","))
}

/// A chat whose messages have this value as their content, again and again.
fn list_of(bytes: usize, value: &str) -> String {
    let times = (bytes / (value.len() + 1)).max(1);
    let mut body = String::from(r#"{"model":"m","messages":[{"role":"user","content":["#);
    body.push_str(value);
    for _ in 1..times {
        body.push(',');
        body.push_str(value);
    }
    body.push_str("]}]}");
    body
}

fn body_of<'a>(content_type: &'a str, body: &'a [u8]) -> Body<'a> {
    let mut headers = Headers::default();
    headers.push("content-type", content_type.as_bytes());
    let body = RawBody::Whole(body);
    let raw = RawRequest {
        method: b"POST",
        scheme: b"https",
        host: b"h",
        path: b"/x",
        headers,
        address: None,
        body,
    };
    let (head, body) = raw.split();
    Body::new(body, &Request::parse(head).unwrap().headers)
}

/// Returns the CPU time of this thread in nanoseconds.
fn on_core() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

fn measure(name: &str, bytes: usize, mut read: impl FnMut()) {
    let times = (RUN_BYTES / bytes).max(1);
    let mut speeds: Vec<f64> = (0..=RUNS)
        .map(|_| {
            let start = on_core();
            for _ in 0..times {
                read();
            }
            #[expect(clippy::cast_precision_loss, reason = "a speed")]
            let read = (bytes * times) as f64;
            read / (on_core() - start)
        })
        .skip(1) // the first run warms up
        .collect();
    speeds.sort_by(f64::total_cmp);
    let at = |index: usize| speeds.get(index).copied().unwrap_or_default();
    println!(
        "{name:<28} {bytes:>9} bytes  {:>6.2} GB/s  ({:.2} to {:.2})",
        at(RUNS / 2),
        at(0),
        at(RUNS - 1)
    );
}

fn main() {
    let mut model = Plan::default();
    model.model(&"/model".parse().unwrap()).unwrap();
    let mut everything = model.clone();
    everything.caps().unwrap();
    everything.tools();
    everything.forbid(&"/priority".parse().unwrap()).unwrap();
    everything.content();
    let catalog = Catalog::load().unwrap();
    let tables = catalog.file("vllm").unwrap().find("POST", "/v1/chat/completions").unwrap();
    let wanted = Wanted { model: Some("model"), caps: true, tools: true, ..Wanted::default() };
    let preset = Plan::members(catalog.tables(), tables.json.unwrap(), &wanted);
    let bodies: [(&str, MakeBody, &Plan); 7] = [
        ("chat, model", chat, &model),
        ("chat, all rules", chat, &everything),
        ("chat, preset", chat, &preset),
        ("image, preset", image, &preset),
        ("image, model", image, &model),
        ("image, all rules", image, &everything),
        ("tokens, model", tokens, &model),
    ];
    for (name, body, plan) in bodies {
        for size in [4 << 10, 1 << 20, 32 << 20] {
            let body = body(size);
            let read = body_of("application/json", body.as_bytes());
            measure(name, body.len(), || drop(black_box(read.json(plan)).unwrap()));
        }
    }
    for (name, body) in HOSTILE {
        let body = body(1 << 20);
        let read = body_of("application/json", body.as_bytes());
        measure(name, body.len(), || drop(black_box(read.json(&everything)).unwrap()));
    }
    let plan = FormPlan { model: Some("model".into()), ..FormPlan::default() };
    for size in [1 << 20, 32 << 20] {
        let body = format!(
            "--b0undary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n{}\r\n--b0undary\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--b0undary--\r\n",
            "\u{1}RIFF\r\n-".repeat(size / 8)
        );
        let read = body_of("multipart/form-data; boundary=b0undary", body.as_bytes());
        measure("form with a file, model", body.len(), || {
            drop(black_box(read.form(&plan)).unwrap())
        });
    }
}
