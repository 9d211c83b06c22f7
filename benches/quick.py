"""The CPU time of a whole decision, beside that of the stock server's empty one, in under a minute.

    make bench-quick

The last line is `hot_over_noop_cpu=R`: CPU of a check without a body (token known, scopes, two limits, metrics, audit) over CPU of
tonic with envoy-types answering OK; the median of the ratios of all rounds.
"""

import statistics

import gates
import measure
import servers


def main():
    measure.two_cores()
    count, seconds = measure.number("ROUNDS", 9), measure.number("SECONDS", 1.0)
    program, tool = measure.build()
    gates.clear()
    tokens = measure.Tokens(tool)
    file = tokens.file("RS256", 2000)
    with servers.Rig(measure.DIR) as rig:
        contestants = {
            "stock no-op": gates.Noop(rig, tool, "noop"),
            "Tollgate, hot": gates.Gate(rig, program, "hot", gates.policy(tokens.jwks, body=False)),
        }

        def one(name):
            contestant = contestants[name]
            return measure.check(tool, contestant.address, file, contestant.server, seconds=seconds)

        hot = contestants["Tollgate, hot"]
        measure.check(tool, hot.address, file, hot.server, "--once")
        found = measure.rounds(count, contestants, one)
    for name in contestants:
        rate, cpu = (measure.spread(measure.values(found, name, key), digits) for key, digits in [("rps", 0), (0, 2)])
        print(f"{name}: {rate} requests/s, {cpu} us CPU a check")
    ratio = statistics.median(measure.ratios(found, "Tollgate, hot", "stock no-op", 0))
    print(f"hot_over_noop_cpu={ratio:.3f}")


if __name__ == "__main__":
    measure.main(main)
