//! The work of reading a body, counted in tests and in fuzz targets: nothing remains of it in other
//! builds.
//!
//! A step is a constant amount of work: the look at a value, a key, 8 bytes that are searched together,
//! a few that are searched one by one, or one of several names or keys. Reading any body takes a number of steps that is linear in
//! its bytes ([`MOST`] for each), which is tested with bodies made for the purpose and with random
//! ones.

/// The most steps for each byte of a body, whatever it contains.
#[cfg(any(test, fuzzing))]
pub const MOST: u64 = 2;

/// The most steps for any body, before its bytes are read.
#[cfg(any(test, fuzzing))]
pub const FIXED: u64 = 4096;

#[cfg(any(test, fuzzing))]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts so many steps.
#[cfg(any(test, fuzzing))]
pub(super) fn count(steps: usize) {
    STEPS.with(|all| all.set(all.get() + steps as u64));
}

/// Counts so many steps.
#[cfg(not(any(test, fuzzing)))]
#[inline(always)]
pub(super) fn count(_: usize) {}

/// Returns the steps that this thread has counted since the last call.
#[cfg(any(test, fuzzing))]
pub fn take() -> u64 {
    STEPS.take()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tollgate_testkit::bodies::{self, BOUNDARY};

    use super::{
        super::{FormPlan, Plan, Wanted, form, json, json_error::JsonError, outline},
        *,
    };
    use crate::route::preset::members::Catalog;

    /// The size of the bodies, in bytes.
    const BYTES: usize = 100_000;

    /// Only the model; everything that rules read; the tables of a preset, with the prompt's text;
    /// JSON-RPC.
    fn plans() -> [Plan; 4] {
        let mut model = Plan::default();
        model.model(&"/model".parse().unwrap()).unwrap();
        let mut everything = model.clone();
        everything.adapter(&"/lora_path".parse().unwrap()).unwrap();
        everything.caps().unwrap();
        everything.tools();
        everything.forbid(&"/priority".parse().unwrap()).unwrap();
        everything.content();
        everything.prompt_text(1 << 20).unwrap();
        let catalog = Catalog::load().unwrap();
        let tables = catalog.file("vllm").unwrap().find("POST", "/v1/chat/completions").unwrap();
        let wanted = Wanted {
            model: Some("model"),
            caps: true,
            tools: true,
            text: 1 << 20,
            ..Wanted::default()
        };
        let preset = Plan::members(catalog.tables(), tables.json.unwrap(), &wanted);
        let mut rpc = Plan::default();
        rpc.rpc().unwrap();
        [model, everything, preset, rpc]
    }

    /// How a body is read.
    #[derive(Clone, Copy)]
    enum Reading<'p> {
        Rules(&'p [Plan]),
        Outline,
        Form,
    }

    /// Returns the most steps that a body takes.
    fn steps(reading: Reading<'_>, body: &[u8]) -> u64 {
        let counted = |read: &dyn Fn()| {
            take();
            read();
            take()
        };
        let form = FormPlan { model: Some("model".into()), caps: true, ..FormPlan::default() };
        match reading {
            Reading::Rules(plans) => {
                plans.iter().map(|plan| counted(&|| drop(json::read(body, plan)))).max().unwrap()
            }
            Reading::Outline => counted(&|| drop(outline::read(body))),
            Reading::Form => counted(&|| drop(form::read(body, BOUNDARY, &form))),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn per_byte(reading: Reading<'_>, body: &str) -> f64 {
        steps(reading, body.as_bytes()) as f64 / body.len() as f64
    }

    #[test]
    fn no_body_takes_more_than_three_times_the_steps_of_a_chat_for_each_byte() {
        let plans = plans();
        let rules = Reading::Rules(&plans);
        let chat = |reading| per_byte(reading, &bodies::turns(BYTES));
        let mut rows = Vec::new();
        for (name, body) in bodies::hostile(BYTES) {
            for (reader, reading) in [("rules", rules), ("outline", Reading::Outline)] {
                rows.push((reader, name, per_byte(reading, &body) / chat(reading)));
            }
        }
        for (name, body) in bodies::forms(BYTES) {
            rows.push(("form", name, per_byte(Reading::Form, &body) / chat(rules)));
        }
        rows.retain(|(_, _, over)| *over > 3.0);
        assert!(rows.is_empty(), "{rows:#?}");
    }

    #[test]
    fn twice_the_bytes_take_twice_the_steps() {
        let plans = plans();
        for reading in [Reading::Rules(&plans), Reading::Outline] {
            let (short, long) = (bodies::hostile(BYTES / 2), bodies::hostile(BYTES * 2));
            for ((name, short), (_, long)) in short.into_iter().zip(long) {
                let (short, long) = (per_byte(reading, &short), per_byte(reading, &long));
                assert!(long <= short * 1.2 + 0.5, "{name}: {short}, then {long}");
            }
        }
    }

    /// Bodies that clients send, of about so many bytes: a chat of short turns, tools, and data.
    fn of_clients(bytes: usize) -> Vec<bodies::Named> {
        let names = ["calls of tools", "results of tools", "tools", "schemas", "tokens"];
        let mut all = bodies::hostile(bytes);
        all.retain(|(name, _)| names.contains(name));
        all.push(("turns", bodies::turns(bytes)));
        let text = "Where was it taken? Please answer in one short sentence.";
        let part = format!(r#"{{"role":"user","content":[{{"type":"text","text":"{text}"}}]}}"#);
        let image = format!(
            r#"{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{}"}}}}]}}"#,
            "iVBORw0K".repeat(10)
        );
        for (name, member, value) in [
            ("messages of one part", "messages", part.as_str()),
            ("images", "messages", image.as_str()),
            ("pixels", "data", "[213,98,147]"),
            ("fractions", "data", "0.12"),
            ("numbers with exponents", "data", "1.23456789e-05"),
            ("words", "data", "true"),
            ("Chinese with escapes", "data", r#""\u4f60\u597d\u4f60\u597d""#),
            ("boxes", "data", r#"{"x":12.5,"y":3.25,"w":100,"h":20}"#),
            ("rows", "data", r#"[1,"name",2.5,true,"Tuesday",null]"#),
            ("rows with Chinese keys", "data", r#"{"姓名":"张三","城市":"北京市朝阳区"}"#),
            ("small objects", "data", r#"{"id": 12345, "text": "a"}"#),
        ] {
            let list = vec![value; bytes / (value.len() + 1)].join(",");
            all.push((name, format!(r#"{{"model":"m","{member}":[{list}]}}"#)));
        }
        all
    }

    #[test]
    fn bodies_of_clients_have_the_structure_that_they_may_have() {
        let plans = plans();
        for (name, body) in of_clients(1 << 20) {
            let body = body.as_bytes();
            for (at, plan) in plans.iter().enumerate() {
                assert_ne!(json::read(body, plan).err(), Some(JsonError::TooDense), "{name} {at}");
            }
            assert_ne!(outline::read(body).err(), Some(JsonError::TooDense), "{name}");
        }
    }

    #[test]
    fn what_is_denser_is_refused_beyond_what_any_body_may_have() {
        let [model, ..] = plans();
        for value in [
            "{}",
            r#"{"a":1}"#,
            "[1]",
            "[]",
            r#"{"\u0061":1}"#,
            "{\"\u{17f}\":1}",
            "1e5",
            r#""\u00e9""#,
            r#"1,true"#,
        ] {
            let of = |bytes: usize| {
                let list = vec![value; bytes / (value.len() + 1)].join(",");
                format!(r#"{{"model":"m","data":[{list}]}}"#)
            };
            let (small, large) = (of(1 << 13), of(1 << 20));
            json::read(small.as_bytes(), &model).unwrap();
            outline::read(small.as_bytes()).unwrap();
            let errors =
                [json::read(large.as_bytes(), &model).err(), outline::read(large.as_bytes()).err()];
            assert_eq!(errors, [const { Some(JsonError::TooDense) }; 2], "{value}");
        }
    }

    /// Places of a document that rules read.
    const PLACES: [&str; 7] = [
        r#"{"model":"m","messages":[{"role":"user","content":[VALUES]}]}"#,
        r#"{"model":"m","messages":[VALUES]}"#,
        r#"{"model":"m","prompt":[VALUES]}"#,
        r#"{"model":"m","tools":[VALUES]}"#,
        r#"{"model":"m","extra":[VALUES]}"#,
        r#"{"method":"m","params":[VALUES]}"#,
        "[VALUES]",
    ];

    proptest! {
        #[test]
        fn made_up_bodies_take_a_bounded_number_of_steps(
            pieces in prop::collection::vec(0usize..24, 1..400),
            place in 0usize..PLACES.len(),
        ) {
            const PIECES: [&str; 24] = [
                "{", "}", "[", "]", ",", ":", "\"model\"", "\"m\"", "\"type\"", "\"content\"",
                "\"max_tokens\"", "\"n\"", "\"tools\"", "\"function\"", "\"a\"", "\"\\u0061\"",
                "\"é\"", "1", "-1.5e3", "null", "true", " ", "\"\"", "{\"a\":1},",
            ];
            let plans = plans();
            let values: String = pieces.iter().map(|piece| PIECES[*piece]).collect();
            let body = PLACES[place].replace("VALUES", &values.repeat(20));
            for reading in [Reading::Rules(&plans), Reading::Outline] {
                let steps = steps(reading, body.as_bytes());
                prop_assert!(steps <= FIXED + MOST * body.len() as u64, "{}: {}", body, steps);
            }
        }
    }
}
