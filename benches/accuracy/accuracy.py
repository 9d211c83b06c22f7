"""What is charged, beside what the servers count themselves: many clients, real Envoys, two replicas on one Redis, one of them killed.

    make bench-accuracy                                   both runs; prints what is wrong, and writes docs/accuracy.md
    SECONDS=90 CLIENTS=16 FAILOVERS=3 make bench-accuracy
    ... benches/accuracy/accuracy.py --short DIR          a bounded run as a test: nothing is written; exits with 1 if something is wrong
    ... --short DIR --through nginx                       the same behind nginx with njs; `acknowledged`: Envoy with external processing

Every request has a token of its own with the claim `token_budget`, so that a counter of its own in Redis has what this request was
charged. The scripted server has a ledger of every token that it reads and produces. During the run, all counters and the open
reservations are read in one atomic step, again and again.
"""

import argparse
import asyncio
import json
import pathlib
import sys
import time

import audit
import clients
import failover
import measure
import servers
from kinds import KINDS, LLAMA, RUNNING
from system import DEAF, THROUGH, Replica, charge, forged, lowered, snapshot, start_redis, token
from upstream import Upstream
from wire import Redis, Relay, post


#: The seconds that a run may take longer on a busy machine, until each kind of requests has ended.
MOST_SECONDS = 90


async def until(what, condition, seconds=30):
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise servers.Failed(f"no {what} after {seconds} s")
        await asyncio.sleep(0.05)


async def hold_of_tight(fleet, redis):
    """What a request with a small budget holds, read while its answer arrives."""
    kind = next(kind for kind in KINDS if kind.tenants == "tight")
    number = next(fleet.numbers)
    credential = token("probe-0", number)
    held = []

    async def cut(events):
        if events > 0:
            spent, now_held = await charge(redis, credential)
            held.append(spent + now_held)
        return bool(held)

    headers = {"authorization": f"Bearer {credential}", "x-number": str(number), "x-script": json.dumps(kind.script)}
    reply = await post(fleet.replicas[0].port, f"/v1/{kind.api}", headers, kind.text(f"request {number:08} of client {0:04} " * 4), cut)
    if not held or not held[0]:
        raise servers.Failed(f"the first request was answered with {reply.status}: {reply.body[:300]!r}")
    return held[0]


async def hard(rig, program, upstream, options):
    """One run in hard mode. Returns what was measured, and the sentences of what is wrong."""
    _, socket = start_redis(rig)
    redis, watched = Redis(socket), Redis(socket)
    relay = Relay(str(rig.directory / "access-log-relay.sock"), str(rig.directory / "access-log-second.sock"))
    await relay.start()
    # Starting a program waits for it; the upstream and the relay run meanwhile.
    start = lambda *arguments, **more: asyncio.to_thread(Replica, rig, program, *arguments, through=options.through, **more)
    first = await start("first", socket, upstream.port, options.life, options.flush)
    second = await start("second", socket, upstream.port, options.life, options.flush, access_log=relay.path)
    fleet = clients.Fleet([first, second], upstream)
    llama = None
    if options.llama:
        llama = await asyncio.to_thread(rig.model, "--metrics")
        await asyncio.to_thread(second.envoy, "llama", llama, options.flush)
    # The stream of each access log begins with a small message, which is recorded as a whole.
    for replica in (first, second):
        await fleet.send(KINDS[0], 0, replica)
    hold = await hold_of_tight(fleet, redis)
    sampler = audit.Sampler(watched, upstream.ledger, options.pause)
    sampling = asyncio.create_task(sampler.run())
    outage = audit.Outage()
    fleet.llama = llama
    fleet.until = time.time() + options.seconds
    fleet.latest = fleet.until + MOST_SECONDS
    tasks = [fleet.client(number) for number in range(options.clients)]
    tasks += [fleet.crowd(number, name) for name in ("tight", "minute", "slots") for number in range(4)]
    tasks += [fleet.sdk_client(number, options.sdks) for number in range(2)]
    tasks += [fleet.llama_client(0)] if llama else []
    running = asyncio.gather(*tasks)
    await asyncio.sleep(options.seconds * 0.4)
    outage.replica, outage.began = first.name, time.time()
    first.kill()
    await asyncio.sleep(1.5)
    first.start()
    await asyncio.to_thread(first.ready)
    outage.ended = time.time()
    await running
    # nginx sends each report until it is taken, and no stream of it can be recorded.
    if options.through != "nginx":
        await replay(second, relay)
    problems = []
    waited, left = await audit.settled(redis, options.life)
    sampling.cancel()
    sampler.take(await snapshot(redis))
    holding = await audit.read_charges(redis, fleet.calls)
    phantoms = left["reservations"] + len(holding) + sum(held != 0 for _, held in left["counts"].values()) + len(sampler.orphans)
    if phantoms:
        problems.append(f"{waited:.0f} s after the last response, {left['reservations']} reservations are open, and {len(holding)} requests hold tokens")
    rows, totals, wrong = audit.judge(fleet.calls, upstream.ledger, outage, sampler, hold)
    order = [kind.name for kind in KINDS + RUNNING + LLAMA]
    rows = dict(sorted(rows.items(), key=lambda row: order.index(row[0]) if row[0] in order else len(order)))
    rates = list(sampler.rate_problems())
    overspends = len(sampler.problems) + len(rates)
    problems += wrong + sampler.problems + sampler.orphans + rates
    problems += [f"no request of the kind `{name}` has ended as it should" for name in fleet.missing()]
    if not any(level > 0.9 for level in sampler.fullest.values()) or not totals["denied"]:
        problems.append("no limit was nearly used up, so that nothing was tried")
    real = await of_llama(fleet, llama, problems) if llama else None
    deaf = upstream.ledger.peak.get("deaf-0", 0)
    await relay.stop()
    data = {
        "rows": rows, "totals": totals, "samples": sampler.count, "fullest": max(sampler.fullest.values(), default=0), "overspends": overspends, "phantoms": phantoms, "clients": len(tasks),
        "seconds": options.seconds, "life": options.life, "flush": options.flush, "hold": hold, "llama": real, "outage": outage.ended - outage.began, "deaf": deaf, "deaf_limit": DEAF,
        "budgets": len([1 for tenant in upstream.ledger.produced if tenant.startswith("tight")]), "replayed": second.metric("tollgate_settlements_total", 'result="repeated"'),
        "forged": second.metric("tollgate_report_problems_total", 'problem="forged"'),
    }
    return data, problems


async def replay(replica, relay):
    """Sends what Envoy sent to one replica once more: as it was, with lower numbers, and with forged reservations."""
    repeated = lambda: replica.metric("tollgate_settlements_total", 'result="repeated"')
    refused = lambda: replica.metric("tollgate_report_problems_total", 'problem="forged"')
    known, bad = repeated(), refused()
    open_connections = [writer for change in (bytes, lowered, forged) for writer in await relay.replay(change)]
    await until("replayed entry", lambda: repeated() > known)
    await until("forged entry", lambda: refused() > bad)
    for writer in open_connections:
        writer.close()


async def of_llama(fleet, port, problems):
    """The real server's own counters beside the sum of what its requests were charged."""
    import urllib.request

    def counters():
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read().decode()
        values = dict(line.split(" ") for line in text.splitlines() if line.startswith("llamacpp:"))
        return int(float(values["llamacpp:prompt_tokens_total"])) + int(float(values["llamacpp:tokens_predicted_total"]))

    own = await asyncio.to_thread(counters)
    calls = [call for call in fleet.calls if call.tenant.startswith("llama")]
    charged = sum(call.charged for call in calls)
    complete = sum(call.is_complete and call.status == 200 for call in calls)
    if charged < own:
        problems.append(f"llama.cpp counted {own} tokens, {charged} are charged")
    if not complete:
        problems.append("llama.cpp has answered no request")
    return {"requests": len(calls), "complete": complete, "own": own, "charged": charged}


def report(data, problems):
    totals = data["totals"]
    print(
        f"accuracy: {totals['requests']} requests ({totals['complete']} complete, {totals['cut']} cut, {totals['denied']} denied, {totals['refused']} refused, {totals['unanswered']} unanswered), "
        f"{data['samples']} samples; overspend {data['overspends']}, undercount {totals['undercount']}, phantom holds {data['phantoms']}, false denials {totals['false_denials']}, "
        f"lost entries {totals['lost']}, repeated {data['replayed']:.0f}, forged {data['forged']:.0f}, running short {totals['running_short']} of {totals['running']} (most {totals['running_most']})"
    )
    for problem in problems[:40]:
        print(f"WRONG: {problem}")
    if len(problems) > 40:
        print(f"WRONG: and {len(problems) - 40} more")


async def short(options):
    """The bounded run."""
    clients.clean_environment()
    upstream = await Upstream().start()
    with servers.Rig(options.short) as rig:
        data, problems = await hard(rig, options.program, upstream, options)
    await upstream.stop()
    report(data, problems)
    return problems


async def whole(options):
    clients.clean_environment()
    found = {}
    with servers.Rig(measure.DIR) as rig:
        upstream = await Upstream().start()
        data, problems = await hard(rig, options.program, upstream, options)
        report(data, problems)
    losses, wrong = await failover.measure_all(options)
    return {**data, "problems": problems}, losses, problems + wrong


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--short", type=pathlib.Path, help="a bounded run, with its files in this directory")
    arguments.add_argument("--program", help="the program; it is built if none is given")
    arguments.add_argument("--through", choices=THROUGH, default="envoy", help="the proxy before each replica")
    options = arguments.parse_args()
    if options.short:
        options.seconds, options.clients, options.life, options.flush, options.pause = 10, 12, 5, 1, 0.1
        options.llama, options.sdks = False, ["openai"]
        sys.exit(1 if asyncio.run(short(options)) else 0)
    import gates
    import report as page

    gates.clear()
    options.program = options.program or servers.ROOT / servers.build(measure.PROFILE)
    options.seconds, options.clients, options.life, options.flush, options.pause = measure.number("SECONDS", 90), measure.number("CLIENTS", 16), 30, 10, 0.05
    options.llama, options.sdks = True, ["openai", "anthropic"]
    options.failovers, options.failover_seconds = measure.number("FAILOVERS", 3), 12
    hard_mode, losses, problems = asyncio.run(whole(options))
    measure.save("accuracy", "make bench-accuracy", hard_mode)
    measure.save("failover", "make bench-accuracy", losses)
    page.write()
    if problems:
        raise servers.Failed(f"{len(problems)} results are wrong, see above")


if __name__ == "__main__":
    measure.main(main)
