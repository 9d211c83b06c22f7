//! The speed of reading a body, in GB/s: `cargo bench -p tollgate-core --bench body`, in two
//! minutes. Words in the command line select rows whose name contains one of them.
//!
//! Prints one line per body: the median of the runs, and the slowest and fastest of them. The time
//! is the thread's own CPU time, so other programs do not count.
//!
//! A hostile body is compared with a plain chat, as a multiple of its cost for each byte: each of
//! several rounds reads the chat and then the body, so that a machine that is slower for a while is
//! slower for both. `rules` is the slowest of the plans, for the body as for the chat; `outline` is
//! the reading for limits that count tokens.
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
use tollgate_testkit::bodies::{self, BOUNDARY};

/// Makes a body of about so many bytes.
type MakeBody = fn(usize) -> String;

const RUNS: usize = 15;
/// The least CPU time of one run.
const RUN: Duration = Duration::from_millis(12);
/// The size of hostile bodies.
const HOSTILE_BYTES: usize = 1 << 20;
/// The rounds in which a hostile body is compared with the chat, and the least bytes that each reads.
const ROUNDS: usize = 15;
const ROUND_BYTES: usize = 4 << 20;

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

/// How a body is read.
#[derive(Clone, Copy)]
enum Reading<'p> {
    Rules(&'p Plan),
    Outline,
    Form(&'p FormPlan),
}

impl Reading<'_> {
    /// Reads a body once, and returns whether it is accepted.
    fn read(self, body: &[u8]) -> bool {
        match self {
            Self::Rules(plan) => black_box(body_of("application/json", body).json(plan)).is_ok(),
            Self::Outline => black_box(body_of("application/json", body).outline()).is_ok(),
            Self::Form(plan) => {
                let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
                black_box(body_of(&content_type, body).form(plan)).is_ok()
            }
        }
    }

    /// Returns the nanoseconds for each byte.
    fn cost(self, body: &[u8]) -> f64 {
        let times = ROUND_BYTES.div_ceil(body.len());
        let start = on_core();
        for _ in 0..times {
            self.read(body);
        }
        #[expect(clippy::cast_precision_loss, reason = "a speed")]
        let cost = (on_core() - start).as_nanos() as f64 / (body.len() * times) as f64;
        cost
    }
}

/// The cost of a body over that of a chat, both with the slowest of their readings.
fn compare(chat: &[u8], plain: &[Reading<'_>], body: &[u8], readings: &[Reading<'_>]) -> String {
    let slowest = |readings: &[Reading<'_>], body: &[u8]| {
        readings.iter().map(|reading| reading.cost(body)).fold(0.0, f64::max)
    };
    let mut rounds: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let (chat, body) = (slowest(plain, chat), slowest(readings, body));
            (body / chat, body)
        })
        .collect();
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, cost) = rounds[ROUNDS / 2];
    let refused = readings.iter().any(|reading| !reading.read(body));
    format!(
        "{ratio:>5.2} x ({:.2} to {:.2})  {cost:.2} ns/byte{}",
        rounds[0].0,
        rounds[ROUNDS - 1].0,
        if refused { "  refused" } else { "" }
    )
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
    let chat = bodies::turns(HOSTILE_BYTES).into_bytes();
    let rules = [model, everything, preset].map(Reading::Rules);
    println!("cost of a byte, over a chat of short turns: median (least to most)");
    let hostile = bodies::hostile(HOSTILE_BYTES).into_iter();
    let hostile = hostile.map(|(name, body)| (name, body.into_bytes()));
    for (name, body) in hostile.chain(bodies::invalid(HOSTILE_BYTES)) {
        if wanted(name) {
            let rules = compare(&chat, &rules, &body, &rules);
            let outline = compare(&chat, &[Reading::Outline], &body, &[Reading::Outline]);
            println!("{name:<40} rules {rules}  outline {outline}");
        }
    }
    let plan = FormPlan { model: Some("model".into()), caps: true, ..FormPlan::default() };
    for (name, body) in bodies::forms(HOSTILE_BYTES) {
        if wanted(name) {
            let form = compare(&chat, &rules, body.as_bytes(), &[Reading::Form(&plan)]);
            println!("{name:<40} rules {form}");
        }
    }
}
