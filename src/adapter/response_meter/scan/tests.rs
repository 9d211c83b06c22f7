//! Responses of every server, in pieces of every size.

use super::*;
use crate::adapter::access_log::usage::{self, Reading};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// Reads a response in pieces of every size.
fn readings(content_type: &str, body: &str) -> Vec<Reading> {
    let sizes = (1..40).chain([body.len().max(1)]);
    let reading = |size| {
        let mut scanner = Scanner::of(content_type.as_bytes(), false);
        for piece in body.as_bytes().chunks(size) {
            scanner.read(piece);
        }
        usage::of_members(scanner.members())
    };
    sizes.map(reading).collect()
}

#[test]
fn the_usage_of_bodies_is_read_in_pieces_of_any_size() {
    for (about, content_type, body, tokens, is_whole) in [
        (
            "a chat",
            JSON,
            r#"{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#,
            Some(10),
            true,
        ),
        (
            "with a charset",
            "application/json; charset=utf-8",
            r#"{"usage":{"total_tokens":4}}"#,
            Some(4),
            true,
        ),
        (
            "spaces",
            JSON,
            "{ \"usage\" : {\n \"prompt_tokens\" : 7 ,\n\t\"completion_tokens\" : 3 } }",
            Some(10),
            true,
        ),
        (
            "usage in a text",
            JSON,
            r#"{"content":"{\"completion_tokens\": 9999}","usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            Some(3),
            true,
        ),
        (
            "Anthropic",
            JSON,
            r#"{"usage":{"input_tokens":5,"cache_read_input_tokens":100,"output_tokens":2}}"#,
            Some(107),
            true,
        ),
        (
            "Ollama in lines",
            "application/x-ndjson",
            "{\"done\":false}\n{\"done\":true,\"prompt_eval_count\":6,\"eval_count\":2}\n",
            Some(8),
            true,
        ),
        (
            "a list of answers",
            JSON,
            r#"[{"meta_info":{"prompt_tokens":1,"completion_tokens":2}}]"#,
            None,
            false,
        ),
        (
            "what a server repeats of its request",
            JSON,
            r#"{"a":{"usage":{"total_tokens":90},"x\"{[\\":"\"}]{\\","prompt_tokens":91},"usage":{"b":{"total_tokens":92},"total_tokens" : 59},"z":[{"usage":{"total_tokens":93}}]}"#,
            Some(59),
            true,
        ),
        (
            "an echo and no usage",
            JSON,
            r#"{"usage":null,"metadata":{"total_tokens":1,"usage":{"prompt_tokens":1}},"x-1":{"total_tokens":1}}"#,
            None,
            false,
        ),
        ("units of Cohere", JSON, r#"{"meta":{"billed_units":{"input_tokens":8}}}"#, Some(8), true),
        ("no usage", JSON, r#"{"ok":true}"#, None, false),
        ("not JSON", "text/plain", r#"{"usage":{"total_tokens":4}}"#, None, false),
        ("a negative count", JSON, r#"{"usage":{"completion_tokens":-5}}"#, None, false),
        (
            "a text for a count",
            JSON,
            r#"{"usage":{"prompt_tokens":7,"completion_tokens":"300"},"timings":{"completion_tokens":3}}"#,
            None,
            false,
        ),
        ("no number", JSON, r#"{"usage":{"prompt_tokens":7,"eval_count":1-2}}"#, None, false),
        (
            "null and the text of a part",
            JSON,
            r#"{"usage":{"prompt_tokens":7,"completion_tokens":null,"prompt_tokens_details":{"cached_tokens":"5"}}}"#,
            Some(7),
            true,
        ),
    ] {
        for reading in readings(content_type, body) {
            assert_eq!((reading.tokens, reading.is_whole), (tokens, is_whole), "{about}");
        }
    }
}

#[test]
fn the_usage_of_streams_is_read_in_pieces_of_any_size() {
    let long = "x".repeat(700);
    let in_each = format!(
        "data: {{\"x\":\"{long}\",\"usage\":{{\"total_tokens\":3}}}}\n\ndata: {{\"usage\":{{\"total_tokens\":5}}}}\n\n"
    );
    for (about, body, tokens, is_whole) in [
        (
            "at the end",
            "data: {\"choices\":[],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
            Some(10),
            true,
        ),
        (
            "lines that end with both",
            "event: x\r\ndata: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\r\n\r\n",
            Some(10),
            true,
        ),
        (
            "lines that end with a return",
            "data:{\"usage\":{\"total_tokens\":3}}\r\r",
            Some(3),
            true,
        ),
        (
            "the data in two lines",
            "data: {\"usage\":\ndata: {\"total_tokens\":3}}\n\n",
            Some(3),
            true,
        ),
        ("in each event", &in_each, Some(5), true),
        (
            "a smaller count at the end",
            "data: {\"usage\":{\"total_tokens\":9}}\n\ndata: {\"usage\":{\"total_tokens\":4}}\n\n",
            Some(4),
            true,
        ),
        (
            "a text for a count",
            "data: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":\"300\"}}\n\n",
            None,
            false,
        ),
        (
            "the start of Anthropic's",
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n",
            Some(10),
            false,
        ),
        (
            "Anthropic's to its end",
            "data: {\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\ndata: {\"index\":0}\n\ndata: {\"usage\":{\"output_tokens\":20}}\n\n",
            Some(29),
            true,
        ),
        (
            "Responses",
            "data: {\"message\":\"x\",\"response\":{\"usage\":{\"input_tokens\":2,\"output_tokens\":3}}}\n\n",
            Some(5),
            true,
        ),
        (
            "one of several of SGLang",
            "data: {\"index\":1,\"meta_info\":{\"prompt_tokens\":2,\"completion_tokens\":3}}\n\n",
            Some(5),
            false,
        ),
        ("an event that has not ended", "data: {\"usage\":{\"total_tokens\":3}}\n", None, false),
        ("no JSON", "data: hello\n\ndata: {\"usage\":\n\n", None, false),
    ] {
        for reading in readings(EVENTS, body) {
            assert_eq!((reading.tokens, reading.is_whole), (tokens, is_whole), "{about}");
        }
    }
}

#[test]
fn a_server_that_counts_in_each_event_is_recognised() {
    let body = "data: {\"meta_info\":{\"prompt_tokens\":2,\"completion_tokens\":3}}\n\n";
    assert!(readings(EVENTS, body).iter().all(|reading| reading.is_continuous));
}

#[test]
fn a_usage_in_each_event_is_told_from_an_early_one() {
    let (counted, other) =
        ("data: {\"usage\":{\"total_tokens\":3}}\n\n", "data: {\"choices\":[]}\n\n");
    let null = "data: {\"usage\":null}\n\n";
    for (events, expected) in [
        (vec![counted, counted], true),
        (vec![other, counted, counted, "data: [DONE]\n\n"], true),
        (vec![counted], false),
        (vec![counted, other], false),
        (vec![counted, counted, null], false),
        (vec![other], false),
    ] {
        for reading in readings(EVENTS, &events.concat()) {
            assert_eq!(reading.has_usage_in_each_event, expected, "{events:?}");
        }
    }
}

#[test]
fn an_event_that_is_too_large_is_skipped_and_the_next_one_is_read() {
    let mut scanner = Scanner::of(EVENTS.as_bytes(), false);
    scanner.read(b"data: ");
    for _ in 0..11 {
        scanner.read(&vec![b'x'; 1 << 20]);
    }
    scanner.read(b"\ndata: {\"usage\":{\"total_tokens\":9}}\n\n");
    assert_eq!(usage::of_members(scanner.members()).tokens, None);
    scanner.read(b"data: {\"usage\":{\"total_tokens\":4}}\n\n");
    assert_eq!(usage::of_members(scanner.members()).tokens, Some(4));
}

#[test]
fn an_encoded_body_is_not_read() {
    let mut scanner = Scanner::of(JSON.as_bytes(), true);
    assert!(!scanner.read(br#"{"usage":{"total_tokens":4}}"#));
}
