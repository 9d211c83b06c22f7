"""Tollgate beside what tutorials write: FastAPI with PyJWT, as a middleware of the app and as Envoy's check server.

    make bench-tutorial                               prints the targets, writes docs/benchmarks.md
    ROUNDS=5 SECONDS=1.5 make bench-tutorial

As `make bench-envoy`: contestants take turns in each round, 2 000 RS256 tokens in turn, 32 connections, closed loop and an even rate.
Two comparisons. In a pod of one core, where app and gate share it: the app, the app with its middleware, and the app behind Envoy and
Tollgate. As a check server, on the load's core: Tollgate, and the same check in FastAPI, both asked by Envoy with the shipped
configuration. uvicorn runs one worker, with uvloop and httptools.
"""

import gates
import gateways
import measure
import report
import servers
from gateways import Envoy
from measure import DIR, LOAD_CORE, SERVER_CORE, on_core
from servers import BIN, ROOT

ROUNDS = measure.number("ROUNDS", 5)
SECONDS = measure.number("SECONDS", 1.5)
RATE = measure.number("RATE", 500)


class App:
    """The FastAPI app on a port, or on a socket NAME.sock."""

    def __init__(self, rig, name, what, tokens, core, socket=False):
        port = servers.free_port()
        self.port, self.address = port, f"127.0.0.1:{port}"
        where = ["--uds", DIR / f"{name}.sock"] if socket else ["--port", port]
        command = [*on_core(core), BIN / "python", "-B", "-m", "uvicorn", "--app-dir", ROOT / "benches/tutorial", "app:app"]
        command += ["--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--http", "httptools"]
        env = {"PYTHONPATH": str(ROOT / ".parts/tutorial"), "WHAT": what, "JWKS": str(tokens.jwks)}
        self.server = rig.start(name, [*command, *where], env=env)
        there = (DIR / f"{name}.sock").exists if socket else lambda: gates.listening(port)
        self.server.wait_for("listener", there)


def main():
    measure.two_cores()
    program, tool = measure.build()
    gates.clear()
    tokens = measure.Tokens(tool)
    file = tokens.file("RS256", 2000)
    policy = gates.policy(tokens.jwks, body=True)
    with servers.Rig(DIR) as rig:
        upstream = gateways.nginx(rig)
        bare = App(rig, "app", "open", tokens, SERVER_CORE)
        middleware = App(rig, "app-middleware", "middleware", tokens, SERVER_CORE)
        behind = App(rig, "app-behind", "open", tokens, SERVER_CORE)
        pod = gates.Gate(rig, program, "pod", policy)
        authz, over_http = gateways.shipped("envoy.yaml"), gateways.shipped("envoy-http.yaml")
        front = Envoy(rig, "envoy-pod", authz, behind.port, "pod.sock")
        check = gates.Gate(rig, program, "check", policy, core=LOAD_CORE)
        tutorial = App(rig, "tutorial", "authz", tokens, LOAD_CORE, socket=True)
        asking = Envoy(rig, "envoy-tollgate", authz, upstream, "check.sock")
        asking_tutorial = Envoy(rig, "envoy-tutorial", over_http, upstream, "tutorial.sock")
        # Address, servers whose CPU time is counted, whether it lets nobody in without a token.
        contestants = {
            "app": (bare.address, [bare.server], False),
            "middleware": (middleware.address, [middleware.server], True),
            "app-tollgate": (front.address, [front.server, pod.server, behind.server], True),
            "check-tollgate": (asking.address, [check.server, asking.server], True),
            "check-tutorial": (asking_tutorial.address, [tutorial.server, asking_tutorial.server], True),
        }
        for name, (address, _, checks) in contestants.items():
            gateways.http(tool, address, file, [], "--once")  # every token is known before the first round
            gateways.must_check(name, address, checks)

        def one(name):
            address, watched, _ = contestants[name]
            closed = gateways.http(tool, address, file, watched, seconds=SECONDS)
            even = gateways.http(tool, address, file, watched, "--rate", RATE, seconds=SECONDS)
            return {**closed, **{f"open_{key}": even[key] for key in ["p50_us", "p99_us", "p999_us"]}}

        found = measure.rounds(ROUNDS, contestants, one)
    command = f"ROUNDS={ROUNDS} SECONDS={SECONDS:g} RATE={RATE} make bench-tutorial"
    measure.save("tutorial", command, {"rounds": found, "rate": RATE})
    report.write()


if __name__ == "__main__":
    measure.main(main)
