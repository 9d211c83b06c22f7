"""Writes docs/plots/dashboard.svg: the Grafana dashboard with the data of a real run.

    make dashboard                  two minutes
    DASHBOARD_PROGRAM=target/debug/tollgate DASHBOARD_SECONDS=120 .parts/bin/python tools/dashboard.py

Starts Redis, two Tollgates, Envoy and Prometheus, sends requests, stops Redis in the middle for a while, queries
Prometheus for every expression of deploy/grafana/tollgate.json, and draws the panels. Logs are in .dashboard/.
"""

import collections
import datetime
import http.client
import http.server
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import dashboard_svg
import servers
from servers import BIN, ISSUER, ROOT, Failed

DIR = ROOT / ".dashboard"
SECONDS = int(os.environ.get("DASHBOARD_SECONDS", "120"))
SCRAPE, RATE = 2, "10s"
VARIABLES = ["$cluster", "$namespace", "$job", "$instance", "$route"]

POLICY = f"""
issuers:
  - issuer: {ISSUER}
    audiences: [inference-api]
    algorithms: [RS256]
    jwks: {{ file: "${{DASHBOARD_DIR}}/jwks.json" }}
models:
  - {{ name: qwen, serves: [Qwen/Qwen2.5-7B-Instruct], context: 8192 }}
  - {{ name: big, serves: [big-70b], context: 8192 }}
prices:
  currency: EUR
  models:
    - {{ model: qwen, input: 150000, output: 600000 }}
    - {{ model: big, input: 900000, output: 3000000 }}
routes:
  - match: {{ methods: [POST], paths: [/v1/chat/completions] }}
    name: chat
    scopes: ["infer:text"]
    model: {{ from: body, scope: "model:{{model}}:inference" }}
    caps: {{ max_tokens: 4096 }}
    limits: [per-subject, per-day, at-once]
    on_outage: local
  - match: {{ methods: [GET], paths: [/v1/models] }}
    name: models
    scopes: ["models:read"]
    on_outage: allow
  - match: {{ methods: [POST], paths: [/v1/embeddings] }}
    name: embeddings
    scopes: ["infer:text"]
  - match: {{ paths: [/health] }}
    name: health
    public: true
limits:
  - {{ name: per-subject, by: [subject], rate: 6/1s, burst: 12 }}
  - {{ name: per-day, by: [subject], tokens: 4000000/day }}
  - {{ name: at-once, by: [subject], concurrent: 8 }}
api_keys: {{ file: "${{DASHBOARD_DIR}}/keys.json" }}
observe: {{ subjects: 20 }}
audit: {{ to: "file:${{DASHBOARD_DIR}}/${{DASHBOARD_NAME}}.jsonl" }}
"""

BEHIND_ENVOY = """listen:
  grpc: "unix:${DASHBOARD_DIR}/authz.sock"
  ops: "127.0.0.1:${DASHBOARD_OPS}"
  access_log: "unix:${DASHBOARD_DIR}/access-log.sock"
metering: { secrets: [the-secret-of-the-reservations-of-the-picture] }
ledger: { keys: [{ id: picture, secret: the-secret-of-the-picture-of-the-dashboard }] }
store:
  redis:
    url: "redis+unix://${DASHBOARD_DIR}/redis.sock"
    replicate_revocations: { max_staleness: 5s }
    local: { replicas: 2, max_staleness: 10m }
"""

ALONE = """listen:
  ops: "127.0.0.1:${DASHBOARD_OPS}"
  http:
    - address: "127.0.0.1:${DASHBOARD_HTTP}"
      dialect: caddy
      body: deny
      tls: { cert: "${DASHBOARD_DIR}/tls.pem", key: "${DASHBOARD_DIR}/tls.key" }
"""


def certificate():
    """A certificate of twenty days for the second Tollgate's listener."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tollgate")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now)
    made = made.not_valid_after(now + datetime.timedelta(days=20)).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (DIR / "tls.pem").write_bytes(made.public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8
    (DIR / "tls.key").write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()))


class Upstream(http.server.BaseHTTPRequestHandler):
    """An inference server that answers every request at once, and counts its tokens as vLLM does."""

    protocol_version = "HTTP/1.1"
    numbers, served = itertools.count(), collections.Counter()

    def counters(self):
        kinds = {"prompt": 30, "generation": 70}
        lines = [f'vllm:{kind}_tokens_total{{model_name="{model}"}} {tokens * requests}\n'
                 for kind, tokens in kinds.items() for model, requests in self.served.items()]
        return "".join(lines).encode()

    def do_GET(self):
        sent = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/metrics":
            body = self.counters()
        else:
            model = json.loads(sent or b"{}").get("model")
            if model:
                self.served[model] += 1
            # One answer in twenty has no usage.
            usage = b'{"usage": {"prompt_tokens": 30, "completion_tokens": 70, "total_tokens": 100}}'
            body = b"{}" if next(self.numbers) % 20 == 0 else usage
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def token(program, subject, scope, *more):
    command = [program, "token", "mint", "--key", DIR / "issuer.pem", "--kid", "demo", "--iss", ISSUER, "--aud", "inference-api"]
    done = subprocess.run([*command, "--sub", subject, "--scope", scope, *more], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise Failed(f"`tollgate token mint` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def api_key(program, subject, life):
    """Makes an API key in the file of keys."""
    command = [program, "keys", "create", "--file", DIR / "keys.json", "--subject", subject, "--scope", "models:read",
               "--expires-in", life, "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise Failed(f"`tollgate keys create` failed: {done.stderr.strip()}")
    return json.loads(done.stdout)["key"]


def client(port, stop, period, method, path, bearer, bodies):
    """Sends one request per `period` seconds until `stop`."""
    bodies = itertools.cycle(bodies)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while not stop.wait(period):
        headers = {"content-type": "application/json"}
        if bearer:
            headers["authorization"] = f"Bearer {bearer}"
        try:
            connection.request(method, path, next(bodies), headers)
            connection.getresponse().read()
        except OSError:
            connection.close()


def direct(port, stop, bearer):
    """Checks of the second Tollgate, as Caddy sends them."""
    import ssl

    context = ssl.create_default_context(cafile=DIR / "tls.pem")
    context.check_hostname = False
    for number in itertools.count():
        if stop.wait(0.15):
            return
        path = "/v1/models" if number % 3 else "/v1/embeddings"
        headers = {"X-Forwarded-Method": "GET", "X-Forwarded-Uri": path, "X-Forwarded-Host": "api.example.com",
                   "X-Forwarded-Proto": "https", "authorization": f"Bearer {bearer}"}
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
        try:
            connection.request("GET", "/check", headers=headers)
            connection.getresponse().read()
        except OSError:
            pass
        connection.close()


def start_prometheus(running, ops, counters, upstream):
    """Prometheus, ready, that scrapes the Tollgates (ports by name), Envoy and the server; returns its port."""
    port = servers.free_port()
    shipped = (ROOT / "deploy/prometheus/prometheus.yaml").read_text()
    labels = "labels: {{ cluster: demo, namespace: inference, instance: {} }}"
    targets = "\n      ".join(f'- targets: ["127.0.0.1:{ops[name]}"]\n        {labels.format(f"gate-{name}")}' for name in ops)
    config = shipped.replace("15s", f"{SCRAPE}s").replace("[rules.yaml]", f'["{ROOT}/deploy/prometheus/rules.yaml"]')
    config = config.replace('- targets: ["127.0.0.1:9002"] # `listen.ops`', targets)
    envoy = f'- targets: ["127.0.0.1:{counters}"]\n        {labels.format("envoy")}'
    config = config.replace('- targets: ["127.0.0.1:9101"]', envoy)
    config = config.replace("127.0.0.1:8000", f"127.0.0.1:{upstream}")
    (DIR / "prometheus.yaml").write_text(config)
    command = [BIN / "prometheus", f"--config.file={DIR}/prometheus.yaml", f"--storage.tsdb.path={DIR}/tsdb",
               f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    server = running.start("prometheus", command)
    server.wait_for("readiness", lambda: servers.answers(f"http://127.0.0.1:{port}/-/ready"))
    return port


def envoy_with_counters(counters):
    """The shipped file with the listener and the cluster of docs/observability.md."""
    page = (ROOT / "docs/observability.md").read_text()

    def block(kind, before, indent, config):
        for part in page.split(f"```yaml envoy {kind}\n")[1:]:
            part = part.split("```")[0]
            if "otel" not in part:
                lines = "".join(f"{' ' * indent}{line}\n" for line in part.splitlines())
                config = config.replace(before, lines + before, 1)
        return config

    config = (ROOT / "deploy/envoy/envoy-metered.yaml").read_text()
    config = block("listener", "  clusters:\n", 4, config)
    config = block("cluster", "    - name: inference\n      type: STATIC\n", 4, config)
    # The rig gives the admin interface a port.
    config = config.replace("address: 0.0.0.0, port_value: 9101", f"address: 127.0.0.1, port_value: {counters}")
    admin = "pipe: { path: /run/tollgate/envoy-admin.sock } "
    return config.replace(admin, f'pipe: {{ path: "{DIR}/envoy-admin.sock" }} ')


def start_envoy(running, upstream):
    """Envoy, ready, with its admin interface on a socket; returns its port and that of its counters."""
    port, counters = servers.free_port(), servers.free_port()
    config = envoy_with_counters(counters).replace("/run/tollgate/", f"{DIR}/")
    config = config.replace("address: 0.0.0.0, port_value: 8080", f"address: 127.0.0.1, port_value: {port}")
    config = config.replace("address: 127.0.0.1, port_value: 8000", f"address: 127.0.0.1, port_value: {upstream}")
    (DIR / "envoy.yaml").write_text(config)
    command = [BIN / "envoy-1.40.0", "-c", DIR / "envoy.yaml", "--disable-hot-restart", "--concurrency", "1"]
    server = running.start("envoy", [*command, "--log-level", "warning"])
    server.wait_for("counters", lambda: servers.answers(f"http://127.0.0.1:{counters}/stats/prometheus"))
    return port, counters


def panels(port, begin, end):
    """Every panel of the dashboard with what Prometheus answers."""
    board = json.loads((ROOT / "deploy/grafana/tollgate.json").read_text())
    for panel in board["panels"]:
        series = []
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", RATE)
            for variable in VARIABLES:
                query = query.replace(variable, ".*")
            asked = urllib.parse.urlencode({"query": query, "start": begin, "end": end, "step": SCRAPE})
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query_range?{asked}", timeout=30) as reply:
                for row in json.load(reply)["data"]["result"]:
                    points = [(at, float(value)) for at, value in row["values"] if value != "NaN"]
                    if points:
                        series.append((legend(target.get("legendFormat") or "", row["metric"]), points))
        yield dashboard_svg.Panel(panel, series, begin, end)


def legend(form, labels):
    if not form:
        return ", ".join(f"{value}" for name, value in labels.items() if name != "__name__")
    for name, value in labels.items():
        form = form.replace("{{" + name + "}}", value)
    return form


def run(program):
    servers.empty(DIR)
    certificate()
    servers.make_issuer(DIR, program)
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    both = "infer:text models:read model:qwen:inference"
    alice, bob, carol = (token(program, name, both) for name in ("alice", "bob", "carol"))
    dave = token(program, "dave", "models:read")
    chat = [json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": most})
            for model, most in [("Qwen/Qwen2.5-7B-Instruct", 100)] * 6 + [("big-70b", 100), ("qwen", 9000)]]
    key = api_key(program, "ci", "3d")
    api_key(program, "nightly", "60d")
    in_redis = POLICY.replace("keys.json\" }", "keys.json\", redis: true }")
    (DIR / "a.yaml").write_text(BEHIND_ENVOY + in_redis)
    # In memory there is no outage, and Caddy sends no bodies.
    alone = [line for line in POLICY.splitlines() if not line.strip().startswith(("on_outage", "model: {", "caps", "- { name: per-day", "- { name: at-once"))]
    (DIR / "b.yaml").write_text(ALONE + "\n".join(alone).replace("[POST], paths: [/v1/emb", "[GET], paths: [/v1/emb").replace(", per-day, at-once", ""))
    with servers.Rig(DIR) as running:
        redis = running.start("redis", [BIN / "redis-server", "--port", "0", "--save", "", "--unixsocket",
                                        DIR / "redis.sock", "--dir", DIR])
        redis.wait_for("socket", (DIR / "redis.sock").exists)
        ops, http_port = {name: servers.free_port() for name in "ab"}, servers.free_port()
        for name in "ab":
            env = {"DASHBOARD_DIR": str(DIR), "DASHBOARD_NAME": name, "DASHBOARD_OPS": str(ops[name]),
                   "DASHBOARD_HTTP": str(http_port)}
            running.tollgate(program, DIR / f"{name}.yaml", ops[name], env)
        port, counters = start_envoy(running, upstream.server_address[1])
        prometheus = start_prometheus(running, ops, counters, upstream.server_address[1])
        stop = threading.Event()
        clients = [(0.15, "POST", "/v1/chat/completions", alice, chat), (0.3, "POST", "/v1/chat/completions", bob, chat),
                   (0.08, "POST", "/v1/chat/completions", carol, chat[:1]), (0.5, "GET", "/v1/models", dave, [None]),
                   (1, "POST", "/v1/chat/completions", dave, chat[:1]), (0.7, "GET", "/v1/models", None, [None]),
                   (1.3, "GET", "/v1/models", alice[:-8] + "AAAAAAAA", [None]), (2.1, "GET", "/admin", None, [None]),
                   (0.9, "GET", "/health", None, [None]), (0.4, "GET", "/v1/models", key, [None]),
                   (1.7, "GET", "/v1/models", "sk-unknown", [None])]
        threads = [threading.Thread(target=client, args=(port, stop, *one)) for one in clients]
        threads.append(threading.Thread(target=direct, args=(http_port, stop, alice)))
        begin = time.time()
        for thread in threads:
            thread.start()
        try:
            for part, action in [(0.5, signal.SIGSTOP), (0.2, signal.SIGCONT), (0.3, None)]:
                deadline = time.monotonic() + SECONDS * part
                while time.monotonic() < deadline:
                    running.check()
                    time.sleep(0.5)
                if action:
                    redis.process.send_signal(action)
        finally:
            stop.set()
            redis.process.send_signal(signal.SIGCONT)
            for thread in threads:
                thread.join()
        return list(panels(prometheus, begin, time.time()))


def main():
    try:
        program = os.environ.get("DASHBOARD_PROGRAM") or servers.build(os.environ.get("DASHBOARD_PROFILE", "release"))
        drawn = run(program)
    except Failed as error:
        sys.exit(f"dashboard: {error}")
    words = f"Two Tollgates, Envoy and Redis in a run of {SECONDS} s; Redis is stopped from {SECONDS // 2} s to {SECONDS * 7 // 10} s"
    path = ROOT / "docs/plots/dashboard.svg"
    path.write_text(dashboard_svg.picture(words, drawn))
    empty = [panel.panel["title"] for panel in drawn if panel.panel["type"] != "row" and not panel.series]
    print(f"wrote {path.relative_to(ROOT)}" + (f"; no data in: {', '.join(empty)}" if empty else ""))


if __name__ == "__main__":
    main()
