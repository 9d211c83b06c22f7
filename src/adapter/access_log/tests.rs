//! What is charged, by entry: the rows were seen at Envoy 1.40.0.

use prost::Message as _;
use prost_types::{Any, Struct, Value, value::Kind};
use tollgate_core::{
    admission::Usage,
    limit::{
        BucketId, Counter, Hold,
        cost::{CostTerms, MediaBound, Price},
        reservation::{MIN_SECRET, Reservation, ReservationId, ReservationKeys},
        usage_history::{HistoryIds, ObservedUsage, UsageHistory},
        usage_report::{UsageCounts, UsageReport},
    },
    secret::Secret,
    time::{Span, Timestamp},
};

use super::{
    read_message,
    report::{self, Refused, Unmetered},
};
use crate::proto::envoy::{
    config::core::v3::Metadata,
    data::{
        accesslog::v3::{
            AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpResponseProperties,
            ResponseFlags,
        },
        ai::v3::{TokenUsage, token_usage::ExtractionStatus},
    },
    service::accesslog::v3::{
        StreamAccessLogsMessage, stream_access_logs_message::HttpAccessLogEntries,
    },
};

const HELD: u64 = 1000;

fn keys(name: u8) -> ReservationKeys {
    ReservationKeys::new(vec![Secret::new(vec![name; MIN_SECRET])]).unwrap()
}

fn reservation(counter: Counter) -> Reservation {
    Reservation {
        id: ReservationId([9; 16]),
        issued: Timestamp::from_secs(1_800_000_000),
        life: Span::from_secs(30),
        histories: None,
        shard: None,
        route: None,
        facts: None,
        cost: None,
        holds: vec![Hold {
            limit: "day".into(),
            counter_id: "alice".into(),
            counter,
            amount: HELD,
            unreported: HELD,
            by_principal: true,
            is_shadow: false,
        }],
    }
}

fn of_tokens() -> Reservation {
    reservation(Counter::Budget { limit: 5000, ends: Timestamp::from_secs(1_800_086_400) })
}

/// An entry with a reservation, as it is for a complete response.
fn entry() -> HttpAccessLogEntry {
    let mut entry = HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            metadata: Some(Metadata::default()),
            upstream_request_attempt_count: 1,
            upstream_wire_bytes_sent: 300,
            access_log_type: AccessLogType::DownstreamEnd.into(),
            ..AccessLogCommon::default()
        }),
        response: Some(HttpResponseProperties {
            response_code: Some(200),
            response_code_details: "via_upstream".into(),
            ..HttpResponseProperties::default()
        }),
    };
    let text = of_tokens().seal(&keys(1));
    set(&mut entry, "envoy.filters.http.ext_authz", "reservation", Kind::StringValue(text));
    entry
}

fn common(entry: &mut HttpAccessLogEntry) -> &mut AccessLogCommon {
    entry.common_properties.as_mut().unwrap()
}

fn set(entry: &mut HttpAccessLogEntry, namespace: &str, key: &str, kind: Kind) {
    let metadata = common(entry).metadata.as_mut().unwrap();
    let namespace = metadata.filter_metadata.entry(namespace.to_owned()).or_default();
    namespace.fields.insert(key.to_owned(), Value { kind: Some(kind) });
}

/// A member of a JSON body.
fn leaf(key: &'static str, number: f64) -> impl Fn(&mut HttpAccessLogEntry) {
    move |entry| set(entry, "tollgate.usage", key, Kind::NumberValue(number))
}

/// An object of a stream.
fn object(key: &'static str, text: &'static str) -> impl Fn(&mut HttpAccessLogEntry) {
    move |entry| set(entry, "tollgate.usage", key, Kind::StringValue(text.into()))
}

fn ended(code: u32, details: &'static str) -> impl Fn(&mut HttpAccessLogEntry) {
    move |entry| {
        let response = entry.response.as_mut().unwrap();
        response.response_code = (code != 0).then_some(code);
        response.response_code_details = details.into();
        common(entry).response_flags = vec![0x78, 1];
    }
}

fn attempts(count: u32, sent: u64) -> impl Fn(&mut HttpAccessLogEntry) {
    move |entry| {
        common(entry).upstream_request_attempt_count = count;
        common(entry).upstream_wire_bytes_sent = sent;
    }
}

fn flags(flags: ResponseFlags) -> impl Fn(&mut HttpAccessLogEntry) {
    move |entry| common(entry).response_flags = flags.encode_to_vec()
}

fn periodic(entry: &mut HttpAccessLogEntry) {
    common(entry).access_log_type = AccessLogType::DownstreamPeriodic.into();
    common(entry).intermediate_log_entry = true;
    entry.response.as_mut().unwrap().response_code_details.clear();
}

/// What the Lua filter found of the events of a stream.
fn flag(is_each_counted: bool) -> impl Fn(&mut HttpAccessLogEntry) {
    move |entry| set(entry, "tollgate.usage", "each_event", Kind::BoolValue(is_each_counted))
}

fn asks_continuously(entry: &mut HttpAccessLogEntry) {
    let yes = Value { kind: Some(Kind::BoolValue(true)) };
    let options = ["include_usage", "continuous_usage_stats"];
    let fields = options.map(|name| (name.to_owned(), yes.clone())).into();
    let options = Kind::StructValue(Struct { fields });
    set(entry, "envoy.filters.http.ext_authz", "stream_options", options);
}

fn typed(usage: TokenUsage) -> impl Fn(&mut HttpAccessLogEntry) {
    move |entry| {
        let any = Any {
            type_url: "type.googleapis.com/envoy.data.ai.v3.TokenUsage".into(),
            value: usage.encode_to_vec(),
        };
        let metadata = common(entry).metadata.as_mut().unwrap();
        metadata.typed_filter_metadata.insert("envoy.ai.token_usage".into(), any);
    }
}

type Change<'a> = &'a dyn Fn(&mut HttpAccessLogEntry);

#[track_caller]
fn charges(what: &str, changes: &[Change<'_>], usage: Usage, unmetered: Option<Unmetered>) {
    let mut entry = entry();
    changes.iter().for_each(|change| change(&mut entry));
    let report = report::read(&entry, &keys(1), |_| None).unwrap();
    assert_eq!(report.settlement.reservation, of_tokens(), "{what}");
    assert_eq!((report.settlement.usage, report.unmetered), (usage, unmetered), "{what}");
    assert!(!report.is_beyond_hold, "{what}");
}

#[test]
fn a_complete_response_is_charged_its_usage_in_every_shape() {
    let rows: &[(&str, &[Change<'_>], u64)] = &[
        (
            "OpenAI stream",
            &[&object(
                "usage",
                r#"{"prompt_tokens":11,"completion_tokens":48,"total_tokens":59,"completion_tokens_details":{"reasoning_tokens":40}}"#,
            )],
            59,
        ),
        (
            "OpenAI stream, without a total",
            &[&object("usage", r#"{"completion_tokens":48,"prompt_tokens":11}"#)],
            59,
        ),
        (
            "OpenAI chat and completions",
            &[
                &leaf("prompt_tokens", 11.0),
                &leaf("completion_tokens", 48.0),
                &leaf("total_tokens", 59.0),
            ],
            59,
        ),
        ("embeddings", &[&leaf("prompt_tokens", 8.0), &leaf("total_tokens", 8.0)], 8),
        ("rerank", &[&leaf("total_tokens", 56.0)], 56),
        (
            "Responses, stream",
            &[&object(
                "response_usage",
                r#"{"input_tokens":36,"input_tokens_details":{"cached_tokens":30},"output_tokens":87,"total_tokens":123}"#,
            )],
            123,
        ),
        (
            "Responses",
            &[
                &leaf("input_tokens", 36.0),
                &leaf("output_tokens", 87.0),
                &leaf("total_tokens", 123.0),
            ],
            123,
        ),
        (
            "Anthropic stream, start and end, with a cache",
            &[
                &object(
                    "message_usage",
                    r#"{"input_tokens":25,"cache_creation_input_tokens":4,"cache_read_input_tokens":3,"output_tokens":1}"#,
                ),
                &object("usage", r#"{"output_tokens":15}"#),
            ],
            47,
        ),
        (
            "Anthropic stream whose end repeats the input",
            &[
                &object("message_usage", r#"{"input_tokens":25,"output_tokens":1}"#),
                &object("usage", r#"{"input_tokens":25,"output_tokens":15}"#),
            ],
            40,
        ),
        (
            "Anthropic messages",
            &[
                &leaf("input_tokens", 25.0),
                &leaf("cache_creation_input_tokens", 4.0),
                &leaf("cache_read_input_tokens", 3.0),
                &leaf("output_tokens", 15.0),
            ],
            47,
        ),
        (
            "SGLang generate, stream",
            &[&object(
                "meta_info",
                r#"{"id":"a","prompt_tokens":5,"completion_tokens":16,"cached_tokens":1,"e2e_latency":0.3}"#,
            )],
            21,
        ),
        ("SGLang generate", &[&leaf("prompt_tokens", 5.0), &leaf("completion_tokens", 16.0)], 21),
        (
            "llama.cpp, stream",
            &[&object(
                "timings",
                r#"{"cache_n":10,"prompt_n":4,"prompt_ms":12.5,"predicted_n":8,"predicted_per_second":55.2}"#,
            )],
            22,
        ),
        (
            "llama.cpp",
            &[
                &leaf("cache_n", 10.0),
                &leaf("prompt_n", 4.0),
                &leaf("predicted_n", 8.0),
                &leaf("tokens_evaluated", 14.0),
                &leaf("tokens_predicted", 8.0),
            ],
            22,
        ),
        ("Ollama", &[&leaf("prompt_eval_count", 26.0), &leaf("eval_count", 259.0)], 285),
        (
            "transcription",
            &[
                &leaf("input_tokens", 14.0),
                &leaf("output_tokens", 45.0),
                &leaf("total_tokens", 59.0),
            ],
            59,
        ),
        (
            "what ai_protocol_manager read",
            &[&typed(TokenUsage {
                input_tokens: Some(32),
                output_tokens: Some(15),
                total_tokens: Some(47),
                extraction_status: ExtractionStatus::Complete.into(),
                ..TokenUsage::default()
            })],
            47,
        ),
        (
            "two filters, the larger count",
            &[
                &leaf("total_tokens", 40.0),
                &typed(TokenUsage { total_tokens: Some(47), ..TokenUsage::default() }),
            ],
            47,
        ),
        ("no tokens", &[&leaf("total_tokens", 0.0)], 0),
    ];
    for (what, changes, tokens) in rows {
        charges(what, changes, Usage::Final(*tokens), None);
    }
}

#[test]
fn a_complete_response_without_its_usage_is_charged_its_hold_and_counted() {
    let rows: &[(&str, &[Change<'_>], u64)] = &[
        ("nothing was found", &[], 0),
        ("null", &[&object("usage", "null")], 0),
        ("only seconds", &[&object("usage", r#"{"type":"duration","seconds":12}"#)], 0),
        (
            "only the start of an Anthropic stream",
            &[&object("message_usage", r#"{"input_tokens":25,"output_tokens":1}"#)],
            26,
        ),
        (
            "one of several responses of SGLang",
            &[
                &object("meta_info", r#"{"prompt_tokens":5,"completion_tokens":16}"#),
                &leaf("index", 1.0),
            ],
            21,
        ),
        (
            "a part of the usage",
            &[&typed(TokenUsage {
                input_tokens: Some(32),
                extraction_status: ExtractionStatus::Partial.into(),
                ..TokenUsage::default()
            })],
            32,
        ),
        ("a text", &[&object("usage", "soon")], 0),
        ("a server error as a whole", &[&|entry| status(entry, 500)], 0),
        ("a server that gave up waiting", &[&|entry| status(entry, 408)], 0),
    ];
    for (what, changes, seen) in rows {
        charges(what, changes, Usage::Unreported(*seen), Some(Unmetered::Complete));
    }
}

fn status(entry: &mut HttpAccessLogEntry, code: u32) {
    entry.response.as_mut().unwrap().response_code = Some(code);
}

#[test]
fn what_reached_the_upstream_and_was_cut_is_charged_its_hold() {
    let whole = r#"{"prompt_tokens":11,"completion_tokens":14}"#;
    let cuts = [
        (200, "downstream_remote_disconnect"),
        (0, "downstream_remote_disconnect"),
        (200, "upstream_reset_after_response_started{protocol_error}"),
        (200, "response_timeout"),
        (200, "stream_idle_timeout"),
        (200, "max_duration_timeout"),
        (504, "response_timeout"),
        (503, "upstream_reset_before_response_started{connection_termination}"),
        (200, "budget_exhausted"),
        // A flag at the end of a response that looks complete.
        (200, "via_upstream"),
    ];
    for (code, details) in cuts {
        let cut = ended(code, details);
        charges(details, &[&cut], Usage::Unreported(0), Some(Unmetered::Cut));
        let reported = object("usage", whole);
        let expected = Usage::Unreported(25);
        charges(details, &[&cut, &reported], expected, Some(Unmetered::Cut));
        // The count of each event is that of the work until then.
        let changes: &[Change<'_>] = &[&cut, &reported, &asks_continuously, &flag(true)];
        charges(details, changes, Usage::Final(25), None);
        // A server that ignores the option may count one event.
        let (asks, each, early): (Change<'_>, Change<'_>, Change<'_>) =
            (&asks_continuously, &flag(true), &flag(false));
        for changes in [vec![asks], vec![asks, early], vec![each]] {
            let changes = [vec![&cut as Change<'_>, &reported], changes].concat();
            charges(details, &changes, expected, Some(Unmetered::Cut));
        }
        let changes: &[Change<'_>] = &[&cut, &object("meta_info", whole)];
        charges(details, changes, Usage::Final(25), None);
    }
    // The server reports each event, and there was none.
    let cut = ended(200, "downstream_remote_disconnect");
    let expected = (Usage::Unreported(0), Some(Unmetered::Cut));
    charges("no event", &[&cut, &asks_continuously, &flag(true)], expected.0, expected.1);
}

#[test]
fn a_client_that_closes_after_the_last_byte_is_charged_its_usage() {
    let cut = ended(200, "downstream_remote_disconnect");
    let read = |status: ExtractionStatus| {
        typed(TokenUsage {
            total_tokens: Some(47),
            extraction_status: status.into(),
            ..TokenUsage::default()
        })
    };
    let (whole, part) = (read(ExtractionStatus::Complete), read(ExtractionStatus::Partial));
    charges("the whole response", &[&cut, &whole], Usage::Final(47), None);
    charges("a part", &[&cut, &part], Usage::Unreported(47), Some(Unmetered::Cut));
    // Tollgate ended the stream, whatever was read of it.
    let by_tollgate = |entry: &mut HttpAccessLogEntry| {
        set(entry, "tollgate.usage", "cut", Kind::BoolValue(true));
    };
    let changes: &[Change<'_>] = &[&cut, &whole, &by_tollgate];
    charges("cut by Tollgate", changes, Usage::Unreported(47), Some(Unmetered::Cut));
}

#[test]
fn what_no_upstream_got_is_released() {
    let failed = ResponseFlags { upstream_connection_failure: true, ..ResponseFlags::default() };
    let none = ResponseFlags { no_healthy_upstream: true, ..ResponseFlags::default() };
    let overflow = ResponseFlags { upstream_overflow: true, ..ResponseFlags::default() };
    let rows: &[(&str, &[Change<'_>])] = &[
        ("local_ratelimit", &[&ended(429, "local_rate_limited"), &attempts(0, 0)]),
        ("buffer", &[&ended(413, "request_payload_too_large"), &attempts(0, 0)]),
        (
            "client gone before the router",
            &[&ended(0, "downstream_remote_disconnect"), &attempts(0, 0)],
        ),
        (
            "connect failure",
            &[
                &ended(503, "upstream_reset_before_response_started{connection_failure}"),
                &attempts(1, 0),
                &flags(failed),
            ],
        ),
        ("no upstream", &[&ended(503, "no_healthy_upstream"), &attempts(1, 0), &flags(none)]),
        (
            "overflow",
            &[
                &ended(503, "upstream_reset_before_response_started{overflow}"),
                &attempts(1, 0),
                &flags(overflow),
            ],
        ),
        ("the server refused the request", &[&|entry| status(entry, 400)]),
        ("the server had no room", &[&|entry| status(entry, 429)]),
        ("a redirect", &[&|entry| status(entry, 307)]),
    ];
    for (what, changes) in rows {
        charges(what, changes, Usage::Released, None);
    }
    // Of several attempts only the last one is visible.
    let changes: &[Change<'_>] = &[&ended(503, "x"), &attempts(2, 0), &flags(failed)];
    charges("two attempts", changes, Usage::Unreported(0), Some(Unmetered::Cut));
    let changes: &[Change<'_>] = &[&ended(503, "x"), &attempts(1, 9), &flags(failed)];
    charges("bytes were sent", changes, Usage::Unreported(0), Some(Unmetered::Cut));
}

#[test]
fn an_entry_of_a_response_that_still_arrives_renews() {
    let usage = object("usage", r#"{"prompt_tokens":11,"completion_tokens":14}"#);
    charges("no count yet", &[&periodic], Usage::Running(0), None);
    charges("a count", &[&periodic, &usage], Usage::Running(25), None);
}

#[test]
fn retries_are_charged_as_their_last_attempt() {
    let changes: &[Change<'_>] = &[&attempts(3, 300), &leaf("total_tokens", 9.0)];
    charges("retries", changes, Usage::Final(9), None);
}

#[test]
fn absurd_counts_are_ignored_and_lower_nothing() {
    for number in [-1.0, 1.5, 1e300, f64::NAN, f64::INFINITY] {
        let mut entry = entry();
        leaf("prompt_tokens", 11.0)(&mut entry);
        leaf("completion_tokens", number)(&mut entry);
        object("timings", r#"{"predicted_n":7}"#)(&mut entry);
        let report = report::read(&entry, &keys(1), |_| None).unwrap();
        assert!(report.is_absurd, "{number}");
        assert_eq!(report.settlement.usage, Usage::Unreported(7), "{number}");
        // Nor is a count of such a report in the sums of the ledger.
        let recorded = report.settlement.report.unwrap();
        assert_eq!(recorded.counts, UsageCounts::default(), "{number}");
    }
    for text in [
        r#"{"prompt_tokens":-4,"completion_tokens":1}"#,
        r#"{"prompt_tokens":"4"}"#,
        r#"{"prompt_tokens":18446744073709551615}"#,
        r#"{"prompt_tokens":[1]}"#,
        "{",
    ] {
        let mut entry = entry();
        set(&mut entry, "tollgate.usage", "usage", Kind::StringValue(text.into()));
        let report = report::read(&entry, &keys(1), |_| None).unwrap();
        assert!(report.is_absurd, "{text}");
        assert_eq!(report.settlement.usage, Usage::Unreported(0), "{text}");
    }
}

#[test]
fn a_count_above_the_hold_is_charged_unless_it_is_absurd() {
    for (change, usage) in [
        (
            Box::new(|_: &mut HttpAccessLogEntry| {}) as Box<dyn Fn(&mut _)>,
            [Usage::Final(HELD + 1), Usage::Final(16 * HELD), Usage::Unreported(0)],
        ),
        (
            Box::new(periodic),
            [Usage::Running(HELD + 1), Usage::Running(16 * HELD), Usage::Running(0)],
        ),
        (
            Box::new(ended(200, "response_timeout")),
            [Usage::Unreported(HELD + 1), Usage::Unreported(16 * HELD), Usage::Unreported(0)],
        ),
    ] {
        for (count, usage) in [1001.0, 16_000.0, 16_001.0].into_iter().zip(usage) {
            let mut entry = entry();
            leaf("total_tokens", count)(&mut entry);
            change(&mut entry);
            let report = report::read(&entry, &keys(1), |_| None).unwrap();
            assert_eq!((report.is_beyond_hold, report.is_absurd), (true, count > 16_000.0));
            let recorded = report.settlement.report.unwrap_or(UsageReport::UNREPORTED);
            assert!(!report.is_absurd || recorded.counts == UsageCounts::default());
            assert_eq!(report.settlement.usage, usage);
        }
    }
    // A slot holds no tokens.
    let mut entry = entry();
    let text = reservation(Counter::Slots { limit: 2 }).seal(&keys(1));
    set(&mut entry, "envoy.filters.http.ext_authz", "reservation", Kind::StringValue(text));
    leaf("total_tokens", 1001.0)(&mut entry);
    let report = report::read(&entry, &keys(1), |_| None).unwrap();
    assert_eq!((report.settlement.usage, report.is_beyond_hold), (Usage::Final(1001), false));
    entry.response.as_mut().unwrap().response_code_details = "response_timeout".into();
    assert_eq!(report::read(&entry, &keys(1), |_| None).unwrap().unmetered, None);
}

/// A reservation of a limit that holds an estimate of 300 tokens of at most 1000, and 60 for the
/// prompt; with a limit that holds the bound, or without.
fn estimated(with_bound: bool) -> Reservation {
    let mut reservation = of_tokens();
    let hold = |limit: &str, amount, unreported| Hold {
        limit: limit.into(),
        counter_id: limit.into(),
        amount,
        unreported,
        ..of_tokens().holds.remove(0)
    };
    reservation.holds = vec![hold("soft", 300, 60), hold("soft:debt", HELD, HELD)];
    reservation.holds.extend(with_bound.then(|| hold("hard", HELD, HELD)));
    reservation.histories = Some(HistoryIds { own: "own".into(), shared: "shared".into() });
    reservation
}

fn with_estimate(entry: &mut HttpAccessLogEntry, with_bound: bool) {
    let text = Kind::StringValue(estimated(with_bound).seal(&keys(1)));
    set(entry, "envoy.filters.http.ext_authz", "reservation", text);
}

fn bytes(count: u64) -> impl Fn(&mut HttpAccessLogEntry) {
    move |entry| entry.response.as_mut().unwrap().response_body_bytes = count
}

#[test]
fn what_is_not_reported_is_estimated_by_the_bytes_of_the_response() {
    let cut = ended(200, "downstream_remote_disconnect");
    let none = ended(503, "upstream_reset_before_response_started{connection_termination}");
    let failed = ResponseFlags { upstream_connection_failure: true, ..ResponseFlags::default() };
    let usage = object("usage", r#"{"prompt_tokens":11,"completion_tokens":14}"#);
    let start = object("message_usage", r#"{"input_tokens":11,"output_tokens":1}"#);
    let of_cut = Some(Unmetered::Cut);
    let rows: &[(&str, &[Change<'_>], u64, Option<Unmetered>)] = &[
        ("complete, nothing found", &[&bytes(400)], 160, Some(Unmetered::Complete)),
        ("complete, no more than the bound", &[&bytes(1 << 40)], 1000, Some(Unmetered::Complete)),
        ("cut", &[&cut, &bytes(401)], 161, of_cut),
        ("cut after a count", &[&cut, &usage, &bytes(400)], 160, of_cut),
        ("cut after a part of the count", &[&cut, &start, &bytes(400)], 160, of_cut),
        ("no response", &[&none], 60, of_cut),
        (
            "two attempts without a connection",
            &[&none, &attempts(2, 0), &flags(failed)],
            60,
            of_cut,
        ),
        ("reported", &[&usage, &bytes(4000)], 25, None),
        (
            "cut, and counted in each event",
            &[&cut, &usage, &asks_continuously, &flag(true), &bytes(4000)],
            25,
            None,
        ),
    ];
    for (what, changes, tokens, unmetered) in rows {
        let mut entry = entry();
        with_estimate(&mut entry, false);
        changes.iter().for_each(|change| change(&mut entry));
        let report = report::read(&entry, &keys(1), |_| None).unwrap();
        assert_eq!(report.settlement.usage, Usage::Final(*tokens), "{what}");
        assert_eq!(report.unmetered, *unmetered, "{what}");
    }
    // The same without usage, and a limit that holds the bound beside: it charges all of it.
    let mut entry = entry();
    with_estimate(&mut entry, true);
    bytes(400)(&mut entry);
    let report = report::read(&entry, &keys(1), |_| None).unwrap();
    assert_eq!(report.settlement.usage, Usage::Unreported(160));
    let released = |change: Change<'_>| {
        let mut entry = self::entry();
        with_estimate(&mut entry, false);
        change(&mut entry);
        report::read(&entry, &keys(1), |_| None).unwrap().settlement.usage
    };
    assert_eq!(released(&attempts(0, 0)), Usage::Released);
    assert_eq!(released(&|entry| status(entry, 429)), Usage::Released);
}

#[test]
fn complete_responses_are_learnt_from_and_others_are_not() {
    let observed = |changes: &[Change<'_>]| {
        let mut entry = entry();
        with_estimate(&mut entry, false);
        changes.iter().for_each(|change| change(&mut entry));
        report::read(&entry, &keys(1), |_| None).unwrap().observed.map(|(ids, usage)| {
            assert_eq!(ids, estimated(false).histories.unwrap());
            usage
        })
    };
    let usage = object("usage", r#"{"prompt_tokens":11,"completion_tokens":50}"#);
    let learnt = ObservedUsage { tokens: 61, answer: Some((50, 10_000)) };
    assert_eq!(observed(&[&usage, &bytes(10_000)]), Some(learnt));
    let total = leaf("total_tokens", 8.0);
    assert_eq!(observed(&[&total]), Some(ObservedUsage { tokens: 8, answer: None }));
    let cut = ended(200, "response_timeout");
    assert_eq!(observed(&[&usage, &cut, &asks_continuously, &flag(true)]), None);
    assert_eq!(observed(&[&usage, &periodic]), None);
    assert_eq!(observed(&[]), None);
    assert_eq!(observed(&[&leaf("total_tokens", 1e6)]), None, "absurd");
    // What was learnt is used: 200 bytes for a token.
    let mut history = UsageHistory::default();
    (0..8).for_each(|_| history.record(learnt));
    for history_of in ["own", "shared"] {
        let mut entry = entry();
        with_estimate(&mut entry, false);
        bytes(4000)(&mut entry);
        let learnt = |id| (id == BucketId::from(history_of)).then(|| history.learnt()).flatten();
        let report = report::read(&entry, &keys(1), learnt).unwrap();
        assert_eq!(report.settlement.usage, Usage::Final(60 + 21), "{history_of}");
    }
}

#[test]
fn tokens_above_an_estimate_or_a_bound_are_a_debt() {
    let debt = |soft: bool, changes: &[Change<'_>]| {
        let mut entry = entry();
        if soft {
            with_estimate(&mut entry, false);
        }
        changes.iter().for_each(|change| change(&mut entry));
        let report = report::read(&entry, &keys(1), |_| None).unwrap();
        (report.debt.of_estimate, report.debt.of_bound, report.is_beyond_hold)
    };
    let used = |tokens: f64| leaf("total_tokens", tokens);
    assert_eq!(debt(true, &[&used(300.0)]), (0, 0, false));
    assert_eq!(debt(true, &[&used(301.0)]), (1, 0, false));
    assert_eq!(debt(true, &[&used(1007.0)]), (707, 7, true));
    assert_eq!(debt(false, &[&used(1007.0)]), (0, 7, true));
    assert_eq!(debt(true, &[&used(1007.0), &periodic]), (0, 0, true), "it has not ended");
    assert_eq!(debt(true, &[&used(16_001.0)]), (0, 0, true), "absurd, and ignored");
    // Of an estimate the bound counts, too: sixteen times the bound is absurd.
    let mut entry = entry();
    with_estimate(&mut entry, false);
    used(9000.0)(&mut entry);
    let report = report::read(&entry, &keys(1), |_| None).unwrap();
    assert_eq!((report.settlement.usage, report.is_absurd), (Usage::Final(9000), false));
}

/// A request whose only limit counts its cost: a micro-unit for a token of input, three for one of
/// output. It holds 1000 tokens of the output; `estimate` charges 100 tokens of the prompt without a
/// report.
fn of_cost(estimate: bool) -> impl Fn(&mut HttpAccessLogEntry) {
    let ends = Timestamp::from_secs(1_800_086_400);
    let mut reservation = reservation(Counter::Cost { limit: 50_000, ends });
    let price = Price {
        input: 1_000_000,
        cached_input: 500_000,
        output: 3_000_000,
        request: 0,
        ..Price::default()
    };
    let (tokens, unreported) = if estimate { (100, 100) } else { (HELD, 3 * HELD) };
    reservation.histories =
        estimate.then(|| HistoryIds { own: "own".into(), shared: "shared".into() });
    reservation.holds[0].amount = 3 * HELD;
    reservation.holds[0].unreported = unreported;
    reservation.cost =
        Some(Box::new(CostTerms { price, tokens, most: HELD, unreported, ..CostTerms::default() }));
    move |entry| {
        let text = Kind::StringValue(reservation.seal(&keys(1)));
        set(entry, "envoy.filters.http.ext_authz", "reservation", text);
    }
}

#[test]
fn a_cost_is_charged_by_the_kinds_of_tokens_that_were_reported() {
    let usage = object(
        "usage",
        r#"{"prompt_tokens":40,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":20}}"#,
    );
    let cut = ended(0, "downstream_remote_disconnect");
    let (bound, soft, hundred) = (of_cost(false), of_cost(true), bytes(100));
    type Row<'a> = (&'a str, &'a [Change<'a>], Usage, u64, Option<Unmetered>);
    let rows: [Row<'_>; 5] = [
        ("by kind", &[&bound, &usage], Usage::Final(50), 60, None),
        // The store charges what is held.
        ("not found", &[&bound], Usage::Unreported(0), 0, Some(Unmetered::Complete)),
        ("cut", &[&bound, &cut], Usage::Unreported(0), 0, Some(Unmetered::Cut)),
        // The prompt, and 25 tokens of four bytes.
        ("estimated", &[&soft, &hundred], Usage::Final(125), 175, Some(Unmetered::Complete)),
        ("in flight", &[&bound, &usage, &periodic], Usage::Running(50), 0, None),
    ];
    for (about, changes, usage, cost, unmetered) in rows {
        let mut entry = entry();
        changes.iter().for_each(|change| change(&mut entry));
        let report = report::read(&entry, &keys(1), |_| None).unwrap();
        let settlement = &report.settlement;
        assert_eq!((settlement.usage, settlement.cost()), (usage, cost), "{about}");
        assert_eq!(report.unmetered, unmetered, "{about}");
    }
    // A count of more than sixteen bounds is absurd, also where only the cost is limited.
    let mut entry = entry();
    of_cost(false)(&mut entry);
    leaf("total_tokens", 16_001.0)(&mut entry);
    let report = report::read(&entry, &keys(1), |_| None).unwrap();
    assert_eq!((report.is_absurd, report.settlement.cost()), (true, 0));
}

/// A request that costs five micro-units for a second, of which it has 60 at most, and none for a token.
fn of_seconds(has_tokens: bool) -> impl Fn(&mut HttpAccessLogEntry) {
    let ends = Timestamp::from_secs(1_800_086_400);
    let mut reservation = reservation(Counter::Cost { limit: 50_000, ends });
    let price = Price { second: 5, ..Price::default() };
    let media = MediaBound { seconds: 60, ..MediaBound::default() };
    (reservation.holds[0].amount, reservation.holds[0].unreported) = (300, 300);
    if has_tokens {
        let counter = Counter::Budget { limit: 50_000, ends };
        reservation.holds.push(Hold { counter, amount: HELD, ..reservation.holds[0].clone() });
    }
    let terms = CostTerms { price, tokens: HELD, most: HELD, unreported: 300, fixed: None, media };
    reservation.cost = Some(Box::new(terms));
    move |entry| {
        let text = Kind::StringValue(reservation.seal(&keys(1)));
        set(entry, "envoy.filters.http.ext_authz", "reservation", text);
    }
}

#[test]
fn seconds_are_charged_in_the_place_of_tokens() {
    let (alone, both) = (of_seconds(false), of_seconds(true));
    let (seconds, part, many) =
        (leaf("seconds", 7.0), leaf("seconds", 6.01), leaf("seconds", 61.0));
    let absurd = leaf("seconds", 961.0);
    let stream = object("usage", r#"{"type":"duration","seconds":6.5}"#);
    let refused = |entry: &mut HttpAccessLogEntry| status(entry, 422);
    let cut = ended(0, "downstream_remote_disconnect");
    let complete = Some(Unmetered::Complete);
    type Row<'a> = (&'a str, &'a [Change<'a>], Usage, u64, Option<Unmetered>);
    let rows: [Row<'_>; 9] = [
        ("counted", &[&alone, &seconds], Usage::Final(0), 35, None),
        ("a part of one", &[&alone, &part], Usage::Final(0), 35, None),
        ("in a stream", &[&alone, &stream], Usage::Final(0), 35, None),
        ("more than it may have", &[&alone, &many], Usage::Final(0), 305, None),
        // The store charges what is held.
        ("absurd", &[&alone, &absurd], Usage::Unreported(0), 0, complete),
        ("not found", &[&alone], Usage::Unreported(0), 0, complete),
        ("beside tokens", &[&both, &seconds], Usage::Unreported(0), 0, complete),
        ("cut", &[&alone, &seconds, &cut], Usage::Unreported(0), 0, Some(Unmetered::Cut)),
        ("refused", &[&alone, &seconds, &refused], Usage::Released, 0, None),
    ];
    for (about, changes, usage, cost, unmetered) in rows {
        let mut entry = entry();
        changes.iter().for_each(|change| change(&mut entry));
        let report = report::read(&entry, &keys(1), |_| None).unwrap();
        let settlement = &report.settlement;
        assert_eq!((settlement.usage, settlement.cost()), (usage, cost), "{about}");
        assert_eq!(report.unmetered, unmetered, "{about}");
        assert_eq!(report.is_absurd, about == "absurd", "{about}");
        assert_eq!(
            report.is_beyond_hold,
            matches!(about, "absurd" | "more than it may have"),
            "{about}"
        );
    }
}

#[test]
fn an_entry_without_a_reservation_of_ours_is_refused() {
    let refused = |change: Change<'_>, key| {
        let mut entry = entry();
        change(&mut entry);
        report::read(&entry, &keys(key), |_| None).unwrap_err()
    };
    assert!(matches!(refused(&|_| {}, 2), Refused::Reservation(_)), "another secret");
    let forged = |entry: &mut HttpAccessLogEntry| {
        let text = Kind::StringValue("AAAA.AAAA".into());
        set(entry, "envoy.filters.http.ext_authz", "reservation", text);
    };
    assert!(matches!(refused(&forged, 1), Refused::Reservation(_)));
    let number = |entry: &mut HttpAccessLogEntry| {
        set(entry, "envoy.filters.http.ext_authz", "reservation", Kind::NumberValue(1.0));
    };
    assert_eq!(refused(&number, 1), Refused::NoReservation);
    let none = |entry: &mut HttpAccessLogEntry| common(entry).metadata = None;
    assert_eq!(refused(&none, 1), Refused::NoReservation);
    // An entry of one attempt, which a log of the router writes.
    let attempt = |entry: &mut HttpAccessLogEntry| common(entry).access_log_type = 9;
    assert_eq!(refused(&attempt, 1), Refused::OtherEvent);
}

#[test]
fn a_message_is_read_up_to_its_last_entry() {
    let message = StreamAccessLogsMessage {
        http_logs: Some(HttpAccessLogEntries {
            log_entry: vec![entry(), HttpAccessLogEntry::default(), entry()],
        }),
    };
    assert_eq!(read_message(&message.encode_to_vec(), &keys(1)), 2);
    assert_eq!(read_message(b"\xff", &keys(1)), 0);
}

#[test]
fn no_bytes_end_the_process() {
    let mut entry = entry();
    object("usage", r#"{"prompt_tokens":11,"completion_tokens":48}"#)(&mut entry);
    typed(TokenUsage { input_tokens: Some(1), ..TokenUsage::default() })(&mut entry);
    let message = StreamAccessLogsMessage {
        http_logs: Some(HttpAccessLogEntries { log_entry: vec![entry] }),
    };
    let bytes = message.encode_to_vec();
    for at in 0..bytes.len() {
        read_message(&bytes[..at], &keys(1));
        for change in [0x00, 0x7f, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            read_message(&changed, &keys(1));
        }
    }
    // Values nested deeper than the reader goes.
    let mut value = Value { kind: Some(Kind::BoolValue(true)) };
    for _ in 0..200 {
        let list = prost_types::ListValue { values: vec![value] };
        value = Value { kind: Some(Kind::ListValue(list)) };
    }
    let mut entry = self::entry();
    set(&mut entry, "tollgate.usage", "usage", value.kind.take().unwrap());
    let message = StreamAccessLogsMessage {
        http_logs: Some(HttpAccessLogEntries { log_entry: vec![entry] }),
    };
    assert_eq!(read_message(&message.encode_to_vec(), &keys(1)), 0);
}
