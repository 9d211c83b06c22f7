"""What the official clients send: writes tools/members/clients.json, the requests that tests pass through the presets.

    python3 -m venv /tmp/clients && /tmp/clients/bin/pip install -r tools/members/clients.txt
    /tmp/clients/bin/python tools/members/clients.py

Each client calls a local server that answers with an error; what it sent is kept. Every parameter of a method must have a
value here, so that a newer client with another one fails.
"""

import base64
import http.server
import inspect
import json
import os
import pathlib
import threading

OUT = pathlib.Path(__file__).with_name("clients.json")
# Parameters of the clients themselves.
OWN = {"self", "extra_headers", "extra_query", "extra_body", "timeout", "kwargs"}
# Parameters that only the public service has, and that it gives to few.
UNSENT = {"access_programs", "background_options", "image", "keywords", "languages", "diagnostics", "user_profile_id", "workspace_id", "speed", "output_format"}
PNG = "data:image/png;base64,iVBORw0KGgo="
WAV = base64.b64encode(b"RIFF" + bytes(40)).decode()
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "A city"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "The weather", "parameters": SCHEMA, "strict": True}
seen = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        seen.append((self.path, self.headers.get("content-type") or "", body))
        answer = json.dumps({"error": {"message": "recorded", "type": "invalid_request_error"}}).encode()
        self.send_response(400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
BASE = f"http://127.0.0.1:{server.server_port}"
requests = []


def record(client, call):
    """Runs a call and keeps the one request that it sends."""
    seen.clear()
    try:
        call()
    except Exception as error:
        if not seen:
            raise SystemExit(f"{client} sent nothing: {error!r}") from error
    path, media, body = seen[0]
    form = not media.startswith("application/json")
    entry = {"client": client, "path": path, "content_type": media}
    entry["form" if form else "json"] = body.decode("latin-1") if form else json.loads(body)
    requests.append(entry)


def every(client, method, values):
    """Calls a method with a value for every parameter that it documents."""
    wanted = set(inspect.signature(method).parameters) - OWN
    unknown, missing = set(values) - wanted - {"extra_body"}, wanted - set(values) - UNSENT
    if unknown or missing:
        raise SystemExit(f"{client}: without a value: {sorted(missing)}; unknown: {sorted(unknown)}")
    record(client, lambda: method(**values))


def openai_calls():
    import openai

    client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="k", max_retries=0)
    version = f"openai {openai.__version__}"
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "system", "content": [{"type": "text", "text": "Be short."}]},
        {
            "role": "user",
            "name": "bob",
            "content": [
                {"type": "text", "text": "hi"},
                {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "x"}, {"type": "refusal", "refusal": "no"}],
            "refusal": None,
            "audio": {"id": "audio_1"},
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
                {"id": "2", "type": "custom", "custom": {"name": "grep", "input": "x"}},
            ],
        },
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "ok"}]},
        {"role": "function", "name": "weather", "content": "ok"},
    ]
    chat = {
        "messages": messages,
        "model": "m",
        "audio": {"format": "wav", "voice": "alloy"},
        "frequency_penalty": 0.5,
        "function_call": "auto",
        "functions": [{"name": "weather", "description": "d", "parameters": SCHEMA}],
        "logit_bias": {str(token): 1 for token in range(300)},
        "logprobs": True,
        "max_completion_tokens": 5,
        "max_tokens": 5,
        "metadata": {"a": "b"},
        "modalities": ["text", "audio"],
        "moderation": {"model": "omni-moderation-latest"},
        "n": 1,
        "parallel_tool_calls": True,
        "prediction": {"type": "content", "content": [{"type": "text", "text": "x"}]},
        "presence_penalty": 0.5,
        "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
        "prompt_cache_retention": "24h",
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "description": "d", "schema": SCHEMA, "strict": True}},
        "safety_identifier": "s",
        "seed": 1,
        "service_tier": "auto",
        "stop": ["a"],
        "store": False,
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "temperature": 1,
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "tools": [
            {"type": "function", "function": FUNCTION},
            {"type": "custom", "custom": {"name": "grep", "description": "d", "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}}}},
        ],
        "top_logprobs": 5,
        "top_p": 1,
        "user": "u",
        "verbosity": "low",
        "web_search_options": {"search_context_size": "low", "user_location": {"type": "approximate", "approximate": {"city": "x"}}},
    }
    every(f"{version} chat", client.chat.completions.create, chat)
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]}}
    record(f"{version} chat, allowed tools", lambda: client.chat.completions.create(model="m", messages=messages[:1], tool_choice=allowed, tools=chat["tools"]))
    record(f"{version} chat, none given", lambda: client.chat.completions.create(model="m", messages=messages[:1], tools=None, stop=None, user=None))
    every(f"{version} completions", client.completions.create, {
        "model": "m", "prompt": ["a", "b"], "best_of": 1, "echo": True, "frequency_penalty": 0, "logit_bias": {"1": 1}, "logprobs": 5,
        "max_tokens": 5, "n": 1, "presence_penalty": 0, "seed": 1, "stop": "a", "stream": True, "stream_options": {"include_usage": True},
        "suffix": "x", "temperature": 0, "top_p": 1, "user": "u",
    })
    items = [
        {"role": "user", "content": [
            {"type": "input_text", "text": "x"},
            {"type": "input_image", "image_url": PNG, "detail": "auto"},
            {"type": "input_file", "file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"},
        ]},
        {"type": "message", "role": "assistant", "id": "m", "status": "completed", "phase": "final_answer",
         "content": [{"type": "output_text", "text": "x", "annotations": [], "logprobs": []}, {"type": "refusal", "refusal": "no"}]},
        {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}", "id": "fc", "status": "completed"},
        {"type": "function_call_output", "call_id": "1", "output": "x", "id": "fo", "status": "completed"},
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "x"}]},
        {"type": "custom_tool_call", "call_id": "2", "name": "grep", "input": "x", "id": "ct"},
        {"type": "custom_tool_call_output", "call_id": "2", "output": "x", "id": "co"},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "t"}], "content": [{"type": "reasoning_text", "text": "t"}],
         "encrypted_content": "x", "status": "completed"},
        {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "x"}},
    ]
    responses = {
        "background": False, "context_management": [{"type": "compaction", "compact_threshold": 1000}], "conversation": None,
        "include": ["reasoning.encrypted_content"], "input": items, "instructions": "i", "max_output_tokens": 5, "max_tool_calls": 3,
        "metadata": {"a": "b"}, "model": "m", "moderation": None, "parallel_tool_calls": True, "previous_response_id": None,
        "prompt": None, "prompt_cache_key": "k", "prompt_cache_options": {"mode": "implicit"}, "prompt_cache_retention": "24h",
        "reasoning": {"effort": "low", "summary": "auto"}, "safety_identifier": "s", "service_tier": "auto", "store": False,
        "stream": True, "stream_options": {"include_obfuscation": False}, "temperature": 1,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True, "description": "d"}, "verbosity": "low"},
        "tool_choice": {"type": "function", "name": "weather"},
        "tools": [{"type": "function", **FUNCTION}, {"type": "custom", "name": "grep", "description": "d", "format": {"type": "text"}}],
        "top_logprobs": 3, "top_p": 1, "truncation": "auto", "user": "u",
    }
    every(f"{version} responses", client.responses.create, fill(client.responses.create, responses))
    record(f"{version} responses, text", lambda: client.responses.create(model="m", input="x", tools=[{"type": "local_shell"}]))
    every(f"{version} embeddings", client.embeddings.create, {"input": ["a"], "model": "m", "dimensions": 5, "encoding_format": "float", "user": "u"})
    file = ("a.wav", b"RIFF" + bytes(40))
    every(f"{version} transcriptions", client.audio.transcriptions.create, fill(client.audio.transcriptions.create, {
        "file": file, "model": "m", "chunking_strategy": {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 1, "silence_duration_ms": 1},
        "include": ["logprobs"], "language": "en", "prompt": "p", "response_format": "json", "stream": True, "temperature": 0,
        "timestamp_granularities": ["word", "segment"], "known_speaker_names": ["a"], "known_speaker_references": ["data:audio/wav;base64,AAAA"],
    }))
    every(f"{version} translations", client.audio.translations.create, {"file": file, "model": "m", "prompt": "p", "response_format": "json", "temperature": 0})
    azure = openai.AzureOpenAI(base_url=f"{BASE}/v1", api_key="k", api_version="2024-10-21", max_retries=0)
    record(f"{version} Azure chat", lambda: azure.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}]))


def fill(method, values):
    """Values of parameters that a client no longer has are sent as older ones did."""
    known = set(inspect.signature(method).parameters) - OWN
    gone = set(values) - known
    kept = {name: value for name, value in values.items() if name in known}
    return kept | ({"extra_body": {name: values[name] for name in gone}} if gone else {})


def anthropic_calls():
    import anthropic

    client = anthropic.Anthropic(base_url=BASE, api_key="k", max_retries=0)
    version = f"anthropic {anthropic.__version__}"
    cache = {"type": "ephemeral", "ttl": "1h"}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}, "cache_control": cache}
    messages = [
        {"role": "user", "content": [
            {"type": "text", "text": "x", "cache_control": cache, "citations": None},
            image,
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}, "title": "t", "context": "c",
             "citations": {"enabled": True}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}},
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}]}},
            {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "x"}], "citations": {"enabled": True}},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
            {"type": "text", "text": "x"},
            {"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "x"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "1", "is_error": False, "content": [{"type": "text", "text": "x"}, image]},
        ]},
    ]
    shared = {
        "messages": messages, "model": "m", "cache_control": cache,
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        "system": [{"type": "text", "text": "s", "cache_control": cache}],
        "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "summarized"},
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "tools": [
            {"name": "weather", "description": "d", "input_schema": SCHEMA, "cache_control": cache, "strict": True, "type": "custom"},
            {"type": "bash_20250124", "name": "bash"},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 1000},
        ],
    }
    create = client.messages.create
    every(f"{version} messages", create, fill(create, shared | {
        "max_tokens": 2000, "metadata": {"user_id": "u"}, "service_tier": "auto", "stop_sequences": ["a"], "stream": True,
        "temperature": 1, "top_k": 1, "top_p": 1, "container": "c", "inference_geo": "us",
    }))
    count = client.messages.count_tokens
    every(f"{version} count_tokens", count, fill(count, shared))
    beta = client.beta.messages.create
    record(f"{version} beta messages", lambda: beta(
        model="m", max_tokens=5, messages=messages[:1], betas=["context-management-2025-06-27"], context_management={"edits": []},
        tools=[{"type": "memory_20250818", "name": "memory"}], mcp_servers=[],
    ))


def langchain_calls():
    import langchain_anthropic
    import langchain_openai
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
    from langchain_core.tools import tool

    @tool
    def weather(city: str) -> str:
        """The weather."""
        return city

    history = [
        SystemMessage("Be short."),
        HumanMessage([{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": PNG}}]),
        AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "x"}, "id": "1"}]),
        ToolMessage("ok", tool_call_id="1"),
    ]
    options = {
        "model": "m", "api_key": "k", "base_url": f"{BASE}/v1", "max_retries": 0, "temperature": 0.5, "max_tokens": 5, "n": 1,
        "logprobs": True, "top_logprobs": 5, "seed": 1, "frequency_penalty": 0, "presence_penalty": 0, "reasoning_effort": "low",
        "stop": ["a"], "stream_usage": True, "top_p": 1, "service_tier": "auto", "store": False, "metadata": {"a": "b"}, "verbosity": "low",
    }
    chat = langchain_openai.ChatOpenAI(**options)
    record("langchain-openai chat", lambda: chat.bind_tools([weather], strict=True, parallel_tool_calls=False).invoke(history))
    record("langchain-openai stream", lambda: list(chat.stream(history)))
    record("langchain-openai structured output", lambda: chat.with_structured_output(SCHEMA | {"title": "a", "description": "d"}, method="json_schema").invoke("x"))
    answers = langchain_openai.ChatOpenAI(model="m", api_key="k", base_url=f"{BASE}/v1", max_retries=0, use_responses_api=True,
                                          reasoning={"effort": "low"}, include=["reasoning.encrypted_content"], truncation="auto")
    record("langchain-openai responses", lambda: answers.bind_tools([weather]).invoke(history))
    vectors = langchain_openai.OpenAIEmbeddings(model="m", api_key="k", base_url=f"{BASE}/v1", dimensions=5, max_retries=0, check_embedding_ctx_length=False)
    record("langchain-openai embeddings", lambda: vectors.embed_documents(["a", "b"]))
    claude = langchain_anthropic.ChatAnthropic(model="m", api_key="k", base_url=BASE, max_retries=0, max_tokens=2000, temperature=1, top_k=1,
                                               top_p=1, stop=["a"], thinking={"type": "enabled", "budget_tokens": 1024})
    record("langchain-anthropic messages", lambda: claude.bind_tools([weather]).invoke(history))


def litellm_calls():
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    tools = [{"type": "function", "function": FUNCTION}]
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}, {"type": "image_url", "image_url": {"url": PNG, "format": "image/png"}}]},
        {"role": "assistant", "content": "x", "reasoning_content": "hm", "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}],
         "provider_specific_fields": {"a": 1}},
        {"role": "user", "content": "y"},
    ]
    options = {
        "messages": messages, "api_key": "k", "temperature": 1, "top_p": 1, "n": 1, "stop": ["a"], "max_tokens": 5, "max_completion_tokens": 5,
        "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {"1": 1}, "user": "u", "seed": 1, "tools": tools, "tool_choice": "auto",
        "parallel_tool_calls": True, "response_format": {"type": "json_object"}, "logprobs": True, "top_logprobs": 5, "num_retries": 0,
        "max_retries": 0, "drop_params": True,
    }
    for provider in ("openai", "hosted_vllm"):
        record(f"litellm {provider}", lambda: litellm.completion(model=f"{provider}/m", api_base=f"{BASE}/v1", **options))
    record("litellm stream", lambda: list(litellm.completion(model="openai/m", api_base=f"{BASE}/v1", stream=True, stream_options={"include_usage": True}, **options)))
    plain = {key: options[key] for key in ("api_key", "temperature", "tools", "num_retries", "max_retries")}
    record("litellm anthropic", lambda: litellm.completion(model="anthropic/m", api_base=BASE, messages=messages[:2], max_tokens=5, drop_params=True, **plain))
    record("litellm embeddings", lambda: litellm.embedding(model="openai/m", api_base=f"{BASE}/v1", api_key="k", input=["a"], encoding_format="float"))


for calls in (openai_calls, anthropic_calls, langchain_calls, litellm_calls):
    calls()
OUT.write_text(json.dumps({
    "about": "Generated by tools/members/clients.py from the official clients; do not edit.",
    "requests": requests,
}, indent=1) + "\n", encoding="utf-8")
print(f"{len(requests)} requests")
os._exit(0)
