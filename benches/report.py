"""Writes the measurements into docs/benchmarks.md and docs/accuracy.md, between their markers, and plots of sections to docs/plots/.

    python benches/report.py     from .bench/results, without measuring anything

A section without results in .bench/results stays unchanged. Text outside of the markers is written by hand.
"""

import pathlib
import re
import statistics

import measure
import plot
from measure import ROOT, ratios, spread, values

PAGE = ROOT / "docs/benchmarks.md"
ACCURACY = ROOT / "docs/accuracy.md"
PLOTS = ROOT / "docs/plots"
IN_FLIGHT = [1, 16, 64, 256]
NAMES = {
    "noop": "stock no-op",
    "noop-body": "stock no-op, with the body",
    "own": "Tollgate, public route",
    "hot": "Tollgate, hot",
    "hot-body": "Tollgate, hot, model from a 4 KB body",
}
TARGETS = []


def target(what, wanted, measured, met):
    TARGETS.append((what, wanted, measured, met))


def at_most(what, bound, found, unit="", digits=2):
    """A target that the median of the values must not exceed."""
    target(what, f"<= {bound}{unit}", spread(found, digits) + unit, statistics.median(found) <= bound)


def at_least(what, bound, found, unit="", digits=2):
    target(what, f">= {bound}{unit}", spread(found, digits) + unit, statistics.median(found) >= bound)


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def how(data):
    """Returns the command and the machine, in one line."""
    on = data["machine"]
    changed = "" if on["profile"] == "release" else f", profile {on['profile']}"
    return (
        f"`{data['command']}`, {on['date']}, commit {on['commit']}{changed}, rustc {on['rustc']}, Linux {on['kernel']}, "
        f"{on['cpu']}, {on['cores']} cores. Median (lowest-highest) of {len(data.get('rounds', [])) or 'several'} rounds.\n"
    )


def low_mid_high(found):
    return min(found), statistics.median(found), max(found)


def drawing(name, *arguments, **more):
    PLOTS.mkdir(exist_ok=True)
    (PLOTS / f"{name}.svg").write_text(plot.bars(*arguments, **more))
    return f"\n![{arguments[0]}](plots/{name}.svg)\n"


def wire(data):
    rounds, out = data["rounds"], [how(data)]
    for transport, title in [("unix", "Unix socket"), ("tcp", "TCP")]:
        rows = []
        for name, label in NAMES.items():
            for count in IN_FLIGHT:
                cell = f"{name}|{transport}|{count}"
                under = f"{'noop-body' if 'body' in name else 'noop'}|{transport}|{count}"
                row = [label if count == 1 else "", str(count), spread(values(rounds, cell, "rps"))]
                row += [spread(values(rounds, cell, key)) for key in ["p50_us", "p99_us", "p999_us"]]
                row += [spread(values(rounds, cell, 0), 1)]
                row += ["-"] * 2 if name.startswith("noop") else [spread(ratios(rounds, cell, under, key), 2) for key in ["rps", 0]]
                rows.append(row)
        head = ["", "in flight", "checks/s", "p50 us", "p99 us", "p99.9 us", "CPU us a check", "checks/s over stock", "CPU over stock"]
        out.append(f"\n{title}:\n\n" + table(head, rows))
    groups = [
        (f"{count} in flight", [(label, *low_mid_high(values(rounds, f"{name}|unix|{count}", "rps"))) for name, label in NAMES.items() if "body" not in name])
        for count in IN_FLIGHT
    ]
    out.append(drawing("wire", "Checks a second on one core", "Unix socket, one connection, no body", groups))
    out.append(f"\nAudit lines dropped because their queue was full: {data['audit_dropped']:.0f}.\n")
    cell = lambda name: f"{name}|unix|64"
    at_least("checks/s, no body, over stock no-op", 1.4, ratios(rounds, cell("hot"), cell("noop"), "rps"))
    at_most("CPU a check, no body, over stock no-op", 0.70, ratios(rounds, cell("hot"), cell("noop"), 0))
    at_least("checks/s, no body, over our own transport's no-op", 0.90, ratios(rounds, cell("hot"), cell("own"), "rps"))
    at_most("CPU a check, 4 KB body and model, over stock no-op with the body", 1.0, ratios(rounds, cell("hot-body"), cell("noop-body"), 0))
    at_most("p99, no body, over stock no-op", 1.2, ratios(rounds, cell("hot"), cell("noop"), "p99_us"))
    return "".join(out)


def cold(data):
    rounds, rows = data["rounds"], []
    hot = values(rounds, "hot|", 0)
    for name in ["RS256", "ES256", "EdDSA"]:
        check, bare = values(rounds, f"cold|{name}", 0), values(rounds, f"verify|{name}", 0)
        over = [a / (b + c) for a, b, c in zip(check, bare, hot)]
        rows.append([f"new token, {name}", spread(values(rounds, f"cold|{name}", "rps")), spread(check, 1), spread(bare, 1), spread(over, 2)])
        if name == "RS256":
            at_most("cold RS256: CPU over bare aws-lc verification plus the hot path", 1.25, over)
    rows.append(["known token (hot)", spread(values(rounds, "hot|", "rps")), spread(hot, 1), "-", "-"])
    for name, label in [("distinct", "bad signature, new token each time"), ("repeated", "bad signature, 2 000 repeated")]:
        found = values(rounds, f"flood|{name}", 0)
        rows.append([label, spread(values(rounds, f"flood|{name}", "rps")), spread(found, 1), "-", "-"])
        at_most(f"CPU a denial, {label}, over hot", 1.0, [a / b for a, b in zip(found, hot)])
    head = ["64 in flight, Unix socket", "checks/s", "CPU us a check", "bare verification us", "over bare plus hot"]
    groups = [(row[0], [("CPU", *low_mid_high(found))]) for row, found in zip(rows, [
        *(values(rounds, f"cold|{name}", 0) for name in ["RS256", "ES256", "EdDSA"]), hot, *(values(rounds, f"flood|{name}", 0) for name in ["distinct", "repeated"])
    ])]
    return how(data) + "\n" + table(head, rows) + drawing("cold", "CPU of a check", "microseconds, 64 in flight", groups)


def redis(data):
    rounds, rows = data["rounds"], []
    for count in IN_FLIGHT:
        for name, label in [("hot", "in memory"), ("redis", "Redis, exact"), ("evalsha", "the script alone, EVALSHA each")]:
            cell = f"{name}|{count}"
            row = [str(count) if name == "hot" else "", label, spread(values(rounds, cell, "rps"))]
            if name == "evalsha":
                row += ["-", "-", spread(values(rounds, cell, "client_cpu_us"), 1), spread(values(rounds, cell, "redis_cpu_us"), 1)]
            else:
                row += [spread(values(rounds, cell, key)) for key in ["p50_us", "p99_us"]]
                row += [spread(values(rounds, cell, 0), 1), spread(values(rounds, cell, 1), 1) if name == "redis" else "-"]
            rows.append(row)
    added = lambda count: [a - b for a, b in zip(values(rounds, f"redis|{count}", 0), values(rounds, f"hot|{count}", 0))]
    at_most("Redis exact, 64 in flight: CPU added to a check", 4, added(64), " us", 1)
    at_least("Redis exact, 256 in flight: checks/s over the script alone", 0.60, ratios(rounds, "redis|256", "evalsha|256", "rps"))
    at_most("Redis exact, 256 in flight: Redis CPU a check over one EVALSHA each", 1.0, [a / b for a, b in zip(values(rounds, "redis|256", 1), values(rounds, "evalsha|256", "redis_cpu_us"))])
    head = ["in flight", "limits", "checks/s", "p50 us", "p99 us", "CPU us a check (client)", "Redis CPU us"]
    groups = [(f"{count} in flight", [(label, *low_mid_high(values(rounds, f"{name}|{count}", "rps"))) for name, label in [("hot", "in memory"), ("redis", "Redis"), ("evalsha", "script alone")]]) for count in IN_FLIGHT]
    note = f"\n{data['redis'].partition(' sha=')[0]} on the load's core; CPU added by the call, at 256 in flight: {spread(added(256), 1)} us.\n"
    return how(data) + "\n" + table(head, rows) + note + drawing("redis", "Checks a second, limits in Redis", "two limits and revocation, one script a check", groups)


def footprint(data):
    many, subjects = data["many_tokens"], data["many_subjects"]
    rows = [
        ["start to ready, keys on disk", spread(data["ready_ms"], 0) + " ms"],
        ["memory when idle (RSS)", spread(data["idle_mib"], 1) + " MiB"],
        [f"memory after {data['tokens']:,} tokens".replace(",", " "), f"{many['after_mib']:.0f} MiB (max {many['most_mib']:.0f})"],
        ["the same, with two limits for each subject", f"{subjects['after_mib']:.0f} MiB (max {subjects['most_mib']:.0f})"],
        ["CPU of a check, each token for the first and the second time", f"{many['first_us']:.1f} and {many['second_us']:.1f} us"],
    ]
    at_most("start to ready, keys on disk", 100, data["ready_ms"], " ms", 0)
    at_most("idle RSS", 20, data["idle_mib"], " MiB", 1)
    if many["second_us"] < 0.7 * many["first_us"]:
        at_most("RSS with 100 000 cached tokens", 60, [many["after_mib"]], " MiB", 0)
    else:
        target("RSS with 100 000 cached tokens", "<= 60 MiB", "not all of them were kept", False)
    groups = [("idle", [("MiB", *low_mid_high(data["idle_mib"]))])]
    groups += [(label, [("MiB", found["after_mib"], found["after_mib"], found["most_mib"])]) for label, found in [("100 000 tokens", many), ("and their 200 000 buckets", subjects)]]
    return how(data) + "\n" + table(["", ""], rows) + drawing("footprint", "Memory", "MiB, resident", groups)


def size(data):
    rounds, rows, groups = data["rounds"], [], []
    for kind, memory in data["mib"].items():
        over = ratios(rounds, kind, "small", 0)
        rows.append([kind, spread(values(rounds, kind, "rps")), spread(values(rounds, kind, 0), 1), "-" if kind == "small" else spread(over, 2), f"{memory:.0f}"])
        groups.append((kind, [("CPU", *low_mid_high(values(rounds, kind, 0)))]))
        if kind != "small":
            at_most(f"CPU a check with {kind} over a small policy", 1.2, over)
    head = ["policy", "checks/s", "CPU us a check", "over small", "RSS MiB"]
    return how(data) + "\n" + table(head, rows) + drawing("size", "CPU of a check by size of the policy", "microseconds, 64 in flight", groups)


def revocations(data):
    few, many = data["mib"]
    rows = []
    for count, memory in data["mib"].items():
        found = [spread(values(data["rounds"], count, "rps")), spread(values(data["rounds"], count, 0), 1)]
        rows.append([f"{int(count):,} revocations".replace(",", " "), *found, f"{memory:.0f}", f"{data['known_after_s'][count]:.1f}"])
    at_most("CPU a check with a million revocations over ten", 1.2, ratios(data["rounds"], many, few, 0))
    at_most("RSS of a million revocations", 64, [data["mib"][many] - data["mib"][few]], " MiB", 0)
    head = ["replicated to memory", "checks/s", "CPU us a check", "RSS MiB", "known after s"]
    groups = [(row[0], [("CPU", *low_mid_high(values(data["rounds"], count, 0)))]) for row, count in zip(rows, data["mib"])]
    return how(data) + "\n" + table(head, rows) + drawing("revocations", "CPU of a check by revocations", "microseconds, 64 in flight", groups)


def steady(data):
    rounds, rows, groups = data["rounds"], [], []
    for prefix, rate in [("usual_", data["usual_rate"]), ("", data["rate"])]:
        for name, label in [("noop", "stock no-op"), ("quiet", "Tollgate, undisturbed"), ("disturbed", "Tollgate, during reloads and scrapes")]:
            every = lambda key: values(rounds, prefix + name, key)
            rows.append([f"{rate}", label, *(spread(every(key)) for key in ["p50_us", "p99_us", "p999_us", "max_us"])])
            groups.append((f"{rate}/s, {label}", [(part, *low_mid_high(every(key))) for part, key in [("p99", "p99_us"), ("p99.9", "p999_us")]]))
    p99 = [us / 1000 for us in values(rounds, "usual_disturbed", "p99_us")]
    at_most(f"p99 at {data['usual_rate']} checks/s during reloads of 10 000 limits", 5, p99, " ms", 1)
    what = (
        f"\nAt an even rate: {data['usual_rate']} checks/s, and half of the maximum, for {data['seconds']:.0f} s in each round. During all rounds: {data['reloads']} reloads of a policy "
        f"of 10 000 limits with a changed key set, one after the other on the server's core, and {data['scrapes']} scrapes of the metrics.\n\n"
    )
    head = ["checks/s", "", "p50 us", "p99 us", "p99.9 us", "max us"]
    return how(data) + what + table(head, rows) + drawing("steady", "Latency at even rates", "microseconds", groups)


def attack(data):
    rounds = data["rounds"]
    rows = [
        [label, *(spread(values(rounds, name, key)) for key in ["p50_us", "p99_us", "p999_us"])]
        for name, label in [("quiet", "alone"), ("attacked", "during the attack")]
    ]
    more = [(b - a) / 1000 for a, b in zip(values(rounds, "quiet", "p99_us"), values(rounds, "attacked", "p99_us"))]
    at_most("p99 of others while one client sends large bodies, beyond p99 alone", 5, more, " ms", 1)
    what = (
        f"\n{data['rate']} checks/s with bodies of 4 KiB at an even rate, alone and while one token sends bodies of {data['bytes'] >> 20} MiB of objects with 250 keys on three "
        f"connections ({spread(values(rounds, 'hostile', 'rps'), 0)} a second). The server has one core.\n\n"
    )
    return how(data) + what + table(["other clients", "p50 us", "p99 us", "p99.9 us"], rows)


def soak(data):
    memory = data["mib"]
    later = memory[len(memory) // 5 :]
    growth = later[-1] - later[0]
    target("RSS over 10 minutes at half load", "flat", f"{growth:+.1f} MiB after the first fifth", abs(growth) <= 1)
    return (
        how(data)
        + f"\n{data['minutes']:g} minutes at {data['rate']} checks/s: RSS {memory[0]:.1f} MiB after ten seconds, {later[0]:.1f} after a fifth of the time, "
        f"{memory[-1]:.1f} at the end (max {max(memory):.1f}).\n"
    )


def instructions(data):
    if data["machine"]["profile"] == "release":
        at_most("user instructions a check, no body (callgrind)", 55_000, [data["each"]], "", 0)
    def shown(count):
        return f"{count:,.0f}".replace(",", " ")

    rows = [
        [label, shown(data[key]), f"{data[key] / data['each']:.2f}"]
        for key, label in [
            ("each", "a token"),
            ("api_key", "an API key"),
            ("certificate", "a token that is bound to a certificate (`x5t#S256`)"),
            ("proof", "a token that is bound to a key, and a proof by ES256 that is new for each check (DPoP)"),
            ("refused", "another forged token each time, from a network that is banned automatically: refused unverified"),
        ]
        if key in data
    ]
    each = f"\nUser instructions of a hot check without a body, counted with callgrind: {shown(data['each'])}.\n"
    return how(data) + each + ("\n" + table(["with", "user instructions", "of those with a token"], rows) if "proof" in data else "")


def proxied(data, labels, parts, alone=None):
    """The table of contestants behind a proxy. `parts`: the names of the servers whose CPU time was counted, by contestant."""
    rounds, rows = data["rounds"], []
    for name, label in labels.items():
        cpu = [spread(values(rounds, name, index), 1) for index, _ in enumerate(parts.get(name, []))]
        spent = ", ".join(f"{part} {figure}" for part, figure in zip(parts.get(name, []), cpu))
        row = [label, spread(values(rounds, name, "rps"))]
        if alone:
            row += [spread(ratios(rounds, name, alone, "rps"), 2)]
        row += [spread(values(rounds, name, key)) for key in ["p50_us", "p99_us"]]
        row += [spread(values(rounds, name, f"open_{key}")) for key in ["p50_us", "p99_us", "p999_us"]]
        rows.append([*row, spent])
    even = f"{data['rate']}/s: "
    head = ["32 connections", "requests/s", *(["over alone"] if alone else []), "p50 us", "p99 us", even + "p50 us", "p99 us", "p99.9 us", "CPU us a request"]
    return how(data) + "\n" + table(head, rows)


def plotted(name, title, data, labels):
    groups = [(label, [("requests/s", *low_mid_high(values(data["rounds"], key, "rps")))]) for key, label in labels.items()]
    return drawing(name, title, "requests/s, 32 connections, one core for the proxy", groups)


def summary(data):
    """Returns the figures that open the page: what Tollgate adds to a request behind Envoy, at an even rate."""
    rounds = data["rounds"]

    def added(name, key):
        # The difference of the figures that the table below prints.
        return round(statistics.median(values(rounds, name, key))) - round(statistics.median(values(rounds, "alone", key)))

    def cpu(name, index):
        return f"{statistics.median(values(rounds, name, index)):.1f} us"

    grpc, noop = ([added(name, key) for key in ["open_p50_us", "open_p99_us"]] for name in ["grpc", "noop"])
    p99, bare = (spread(values(rounds, name, "open_p99_us")) for name in ["grpc", "alone"])
    return (
        f"**Tollgate adds {grpc[0]} us at p50 and {grpc[1]} us at p99 behind Envoy, at this load**: {data['rate']} requests a second at an even "
        "rate on one Envoy worker, a token seen before, a model read from the body, two limits in memory. An external check that does nothing "
        f"(the stock no-op) adds {noop[0]} us and {noop[1]} us. The p99 of single rounds varies: {p99} us with Tollgate, {bare} us without a "
        f"check. CPU of a request: Envoy {cpu('grpc', 0)} ({cpu('alone', 0)} without a check), Tollgate {cpu('grpc', 1)}."
    )


def envoy(data):
    rounds = data["rounds"]
    labels = {
        "alone": "Envoy alone",
        "jwt": "Envoy, jwt_authn",
        "jwt-cache": "Envoy, jwt_authn with its cache",
        "noop": "Envoy, stock no-op over gRPC",
        "grpc": "Envoy, Tollgate over gRPC",
        "lean": "Envoy, Tollgate over gRPC, two identity headers",
        "budget": "Envoy, Tollgate over gRPC, two identity headers, a token budget",
        "twice": "Envoy, Tollgate over gRPC, the head first",
        "http": "Envoy, Tollgate over HTTP",
        "module": "Envoy, Tollgate inside of it",
        "module-lean": "Envoy, Tollgate inside of it, two identity headers",
        "module-leased": "Envoy, Tollgate inside of it, two identity headers, leases of Redis",
        "native": "Envoy's own filters, `local_ratelimit`",
        "native-redis": "Envoy's own filters, a rate limit service and Redis",
        "grpc-redis": "Envoy, Tollgate over gRPC, two identity headers, Redis in each check",
        "module-redis": "Envoy, Tollgate inside of it, two identity headers, Redis in each check",
    }
    # Results of an earlier version have fewer contestants.
    labels = {name: label for name, label in labels.items() if name in rounds[0]}
    parts = {name: ["Envoy"] for name in labels} | {name: ["Envoy", "check"] for name in ["noop", "grpc", "lean", "budget", "twice", "http", "native-redis", "grpc-redis"]}
    at_least("Envoy and Tollgate, the head first (default only above): requests/s over one check", 0.9, ratios(rounds, "twice", "grpc", "rps"))
    at_least("Envoy and Tollgate: requests/s over Envoy and a no-op check", 0.95, ratios(rounds, "grpc", "noop", "rps"))
    if "lean" in labels:
        at_least("Envoy and Tollgate, two identity headers: requests/s over Envoy and a no-op check", 0.95, ratios(rounds, "lean", "noop", "rps"))
        at_least("Envoy and Tollgate, two identity headers, a token budget: requests/s over Envoy and a no-op check", 0.95, ratios(rounds, "budget", "noop", "rps"))
    at_least("Envoy and Tollgate: requests/s over jwt_authn without cache", 0.95, ratios(rounds, "grpc", "jwt", "rps"))
    if "native" in labels:
        at_least("Tollgate inside of Envoy: requests/s over a sidecar", 1.5, ratios(rounds, "module", "grpc", "rps"))
        at_least("Tollgate inside of Envoy, two identity headers: requests/s over jwt_authn with its cache", 0.85, ratios(rounds, "module-lean", "jwt-cache", "rps"))
        # The filters send two headers as well.
        at_least("Tollgate inside of Envoy, two identity headers: requests/s over Envoy's own filters", 1.2, ratios(rounds, "module-lean", "native", "rps"))
        at_least("Tollgate inside of Envoy, two identity headers, Redis in each check: requests/s over Envoy's own filters with a rate limit service", 1.2, ratios(rounds, "module-redis", "native-redis", "rps"))
    at_most("Envoy and Tollgate: p99 over jwt_authn without cache", 1.15, ratios(rounds, "grpc", "jwt", "p99_us"))
    return proxied(data, labels, parts, "alone") + plotted("envoy", "Requests a second behind Envoy", data, labels)


def envoy_instructions(data):
    each = data["each"]
    labels = {
        "alone": "Envoy alone",
        "jwt-cache": "jwt_authn with its cache",
        "native": "Envoy's own filters, `local_ratelimit`",
        "module": "Tollgate inside of it",
        "module-lean": "Tollgate inside of it, two identity headers",
        "grpc": "Tollgate over gRPC, without the sidecar",
    }
    at_most("Tollgate inside of Envoy, two identity headers: user instructions added to a request (callgrind)", 65_000, [each["module-lean"] - each["alone"]], "", 0)
    rows = [[label, number(each[name]), number(each[name] - each["alone"]) if name != "alone" else "-"] for name, label in labels.items()]
    return how(data) + "\n" + table(["user instructions of Envoy", "a request", "added"], rows)


def nginx(data):
    labels = {"alone": "nginx alone", "auth_request": "nginx, `auth_request`", "njs": "nginx, njs"}
    parts = {name: ["nginx", "Tollgate"] for name in labels} | {"alone": ["nginx"]}
    at_least("nginx auth_request with policy: requests/s over nginx alone", 0.62, ratios(data["rounds"], "auth_request", "alone", "rps"))
    plain = {name: label.replace("`", "") for name, label in labels.items()}
    return proxied(data, labels, parts, "alone") + plotted("nginx", "Requests a second behind nginx", data, plain)


def tutorial(data):
    rounds = data["rounds"]
    labels = {
        "app": "the app alone",
        "middleware": "the app with its own middleware",
        "app-tollgate": "Envoy and Tollgate in front of the app",
        "check-tutorial": "Envoy calls FastAPI and PyJWT",
        "check-tollgate": "Envoy calls Tollgate",
    }
    parts = {
        "app": ["app"],
        "middleware": ["app"],
        "app-tollgate": ["Envoy", "Tollgate", "app"],
        "check-tollgate": ["Tollgate", "Envoy"],
        "check-tutorial": ["FastAPI", "Envoy"],
    }
    at_least("Envoy calls Tollgate: requests/s over FastAPI and PyJWT", 2.5, ratios(rounds, "check-tollgate", "check-tutorial", "rps"))
    at_most("Envoy calls Tollgate: CPU of the check over FastAPI and PyJWT", 0.04, ratios(rounds, "check-tollgate", "check-tutorial", 0), digits=3)
    pod = ratios(rounds, "app-tollgate", "middleware", "rps")
    note = f"\nOn one core, Envoy and Tollgate in front of the app serve {spread(pod, 2)} times as many requests as the app with its middleware.\n"
    return proxied(data, labels, parts) + note + plotted("tutorial", "Beside FastAPI and PyJWT", data, labels)


def allocations(data):
    at_most("heap allocations of a hot check, beyond the transport's", 12, [data["hot"] - data["public"]], "", 0)
    return (
        how(data)
        + f"\nHeap allocations of one hot check, counted: {data['hot']:.0f} from the first byte to the last, the transport included; "
        + f"{data['public']:.0f} of these occur for a public route too.\n"
    )


def number(value):
    return f"{value:,.0f}".replace(",", " ")


def ran(data):
    """Returns the command and the machine of a run that has no rounds."""
    return how(data).partition(" Median")[0] + "\n"


def accuracy(data):
    totals, real = data["totals"], data["llama"]
    result = table(["", "must be", "measured"], [
        ["overspend: samples in which spent and held are above a limit, or a tenant's tokens at the server", "0", number(data["overspends"])],
        ["undercount: tokens that the server counted and that are not charged", "0", number(totals["undercount"])],
        ["phantom holds, after the last expiry", "0", number(data["phantoms"])],
        ["false denials", "0", number(totals["false_denials"])],
        ["llama.cpp: tokens charged, and those of its own counters", "not less", f"{number(real['charged'])}, {number(real['own'])}" if real else "-"],
    ])
    seen = (
        f"\n{number(totals['requests'])} requests of {data['clients']} clients in {data['seconds']:g} s: {number(totals['complete'])} complete, {number(totals['cut'])} cut, "
        f"{number(totals['denied'])} denied, {number(totals['refused'])} refused, {number(totals['unanswered'])} without an answer while one replica was gone for {data['outage']:.1f} s. "
        f"{number(data['samples'])} samples of all counters; {data['budgets']} budgets of 5 000 tokens were used up, the fullest counter was at {data['fullest']:.1%}. "
        f"`metering.life` {data['life']} s, reports every {data['flush']} s.\n"
    )
    dearer = (
        f"\nCharged more than the server counted: {number(totals['overcount'])} tokens, of requests that were cut or had no usage; and {number(totals['lost_tokens'])} of "
        f"{number(totals['lost'])} requests whose entries were lost with the replica. {number(data['replayed'])} entries were sent to the access log again and changed nothing, "
        f"{number(data['forged'])} with other reservations were refused. Of {number(totals['running'])} streams that counted each event and were cut, "
        f"the server had produced {number(totals['running_short'])} tokens beyond the last count, at most {number(totals['running_most'])} of one. "
        f"At a server that does not notice that its clients are gone, up to {number(data['deaf'])} requests of a limit of {data['deaf_limit']} at once were in flight.\n\n"
    )
    rows = [
        [name, *(number(row[key]) for key in ("requests", "complete", "cut", "denied", "tokens", "charged")), {"running": "-"}.get(row["expected"], number(row["less"]))]
        for name, row in data["rows"].items()
    ]
    head = ["requests", "sent", "complete", "cut", "denied", "tokens of the server", "charged", "not charged"]
    return ran(data) + "\n" + result + seen + dearer + table(head, rows)


def failover(data):
    rows = [
        [str(index), f"{row['lag']:.2f} s", number(row["requests"]), number(row["within"]), number(row["bound"]), f"{number(row['loss'])} ({number(row['lost'])})", f"{number(row['dearer_tokens'])} ({number(row['dearer'])})", number(row["phantoms"]), f"{max(row['again'], 0):.1f} s"]
        for index, row in enumerate(data["rows"], 1)
    ]
    head = ["failover", "writes lost", "requests", "began and ended within", "their tokens: the bound", "not charged (requests)", "charged as expired, beyond the usage", "phantom holds", "admitted again after"]
    note = f"\nTen clients, `metering.life` {data['life']} s, reports every {data['flush']} s. Streams that are charged their last count when they are cut are left out.\n"
    return ran(data) + "\n" + table(head, rows) + note


def metering(data):
    rounds = data["rounds"]
    labels = {"plain": "`envoy.yaml`, a rate", "metered": "`envoy-metered.yaml`, tokens and slots", "each": "the same, usage in each event"}
    rows = []
    for name, label in labels.items():
        added = [a - b for a, b in zip(values(rounds, name, "event_us"), values(rounds, "plain", "event_us"))]
        row = [label, spread(values(rounds, name, "event_us"), 1), "-" if name == "plain" else spread(added, 1)]
        if name == "each":
            row += ["-"] * 3
        else:
            more = [a - b for a, b in zip(values(rounds, name, "request_us"), values(rounds, "plain", "request_us"))]
            row += [spread(values(rounds, name, "request_us"), 1), "-" if name == "plain" else spread(more, 1), spread(values(rounds, name, "check_us"), 1)]
        rows.append(row)
    head = ["", "Envoy CPU us an event", "added", "Envoy CPU us a request", "added", "Tollgate CPU us a request"]
    calls = data["redis"]
    counted = (
        f"\nInstructions of the sidecar behind Envoy, counted with callgrind: {number(data['instructions']['plain'])} a request with a rate, {number(data['instructions']['metered'])} with "
        f"a limit on tokens and one on requests at once, its settlement included. Calls of Redis for each of those, check and settlement: {calls['1']:.2f} with one request at a time, "
        f"{calls['32']:.2f} with 32.\n"
    )
    return how(data) + "\n" + table(head, rows) + counted


def ledger(data):
    rounds, labels = data["rounds"], {"without": "without a ledger", "ledger": "with a ledger"}
    columns = [("tollgate_us", 1), ("redis_us", 1), ("calls", 2)]
    rows = [[labels[name], *(spread(values(rounds, name, key), digits) for key, digits in columns)] for name in labels]
    head = ["", "Tollgate CPU us a request", "Redis CPU us a request", "script calls of Redis a request"]
    note = f"\nChecks and settlements included, {data['in_flight']} requests at once. A record takes {number(round(data['bytes']))} bytes of Redis in its chain.\n"
    return how(data) + "\n" + table(head, rows) + note


SECTIONS = {
    "accuracy": accuracy,
    "failover": failover,
    "metering": metering,
    "ledger": ledger,
    "wire": wire,
    "cold": cold,
    "redis": redis,
    "footprint": footprint,
    "size": size,
    "revocations": revocations,
    "steady": steady,
    "attack": attack,
    "soak": soak,
    "instructions": instructions,
    "allocations": allocations,
    "envoy": envoy,
    "envoy_instructions": envoy_instructions,
    "nginx": nginx,
    "tutorial": tutorial,
}


def replaced(page, name, text):
    """The page with the text between a section's markers replaced."""
    start, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    if page.count(start) != 1 or page.count(end) != 1:
        raise measure.Failed(f"the page should have `{start}` and `{end}` once each")
    return re.sub(re.escape(start) + ".*?" + re.escape(end), lambda _: f"{start}\n{text.strip()}\n{end}", page, flags=re.S)


def write():
    page, accurate, missing = PAGE.read_text(), ACCURACY.read_text(), []
    for name, section in SECTIONS.items():
        if not (data := measure.load(name)):
            missing.append(name)
        elif section in (accuracy, failover):
            accurate = replaced(accurate, name, section(data))
        else:
            page = replaced(page, name, section(data))
    rows = [[what, wanted, found, "met" if met else "**missed**"] for what, wanted, found, met in TARGETS]
    if data := measure.load("envoy"):
        page = replaced(page, "summary", summary(data))
    if rows:
        page = replaced(page, "targets", table(["", "target", "measured", ""], rows))
    PAGE.write_text(page)
    ACCURACY.write_text(accurate)
    for what, wanted, found, met in TARGETS:
        print(f"{'met   ' if met else 'MISSED'} {what}: {wanted}, measured {found}")
    if missing:
        measure.say(f"not measured here, left as they are: {' '.join(missing)}")


if __name__ == "__main__":
    measure.main(write)
