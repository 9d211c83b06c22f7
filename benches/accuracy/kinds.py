"""The requests of the clients: what they ask for, what the server does, and what their clients do."""

import dataclasses
import json

#: The bounds that the policy has for the model of the scripted server.
CONTEXT, MAX_OUTPUT = 8192, 200

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo" * 8}}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {"total_tokens": {"type": "integer", "default": 1}}}}}]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of requests.

    `expected`: `exact` (charged what the server counted), `at least` (charged what the server counted or more), or `nothing`
    (refused, and charged nothing).
    `cut`: the events after which the client disconnects; 0 is before the response, None never.
    """

    name: str
    api: str = "chat/completions"
    body: dict = dataclasses.field(default_factory=dict)
    script: dict = dataclasses.field(default_factory=dict)
    expected: str = "exact"
    cut: int | None = None
    tenants: str = "roomy"
    attempts: int = 1
    model: str = "m"

    def text(self, prompt):
        """The body of one request. `PROMPT` in it becomes the prompt."""
        whole = {"model": self.model, **self.body}
        if "messages" not in whole and self.api in ("chat/completions", "messages"):
            whole["messages"] = [{"role": "user", "content": "PROMPT"}]
        return json.dumps(whole).replace("PROMPT", prompt).encode()


STREAM = {"stream": True}
EACH = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
LONG = {"output": 120, "pause": 0.004}

KINDS = [
    Kind("chat", body={"max_tokens": 60}, script={"output": 40, "pause": 0.002}),
    Kind("chat, streamed", body=STREAM, script=LONG),
    Kind("chat, no number of tokens and a server without a cap", script={"output": 5000}),
    Kind("chat, a million tokens wanted", body={**STREAM, "max_tokens": 1_000_000}, script={"output": 5000}),
    Kind("chat, `include_usage: false`", body={**STREAM, "stream_options": {"include_usage": False}}, script=LONG),
    Kind("chat, usage in each event", body=EACH, script=LONG),
    Kind("chat, three answers", body={"n": 3, "max_completion_tokens": 50}, script={"output": 400}),
    Kind("chat, three answers streamed, usage in each event wanted", body={**EACH, "n": 3, "max_tokens": 50}, script={"output": 400}),
    Kind("chat, images", body={"max_tokens": 30, "messages": [{"role": "user", "content": [{"type": "text", "text": "PROMPT"}, IMAGE, IMAGE]}]}, script={"output": 30}),
    Kind("chat, tools", body={"max_tokens": 30, "tools": TOOLS}, script={"output": 30}),
    Kind("completion, streamed", "completions", {**STREAM, "prompt": "PROMPT"}, {"output": 60, "pause": 0.003}),
    Kind("completion, three prompts", "completions", {"prompt": ["PROMPT", "PROMPT", "PROMPT"], "n": 2, "max_tokens": 20}, {"output": 30}),
    Kind("completion, token ids", "completions", {"prompt": list(range(1000, 1400)), "max_tokens": 20}, {"output": 30}),
    Kind("Responses", "responses", {"input": "PROMPT", "max_output_tokens": 40}, {"output": 400}),
    Kind("Responses, streamed", "responses", {"input": "PROMPT", **STREAM}, LONG),
    Kind("messages", "messages", {"max_tokens": 40}, {"output": 400}),
    Kind("messages, streamed", "messages", {"max_tokens": 150, **STREAM}, LONG),
    Kind("embeddings", "embeddings", {"input": ["PROMPT", "PROMPT"]}),
    # What is cut.
    Kind("chat, the client is gone after 8 events", body=STREAM, script=LONG, cut=8, expected="at least"),
    Kind("chat, the client is gone before the answer", body={"max_tokens": 80}, script={"output": 80, "pause": 0.02}, cut=0, expected="at least"),
    Kind("completion, the client is gone after 5 events", "completions", {**STREAM, "prompt": "PROMPT"}, LONG, cut=5, expected="at least"),
    Kind("Responses, the client is gone after 5 events", "responses", {"input": "PROMPT", **STREAM}, LONG, cut=5, expected="at least"),
    Kind("messages, the client is gone after 6 events", "messages", {"max_tokens": 150, **STREAM}, LONG, cut=6, expected="at least"),
    Kind("chat, an early usage, and the client is gone", body=EACH, script={**LONG, "act": "early usage"}, cut=8, expected="at least"),
    Kind("chat, the server breaks off", body=STREAM, script={**LONG, "act": "breaks"}, expected="at least"),
    Kind("chat, the client is gone and the server goes on", body=STREAM, script={**LONG, "act": "deaf"}, cut=5, expected="at least", tenants="deaf"),
    # What has no usage, or several attempts.
    Kind("chat, no usage and an echo of the client's numbers", body={"max_tokens": 40, "tools": TOOLS, "metadata": {"usage": {"total_tokens": 1}, "prompt_tokens": 1, "completion_tokens": 1}}, script={"output": 40, "act": "no usage"}, expected="at least"),
    Kind("chat, 500 and a second attempt", body={"max_tokens": 30}, script={"output": 30, "act": "fails"}, expected="at least", attempts=2),
    # What is refused.
    Kind("chat, the server refuses", body={"max_tokens": 30}, script={"act": "rejects"}, expected="nothing"),
    Kind("chat, a cap in another object", body={"max_tokens": 30, "options": {"num_predict": 90000}}, expected="nothing"),
    Kind("chat, a cap that is no number", body={"max_tokens": "90000"}, expected="nothing"),
    Kind("Responses, in the background", "responses", {"input": "PROMPT", "background": True}, expected="nothing"),
    # Few tokens for many clients.
    Kind("chat, a small budget", body={**STREAM, "max_tokens": 100}, script={"output": 100, "pause": 0.003}, tenants="tight"),
    Kind("chat, a small budget, half of it used", body={**STREAM, "max_tokens": 100}, script={"output": 20, "pause": 0.003}, tenants="tight"),
    Kind("chat, a small budget, cut", body={**STREAM, "max_tokens": 100}, script={"output": 100, "pause": 0.003}, tenants="tight", cut=9, expected="at least"),
    Kind("chat, few tokens a minute", body={**STREAM, "max_tokens": 100}, script={"output": 60, "pause": 0.003}, tenants="minute"),
    Kind("chat, three at once", body={**STREAM, "max_tokens": 60}, script={"output": 60, "pause": 0.003}, tenants="slots"),
]

#: Streams that are charged what they counted when they were cut.
RUNNING = [Kind("chat, usage in each event, and the client is gone", body=EACH, script=LONG, cut=8, expected="running")]

#: Requests to the real server, whose own counters are compared with the sum of their charges.
LLAMA = [
    Kind("llama.cpp, chat", body={"max_tokens": 12}, model="smollm2", tenants="llama"),
    Kind("llama.cpp, chat streamed", body={**STREAM, "max_tokens": 12}, model="smollm2", tenants="llama"),
    Kind("llama.cpp, two answers", body={"n": 2, "max_tokens": 6}, model="smollm2", tenants="llama"),
    Kind("llama.cpp, completion", "completions", {"prompt": "PROMPT", "max_tokens": 8}, model="smollm2", tenants="llama"),
    Kind("llama.cpp, messages streamed", "messages", {"max_tokens": 8, **STREAM}, model="smollm2", tenants="llama"),
    Kind("llama.cpp, the client is gone after 3 events", body={**STREAM, "max_tokens": 60}, cut=3, expected="at least", model="smollm2", tenants="llama"),
]

#: Requests by the official clients: SDK, method, and the arguments.
SDK_CALLS = [
    ("openai", "chat.completions", {"max_tokens": 40}, {"output": 40}),
    ("openai", "chat.completions", {"stream": True}, LONG),
    ("openai", "chat.completions", {"max_tokens": 40}, {"output": 40, "act": "fails"}),
    ("openai", "completions", {"prompt": [[11, 12, 13], [14, 15]], "max_tokens": 10}, {"output": 40}),
    ("openai", "responses", {"max_output_tokens": 40}, {"output": 40}),
    ("openai", "responses", {"stream": True}, LONG),
    ("openai", "embeddings", {"input": ["one", "two"]}, {}),
    ("anthropic", "messages", {"max_tokens": 40}, {"output": 40}),
    ("anthropic", "messages", {"max_tokens": 90, "stream": True}, LONG),
]
