//! A server that speaks OpenAI's and Anthropic's protocols with scripted answers. Every answer is
//! the text [`TEXT`], or the embedding [`EMBEDDING`].

use std::sync::mpsc;

use serde_json::{Value, json};

use super::{
    http::{Answer, Reply, Request},
    upstream::Upstream,
};

/// The text of every answer.
pub(crate) const TEXT: &str = "Hello!";
/// The embedding of every text, as JSON.
pub(crate) const EMBEDDING: &str = "[0.25, -0.5]";

/// Starts the server.
pub(crate) fn model_server() -> Upstream {
    Upstream::answering(answer)
}

fn answer(request: &Request) -> Answer {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let streams = body["stream"] == true;
    let model = &body["model"];
    let path = request.path.split('?').next().unwrap_or_default();
    match (path, streams) {
        ("/v1/chat/completions" | "/openai/deployments/qwen/chat/completions", false) => {
            whole(&json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
                "choices": [{ "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": TEXT } }],
                "usage": { "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 },
            }))
        }
        ("/v1/chat/completions", true) => {
            let chunk = |delta: Value, end: Value| {
                let choice = json!({ "index": 0, "delta": delta, "finish_reason": end });
                (
                    None,
                    json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice] }),
                )
            };
            let (first, second) = TEXT.split_at(3);
            events(
                [
                    chunk(json!({ "role": "assistant", "content": first }), Value::Null),
                    chunk(json!({ "content": second }), Value::Null),
                    chunk(json!({}), json!("stop")),
                ],
                true,
            )
        }
        ("/v1/responses", false) => whole(&response(model, "completed")),
        ("/v1/responses", true) => {
            let (first, second) = TEXT.split_at(3);
            let delta = |text: &str, number: u32| {
                named(
                    "response.output_text.delta",
                    json!({
                        "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": text,
                        "sequence_number": number, "logprobs": [],
                    }),
                )
            };
            let state = |kind: &'static str, status: &str, number: u32| {
                let response = response(model, status);
                named(kind, json!({ "response": response, "sequence_number": number }))
            };
            events(
                [
                    state("response.created", "in_progress", 0),
                    delta(first, 1),
                    delta(second, 2),
                    state("response.completed", "completed", 3),
                ],
                false,
            )
        }
        ("/v1/embeddings", _) => {
            let embedding: Value = serde_json::from_str(EMBEDDING).unwrap();
            whole(&json!({
                "object": "list", "model": model,
                "data": [{ "object": "embedding", "index": 0, "embedding": embedding }],
                "usage": { "prompt_tokens": 1, "total_tokens": 1 },
            }))
        }
        ("/v1/messages", false) => {
            whole(&message(model, &json!([{ "type": "text", "text": TEXT }])))
        }
        ("/v1/messages", true) => {
            let (first, second) = TEXT.split_at(3);
            let delta = |text: &str| {
                let delta = json!({ "type": "text_delta", "text": text });
                named("content_block_delta", json!({ "index": 0, "delta": delta }))
            };
            let block = json!({ "type": "text", "text": "" });
            let end = json!({ "stop_reason": "end_turn", "stop_sequence": null });
            events(
                [
                    named("message_start", json!({ "message": message(model, &json!([])) })),
                    named("content_block_start", json!({ "index": 0, "content_block": block })),
                    delta(first),
                    delta(second),
                    named("content_block_stop", json!({ "index": 0 })),
                    named(
                        "message_delta",
                        json!({ "delta": end, "usage": { "output_tokens": 2 } }),
                    ),
                    named("message_stop", json!({})),
                ],
                false,
            )
        }
        _ => whole(&json!({ "ok": true })),
    }
}

fn response(model: &Value, status: &str) -> Value {
    let content = json!([{ "type": "output_text", "text": TEXT, "annotations": [] }]);
    let output = json!([{ "type": "message", "id": "msg_1", "status": status, "role": "assistant", "content": content }]);
    json!({
        "id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": model,
        "output": output, "parallel_tool_calls": true, "tool_choice": "auto", "tools": [],
    })
}

fn message(model: &Value, content: &Value) -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": "end_turn", "stop_sequence": null,
        "usage": { "input_tokens": 3, "output_tokens": 2 },
    })
}

/// An event whose data has its name as `type`.
fn named(name: &'static str, mut data: Value) -> (Option<&'static str>, Value) {
    data["type"] = json!(name);
    (Some(name), data)
}

fn whole(body: &Value) -> Answer {
    Answer::Whole(Reply::new(200, body.to_string()).header("content-type", "application/json"))
}

/// Server-sent events, and `[DONE]` at the end where the protocol has it.
fn events<const N: usize>(list: [(Option<&'static str>, Value); N], is_done_sent: bool) -> Answer {
    let (sender, receiver) = mpsc::channel();
    let texts = list.into_iter().map(|(name, data)| match name {
        // The line follows the data, whose line the server begins.
        Some(name) => format!("{data}\nevent: {name}"),
        None => data.to_string(),
    });
    for text in texts.chain(is_done_sent.then(|| "[DONE]".to_owned())) {
        sender.send(text).unwrap();
    }
    Answer::Events(receiver)
}
