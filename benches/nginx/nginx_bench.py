"""What Tollgate costs behind nginx: nginx alone, with `auth_request`, and with njs, measured in one run.

    make bench-nginx                              prints the targets, writes docs/benchmarks.md
    ROUNDS=5 SECONDS=1.5 RATE=2000 make bench-nginx

As `make bench-envoy`: contestants take turns in each round, all use the shipped configurations with one worker, and the load sends
2 000 RS256 tokens in turn with a chat request of usual size, closed loop and at an even rate. With `auth_request` the model is not
read from the body, because nginx sends none; everything else of the check is the same.
"""

import gates
import gateways
import measure
import report
import servers
from measure import DIR, LOAD_CORE, SERVER_CORE, Failed, on_core
from servers import BIN, ROOT

ROUNDS = measure.number("ROUNDS", 5)
SECONDS = measure.number("SECONDS", 1.5)
RATE = measure.number("RATE", 2000)
TEMPORARY = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]


class Nginx:
    """nginx with a shipped configuration, in which addresses and paths are replaced."""

    def __init__(self, rig, name, upstream, shipped, gate, edit=lambda config: config):
        port = servers.free_port()
        config = edit((ROOT / "deploy/nginx" / shipped).read_text())
        paths = "".join(f" {of}_temp_path {DIR}/{name}-{of};" for of in TEMPORARY)
        for old, new in {
            "0.0.0.0:8080;": f"127.0.0.1:{port};",
            "server unix:/run/tollgate/nginx.sock": f"server unix:{DIR}/{gate}-http.sock",
            "server 127.0.0.1:8000": f"server 127.0.0.1:{upstream}",
            "\npid /run/nginx-tollgate.pid": f"\npid {DIR}/{name}.pid",
            "worker_processes auto": "worker_processes 1",
            "\nhttp {": f"\nhttp {{\n    access_log off; keepalive_requests 1000000000;{paths}",
        }.items():
            if old not in config:
                raise Failed(f"deploy/nginx/{shipped} should have `{old.strip()}`")
            config = config.replace(old, new)
        path = DIR / f"{name}.conf"
        path.write_text(config.replace("js_path /etc/nginx/tollgate", f"js_path {ROOT}/deploy/nginx"))
        command = [*on_core(SERVER_CORE), BIN / "nginx-njs", "-g", "daemon off; master_process off;", "-e", "stderr", "-p", DIR, "-c", path]
        self.server = rig.start(name, command)
        self.server.wait_for("port", lambda: gates.listening(port))
        self.address = f"127.0.0.1:{port}"


def main():
    measure.two_cores()
    program, tool = measure.build()
    gates.clear()
    tokens = measure.Tokens(tool)
    file = tokens.file("RS256", 2000)
    with servers.Rig(DIR) as rig:
        upstream = gateways.nginx(rig)

        def gate(name, body):
            http = f"{{ address: ADDRESS, dialect: nginx, body: {'sent' if body else 'none'} }}"
            text = gates.policy(tokens.jwks, body=body)
            if not body:
                # The preset's routes read bodies, which `auth_request` does not send.
                text = text.replace("  - preset: vllm\n", "")
            return gates.Gate(rig, program, name, text, core=LOAD_CORE, http=http).server

        unasked = lambda config: config.replace("            auth_request /_tollgate;\n", "")
        contestants = {
            "alone": (Nginx(rig, "nginx-alone", upstream, "auth_request.conf", "without", unasked), None),
            "auth_request": (Nginx(rig, "nginx-auth-request", upstream, "auth_request.conf", "without"), gate("without", False)),
            "njs": (Nginx(rig, "nginx-njs", upstream, "njs.conf", "with"), gate("with", True)),
        }
        for name, (nginx, _) in contestants.items():
            gateways.http(tool, nginx.address, file, [], "--once")  # every token is known before the first round
            gateways.must_check(name, nginx.address, name != "alone")

        def one(name):
            nginx, check = contestants[name]
            watched = [nginx.server, *([check] if check else [])]
            closed = gateways.http(tool, nginx.address, file, watched, seconds=SECONDS)
            even = gateways.http(tool, nginx.address, file, watched, "--rate", RATE, seconds=SECONDS)
            return {**closed, **{f"open_{key}": even[key] for key in ["p50_us", "p99_us", "p999_us"]}}

        found = measure.rounds(ROUNDS, contestants, one)
    command = f"ROUNDS={ROUNDS} SECONDS={SECONDS:g} RATE={RATE} make bench-nginx"
    measure.save("nginx", command, {"rounds": found, "rate": RATE})
    report.write()


if __name__ == "__main__":
    measure.main(main)
