"""What is compared: samples of the counters during the run, and every charge with the server's ledger after it."""

import asyncio
import bisect
import dataclasses
import json
import time

from kinds import Kind
from system import DEAF, MINUTE, SLOTS, TIGHT, charge, snapshot

BUCKET = 1
#: The seconds for which a check may still run, and an entry may still be on its way, after the client has its answer.
DELAY = 5


@dataclasses.dataclass
class Call:
    """One request of a client, with all of its attempts."""

    number: int
    kind: Kind
    tenant: str
    credential: str
    replica: str
    began: float
    ended: float = 0.0
    status: int = 0
    headers: dict = dataclasses.field(default_factory=dict)
    is_complete: bool = False
    #: The last usage that the client got in an event, or in the response.
    running: int = 0
    usage: int | None = None
    reason: str = ""
    charged: int = 0

    @property
    def is_denied(self):
        return self.status == 429


class Sampler:
    """Reads all counters, again and again, and compares them with their limits."""

    def __init__(self, redis, ledger, pause):
        self.redis, self.ledger, self.pause = redis, ledger, pause
        self.samples, self.production, self.problems, self.orphans = [], [], [], []
        self.limits, self.fullest = {}, {}
        self.count = 0

    async def run(self):
        while True:
            try:
                self.take(await snapshot(self.redis))
            except (OSError, EOFError):
                pass
            await asyncio.sleep(self.pause)

    def take(self, found):
        self.count += 1
        self.limits |= found["limits"]
        now, levels = found["now"], {}
        for key, (spent, held) in found["counts"].items():
            if key not in self.limits:
                continue
            kind, first, second = self.limits[key]
            level = spent + held
            limit = first
            if kind == BUCKET:
                level, limit = max(spent - now, 0) / first + held, second
            levels[key] = (level, limit)
            self.fullest[key] = max(self.fullest.get(key, 0), level / limit)
            if level > limit + (1 if kind == BUCKET else 0):
                self.problems.append(f"{key} has {level} of {limit}")
            if held != found["open"].get(key, 0):
                self.orphans.append(f"{key} holds {held}, and its open reservations {found['open'].get(key, 0)}")
        produced = dict(self.ledger.produced)
        self.samples.append((now / 1e6, levels))
        self.production.append((time.time(), produced))
        for tenant, tokens in produced.items():
            if tenant.startswith("tight") and tokens > size_of(tenant):
                self.problems.append(f"the server produced {tokens} tokens for {tenant}, of {size_of(tenant)}")

    def rate_problems(self):
        """In no time may a bucket's tenants produce more than its size and what flows in meanwhile."""
        lowest = {}
        for at, produced in self.production:
            for tenant, tokens in produced.items():
                if not tenant.startswith("minute"):
                    continue
                excess = tokens - MINUTE / 60 * at
                lowest[tenant] = min(lowest.get(tenant, excess), excess)
                if excess - lowest[tenant] > MINUTE + 1:
                    yield f"the server produced {excess - lowest[tenant]:.0f} tokens for {tenant} beyond the flow of a bucket of {MINUTE}"

    def could_fit(self, call, hold, calls):
        """Whether the hold of a denied call fitted, whatever was decided first: what was spent and held in the sample before it, and all
        that other calls of its tenant may have taken until its answer, leave room."""
        limit = size_of(call.tenant)
        index = bisect.bisect_left(self.samples, call.began, key=lambda sample: sample[0]) - 1
        if index < 0:
            return False
        at, levels = self.samples[index]
        # No sample has a counter that was not used before.
        level = next((level for level, size in levels.values() if size == limit), 0)
        others = sum(hold for other in calls if other is not call and other.began <= call.ended and other.ended >= at - DELAY)
        return level + others + hold <= limit


def size_of(tenant):
    """The size of the limit of a tenant that has a small one."""
    role, _, number = tenant.partition("-")
    return {"tight": TIGHT + int(number), "minute": MINUTE, "slots": SLOTS, "deaf": DEAF}[role]


class Outage:
    """When one replica was killed, and when it was ready again."""

    def __init__(self):
        self.replica, self.began, self.ended = None, 0.0, 0.0

    def may_have_lost(self, call, ledger):
        """Whether the entry of a call was on its way when the replica was killed, or found no replica."""
        if call.replica != self.replica:
            return False
        ends = [entry.ended or call.ended for entry in ledger.of(call.number)] or [call.ended]
        return call.began <= self.ended + DELAY and max([*ends, call.ended]) >= self.began - DELAY


async def settled(redis, life):
    """Waits until nothing is held, and returns how long it took; the holds that are left afterwards are phantoms."""
    began = time.monotonic()
    while (found := await snapshot(redis))["reservations"] and time.monotonic() < began + life + 20:
        await asyncio.sleep(0.2)
    return time.monotonic() - began, found


async def read_charges(redis, calls):
    """Sets what each call was charged, and returns the numbers of those that still hold something."""
    holding = []
    for call in calls:
        call.charged, held = await charge(redis, call.credential)
        if held:
            holding.append(call.number)
    return holding


def usage_of(body):
    """The tokens of a response, by what its client reads in it."""
    found, start = None, 0
    texts = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: {")] or [body]
    for text in texts:
        try:
            event = json.loads(text)
        except ValueError:
            continue
        if not isinstance(event, dict):
            continue
        outer = event.get("message") or event.get("response") or event
        usage = outer.get("usage") if isinstance(outer, dict) else None
        if not usage:
            continue
        parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        if event.get("type") == "message_start":
            start = sum(usage.get(part) or 0 for part in parts)
        elif event.get("type") == "message_delta":
            found = start + usage["output_tokens"]
        elif "total_tokens" in usage:
            found = usage["total_tokens"]
        else:
            found = sum(usage.get(part) or 0 for part in (*parts, "output_tokens"))
    return found


def judge(calls, ledger, outage, sampler, hold_of_tight):
    """Compares each call with the ledger. Returns the rows of the table by kind, the totals, and the sentences of what is wrong."""
    rows, problems = {}, []
    totals = dict.fromkeys(["requests", "complete", "cut", "denied", "refused", "unanswered", "tokens", "charged", "undercount", "overcount", "lost", "lost_tokens", "false_denials", "running_short", "running_most", "running"], 0)
    by_tenant = {}
    for call in calls:
        by_tenant.setdefault(call.tenant, []).append(call)
    for call in calls:
        used, kind = ledger.tokens(call.number), call.kind
        row = rows.setdefault(kind.name, {"requests": 0, "complete": 0, "cut": 0, "denied": 0, "ended": 0, "tokens": 0, "charged": 0, "less": 0, "more": 0, "expected": kind.expected})
        totals["requests"] += 1
        row["requests"] += 1
        lost = outage.may_have_lost(call, ledger)
        if call.is_denied:
            row["denied"] += 1
            totals["denied"] += 1
            if used or call.charged:
                problems.append(f"request {call.number} ({kind.name}) was denied, and used {used} and was charged {call.charged}")
            if verdict := false_denial(call, sampler, hold_of_tight, by_tenant[call.tenant]):
                totals["false_denials"] += 1
                problems.append(f"request {call.number} ({kind.name}) of {call.tenant}: {verdict}")
            continue
        if call.kind.tenants == "llama":
            used = call.usage if call.is_complete and call.usage else 0
        entries = ledger.of(call.number)
        is_cut = any(entry.ending == "cut" for entry in entries) or (kind.cut is not None and not call.is_complete)
        totals["cut" if is_cut else "complete" if call.is_complete and call.status == 200 else "refused" if call.status in range(400, 500) else "unanswered"] += 1
        row["cut"] += is_cut
        row["ended"] += is_answered_as_expected(call)
        row["complete"] += call.is_complete and call.status == 200 and not is_cut
        row["tokens"] += used
        row["charged"] += call.charged
        totals["tokens"] += used
        totals["charged"] += call.charged
        less, more = max(used - call.charged, 0), max(call.charged - used, 0)
        if kind.expected == "running" and is_cut:
            # The server may count further tokens until it notices; what its client got is a count that the proxy had, too.
            totals["running"] += 1
            totals["running_short"] += less
            totals["running_most"] = max(totals["running_most"], less)
            if call.charged < call.running:
                problems.append(f"request {call.number} ({kind.name}): its client had seen {call.running} tokens, {call.charged} are charged")
            continue
        row["less"] += less
        row["more"] += more
        totals["undercount"] += less
        if less:
            problems.append(f"request {call.number} ({kind.name}, status {call.status}): the server counted {used} tokens, {call.charged} are charged")
        if more and lost:
            totals["lost"] += 1
            totals["lost_tokens"] += more
        elif more and kind.expected != "at least" and not is_cut and not is_unanswered(call):
            totals["overcount"] += more
            problems.append(f"request {call.number} ({kind.name}, status {call.status}): the server counted {used} tokens, {call.charged} are charged, and no entry was lost")
        elif more:
            totals["overcount"] += more
        if not lost and not is_answered_as_expected(call) and not is_unanswered(call):
            problems.append(f"request {call.number} ({kind.name}) was answered with {call.status} {call.reason}")
    for tenant, peak in ledger.peak.items():
        if tenant.startswith("slots") and peak > SLOTS:
            problems.append(f"{peak} requests of {tenant} were in flight at the server, of {SLOTS}")
    return rows, totals, problems


def is_answered_as_expected(call):
    if call.kind.cut is not None or call.kind.script.get("act") == "breaks":
        return call.status in (0, 200)
    return call.status in range(400, 500) if call.kind.expected == "nothing" else call.status == 200


def is_unanswered(call):
    """Whether the chain had no time for the call: a busy machine, or a connection that ended. What its check may have held stands, and is
    charged when it expires."""
    return call.status in (0, 500, 502, 503, 504)


def false_denial(call, sampler, hold, calls):
    """Why a denial was wrong; None if it was right."""
    role = call.tenant.partition("-")[0]
    reasons = {"tight": "budget_exhausted", "minute": "budget_exhausted", "slots": "too_many_in_flight", "deaf": "too_many_in_flight"}
    if call.reason != reasons.get(role):
        return f"it was denied ({call.reason}) where no limit is near"
    if role in ("slots", "deaf"):
        return "a place was free" if sampler.could_fit(call, 1, calls) else None
    left = int(call.headers.get("x-ratelimit-remaining-tokens", "-1"))
    if left not in range(hold):
        return f"{left} tokens were left for a hold of {hold}"
    return f"the counters had room for its {hold} tokens" if sampler.could_fit(call, hold, calls) else None
