//! The speed of reading a body, in GB/s: `cargo bench -p tollgate-core --bench body`, in half a
//! minute. Words in the command line select rows whose name contains one of them.
//!
//! Prints one line per body: the median of the runs, and the slowest and fastest of them. The time
//! is the thread's own CPU time, so other programs do not count. A hostile body is read with each
//! plan, and the slowest is printed, with its cost per byte as a multiple of a plain chat's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark reads a clock"
)]

use std::{fmt::Write, hint::black_box, time::Duration};

use nix::time::{ClockId, clock_gettime};

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
/// The least CPU time of one run.
const RUN: Duration = Duration::from_millis(12);
/// The size of hostile bodies.
const HOSTILE_BYTES: usize = 1 << 20;

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

/// A chat of many short turns, which has as much structure as text.
fn short_turns(bytes: usize) -> String {
    let turns =
        r#"{"role":"user","content":"And in French?"},{"role":"assistant","content":"Bonjour."}"#;
    let mut body =
        String::from(r#"{"model":"Qwen/Qwen2-72B-Instruct","max_tokens":256,"messages":["#);
    body.push_str(turns);
    while body.len() + turns.len() < bytes {
        body.push(',');
        body.push_str(turns);
    }
    body.push_str("]}");
    body
}

/// Bodies that cost a reader more per byte than text does: many keys, many objects, depth, many
/// strings, numbers, escapes.
const HOSTILE: [(&str, MakeBody); 21] = [
    ("many keys", |bytes| list_of(bytes, &object_of(250, |key| format!(r#""{key:x}":1"#)))),
    ("long keys alike", |bytes| {
        let alike = "k".repeat(200);
        list_of(bytes, &object_of(250, |key| format!(r#""{alike}{key:x}{alike}":1"#)))
    }),
    ("keys like names", |bytes| {
        list_of(bytes, &object_of(250, |key| format!(r#""max_tok{key:03}":1"#)))
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
    ("deep lists", |bytes| list_of(bytes, &format!("{}1{}", "[".repeat(50), "]".repeat(50)))),
    ("empty lists", |bytes| list_of(bytes, "[]")),
    ("short strings", |bytes| list_of(bytes, r#""a""#)),
    ("empty strings", |bytes| list_of(bytes, r#""""#)),
    ("numbers", |bytes| list_of(bytes, "1")),
    ("long numbers", |bytes| list_of(bytes, &format!("-{}.5e-7", "9".repeat(100)))),
    ("words", |bytes| list_of(bytes, "null")),
    ("spaces", |bytes| list_of(bytes, "1 \t\r\n")),
    ("escapes", |bytes| list_of(bytes, &format!(r#""{}""#, r"\n".repeat(500)))),
    ("escaped units", |bytes| list_of(bytes, &format!(r#""{}""#, r"\ud83d\ude00".repeat(90)))),
    ("text beyond ASCII", |bytes| list_of(bytes, &format!(r#""{}""#, "a\u{e9}".repeat(300)))),
    ("parts of a message", |bytes| list_of(bytes, r#"{"type":"text","text":"\n"}"#)),
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

/// A form with this many parts of this value.
fn form_of(parts: usize, name: &str, value: &str) -> String {
    let part =
        format!("--b0undary\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    format!("{}--b0undary--\r\n", part.repeat(parts))
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
        peer_certificate: b"",
        body,
    };
    let (head, body) = raw.split();
    Body::new(body, &Request::parse(head).unwrap().headers)
}

/// Returns the CPU time of this thread.
fn on_core() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Returns the nanoseconds per byte of each run, the fastest first.
fn measure(bytes: usize, mut read: impl FnMut()) -> Vec<f64> {
    let mut run = |times: usize| {
        let start = on_core();
        for _ in 0..times {
            read();
        }
        on_core() - start
    };
    let mut times = 1;
    while run(times) < RUN {
        times *= 2;
    }
    #[expect(clippy::cast_precision_loss, reason = "a speed")]
    let per_byte = |time: Duration| time.as_nanos() as f64 / (bytes * times) as f64;
    let mut costs: Vec<f64> = (0..RUNS).map(|_| per_byte(run(times))).collect();
    costs.sort_by(f64::total_cmp);
    costs
}

fn show(name: &str, bytes: usize, costs: &[f64], note: &str) {
    let at = |index: usize| 1.0 / costs.get(index).copied().unwrap_or_default();
    println!(
        "{name:<28} {bytes:>9} bytes  {:>6.2} GB/s  ({:.2} to {:.2}){note}",
        at(RUNS / 2),
        at(RUNS - 1),
        at(0)
    );
}

/// The plans that are measured.
struct Plans {
    model: Plan,
    everything: Plan,
    preset: Plan,
}

impl Plans {
    fn new() -> Self {
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
        Self { model, everything, preset }
    }
}

fn main() {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let plans = Plans::new();
    let Plans { model, everything, preset } = &plans;
    let bodies: [(&str, MakeBody, &Plan); 7] = [
        ("chat, model", chat, model),
        ("chat, all rules", chat, everything),
        ("chat, preset", chat, preset),
        ("image, preset", image, preset),
        ("image, model", image, model),
        ("image, all rules", image, everything),
        ("tokens, model", tokens, model),
    ];
    for (name, body, plan) in bodies.into_iter().filter(|(name, ..)| wanted(name)) {
        for size in [4 << 10, 1 << 20, 32 << 20] {
            let body = body(size);
            let read = body_of("application/json", body.as_bytes());
            let costs = measure(body.len(), || drop(black_box(read.json(plan)).unwrap()));
            show(name, body.len(), &costs, "");
        }
    }
    let slowest = |body: &str| {
        let read = body_of("application/json", body.as_bytes());
        [model, everything, preset]
            .map(|plan| measure(body.len(), || drop(black_box(read.json(plan)))))
            .into_iter()
            .max_by(|a, b| a[RUNS / 2].total_cmp(&b[RUNS / 2]))
            .unwrap()
    };
    let plain = short_turns(HOSTILE_BYTES);
    let costs = slowest(&plain);
    let baseline = costs[RUNS / 2];
    show("chat of short turns", plain.len(), &costs, "");
    let multiple = |costs: &[f64]| format!("  {:.2} x a plain chat", costs[RUNS / 2] / baseline);
    for (name, body) in HOSTILE.into_iter().filter(|(name, _)| wanted(name)) {
        let body = body(HOSTILE_BYTES);
        let costs = slowest(&body);
        show(name, body.len(), &costs, &multiple(&costs));
    }
    let plan = FormPlan { model: Some("model".into()), caps: true, ..FormPlan::default() };
    let noise = "\u{1}RIFF\r\n-";
    let close = "\r\n--b0undar";
    let forms = [
        ("form with a file", form_of(1, "file", &noise.repeat(HOSTILE_BYTES / noise.len()))),
        ("form of small parts", form_of(256, "f", "")),
        ("form of near boundaries", form_of(1, "f", &close.repeat(HOSTILE_BYTES / close.len()))),
        ("form of line breaks", form_of(1, "f", &"\r\n".repeat(HOSTILE_BYTES / 2))),
    ];
    for (name, body) in forms.into_iter().filter(|(name, _)| wanted(name)) {
        let read = body_of("multipart/form-data; boundary=b0undary", body.as_bytes());
        let costs = measure(body.len(), || drop(black_box(read.form(&plan)).unwrap()));
        show(name, body.len(), &costs, &multiple(&costs));
    }
}
