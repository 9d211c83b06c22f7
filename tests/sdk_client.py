"""Drives the official clients with API keys for the end-to-end tests, and reports what a caller of each sees.

    PYTHONPATH=.parts/sdks .parts/bin/python tests/sdk_client.py < calls.json

Standard input, one document:

    {"url": "http://127.0.0.1:8080",
     "calls": [{"name": "allowed", "sdk": "openai", "do": "chat", "key": "tgk_...", "model": "qwen"}]}

`sdk` and `do` name an entry of `CALLS`. `environment` of a call has variables for it; without `key` the client takes its key
from there. Retries are those of each client by default. The calls are made one after the other. Standard output, one
document, by name:

    {"allowed": {"text": "Hello!",                             the answer, or
                 "error": {"classes": ["RateLimitError", ...], "status": 429, "message": "..."},
                 "attempts": 1,                                the requests that were sent
                 "credentials": ["authorization"]}}            their headers that hold a credential

Exits with 0 whatever was answered: the test compares.
"""

import json
import os
import sys

# No variable of the surroundings may change what a client sends.
for variable in list(os.environ):
    if variable.startswith(("OPENAI_", "ANTHROPIC_", "LANGCHAIN_", "LANGSMITH_")) or variable.lower().endswith("_proxy"):
        del os.environ[variable]

import anthropic
import httpx2
import openai
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

QUESTION = [{"role": "user", "content": "Say hello."}]
CREDENTIALS = ["authorization", "x-api-key", "api-key"]
sent = []


def recorded(send):
    def record(client, request, **more):
        sent.append([name for name in CREDENTIALS if name in request.headers])
        return send(client, request, **more)

    return record


httpx2.Client.send = recorded(httpx2.Client.send)


def key(call):
    """The argument for the key, if the call has one."""
    return {"api_key": call["key"]} if "key" in call else {}


def openai_client(url, call):
    return openai.OpenAI(base_url=f"{url}/v1", **key(call))


def openai_chat(url, call):
    answer = openai_client(url, call).chat.completions.create(model=call["model"], messages=QUESTION)
    return answer.choices[0].message.content


def openai_stream(url, call):
    chunks = openai_client(url, call).chat.completions.create(model=call["model"], messages=QUESTION, stream=True)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def openai_responses(url, call):
    return openai_client(url, call).responses.create(model=call["model"], input="Say hello.").output_text


def openai_responses_stream(url, call):
    events = openai_client(url, call).responses.create(model=call["model"], input="Say hello.", stream=True)
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def openai_embeddings(url, call):
    answer = openai_client(url, call).embeddings.create(model=call["model"], input="hello")
    return json.dumps(answer.data[0].embedding)


def azure_chat(url, call):
    client = openai.AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", **key(call))
    return client.chat.completions.create(model=call["model"], messages=QUESTION).choices[0].message.content


def anthropic_client(url, call):
    return anthropic.Anthropic(base_url=url, **key(call))


def anthropic_chat(url, call):
    return anthropic_client(url, call).messages.create(model=call["model"], max_tokens=8, messages=QUESTION).content[0].text


def anthropic_stream(url, call):
    with anthropic_client(url, call).messages.stream(model=call["model"], max_tokens=8, messages=QUESTION) as stream:
        return "".join(stream.text_stream)


def chat_openai(url, call):
    return ChatOpenAI(base_url=f"{url}/v1", model=call["model"], **key(call))


def chat_anthropic(url, call):
    return ChatAnthropic(base_url=url, model=call["model"], **key(call))


def streamed(model):
    return "".join(chunk.text for chunk in model.stream("Say hello."))


def langchain_embeddings(url, call):
    # LangChain counts tokens with a vocabulary that it would download.
    model = OpenAIEmbeddings(base_url=f"{url}/v1", model=call["model"], check_embedding_ctx_length=False, **key(call))
    return json.dumps(model.embed_query("hello"))


CALLS = {
    "openai": {
        "chat": openai_chat,
        "stream": openai_stream,
        "responses": openai_responses,
        "responses stream": openai_responses_stream,
        "embeddings": openai_embeddings,
    },
    "azure": {"chat": azure_chat},
    "anthropic": {"chat": anthropic_chat, "stream": anthropic_stream},
    "langchain-openai": {
        "chat": lambda url, call: chat_openai(url, call).invoke("Say hello.").text,
        "stream": lambda url, call: streamed(chat_openai(url, call)),
        "embeddings": langchain_embeddings,
    },
    "langchain-anthropic": {
        "chat": lambda url, call: chat_anthropic(url, call).invoke("Say hello.").text,
        "stream": lambda url, call: streamed(chat_anthropic(url, call)),
    },
}


def make(url, call):
    sent.clear()
    os.environ.update(call.get("environment", {}))
    try:
        result = {"text": CALLS[call["sdk"]][call["do"]](url, call)}
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        classes = [kind.__name__ for kind in type(error).__mro__]
        result = {"error": {"classes": classes, "status": error.status_code, "message": str(error)}}
    finally:
        for variable in call.get("environment", {}):
            del os.environ[variable]
    return result | {"attempts": len(sent), "credentials": sent[0] if sent else []}


asked = json.load(sys.stdin)
json.dump({call["name"]: make(asked["url"], call) for call in asked["calls"]}, sys.stdout, indent=1)
print()
