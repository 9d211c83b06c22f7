"""What Tollgate costs behind nginx: nginx alone, with `auth_request`, and with njs, measured in one run.

    make bench-nginx                      prints a table in Markdown
    ROUNDS=7 SECONDS=3 make bench-nginx   rounds, and the length of each measurement

As in `make bench`: every round measures each of them in turn, all use the shipped configurations with one worker, and wrk sends one
RS256 token and a chat request of usual size over 32 connections at once and over one. With `auth_request` the model is not read from
the body, because nginx sends none; everything else of the check is the same.
"""

import subprocess
import sys

import bench
import servers
from bench import CONNECTIONS, DIR, ROUNDS, SECONDS, cpu_seconds, on_core, spread, wrk
from servers import BIN, ISSUER, ROOT, Failed

ALONE, AUTH_REQUEST, NJS = "nginx alone", "nginx, `auth_request`", "nginx, njs"

POLICY = """
listen:
  grpc: "unix:{dir}/{name}-grpc.sock"
  ops: "127.0.0.1:{ops}"
  http: [{{ address: "unix:{dir}/{name}.sock", dialect: nginx, body: {body} }}]
issuers:
  - {{ issuer: "https://auth.example.com", audiences: [inference-api], algorithms: [RS256], jwks: {{ file: "{dir}/jwks.json" }} }}
models: [{{ name: qwen, serves: ["Qwen/Qwen2-72B-Instruct"] }}]
limits: [{{ name: per-subject, by: [subject], rate: 1000000/1s }}]
routes:
  - match: {{ methods: [POST], paths: [/v1/chat/completions] }}
    scopes: ["infer:text"]
    model: {{ from: "{model}", scope: "model:{{model}}:inference" }}
    limits: [per-subject]
"""


def tollgate(rig, program, name, body, model):
    ops = servers.free_port()
    path = DIR / f"{name}.yaml"
    path.write_text(POLICY.format(dir=DIR, name=name, ops=ops, body=body, model=model))
    server = rig.start(name, [*on_core(1), program, "serve", "--config", path])
    server.wait_for("readiness", lambda: servers.answers(f"http://127.0.0.1:{ops}/readyz"))
    return server


def proxy(rig, number, upstream, shipped, socket, edit=lambda config: config):
    """nginx with a shipped configuration, in which addresses and paths are replaced."""
    port = servers.free_port()
    config = edit((ROOT / "deploy/nginx" / shipped).read_text())
    for old, new in {
        "0.0.0.0:8080;": f"127.0.0.1:{port};",
        "server unix:/run/tollgate/nginx.sock": f"server unix:{DIR}/{socket}.sock",
        "server 127.0.0.1:8000": f"server 127.0.0.1:{upstream}",
        "\npid /run/nginx-tollgate.pid": f"\npid {DIR}/nginx-{number}.pid",
        "worker_processes auto": "worker_processes 1",
        "\nhttp {": "\nhttp {\n    access_log off; keepalive_requests 1000000000;"
        + "".join(f" {of}_temp_path {DIR}/{number}-{of};" for of in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]),
    }.items():
        if old not in config:
            raise Failed(f"deploy/nginx/{shipped} should have `{old.strip()}`")
        config = config.replace(old, new)
    path = DIR / f"nginx-{number}.conf"
    path.write_text(config.replace("js_path /etc/nginx/tollgate", f"js_path {ROOT}/deploy/nginx"))
    command = [*on_core(0), BIN / "nginx-njs", "-g", "daemon off; master_process off;", "-e", "stderr", "-p", DIR, "-c", path]
    server = rig.start(f"nginx-{number}", command)
    server.wait_for("answer", lambda: status(port))
    return port, server


def status(port):
    try:
        return bench.answer_without_token(port)
    except OSError:
        return None


def main():
    program = servers.build("release")
    servers.empty(DIR)
    servers.make_issuer(DIR)
    token = subprocess.check_output(
        [program, "token", "mint", "--key", DIR / "issuer.pem", "--kid", "demo", "--alg", "RS256", "--iss", ISSUER]
        + ["--aud", "inference-api", "--sub", "alice", "--scope", "infer:text model:qwen:inference", "--ttl", "12h"],
        cwd=ROOT,
        text=True,
    ).strip()
    size = bench.write_request(token)
    with servers.Rig(DIR) as rig:
        upstream = bench.nginx(rig)
        gates = {
            AUTH_REQUEST: tollgate(rig, program, "without", "none", "fixed:Qwen/Qwen2-72B-Instruct"),
            NJS: tollgate(rig, program, "with", "sent", "body"),
        }
        unasked = lambda config: config.replace("            auth_request /_tollgate;\n", "")
        proxies = {
            ALONE: proxy(rig, 0, upstream, "auth_request.conf", "without", unasked),
            AUTH_REQUEST: proxy(rig, 1, upstream, "auth_request.conf", "without"),
            NJS: proxy(rig, 2, upstream, "njs.conf", "with"),
        }
        for name, (port, _) in proxies.items():
            expected = 200 if name == ALONE else 401
            if (answer := bench.answer_without_token(port)) != expected:
                raise Failed(f"{name} answered {answer} without a token, not {expected}: it would not measure a check")
            wrk(port, CONNECTIONS, 1)  # warm
        found = {name: [] for name in proxies}
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            for name, (port, server) in proxies.items():
                found[name].append(measure(port, server, gates.get(name)))
    table(found, size)


def measure(port, server, gate):
    """One measurement: throughput with CPU time per request, then latency."""
    processes = [server, *([gate] if gate else [])]
    before = [cpu_seconds(process) for process in processes]
    full = wrk(port, CONNECTIONS, SECONDS)
    cpu = [(cpu_seconds(process) - then) * 1e6 / full["requests"] for process, then in zip(processes, before)]
    single = wrk(port, 1, SECONDS)
    return {
        "rate": full["requests"] / full["seconds"],
        "full_p99": full["p99"],
        "p50": single["p50"],
        "p99": single["p99"],
        "nginx": cpu[0],
        "tollgate": cpu[1] if gate else None,
    }


def table(found, size):
    print(f"\n{ROUNDS} rounds of {SECONDS} s each; body {size} bytes; median (min-max); ratios and additions within a round\n")
    print(f"| | requests/s, {CONNECTIONS} connections | ratio | p99 us | nginx CPU us | Tollgate CPU us | p50 us, one connection | added us | p99 us |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, rounds in found.items():
        column = lambda key, digits=0: spread([one[key] for one in rounds], digits)
        ratio = [one["rate"] / alone["rate"] for one, alone in zip(rounds, found[ALONE])]
        added = [one["p50"] - alone["p50"] for one, alone in zip(rounds, found[ALONE])]
        cells = [column("rate"), spread(ratio, 2), column("full_p99"), column("nginx", 1)]
        cells += ["-" if name == ALONE else column("tollgate", 1), column("p50"), "-" if name == ALONE else spread(added), column("p99")]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit("stopped")
