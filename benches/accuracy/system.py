"""The real parts of a run: Redis, two replicas of Tollgate, and a proxy with the shipped metered configuration before each."""

import base64
import datetime
import hashlib
import hmac
import json
import re
import socket
import time
import urllib.request

import servers
from kinds import CONTEXT, MAX_OUTPUT
from servers import BIN, ROOT
from wire import Redis

SECRET = "the-secret-of-the-accuracy-benchmark-0123456789"
#: Tokens of a budget that is used up, of a bucket, and requests at once. Each of the budgets has another size, by which its counter
#: is found: `tight-0` has `TIGHT` tokens, `tight-1` one more.
TIGHT, MINUTE, SLOTS = 5000, 3000, 3
#: Requests at once at a server that does not notice that its clients are gone.
DEAF = 2
BUDGETS = 60
#: Tokens that each credential may use in its life: never reached.
OF_TOKEN = 10_000_000

POLICY = """
audit: {{ to: none }}
listen:
  grpc: "unix:{dir}/authz-{name}.sock"
  ops: "127.0.0.1:{ops}"
  access_log: "unix:{dir}/access-log-{name}.sock"
  ext_proc: "unix:{dir}/ext-proc-{name}.sock"
  http: [{{ address: "unix:{dir}/nginx-{name}.sock", dialect: nginx, body: sent, settlement: reported }}]
  settle: {{ address: "unix:{dir}/settle-{name}.sock" }}
store: {{ redis: {{ url: "unix:{store}", deadline: 1s }} }}
metering: {{ secrets: [{secret}], life: {life}s }}
issuers: [{{ issuer: i, audiences: any, algorithms: [HS256], secret: {secret}, required_claims: [], claims: {{ roles: role }} }}]
models:
  - {{ name: m, context: {context}, max_output: {output}, max_tokens_per_media: 800, template_tokens: 64 }}
  - {{ name: smollm2, context: 2048, max_output: 64 }}
routes:
  - match: {{ methods: [POST], paths: [/v1/chat/completions, /v1/completions, /v1/responses, /v1/messages, /v1/embeddings] }}
    scopes: []
    model: {{ from: body }}
    limits: [day, minute, at-once]
limits:
  - {{ name: day, by: [tenant], tokens: 1000000000/day, time_zone: "{zone}", overrides: [{tight}] }}
  - {{ name: minute, by: [tenant], tokens: 60000000/1m, overrides: [{{ role: minute, tokens: {minute}/1m }}] }}
  - {{ name: at-once, by: [tenant], concurrent: 1000, overrides: [{{ role: slots, concurrent: {slots} }}, {{ role: deaf, concurrent: {deaf} }}] }}
"""

#: The counters, the open reservations, and what these hold, in one atomic step.
SNAPSHOT = """
local time, counts, open, limits = redis.call('TIME'), {}, {}, {}
local ids = redis.call('ZRANGE', '{tollgate}:reservations', 0, -1)
for _, id in ipairs(ids) do
  local packed = redis.call('GET', '{tollgate}:reservation:' .. id)
  local list = packed and cmsgpack.unpack(packed)
  if list and list[1] == 1 then
    for n = 7, #list, 6 do
      local key, kind, amount = list[n], list[n + 1], list[n + 4]
      local held = (kind == 1 or kind == 2) and math.max(amount - list[5], 0) or kind == 4 and amount or 0
      open[key] = (open[key] or 0) + held
      limits[key] = { kind, list[n + 2], list[n + 3] }
    end
  end
end
for _, key in ipairs(redis.call('KEYS', '{tollgate}:count:' .. ARGV[1])) do counts[key] = redis.call('GET', key) end
return cjson.encode({ now = time[1] .. string.format('%06d', time[2]), counts = counts, open = open, limits = limits, reservations = #ids })
"""


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(tenant, number):
    """A token of its own for each request. The first part of a tenant's name is its role."""
    now = int(time.time())
    claims = {"iss": "i", "sub": f"client-{number}", "jti": str(number), "iat": now, "exp": now + 36000, "tenant_id": tenant, "role": tenant.partition("-")[0], "token_budget": OF_TOKEN}
    text = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{text}.{encoded(hmac.digest(SECRET.encode(), text.encode(), 'sha256'))}"


def counter(credential):
    """The key of the counter of a token's own budget: what is in it was charged for this one request."""
    half = bytearray(hashlib.sha256(credential.rpartition(".")[0].encode()).digest()[:16])
    half[15] = half[15] & ~7 | 1
    return "{tollgate}:count:token_budget:" + hashlib.sha256(b"token_budget" + half).hexdigest()[:32]


def far_from_midnight():
    """A time zone in which the day does not end within the next hours."""
    hours = (12 - datetime.datetime.now(datetime.timezone.utc).hour) % 24
    return f"{'+' if hours <= 12 else '-'}{hours if hours <= 12 else 24 - hours:02}:00"


#: The proxies of a run: Envoy with its access log, Envoy whose settlements are acknowledged, and nginx.
THROUGH = ["envoy", "acknowledged", "nginx"]

#: How often a program is started whose port another one has taken meanwhile.
STARTS = 3


def started(start):
    """Calls `start`, which takes free ports, until the program starts."""
    for attempt in range(STARTS):
        try:
            return start()
        except servers.Failed as failure:
            if attempt == STARTS - 1 or "in use" not in str(failure):
                raise


def replaced(text, changes):
    """A shipped file with other addresses, each of which it has once."""
    for old, new in changes.items():
        if text.count(old) != 1:
            raise servers.Failed(f"the shipped configuration should have `{old}` once")
        text = text.replace(old, new)
    return text


class Replica:
    """A Tollgate with a proxy before it, as in one pod."""

    def __init__(self, rig, program, name, store, upstream, life, flush, access_log=None, through="envoy"):
        self.rig, self.program, self.name, self.life, self.store, self.through = rig, program, name, life, store, through
        self.log_socket = f"{rig.directory}/access-log-{name}.sock"
        self.config = rig.directory / f"tollgate-{name}.yaml"
        self.envoys = {}
        started(self.first)
        self.envoy("envoy", upstream, flush, access_log)

    def first(self):
        """Starts Tollgate with a port of its own."""
        self.ops = servers.free_port()
        budgets = ", ".join(f"{{ tenant: tight-{number}, tokens: {TIGHT + number}/day }}" for number in range(BUDGETS))
        policy = POLICY.format(
            dir=self.rig.directory, name=self.name, ops=self.ops, store=self.store, secret=SECRET, life=self.life, context=CONTEXT, output=MAX_OUTPUT, zone=far_from_midnight(), tight=budgets, minute=MINUTE, slots=SLOTS, deaf=DEAF
        )
        self.config.write_text(policy)
        self.start()
        self.ready()

    def envoy(self, name, upstream, flush, access_log=None):
        """Starts a proxy before another upstream."""
        if self.through == "nginx":
            return self.nginx(name, upstream, flush)
        file = "envoy-metered-acknowledged.yaml" if self.through == "acknowledged" else "envoy-metered.yaml"
        text = replaced((ROOT / "deploy/envoy" / file).read_text(), {
            "{ pipe: { path: /run/tollgate/access-log.sock } }": f'{{ pipe: {{ path: "{access_log or self.log_socket}" }} }}',
            "access_log_flush_interval: 10s": f"access_log_flush_interval: {flush}s",
        })
        text = text.replace("{ pipe: { path: /run/tollgate/ext-proc.sock } }", f'{{ pipe: {{ path: "{self.rig.directory}/ext-proc-{self.name}.sock" }} }}')

        def start():
            port = servers.free_port()
            self.envoys[name] = self.rig.envoy(text, port, upstream, name=f"{name}-{self.name}", authz=f"authz-{self.name}.sock"), port

        started(start)

    def nginx(self, name, upstream, flush):
        """Starts an nginx with njs."""
        directory = self.rig.directory / f"nginx-{name}-{self.name}"
        directory.mkdir()
        temporary = " ".join(f"{of}_temp_path {directory}/{of};" for of in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))

        def start():
            port = servers.free_port()
            text = replaced((ROOT / "deploy/nginx/njs-metered.conf").read_text(), {
                "0.0.0.0:8080;": f"127.0.0.1:{port};",
                "server unix:/run/tollgate/nginx.sock": f"server unix:{self.rig.directory}/nginx-{self.name}.sock",
                "http://unix:/run/tollgate/settle.sock:": f"http://unix:{self.rig.directory}/settle-{self.name}.sock:",
                "server 127.0.0.1:8000": f"server 127.0.0.1:{upstream}",
                "pid /run/nginx-tollgate.pid": f"pid {directory}/nginx.pid",
                "worker_processes auto": "worker_processes 1",
                "js_path /etc/nginx/tollgate": f"js_path {ROOT}/deploy/nginx",
                "access_log /var/log/nginx/access.log": f"access_log {directory}/access.log",
                "renew interval=10s": f"renew interval={flush}s",
                "\nhttp {": f"\nhttp {{\n    {temporary}",
            })
            (directory / "nginx.conf").write_text(text)
            command = [BIN / "nginx-njs", "-e", "stderr", "-g", "daemon off; master_process off;", "-p", directory, "-c", directory / "nginx.conf"]
            server = self.rig.start(f"nginx-{name}-{self.name}", command)
            server.wait_for("answer", lambda: accepts(port))
            self.envoys[name] = server, port

        started(start)

    @property
    def port(self):
        return self.envoys["envoy"][1]

    def start(self):
        self.server = self.rig.start(f"tollgate-{self.name}", [self.program, "serve", "--config", self.config])

    def ready(self):
        self.server.wait_for("readiness", lambda: servers.answers(f"http://127.0.0.1:{self.ops}/readyz"))

    def kill(self):
        """Ends Tollgate by SIGKILL."""
        self.server.process.kill()
        self.server.process.wait()
        self.rig.all.remove(self.server)

    def metric(self, name, label=""):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/metrics", timeout=20).read().decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name) and label in line)


def start_redis(rig, name="redis", port=0, primary=None):
    """Starts Redis and returns the path of its socket. `primary`: the port of the one that it replicates."""
    path = rig.directory / f"{name}.sock"
    command = [BIN / "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--unixsocket", path, "--dir", rig.directory, "--dbfilename", f"{name}.rdb"]
    if primary:
        command += ["--replicaof", "127.0.0.1", primary, "--repl-diskless-load", "swapdb", "--repl-diskless-sync-delay", 0]
    server = rig.start(name, command)
    server.wait_for("answer", lambda: answers(path))
    return server, path


def accepts(port):
    """Whether a server accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    except OSError:
        return False


def answers(path):
    """Whether a Redis answers on its socket."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
    except OSError:
        return False


async def snapshot(redis, pattern="[^t]*"):
    """The counters of limits (those of tokens have names of their own), and all open reservations."""
    found = json.loads(await redis.call("EVAL", SNAPSHOT, 0, pattern))
    # An empty table of Lua is a list.
    for name in ("counts", "open", "limits"):
        found[name] = found[name] or {}
    found["now"] = int(found["now"])
    found["counts"] = {key: tuple(int(part) for part in text.split(" ")) for key, text in found["counts"].items()}
    return found


async def charge(redis, credential):
    """What is spent and held of the budget of one token."""
    text = await redis.call("GET", counter(credential))
    return tuple(int(part) for part in text.split(b" ")) if text else (0, 0)


RESERVATION = re.compile(rb"[A-Za-z0-9_-]{80,}")


def forged(sent):
    """The recorded entries with other reservations: one letter of each is another one."""
    return RESERVATION.sub(lambda found: found[0][:40] + (b"A" if found[0][40:41] != b"A" else b"B") + found[0][41:], sent)


def lowered(sent):
    """The recorded entries with other numbers of tokens."""
    return re.sub(rb'(tokens": ?)(\d+)', lambda found: found[1] + b"0" * (len(found[2]) - 1) + b"1", sent)
