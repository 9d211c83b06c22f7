"""Drives the official `openai` client for the end-to-end tests, and tells what a caller of it sees.

    .parts/bin/python tests/openai_client.py < calls.json

Standard input, one document:

    {"base_url": "http://127.0.0.1:8080/v1",
     "calls": [{"name": "allowed", "do": "chat", "token": "…", "model": "smollm2", "max_retries": 0}]}

`do` is `chat`, `stream` (with `include_usage`) or `models`. Without `token` the request has no Authorization header;
without `max_retries` there are none. The calls are made one after the other. Standard output, one document, by name:

    {"allowed": {"text": "…", "usage": {…}, "chunks": 9, "models": […],      what was answered, or
                 "error": {"exception": "RateLimitError", "status": 429, "code": …, "type": …, "param": …,
                           "message": …, "headers": {…}},                    what the client raised
                 "statuses": [429, 200], "seconds": 1.2}}                    each attempt of the client, and the time

Exits with 0 whatever was answered: judging is the test's part.
"""

import json
import sys
import time

import openai

QUESTION = [{"role": "user", "content": "Say hello."}]


def chat(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=8, temperature=0)
    return {"text": answer.choices[0].message.content, "usage": answer.usage.to_dict()}


def stream(client, model):
    text, usage, chunks = "", None, 0
    for chunk in client.chat.completions.create(
        model=model,
        messages=QUESTION,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        chunks += 1
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage.to_dict() if chunk.usage else usage
    return {"text": text, "usage": usage, "chunks": chunks}


def models(client, _model):
    return {"models": [model.id for model in client.models.list()]}


def seen(error):
    """What a caller can read off the exception."""
    told = {"exception": type(error).__name__, "message": str(error)}
    if isinstance(error, openai.APIStatusError):
        told |= {"status": error.status_code, "headers": dict(error.response.headers)}
        told |= {"code": error.code, "type": error.type, "param": error.param}
    return told


def make(call, base_url):
    statuses = []

    def before(request):
        # The client refuses to go without a key; a caller who has none is a case all the same.
        if "token" not in call:
            del request.headers["authorization"]

    def after(response):
        statuses.append(response.status_code)

    started = time.monotonic()
    with openai.OpenAI(
        base_url=base_url,
        api_key=call.get("token", "none"),
        max_retries=call.get("max_retries", 0),
        timeout=60,
        # Proxy settings of the surroundings are none of the test's business.
        http_client=openai.DefaultHttpxClient(event_hooks={"request": [before], "response": [after]}, trust_env=False),
    ) as client:
        try:
            result = {"chat": chat, "stream": stream, "models": models}[call["do"]](client, call.get("model"))
        except openai.OpenAIError as error:
            result = {"error": seen(error)}
    return result | {"statuses": statuses, "seconds": round(time.monotonic() - started, 3)}


asked = json.load(sys.stdin)
json.dump({call["name"]: make(call, asked["base_url"]) for call in asked["calls"]}, sys.stdout, indent=1)
print()
