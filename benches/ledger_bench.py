"""What a record of the ledger costs: the CPU of Tollgate and of Redis, calls of Redis, and its bytes there.

    make bench-ledger                              writes docs/benchmarks.md
    ROUNDS=3 REQUESTS=2000 make bench-ledger

The policy of `make bench-metering` takes turns with the same one and the section `ledger`, behind the shipped envoy-metered.yaml, each
with a Redis of its own. A round ends when every request is settled and, with the ledger, has its record.
"""

import gates
import gateways
import measure
import metering_bench
import report
import servers
from measure import DIR, LOAD_CORE, SERVER_CORE, on_core
from metering_bench import cpu, metric, script_calls

ROUNDS = measure.number("ROUNDS", 3)
REQUESTS = measure.number("REQUESTS", 2000)
IN_FLIGHT = 32

LEDGER = 'ledger: { keys: [{ id: bench, secret: "fedcba9876543210fedcba9876543210" }] }\n'


class Place:
    """A Tollgate with a Redis of its own, behind an Envoy."""

    def __init__(self, rig, program, tool, tokens, upstream, name):
        self.name, self.tool, self.file = name, tool, tokens.file("RS256", 2000)
        self.socket = DIR / f"{name}-redis.sock"
        self.socket.unlink(missing_ok=True)
        options = ["--port", 0, "--save", "", "--appendonly", "no", "--unixsocket", self.socket, "--dir", DIR]
        self.redis = rig.start(f"{name}-redis", [*on_core(LOAD_CORE), servers.BIN / "redis-server", *options])
        self.redis.wait_for("socket", self.socket.exists)
        kept = LEDGER if name == "ledger" else ""
        policy = gates.redis_store(self.socket) + kept + metering_bench.policy(tokens.jwks, True)
        self.gate = metering_bench.Metering(rig, program, name, policy, core=LOAD_CORE)
        self.envoy = metering_bench.envoy_before(rig, self.gate, upstream, True, core=SERVER_CORE)
        gateways.http(tool, self.envoy.address, self.file, [], "--once")
        self.wait_for(lambda: self.settled() > 0)

    def settled(self):
        return metric(self.gate, "tollgate_settlements_total", 'result="charged"')

    def recorded(self):
        return metric(self.gate, "tollgate_ledger_records_total") if self.name == "ledger" else self.settled()

    def wait_for(self, condition):
        self.redis.wait_for("settlements", condition)

    def round(self):
        self.wait_for(lambda: metric(self.gate, "tollgate_reservations_open") == 0 and self.recorded() >= self.settled())
        before, settled = [cpu(self.gate.server), cpu(self.redis), script_calls(self.socket)], self.settled()
        gateways.http(self.tool, self.envoy.address, self.file, [], "--requests", REQUESTS, connections=IN_FLIGHT)
        self.wait_for(lambda: self.settled() >= settled + REQUESTS and self.recorded() >= self.settled())
        after = [cpu(self.gate.server), cpu(self.redis), script_calls(self.socket)]
        names = ["tollgate_us", "redis_us", "calls"]
        return {name: (one - other) / REQUESTS for name, one, other in zip(names, after, before)}

    def bytes_of_a_record(self):
        """What Redis has of a record in its chain."""
        key = "{tollgate}:ledger:chain:1"
        ask = lambda *words: int(metering_bench.redis_answer(self.socket, *words).lstrip(b":"))
        return ask("MEMORY", "USAGE", key, "SAMPLES", "0") / ask("XLEN", key)


def main():
    measure.two_cores()
    program, tool = measure.build()
    gates.clear()
    tokens = measure.Tokens(tool)
    with servers.Rig(DIR) as rig:
        upstream = metering_bench.nginx(rig)
        places = {name: Place(rig, program, tool, tokens, upstream, name) for name in ("without", "ledger")}
        found = measure.rounds(ROUNDS, list(places), lambda name: places[name].round())
        stored = places["ledger"].bytes_of_a_record()
    command = f"ROUNDS={ROUNDS} REQUESTS={REQUESTS} make bench-ledger"
    measure.save("ledger", command, {"rounds": found, "bytes": stored, "in_flight": IN_FLIGHT})
    report.write()


if __name__ == "__main__":
    measure.main(main)
