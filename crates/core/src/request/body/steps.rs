//! The work of reading a body, counted in tests and in fuzz targets: nothing remains of it in other
//! builds.
//!
//! A step is a constant amount of work: the look at a byte, at 8 bytes that are searched together,
//! or at one of several names or keys. Reading any body takes a number of steps that is linear in
//! its bytes ([`MOST`] for each), which is tested with bodies made for the purpose and with random
//! ones.

/// The most steps for each byte of a body, whatever it contains.
#[cfg(any(test, fuzzing))]
pub const MOST: u64 = 16;

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

    use super::{
        super::{FormPlan, Plan, Wanted, form, json},
        *,
    };
    use crate::route::preset::members::Catalog;

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

    /// Returns the most steps that a plan takes for a body, beyond [`FIXED`], for each byte.
    fn per_byte(plans: &[Plan], body: &str) -> f64 {
        let steps = plans.iter().map(|plan| {
            take();
            let _read = json::read(body.as_bytes(), plan);
            take()
        });
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let ratio = |steps: u64| steps.saturating_sub(FIXED) as f64 / body.len().max(1) as f64;
        ratio(steps.max().unwrap())
    }

    fn object(members: usize, member: impl Fn(usize) -> String) -> String {
        let members: Vec<String> = (0..members).map(member).collect();
        format!("{{{}}}", members.join(","))
    }

    /// Values that cost a reader more for each byte than text does.
    fn hostile_values() -> Vec<(&'static str, String)> {
        let alike = "k".repeat(200);
        vec![
            ("many keys", object(255, |key| format!(r#""{key:x}":1"#))),
            ("long keys alike", object(255, |key| format!(r#""{alike}{key:x}{alike}":1"#))),
            ("keys as long as names", object(255, |key| format!(r#""max_tok{key:03}":1"#))),
            ("keys as long as other names", object(255, |key| format!(r#""m{key:04}":1"#))),
            ("keys beyond ASCII", object(255, |key| format!(r#""é{key:x}":1"#))),
            ("keys that fold", object(255, |key| format!("\"{key}\u{17f}\":1"))),
            ("escaped keys", object(255, |key| format!(r#""\u0061{key:x}":1"#))),
            ("objects", r#"{"a":1}"#.into()),
            ("empty objects", "{}".into()),
            ("nine keys", object(9, |key| format!(r#""{key:x}":1"#))),
            ("depth", format!("{}1{}", r#"{"a":"#.repeat(50), "}".repeat(50))),
            ("deep lists", format!("{}1{}", "[".repeat(50), "]".repeat(50))),
            ("short strings", r#""a""#.into()),
            ("empty strings", r#""""#.into()),
            ("numbers", "1".into()),
            ("words", "null".into()),
            ("spaces", "1 \t\r\n".into()),
            ("escapes", format!(r#""{}""#, r"\n".repeat(500))),
            ("escaped units", format!(r#""{}""#, r"\ud83d\ude00".repeat(90))),
            ("parts", r#"{"type":"text","text":"\n"}"#.into()),
            ("unknown parts", r#"{"type":"texts"}"#.into()),
            ("references", r#"{"type":"image_url","image_url":{"url":"x:"}}"#.into()),
            ("tools", r#"{"type":"function","function":{"name":"f"}}"#.into()),
        ]
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

    #[test]
    fn hostile_bodies_take_a_bounded_number_of_steps_for_each_byte() {
        let plans = plans();
        for (name, value) in hostile_values() {
            let values = vec![value.as_str(); 40_000 / value.len() + 1].join(",");
            for place in PLACES {
                let steps = per_byte(&plans, &place.replace("VALUES", &values));
                assert!(steps <= MOST as f64, "{name} in {place}: {steps} steps for each byte");
            }
        }
    }

    #[test]
    fn no_hostile_body_takes_many_more_steps_for_each_byte_than_a_chat() {
        let plans = plans();
        let turns = r#"{"role":"user","content":"And in French?"},{"role":"assistant","content":"Bonjour."}"#;
        let body = |place: &str, value: &str| {
            place.replace("VALUES", &vec![value; 100_000 / value.len() + 1].join(","))
        };
        let chat = per_byte(&plans, &body(PLACES[1], turns));
        for (name, value) in hostile_values() {
            let steps = per_byte(&plans, &body(PLACES[0], &value));
            assert!(steps <= 4.0 * chat, "{name}: {steps} steps for each byte, a chat {chat}");
        }
    }

    #[test]
    fn twice_the_bytes_take_twice_the_steps() {
        let plans = plans();
        for (name, value) in hostile_values() {
            let at = |bytes: usize| {
                let values = vec![value.as_str(); bytes / value.len() + 1].join(",");
                per_byte(&plans, &PLACES[0].replace("VALUES", &values))
            };
            let (short, long) = (at(50_000), at(400_000));
            assert!(long <= short * 1.2 + 0.5, "{name}: {short}, then {long}");
        }
    }

    #[test]
    fn hostile_forms_take_a_bounded_number_of_steps_for_each_byte() {
        let plan = FormPlan { model: Some("model".into()), caps: true, ..FormPlan::default() };
        let part = |name: &str, value: &str| {
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        for (name, body) in [
            ("small parts", part("f", "").repeat(256)),
            ("near boundaries", part("f", &"\r\n--a".repeat(10_000))),
            ("line breaks", part("f", &"\r\n".repeat(20_000))),
            ("a long name", part(&"n".repeat(4000), "").repeat(20)),
            ("headers without an end", format!("--b\r\n{}", "a: b\r\n".repeat(5000))),
        ] {
            let body = format!("{body}--b--");
            take();
            let _read = form::read(body.as_bytes(), "b", &plan);
            let most = FIXED + MOST * body.len() as u64;
            let steps = take();
            assert!(steps <= most, "{name}: {steps} for {} bytes", body.len());
        }
    }

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
            let steps = per_byte(&plans, &body);
            prop_assert!(steps <= MOST as f64, "{}: {}", body, steps);
        }
    }
}
