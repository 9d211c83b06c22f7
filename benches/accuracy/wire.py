"""HTTP/1.1, the commands of Redis, and a relay that records, for one event loop."""

import asyncio
import dataclasses
import json


@dataclasses.dataclass
class Head:
    """The first line of a request or a response, and its headers by their names in lower case."""

    first: str
    headers: dict

    @property
    def path(self):
        return self.first.split(" ")[1]

    @property
    def status(self):
        return int(self.first.split(" ")[1])


async def read_head(reader):
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.split("\r\n")
    return Head(first, {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)})


async def chunks(reader):
    """The chunks of a body; ends with the last one, and raises if the body is cut."""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")


async def read_body(reader, headers):
    if "chunked" in headers.get("transfer-encoding", ""):
        return b"".join([chunk async for chunk in chunks(reader)])
    return await reader.readexactly(int(headers.get("content-length", "0")))


@dataclasses.dataclass
class Reply:
    """A response as its client saw it."""

    status: int = 0
    headers: dict = dataclasses.field(default_factory=dict)
    body: bytes = b""
    is_complete: bool = False
    #: The tokens of the last usage in an event.
    running: int = 0


async def post(port, path, headers, body, cut=None):
    """Sends one request. `cut` is called with the events that have arrived, -1 before the response, and closes the connection when
    it returns true. A connection that fails is a reply without a status."""
    reply = Reply()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    except OSError:
        return reply
    try:
        lines = [f"POST {path} HTTP/1.1", "host: a", "content-type: application/json", f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()
        if cut and await cut(-1):
            return reply
        head = await read_head(reader)
        reply.status, reply.headers = head.status, head.headers
        if "chunked" not in head.headers.get("transfer-encoding", ""):
            reply.body = await read_body(reader, head.headers)
            reply.is_complete = True
            return reply
        events = 0
        async for chunk in chunks(reader):
            reply.body += chunk
            events += chunk.count(b"data: ")
            if cut and await cut(events):
                return reply
        reply.is_complete = True
    except (OSError, EOFError, ValueError, asyncio.IncompleteReadError):
        pass
    finally:
        reply.running = last_usage(reply.body)
        writer.transport.abort()
    return reply


def last_usage(body):
    """The tokens of the last usage in the events of a stream."""
    for event in reversed(body.split(b"\n\n")):
        if event.startswith(b"data: {") and b'"usage": {' in event:
            try:
                return (json.loads(event[6:]).get("usage") or {}).get("total_tokens", 0)
            except ValueError:
                continue
    return 0


class Redis:
    """A client of one Redis on a Unix socket."""

    def __init__(self, path):
        self.path, self.lock, self.streams = path, asyncio.Lock(), None

    async def call(self, *words):
        async with self.lock:
            if self.streams is None:
                self.streams = await asyncio.open_unix_connection(self.path)
            reader, writer = self.streams
            parts = [str(word).encode() if not isinstance(word, bytes) else word for word in words]
            writer.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
            try:
                return await self.read(reader)
            except (OSError, EOFError, asyncio.IncompleteReadError):
                self.streams = None
                raise

    async def read(self, reader):
        line = (await reader.readuntil(b"\r\n"))[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise ValueError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [await self.read(reader) for _ in range(int(rest))]
        return rest.decode()


#: Less than the window that Tollgate gives to each stream of HTTP/2, 128 KiB.
FIRST_WINDOW = 120_000
WINDOW_UPDATE = 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Relay:
    """Passes the connections of one Unix socket to another one, and keeps what clients sent."""

    def __init__(self, path, target):
        self.path, self.target, self.sent, self.keeps = path, target, [], True

    async def start(self):
        self.server = await asyncio.start_unix_server(self.serve, self.path)
        return self

    async def stop(self):
        self.server.close()

    async def serve(self, reader, writer):
        try:
            there, to = await asyncio.open_unix_connection(self.target)
        except OSError:
            return writer.close()
        kept = bytearray() if self.keeps else None
        if kept is not None:
            self.sent.append(kept)
        try:
            await asyncio.gather(self.copy(reader, to, kept), self.copy(there, writer, None))
        except asyncio.CancelledError:
            pass  # The run has ended.

    async def copy(self, reader, writer, kept):
        try:
            while data := await reader.read(1 << 16):
                if kept is not None:
                    kept += data
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    async def replay(self, change=lambda sent: sent):
        """Sends the beginning of each recorded connection again, on a new one, with a change of the same length. Returns the
        connections, which the caller closes."""
        writers = []
        for sent in list(self.sent):
            reader, writer = await asyncio.open_unix_connection(self.target)
            text = change(bytes(sent[:FIRST_WINDOW]))
            # The preface and the settings first; the rest when the server has sent its own, and the size of its window.
            settings = len(PREFACE) + 9 + int.from_bytes(text[len(PREFACE) : len(PREFACE) + 3], "big")
            writer.write(text[:settings])
            kind = None
            while kind != WINDOW_UPDATE:
                head = await asyncio.wait_for(reader.readexactly(9), 20)
                kind = head[3]
                await reader.readexactly(int.from_bytes(head[:3], "big"))
            writer.write(text[settings:])
            await writer.drain()
            writers.append(writer)
        return writers
