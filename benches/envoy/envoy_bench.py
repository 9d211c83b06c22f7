"""What Tollgate costs behind Envoy and inside of it, beside Envoy alone, Envoy's own jwt_authn and an empty external check, in one run.

    make bench-envoy                                    prints the targets, writes docs/benchmarks.md
    ROUNDS=5 SECONDS=1.5 RATE=2000 make bench-envoy     rounds, the length of each measurement, the even rate

Every round measures each of them in turn, in another order each time, and a ratio is taken within a round. All use the shipped Envoy
configurations with one worker; only the check differs. The load sends 2 000 RS256 tokens in turn with a chat request of usual size:
over 32 connections, each with the next request as soon as an answer has come (closed loop: throughput, CPU), and at an even rate
whatever the answers do (open loop: latency, from the moment a request was due). Envoy has one core for itself; the check server, the
upstream and the load share the other.
"""

import gates
import gateways
import measure
import report
import servers
from gateways import Envoy, Module
from measure import DIR, LOAD_CORE

ROUNDS = measure.number("ROUNDS", 5)
SECONDS = measure.number("SECONDS", 1.5)
RATE = measure.number("RATE", 2000)


def main():
    measure.two_cores()
    program, tool = measure.build()
    modules = measure.module()
    gates.clear()
    tokens = measure.Tokens(tool)
    file = tokens.file("RS256", 2000)
    policy = gates.policy(tokens.jwks, body=True)
    with servers.Rig(DIR) as rig:
        upstream = gateways.nginx(rig)
        noop = gates.Noop(rig, tool, "noop", core=LOAD_CORE)
        grpc = gates.Gate(rig, program, "grpc", policy, core=LOAD_CORE)
        lean = gates.Gate(rig, program, "lean", policy + gates.LEAN, core=LOAD_CORE)
        budget = gates.Gate(rig, program, "budget", gates.budget(policy) + gates.LEAN, core=LOAD_CORE, reports=True)
        twice = gates.Gate(rig, program, "twice", policy, core=LOAD_CORE)
        http = gates.Gate(rig, program, "http", policy, core=LOAD_CORE, http="{ address: ADDRESS, dialect: envoy_http, body: sent }")
        authz, over_http = gateways.shipped("envoy.yaml"), gateways.shipped("envoy-http.yaml")
        inside = gateways.shipped("envoy-embedded.yaml")
        redis = gates.redis_server(rig, LOAD_CORE)[1]
        rates = gates.RateLimits(rig, tool, "rates", redis, core=LOAD_CORE)
        exact = gates.Gate(rig, program, "exact", gates.redis_store(redis) + policy + gates.LEAN, core=LOAD_CORE)
        module, lean_module = Module(modules, "module", policy), Module(modules, "lean-module", policy + gates.LEAN)
        leased = Module(modules, "leased", gates.leased(policy, redis) + gates.LEAN)
        exact_module = Module(modules, "exact-module", gates.redis_store(redis) + policy + gates.LEAN)
        contestants = {
            "alone": (Envoy(rig, "envoy-alone", gateways.with_check(""), upstream), None),
            "jwt": (Envoy(rig, "envoy-jwt", gateways.with_check(gateways.jwt_authn(tokens.jwks, False)), upstream), None),
            "jwt-cache": (Envoy(rig, "envoy-jwt-cache", gateways.with_check(gateways.jwt_authn(tokens.jwks, True)), upstream), None),
            "noop": (Envoy(rig, "envoy-noop", authz, upstream, "noop.sock"), noop.server),
            "grpc": (Envoy(rig, "envoy-grpc", authz, upstream, "grpc.sock"), grpc.server),
            "lean": (Envoy(rig, "envoy-lean", authz, upstream, "lean.sock"), lean.server),
            "budget": (Envoy(rig, "envoy-budget", authz, upstream, "budget.sock"), budget.server),
            "twice": (Envoy(rig, "envoy-twice", gateways.shipped("envoy-strangers.yaml"), upstream, "twice.sock"), twice.server),
            "module": (Envoy(rig, "envoy-module", inside, upstream, module=module), None),
            "module-lean": (Envoy(rig, "envoy-module-lean", inside, upstream, module=lean_module), None),
            "module-leased": (Envoy(rig, "envoy-leased", inside, upstream, module=leased), None),
            "native": (Envoy(rig, "envoy-native", gateways.native(tokens.jwks, "native_local"), upstream), None),
            "native-redis": (Envoy(rig, "envoy-native-redis", gateways.native(tokens.jwks, "native_service"), upstream, "rates.sock"), rates.server),
            "grpc-redis": (Envoy(rig, "envoy-redis", authz, upstream, "exact.sock"), exact.server),
            "module-redis": (Envoy(rig, "envoy-module-redis", inside, upstream, module=exact_module), None),
            "http": (Envoy(rig, "envoy-http", over_http, upstream, "http-http.sock"), http.server),
        }
        for name, (envoy, _) in contestants.items():
            gateways.http(tool, envoy.address, file, [], "--once")  # every token is known before the first round
            gateways.must_check(name, envoy.address, name not in ("alone", "noop"))
            if name not in ("alone", "noop", "jwt", "jwt-cache"):
                gateways.must_read(name, envoy.address, file.read_text().split()[0])

        def one(name):
            envoy, check = contestants[name]
            watched = [envoy.server, *([check] if check else [])]
            closed = gateways.http(tool, envoy.address, file, watched, seconds=SECONDS)
            even = gateways.http(tool, envoy.address, file, watched, "--rate", RATE, seconds=SECONDS)
            return {**closed, **{f"open_{key}": even[key] for key in ["p50_us", "p99_us", "p999_us"]}}

        found = measure.rounds(ROUNDS, contestants, one)
    command = f"ROUNDS={ROUNDS} SECONDS={SECONDS:g} RATE={RATE} make bench-envoy"
    measure.save("envoy", command, {"rounds": found, "rate": RATE})
    report.write()


if __name__ == "__main__":
    measure.main(main)
