"""A scripted inference server that counts every token it reads and produces, in a ledger of its own.

It speaks the APIs of OpenAI and Anthropic. Each request has its number in the header `x-number`, and in `x-script` what the server
does with it, as JSON:

    {"output": 40, "pause": 0.01, "act": "no usage"}

`output` are the tokens that an answer would have without a cap. `act` is one of `ACTS`; without it the server reports its usage as
vLLM does. Each event of a stream has one to three tokens.
"""

import asyncio
import dataclasses
import json
import time

from wire import read_body, read_head

ACTS = {
    "no usage": "reports no usage, and repeats the metadata of the request",
    "early usage": "ignores `continuous_usage_stats`: its first event has a usage, and no other one",
    "deaf": "does not notice that its client is gone",
    "breaks": "closes its connection in the middle of a stream",
    "fails": "answers 500 to the first attempt",
    "rejects": "answers 400",
}


@dataclasses.dataclass
class Entry:
    """One attempt of a request at the server."""

    number: int
    tenant: str
    began: float
    prompt: int = 0
    output: int = 0
    ended: float | None = None
    ending: str = "open"  # complete, cut, rejected
    #: The tokens of the last usage that it sent while it still worked.
    running: int = 0

    @property
    def tokens(self):
        return self.prompt + self.output


class Ledger:
    """What the server did, by request and by tenant."""

    def __init__(self):
        self.entries = {}
        self.in_flight, self.peak, self.produced = {}, {}, {}

    def begin(self, number, tenant):
        entry = Entry(number, tenant, time.time())
        self.entries.setdefault(number, []).append(entry)
        self.in_flight[tenant] = self.in_flight.get(tenant, 0) + 1
        self.peak[tenant] = max(self.peak.get(tenant, 0), self.in_flight[tenant])
        return entry

    def count(self, entry, prompt=0, output=0):
        entry.prompt += prompt
        entry.output += output
        self.produced[entry.tenant] = self.produced.get(entry.tenant, 0) + prompt + output

    def end(self, entry, ending):
        if entry.ended is None:
            entry.ended, entry.ending = time.time(), ending
            self.in_flight[entry.tenant] -= 1

    def of(self, number):
        return self.entries.get(number, [])

    def tokens(self, number):
        return sum(entry.tokens for entry in self.of(number))


class Gone(Exception):
    """The client of the server has disconnected."""


class Upstream:
    """The server, on a port of loopback."""

    def __init__(self):
        self.ledger = Ledger()
        self.arrivals = {}

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=1 << 24)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def stop(self):
        self.server.close()

    async def arrival(self, number):
        """Waits until the server has the request."""
        await self.arrivals.setdefault(number, asyncio.Event()).wait()

    async def serve(self, reader, writer):
        try:
            head = await read_head(reader)
            body = json.loads(await read_body(reader, head.headers) or b"{}")
        except (OSError, EOFError, ValueError, asyncio.IncompleteReadError):
            return writer.close()
        number = int(head.headers.get("x-number", "0"))
        entry = self.ledger.begin(number, head.headers.get("x-tollgate-tenant", ""))
        self.arrivals.setdefault(number, asyncio.Event()).set()
        answer = Answer(self.ledger, entry, head, body, reader, writer, len(self.ledger.of(number)))
        try:
            await answer.give()
        except (Gone, OSError):
            self.ledger.end(entry, "cut")
        finally:
            self.ledger.end(entry, "cut")
            answer.watch.cancel()
            writer.close()


class Answer:
    """The answer to one request, counted as it is produced."""

    def __init__(self, ledger, entry, head, body, reader, writer, attempt):
        self.ledger, self.entry, self.body, self.writer = ledger, entry, body, writer
        self.api = head.path.partition("?")[0].removeprefix("/v1/")
        script = json.loads(head.headers.get("x-script", "{}"))
        self.act, self.pause = script.get("act"), script.get("pause", 0)
        self.attempt, self.gone = attempt, False
        self.watch = asyncio.ensure_future(self.notice(reader))
        self.streams = body.get("stream") is True
        cap = next((body[name] for name in ("max_tokens", "max_completion_tokens", "max_output_tokens") if isinstance(body.get(name), int)), None)
        wanted = script.get("output", 20)
        #: Without a cap an answer has all that is wanted: whether it is capped is what is tested.
        self.length = wanted if cap is None else min(wanted, cap)
        prompts = self.prompts()
        self.answers = max(len(prompts), 1) * max(body.get("n") or 1, 1)
        self.prompt = sum(prompts)

    def prompts(self):
        """The tokens of each prompt, by a tokenizer of four bytes for each token."""

        def text(value):
            return len(value.encode()) // 4 + 1

        def content(value):
            if isinstance(value, str):
                return text(value)
            parts = value if isinstance(value, list) else []
            return sum(600 if "image" in part.get("type", "") else text(part.get("text", "")) for part in parts)

        prompt = self.body.get("prompt", self.body.get("input"))
        if prompt is not None:
            if isinstance(prompt, str):
                return [text(prompt)]
            if all(isinstance(one, int) for one in prompt):
                return [len(prompt)]
            return [text(one) if isinstance(one, str) else content([one]) if isinstance(one, dict) else len(one) for one in prompt]
        tools = text(json.dumps(self.body["tools"])) if "tools" in self.body else 0
        return [20 + tools + sum(6 + content(one.get("content") or "") for one in self.body.get("messages", []))]

    async def notice(self, reader):
        try:
            while await reader.read(4096):
                pass
        except OSError:
            pass
        self.gone = True

    async def give(self):
        if self.act == "rejects":
            return await self.whole(400, {"error": {"message": "the request is not valid", "type": "invalid_request_error"}}, "rejected")
        if self.act == "fails" and self.attempt == 1:
            return await self.whole(500, {"error": {"message": "try again", "type": "server_error"}}, "rejected")
        self.ledger.count(self.entry, prompt=self.prompt)
        await {
            "chat/completions": self.chat,
            "completions": self.chat,
            "responses": self.responses,
            "messages": self.messages,
            "embeddings": self.embeddings,
        }[self.api]()

    async def tokens(self):
        """Produces the tokens of an answer, each step with those of one event, and counts them."""
        left, step = self.length, 1
        while left:
            if self.gone and self.act != "deaf":
                raise Gone
            count = min(left, 1 + step % 3)
            await asyncio.sleep(self.pause)
            self.ledger.count(self.entry, output=count)
            left, step = left - count, step + 1
            yield count

    async def produce_all(self):
        for _ in range(self.answers):
            async for _ in self.tokens():
                pass

    def usage(self, first="prompt_tokens", second="completion_tokens"):
        return {first: self.entry.prompt, second: self.entry.output, "total_tokens": self.entry.tokens}

    async def chat(self):
        is_chat = self.api == "chat/completions"
        base = {"id": "a", "created": 1, "model": self.body.get("model")}
        if not self.streams:
            await self.produce_all()
            text = "word " * self.length
            choices = [
                {"index": index, "finish_reason": "stop", **({"message": {"role": "assistant", "content": text}} if is_chat else {"text": text})}
                for index in range(self.answers)
            ]
            body = {**base, "object": "chat.completion" if is_chat else "text_completion", "choices": choices}
            if self.act == "no usage":
                # As servers do that return parts of the request.
                return await self.whole(200, {**body, "metadata": self.body.get("metadata"), "tools": self.body.get("tools")})
            return await self.whole(200, {**body, "usage": self.usage()})
        options = self.body.get("stream_options") or {}
        counts_each = options.get("continuous_usage_stats") is True and self.act != "early usage"
        await self.begin_events()
        base["object"] = "chat.completion.chunk" if is_chat else "text_completion"
        events = 0
        for index in range(self.answers):
            async for count in self.tokens():
                text = "word " * count
                choice = {"index": index, "finish_reason": None, **({"delta": {"content": text}} if is_chat else {"text": text})}
                event = {**base, "choices": [choice]}
                if counts_each or (self.act == "early usage" and events == 0):
                    event["usage"] = self.usage()
                await self.event(event)
                self.entry.running = self.entry.tokens
                events += 1
                if self.act == "breaks" and events == 5:
                    self.writer.transport.abort()
                    raise Gone
        if options.get("include_usage") is True:
            await self.event({**base, "choices": [], "usage": self.usage()})
        await self.event("[DONE]")
        await self.end_events()

    async def responses(self):
        def response(status):
            done = status == "completed"
            content = [{"type": "output_text", "text": "word", "annotations": []}]
            output = [{"type": "message", "id": "m", "role": "assistant", "status": status, "content": content}]
            return {
                "id": "r", "object": "response", "created_at": 1, "status": status, "model": self.body.get("model"), "output": output if done else [],
                "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "metadata": self.body.get("metadata") or {},
                "usage": {**self.usage("input_tokens", "output_tokens"), "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}} if done else None,
            }

        if not self.streams:
            await self.produce_all()
            return await self.whole(200, response("completed"))
        await self.begin_events()
        await self.event({"type": "response.created", "sequence_number": 0, "response": response("in_progress")})
        async for count in self.tokens():
            await self.event({
                "type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0, "delta": "word " * count, "sequence_number": 1, "logprobs": [],
            })
        await self.event({"type": "response.completed", "sequence_number": 2, "response": response("completed")})
        await self.end_events()

    async def messages(self):
        def message(content, output):
            return {
                "id": "m", "type": "message", "role": "assistant", "model": self.body.get("model"), "content": content, "stop_reason": "end_turn", "stop_sequence": None,
                "usage": {"input_tokens": self.entry.prompt - 4, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 3, "output_tokens": output},
            }

        if not self.streams:
            await self.produce_all()
            return await self.whole(200, message([{"type": "text", "text": "word"}], self.entry.output))
        await self.begin_events()
        await self.event({"type": "message_start", "message": message([], 1)})
        await self.event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        async for count in self.tokens():
            await self.event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word " * count}})
        await self.event({"type": "content_block_stop", "index": 0})
        await self.event({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": self.entry.output}})
        await self.event({"type": "message_stop"})
        await self.end_events()

    async def embeddings(self):
        data = [{"object": "embedding", "index": index, "embedding": [0.25, -0.5]} for index in range(self.answers)]
        usage = {"prompt_tokens": self.entry.prompt, "total_tokens": self.entry.prompt}
        await self.whole(200, {"object": "list", "model": self.body.get("model"), "data": data, "usage": usage})

    async def whole(self, status, body, ending="complete"):
        if self.gone and self.act != "deaf":
            raise Gone
        text = json.dumps(body).encode()
        self.writer.write(b"HTTP/1.1 %d Answer\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(text)) + text)
        self.ledger.end(self.entry, ending)
        await self.writer.drain()

    async def begin_events(self):
        await self.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")

    async def event(self, data):
        name = f"event: {data['type']}\n" if isinstance(data, dict) and "type" in data else ""
        text = f"{name}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
        await self.write(b"%x\r\n%s\r\n" % (len(text), text))

    async def end_events(self):
        self.ledger.end(self.entry, "complete")
        await self.write(b"0\r\n\r\n")

    async def write(self, data):
        if self.act == "deaf" and self.gone:
            return
        self.writer.write(data)
        try:
            await self.writer.drain()
        except OSError:
            self.gone = True
            if self.act != "deaf":
                raise Gone from None
