"""What metering costs: Envoy's CPU for each streamed event and each request, Tollgate's instructions, and the calls of Redis.

    make bench-metering                              writes docs/benchmarks.md
    ROUNDS=5 SECONDS=1.5 STREAMS=40 make bench-metering

The shipped envoy.yaml with a rate takes turns with the shipped envoy-metered.yaml with limits on tokens and on requests at once. Streams
of 200 events come 10 ms apart from a scripted server. Envoy has one core; Tollgate, the server and the load share the other.
"""

import asyncio
import json
import pathlib
import re
import signal
import socket
import urllib.request

import gates
import gateways
import measure
import report
import servers
from gateways import Envoy
from measure import DIR, LOAD_CORE, SERVER_CORE, on_core

ROUNDS = measure.number("ROUNDS", 5)
SECONDS = measure.number("SECONDS", 1.5)
STREAMS = measure.number("STREAMS", 40)
EVENTS, PAUSE = 200, 0.01
#: Requests under callgrind: the difference of both runs is what so many requests cost.
FEW, MANY = 300, 1100

#: A check and a settlement have a call each; the sweep of expired reservations has one a second.
MOST_CALLS = 2.05

RATES = """
audit: { to: none }
metering: { secrets: [0123456789abcdef0123456789abcdef] }
issuers:
  - { issuer: "ISSUER", audiences: [inference-api], algorithms: [RS256, ES256, EdDSA], jwks: { file: "JWKS" }, claims: { tenant: tenant_id } }
models: [{ name: qwen, serves: ["Qwen/Qwen2-72B-Instruct"], context: 32768, max_output: 4096 }]
routes:
  - match: { methods: [POST], paths: [/v1/chat/completions] }
    scopes: ["infer:text"]
    model: { from: body, scope: "model:{model}:inference" }
    limits: LIMITS
limits:
"""
PLAIN = '  - { name: per-subject, by: [subject], rate: 1000000/1s }\n'
METERED = '  - { name: tokens, by: [tenant], tokens: 1000000000000/month }\n  - { name: gpu, by: [subject], concurrent: 1000 }\n'


def policy(jwks, metered):
    limits, text = ("[tokens, gpu]", METERED) if metered else ("[per-subject]", PLAIN)
    return RATES.replace("ISSUER", measure.ISSUER).replace("JWKS", str(jwks)).replace("LIMITS", limits) + text


class Metering(gates.Gate):
    """A Tollgate that takes the access log."""

    def write(self, text):
        log = f'access_log: "unix:{DIR}/{self.name}-log.sock"'
        self.path.write_text(f'listen: {{ grpc: "{self.address}", ops: "127.0.0.1:{self.ops}", {log} }}\n' + text)


def without_stdout(name):
    """A shipped configuration without the lines of its log."""
    text = (servers.ROOT / "deploy/envoy" / name).read_text()
    return gateways.without(text, " " * 18 + "- name: envoy.access_loggers.stdout\n", " " * 16 + "route_config:\n", "")


def envoy_before(rig, gate, upstream, metered, core=SERVER_CORE):
    if not metered:
        return Envoy(rig, f"envoy-{gate.name}", gateways.shipped("envoy.yaml"), upstream, f"{gate.name}.sock", core=core)
    text = without_stdout("envoy-metered.yaml").replace("path: /run/tollgate/access-log.sock", f'path: "{DIR}/{gate.name}-log.sock"')
    return Envoy(rig, f"envoy-{gate.name}", text, upstream, f"{gate.name}.sock", core=core)


def nginx(rig):
    """The upstream of the requests: a small answer with its usage."""
    port = servers.free_port()
    answer = {"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}}
    config = (pathlib.Path(__file__).parent / "envoy/nginx.conf").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    config = re.sub(r"return 200 '.*?'", lambda _: f"return 200 '{json.dumps(answer)}'", config)
    (DIR / "nginx.conf").write_text(config)
    server = rig.start("nginx", [*on_core(LOAD_CORE), servers.BIN / "nginx", "-p", DIR, "-c", DIR / "nginx.conf", "-e", "stderr"])
    server.wait_for("answer", lambda: servers.answers(f"http://127.0.0.1:{port}/"))
    return port


async def stream(reader, writer):
    """The scripted server of streams."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", head)
        if length:
            body = await reader.readexactly(int(length[1]))
        else:
            body = b""
            while not body.endswith(b"0\r\n\r\n"):
                body += await reader.read(1 << 16)
        each = b'"continuous_usage_stats":true' in body
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(EVENTS):
            event = {"id": "chatcmpl-0123456789", "object": "chat.completion.chunk", "created": 1790000000, "model": "qwen", "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]}
            if each or number == EVENTS - 1:
                event["usage"] = {"prompt_tokens": 20, "completion_tokens": number + 1, "total_tokens": number + 21}
            text = f"data: {json.dumps(event)}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(text), text))
            await writer.drain()
            await asyncio.sleep(PAUSE)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    writer.close()


def cpu(server):
    """The microseconds for which the threads of a server have run."""
    tasks = pathlib.Path(f"/proc/{server.process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000


async def read(address, credential, body):
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nauthorization: Bearer {credential}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    found = b""
    while not found.endswith(b"0\r\n\r\n"):
        data = await reader.read(1 << 16)
        if not data:
            raise measure.Failed(f"a stream was cut: {found[:200]!r}")
        found += data
    writer.close()
    if found.count(b"data: ") != EVENTS:
        raise measure.Failed(f"a stream has {found.count(b'data: ')} events: {found[:300]!r}")


async def streams(envoy, credentials, body):
    """The CPU of Envoy for each event of some streams at once."""
    before = cpu(envoy.server)
    await asyncio.gather(*(read(envoy.address, credential, body) for credential in credentials[:STREAMS]))
    return (cpu(envoy.server) - before) / (STREAMS * EVENTS)


def chat(each):
    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}} if each else {}
    body = {"model": "Qwen/Qwen2-72B-Instruct", "stream": True, "max_tokens": 400, **options, "messages": [{"role": "user", "content": "Say hello."}]}
    return json.dumps(body, separators=(",", ":")).encode()


async def measured(program, tool, tokens):
    file = tokens.file("RS256", 2000)
    credentials = file.read_text().split()
    scripted = await asyncio.start_server(stream, "127.0.0.1", 0)
    port = scripted.sockets[0].getsockname()[1]
    with servers.Rig(DIR) as rig:
        upstream = nginx(rig)
        gate = {name: Metering(rig, program, name, policy(tokens.jwks, name == "metered"), core=LOAD_CORE) for name in ("plain", "metered")}
        events = {name: envoy_before(rig, gate[name], port, name == "metered") for name in gate}
        for name in gate:
            (DIR / f"envoy-{name}.log").rename(DIR / f"envoy-{name}-events.log")
        requests = {name: envoy_before(rig, gate[name], upstream, name == "metered") for name in gate}
        for name, envoy in requests.items():
            gateways.http(tool, envoy.address, file, [], "--once")

        async def one(name):
            gated = "metered" if name == "each" else name
            found = {"event_us": await streams(events[gated], credentials, chat(name == "each"))}
            if name != "each":
                watched = [requests[name].server, gate[name].server]
                both = await asyncio.to_thread(gateways.http, tool, requests[name].address, file, watched, seconds=SECONDS)
                found |= {"request_us": both["cpu_us"][0], "check_us": both["cpu_us"][1], "cpu_us": both["cpu_us"]}
            return found

        loop = asyncio.get_running_loop()
        run = lambda name: asyncio.run_coroutine_threadsafe(one(name), loop).result()
        return await asyncio.to_thread(measure.rounds, ROUNDS, ["plain", "metered", "each"], run)


def calls_of_redis(program, tool, tokens, in_flight):
    """The calls of scripts for each request, check and settlement."""
    file, count = tokens.file("RS256", 2000), 2000
    with servers.Rig(DIR) as rig:
        upstream = nginx(rig)
        path = DIR / "metering-redis.sock"
        path.unlink(missing_ok=True)
        command = [servers.BIN / "redis-server", "--port", 0, "--save", "", "--appendonly", "no", "--unixsocket", path, "--dir", DIR]
        redis = rig.start("metering-redis", command)
        redis.wait_for("socket", path.exists)
        gate = Metering(rig, program, f"counted-{in_flight}", gates.redis_store(path) + policy(tokens.jwks, True), core=LOAD_CORE)
        envoy = envoy_before(rig, gate, upstream, True)
        gateways.http(tool, envoy.address, file, [], "--once")
        settled = lambda: metric(gate, "tollgate_settlements_total", 'result="charged"')
        redis.wait_for("settlements", lambda: metric(gate, "tollgate_reservations_open") == 0 and settled() > 0)
        calls, before = script_calls(path), settled()
        gateways.http(tool, envoy.address, file, [], "--requests", count, connections=in_flight)
        redis.wait_for("settlements", lambda: settled() >= before + count)
        return (script_calls(path) - calls) / (settled() - before)


def metric(gate, name, label=""):
    text = urllib.request.urlopen(f"http://127.0.0.1:{gate.ops}/metrics", timeout=20).read().decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name) and label in line)


def redis_answer(path, *words):
    """The answer of Redis to a command, as it is on the wire."""
    command = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        answer = client.makefile("rb")
        client.sendall(command)
        line = answer.readline().rstrip()
        return answer.read(int(line[1:])) if line.startswith(b"$") else line


def script_calls(path):
    text = redis_answer(path, "INFO", "commandstats")
    return sum(int(found) for found in re.findall(rb"cmdstat_(?:evalsha|eval):calls=(\d+)", text))


def instructions(program, tool, tokens, metered, count):
    """All instructions of a Tollgate behind Envoy, for so many requests."""
    name = f"callgrind-{'metered' if metered else 'plain'}-{count}"
    path, ops, log = DIR / f"{name}.yaml", servers.free_port(), f'access_log: "unix:{DIR}/{name}-log.sock"'
    path.write_text(f'listen: {{ grpc: "unix:{DIR}/{name}.sock", ops: "127.0.0.1:{ops}", {log} }}\n' + policy(tokens.jwks, metered))
    with servers.Rig(DIR) as rig:
        upstream = nginx(rig)
        command = [servers.BIN / "valgrind", "--tool=callgrind", f"--callgrind-out-file={DIR}/{name}.out", program, "serve", "--config", path]
        server = rig.start(name, command)
        server.wait_for("readiness", lambda: servers.answers(f"http://127.0.0.1:{ops}/readyz"))
        gate = type("Counted", (), {"name": name, "ops": ops})
        envoy = envoy_before(rig, gate, upstream, metered, core=LOAD_CORE)
        gateways.http(tool, envoy.address, tokens.file("RS256", 2000), [], "--requests", count, "--distinct", 32, connections=4)
        if metered:
            server.wait_for("settlements", lambda: metric(gate, "tollgate_settlements_total", 'result="charged"') >= count)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        found = re.search(r"Collected : (\d+)", server.log.read_text(errors="replace"))
    if not found:
        raise measure.Failed(f"callgrind counted nothing:\n{server.tail()}")
    return int(found[1])


def main():
    measure.two_cores()
    program, tool = measure.build()
    gates.clear()
    tokens = measure.Tokens(tool)
    found = asyncio.run(measured(program, tool, tokens))
    redis = {str(count): calls_of_redis(program, tool, tokens, count) for count in (1, 32)}
    if max(redis.values()) > MOST_CALLS:
        raise measure.Failed(f"a request takes {max(redis.values()):.2f} calls of Redis")
    counted = {
        name: round((instructions(program, tool, tokens, metered, MANY) - instructions(program, tool, tokens, metered, FEW)) / (MANY - FEW))
        for name, metered in (("plain", False), ("metered", True))
    }
    command = f"ROUNDS={ROUNDS} SECONDS={SECONDS:g} STREAMS={STREAMS} make bench-metering"
    measure.save("metering", command, {"rounds": found, "redis": redis, "instructions": counted})
    report.write()


if __name__ == "__main__":
    measure.main(main)
