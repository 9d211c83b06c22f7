"""What Tollgate costs behind Envoy, beside Envoy alone and Envoy's own jwt_authn, measured in one run.

    make bench-envoy                      prints a table in Markdown
    ROUNDS=7 SECONDS=3 make bench-envoy   rounds, and the length of each measurement

Every round measures each of the three in turn, so that what else the machine does falls on all of them, and a ratio
is taken within a round. All use the shipped Envoy config with one worker; only the check differs. wrk sends one
RS256 token and a chat request of usual size over 32 connections at once (throughput, CPU) and over one (latency).
With two cores or more, Envoy has the first for itself, and everything else shares the second.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import urllib.error
import urllib.request

import servers
from servers import BIN, ISSUER, ROOT, Failed

HERE = pathlib.Path(__file__).resolve().parent
DIR = ROOT / ".bench"
ROUNDS = int(os.environ.get("ROUNDS", "7"))
SECONDS = int(os.environ.get("SECONDS", "3"))
CONNECTIONS = 32

ALONE, JWT_AUTHN, TOLLGATE = "Envoy alone", "Envoy, jwt_authn", "Envoy, Tollgate"

REQUEST = {
    "model": "Qwen/Qwen2-72B-Instruct",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant. Answer briefly and in plain words. " * 4},
        {"role": "user", "content": "Explain what a rate limit is to someone who has never run a server."},
    ],
    "max_tokens": 256,
    "temperature": 0.7,
    "stream": True,
}


def on_core(number):
    """A command prefix that keeps a program on one core, if there are two."""
    return ["taskset", "-c", str(number)] if os.cpu_count() >= 2 else []


def cpu_seconds(server):
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def without(config, start, end, instead=""):
    """`config` with the block from the line `start` up to the line `end` taken out."""
    if config.count(start) != 1 or end not in config.partition(start)[2]:
        raise Failed(f"deploy/envoy/envoy.yaml should have `{start.strip()}` once, and `{end.strip()}` after it")
    before, _, rest = config.partition(start)
    return before + instead + end + rest.partition(end)[2]


def envoy_config(check):
    """The shipped config without its access log, and with `check` in the place of ext_authz unless it is None."""
    config = without(servers.shipped_envoy_config(), " " * 16 + "access_log:\n", " " * 16 + "route_config:\n")
    if check is None:
        return config
    filters = " " * 18 + "- name: envoy.filters.http."
    return without(config, filters + "ext_authz\n", filters + "router\n", check)


def nginx(rig):
    port = servers.free_port()
    config = (HERE / "nginx.conf").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    (DIR / "nginx.conf").write_text(config)
    server = rig.start("nginx", [*on_core(1), BIN / "nginx", "-p", DIR, "-c", DIR / "nginx.conf", "-e", "stderr"])
    server.wait_for("answer", lambda: servers.answers(f"http://127.0.0.1:{port}/"))
    return port


def wrk(port, connections, seconds):
    command = [*on_core(1), BIN / "wrk", "-t", "1", "-c", connections, "-d", f"{seconds}s"]
    command += ["-s", DIR / "request.lua", f"http://127.0.0.1:{port}/v1/chat/completions"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"wrk failed: {done.stderr.strip()}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["failed"] or not found["requests"]:
        raise Failed(f"{found['failed']} of {found['requests']} requests failed")
    return found


def write_request(token):
    body = json.dumps(REQUEST)
    (DIR / "request.lua").write_text(
        f"""wrk.method = "POST"
wrk.body = [==[{body}]==]
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {token}"
"""
        + (HERE / "report.lua").read_text()
    )
    return len(body)


def answer_without_token(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/chat/completions", data=b"{}", timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code


def measure(port, envoy, tollgate):
    """One measurement of one configuration: throughput with CPU time per request, then latency."""
    before = cpu_seconds(envoy), cpu_seconds(tollgate)
    full = wrk(port, CONNECTIONS, SECONDS)
    after = cpu_seconds(envoy), cpu_seconds(tollgate)
    single = wrk(port, 1, SECONDS)
    cpu = [(b - a) * 1e6 / full["requests"] for a, b in zip(before, after)]
    return {
        "rate": full["requests"] / full["seconds"],
        "full_p50": full["p50"],
        "full_p99": full["p99"],
        "p50": single["p50"],
        "p99": single["p99"],
        "envoy": cpu[0],
        "tollgate": cpu[1],
    }


def spread(values, digits=0):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def table(found, size):
    print(f"\n{ROUNDS} rounds of {SECONDS} s each; body {size} bytes; median (min-max); ratios within a round\n")
    print(f"With {CONNECTIONS} connections:\n")
    print("| | requests/s | ratio | p50 us | p99 us | Envoy CPU us | Tollgate CPU us |")
    print("|---|---|---|---|---|---|---|")
    for name, rounds in found.items():
        column = lambda key: [one[key] for one in rounds]
        ratio = [one["rate"] / alone["rate"] for one, alone in zip(rounds, found[ALONE])]
        cells = [spread(column("rate")), spread(ratio, 2), spread(column("full_p50")), spread(column("full_p99"))]
        cells += [spread(column("envoy"), 1), spread(column("tollgate"), 1) if name == TOLLGATE else "-"]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\nWith one connection, one request after the other:\n")
    print("| | p50 us | added to p50, us | p99 us |")
    print("|---|---|---|---|")
    for name, rounds in found.items():
        added = [one["p50"] - alone["p50"] for one, alone in zip(rounds, found[ALONE])]
        cells = [spread([one["p50"] for one in rounds]), "-" if name == ALONE else spread(added)]
        cells += [spread([one["p99"] for one in rounds])]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main():
    program = servers.build("release")
    servers.empty(DIR)
    servers.make_issuer(DIR)
    ops = servers.free_port()
    token = subprocess.check_output(
        [program, "token", "mint", "--key", DIR / "issuer.pem", "--kid", "demo", "--alg", "RS256", "--iss", ISSUER]
        + ["--aud", "inference-api", "--sub", "alice", "--scope", "infer:text model:qwen:inference", "--ttl", "12h"],
        cwd=ROOT,
        text=True,
    ).strip()
    size = write_request(token)
    checks = {
        ALONE: "",
        JWT_AUTHN: (HERE / "jwt_authn.yaml").read_text().replace("JWKS_FILE", f'"{DIR}/jwks.json"'),
        TOLLGATE: None,
    }
    with servers.Rig(DIR) as rig:
        upstream = nginx(rig)
        env = {"BENCH_DIR": str(DIR), "BENCH_OPS_PORT": str(ops)}
        tollgate = rig.tollgate(program, HERE / "tollgate.yaml", ops, env, on_core(1))
        proxies = {}
        for number, (name, check) in enumerate(checks.items()):
            port = servers.free_port()
            config = envoy_config(check)
            proxies[name] = port, rig.envoy(config, port, upstream, f"envoy-{number}", on_core(0))
        for name, (port, _) in proxies.items():
            expected = 200 if name == ALONE else 401
            if (status := answer_without_token(port)) != expected:
                raise Failed(f"{name} answered {status} without a token, not {expected}: it would not measure a check")
            wrk(port, CONNECTIONS, 1)  # warm
        found = {name: [] for name in checks}
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            for name, (port, envoy) in proxies.items():
                found[name].append(measure(port, envoy, tollgate))
    table(found, size)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit("stopped")
