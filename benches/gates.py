"""Tollgate in the states that are measured, each with its own small configuration."""

import socket

import servers
from measure import DIR, ISSUER, SERVER_CORE, on_core

#: The policy of the hot path: a preset's routes, scopes, a model, two limits that are never reached.
POLICY = """
issuers:
  - { issuer: "ISSUER", audiences: [inference-api], algorithms: [RS256, ES256, EdDSA], jwks: { file: "JWKS" }, claims: { tenant: tenant_id } }
models: [{ name: qwen, serves: ["Qwen/Qwen2-72B-Instruct"] }]
routes:
  - preset: vllm
  - match: { methods: [POST], paths: [/v1/chat/completions] }
    scopes: ["infer:text"]
    model: { from: "MODEL", scope: "model:{model}:inference" }
    limits: [per-subject, per-tenant]
limits:
  - { name: per-subject, by: [subject], rate: 1000000/1s }
  - { name: per-tenant, by: [tenant], rate: 1000000/1s }
"""
#: The least that Tollgate can be asked: its transport, one public route, no audit line.
PUBLIC = """
audit: { to: none }
routes: [{ match: { methods: [POST], paths: [/v1/chat/completions] }, public: true }]
"""


def policy(jwks, body, issuer=ISSUER):
    """`body`: whether the model is read from it; else it is fixed."""
    model = "body" if body else "fixed:Qwen/Qwen2-72B-Instruct"
    return POLICY.replace("ISSUER", issuer).replace("JWKS", str(jwks)).replace("MODEL", model)


#: What an answer has for upstreams that read two identity headers, behind a proxy that removes the others itself and reads no metadata.
LEAN = """
identity_headers: { send: [subject, tenant], removed_by_proxy: true }
dynamic_metadata: { send: [] }
"""


def budget(policy):
    """The policy with a budget of tokens that is never used up. No report settles a request: what it holds is charged when it expires."""
    secret = DIR / "metering-secret"
    secret.write_text("0123456789abcdef" * 2)
    policy = policy.replace('Instruct"] }]', 'Instruct"], context: 32768 }]').replace("per-tenant]", "per-tenant, tokens]")
    return policy + f'  - {{ name: tokens, by: [subject], tokens: 1000000000000/month }}\nmetering: {{ secrets: ["file:{secret}"], life: 5s }}\n'


def redis_store(socket):
    return f'store: {{ redis: {{ url: "unix://{socket}", deadline: 1s }} }}\n'


def redis_server(rig, core):
    """Redis without persistence; returns it and its socket."""
    path = DIR / "redis.sock"
    options = ["--port", 0, "--unixsocket", path, "--save", "", "--appendonly", "no", "--daemonize", "no"]
    server = rig.start("redis", [*on_core(core), servers.BIN / "redis-server", *options])
    server.wait_for("socket", path.exists)
    return server, path


def leased(text, socket):
    """A policy in Redis that is rarely asked: leased limits, and replicated revocations."""
    store = f'store: {{ redis: {{ url: "unix://{socket}", deadline: 1s, replicate_revocations: {{ max_staleness: 5s }} }} }}\n'
    return store + text.replace("rate: 1000000/1s }", "rate: 1000000/1s, lease: { slice: 10000 } }")


class Gate:
    """A Tollgate and where it listens. Its audit lines go to standard output, which leads to /dev/null.

    `http`: an entry of `listen.http`, whose ADDRESS becomes a socket beside the one for gRPC, NAME-http.sock. `reports`: whether it
    listens for access logs.
    """

    def __init__(self, rig, program, name, text, transport="unix", core=SERVER_CORE, http=None, reports=False):
        self.name, self.path = name, DIR / f"{name}.yaml"
        self.ops = servers.free_port()
        self.address = address(name, transport)
        socket = f"\"unix:{DIR}/{name}-http.sock\""
        self.more = f', http: [{http.replace("ADDRESS", socket)}]' if http else ""
        self.more += f', access_log: "unix:{DIR}/{name}-log.sock"' if reports else ""
        self.write(text)
        null = rig.enter_context(open("/dev/null", "wb"))
        self.server = rig.start(name, [*on_core(core), program, "serve", "--config", self.path], output=null)
        self.server.wait_for("readiness", lambda: servers.answers(f"http://127.0.0.1:{self.ops}/readyz"))

    def write(self, text):
        listen = f'listen: {{ grpc: "{self.address}", ops: "127.0.0.1:{self.ops}"{self.more} }}\n'
        self.path.write_text(listen + text)


class Noop:
    """The stock server."""

    def __init__(self, rig, tool, name, transport="unix", core=SERVER_CORE):
        self.address = address(name, transport)
        self.server = rig.start(name, [*on_core(core), tool, "noop", "--listen", self.address])
        if transport == "unix":
            self.server.wait_for("socket", (DIR / f"{name}.sock").exists)
        else:
            self.server.wait_for("port", lambda: listening(int(self.address.rpartition(":")[2])))


class RateLimits:
    """The stock rate limit service, which counts in Redis."""

    def __init__(self, rig, tool, name, redis, core=SERVER_CORE):
        path = DIR / f"{name}.sock"
        self.server = rig.start(name, [*on_core(core), tool, "rate-limits", "--listen", path, "--redis", redis, "--most", 1000000])
        self.server.wait_for("socket", path.exists)


def address(name, transport):
    return f"unix:{DIR}/{name}.sock" if transport == "unix" else f"127.0.0.1:{servers.free_port()}"


def listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def clear():
    """Old sockets, configurations and logs; keys, tokens and results stay."""
    DIR.mkdir(exist_ok=True)
    for path in DIR.iterdir():
        if path.is_file() or path.is_socket():
            path.unlink()
