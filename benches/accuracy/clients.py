"""The clients: each sends one request after the other, of every kind in turn."""

import asyncio
import itertools
import json
import os
import time
from collections import Counter

from audit import Call, is_answered_as_expected, usage_of
from kinds import KINDS, LLAMA, RUNNING, SDK_CALLS, Kind
from system import BUDGETS, token
from wire import post

#: The requests after which another small budget is used.
OF_A_BUDGET = 30
#: The requests of each kind that have to end as they should.
ENOUGH = 2


class Fleet:
    """All clients of a run, and their calls."""

    def __init__(self, replicas, upstream, llama=None):
        self.replicas, self.upstream, self.llama = replicas, upstream, llama
        self.calls, self.numbers, self.tight = [], itertools.count(1), itertools.count()
        #: The run ends after so many seconds, when each kind has ended as it should.
        self.until, self.latest, self.ended = 0.0, 0.0, Counter()

    def goes_on(self):
        now = time.time()
        return now < self.until or (now < self.latest and self.missing() != [])

    def missing(self):
        """The kinds of which too few requests have ended as they should: a run that tries nothing finds nothing."""
        wanted = KINDS + RUNNING + (LLAMA if self.llama else [])
        missing = [kind.name for kind in wanted if self.ended[kind.name] < ENOUGH]
        return missing + (["denial"] if self.ended["denial"] < ENOUGH else [])

    def tenant(self, kind, client):
        if kind.tenants == "tight":
            return f"tight-{min(next(self.tight) // OF_A_BUDGET, BUDGETS - 1)}"
        return f"{kind.tenants}-{client % 4 if kind.tenants == 'roomy' else 0}"

    def begin(self, kind, client, replica):
        number = next(self.numbers)
        tenant = self.tenant(kind, client)
        call = Call(number, kind, tenant, token(tenant, number), replica.name, time.time())
        self.calls.append(call)
        return call

    def headers(self, call):
        return {"x-number": str(call.number), "x-script": json.dumps(call.kind.script)}

    async def send(self, kind, client, replica, port=None):
        """One request with its attempts."""
        call = self.begin(kind, client, replica)
        # Of one length for each kind, so that all of them hold the same.
        prompt = f"request {call.number:08} of client {client:04} " * 4
        headers = {"authorization": f"Bearer {call.credential}", **self.headers(call)}

        async def cut(events):
            if kind.cut == 0 and events == -1:
                await asyncio.wait_for(self.upstream.arrival(call.number), 5)
                return True
            return kind.cut and events >= kind.cut

        for _ in range(kind.attempts):
            try:
                reply = await post(port or replica.port, f"/v1/{kind.api}", headers, kind.text(prompt), cut if kind.cut is not None else None)
            except TimeoutError:
                break  # It did not reach the server: it was refused, or the replica was gone.
            call.status, call.headers, call.is_complete = reply.status, reply.headers, reply.is_complete
            call.running, call.usage = reply.running, usage_of(reply.body) if reply.status == 200 else None
            call.reason = reason_of(reply.body) if reply.status not in (0, 200) else ""
            if reply.status != 500:
                break
        call.ended = time.time()
        self.ended[kind.name] += is_answered_as_expected(call)
        self.ended["denial"] += call.is_denied
        return call

    async def client(self, client):
        """Sends requests until the run ends. Each client begins with another kind."""
        kinds = [kind for kind in KINDS + RUNNING if kind.tenants != "slots"]
        replica = self.replicas[client % len(self.replicas)]
        for turn in itertools.count(client * 5):
            if not self.goes_on():
                return
            call = await self.send(kinds[turn % len(kinds)], client, replica)
            if call.status in (0, 429, 500, 503, 403) and call.kind.cut is None:
                await asyncio.sleep(0.02)

    async def crowd(self, client, name):
        """Sends requests of the kinds whose names begin so, as fast as they are answered: these share small limits."""
        # A replica that is gone reports no progress, and a place whose response goes on would be free after its life.
        replica = self.replicas[-1 if name == "slots" else client % len(self.replicas)]
        kinds = [kind for kind in KINDS if kind.tenants == name]
        for turn in itertools.count(client):
            if not self.goes_on():
                return
            call = await self.send(kinds[turn % len(kinds)], client, replica)
            await asyncio.sleep(0.1 if call.is_denied else 0.02)

    async def llama_client(self, client):
        """Sends requests to the real server."""
        replica = self.replicas[-1]
        for turn in itertools.count(client):
            if not self.goes_on():
                return
            await self.send(LLAMA[turn % len(LLAMA)], client, replica, replica.envoys["llama"][1])

    async def sdk_client(self, client, sdks):
        """Calls the official clients."""
        replica = self.replicas[client % len(self.replicas)]
        calls = [one for one in SDK_CALLS if one[0] in sdks]
        for turn in itertools.count(client):
            if not calls or not self.goes_on():
                return
            sdk, method, arguments, script = calls[turn % len(calls)]
            expected = "at least" if script.get("act") else "exact"
            kind = Kind(f"`{sdk}`: {method}{', streamed' if arguments.get('stream') else ''}{', 500 and a second attempt' if script.get('act') else ''}", script=script, expected=expected, attempts=3)
            call = self.begin(kind, client, replica)
            await sdk_call(call, sdk, method, {"model": "m", **arguments}, f"http://127.0.0.1:{replica.port}", self.headers(call))
            call.ended = time.time()


def reason_of(body):
    try:
        error = json.loads(body)["error"]
        return error.get("code") or error.get("type") or ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return body[:80].decode("latin-1")


def clean_environment():
    """No variable of the surroundings changes what an SDK sends."""
    for variable in list(os.environ):
        if variable.startswith(("OPENAI_", "ANTHROPIC_")) or variable.lower().endswith("_proxy"):
            del os.environ[variable]


async def sdk_call(call, sdk, method, arguments, url, headers):
    """One call of an official client. It retries where the server fails once, as it does by default."""
    import openai

    question = [{"role": "user", "content": "Say hello, in many words."}]
    if method in ("chat.completions", "messages"):
        arguments["messages"] = question
    if method == "responses":
        arguments["input"] = question
    retries = openai.DEFAULT_MAX_RETRIES if call.kind.script.get("act") else 0
    if sdk == "openai":
        failures, client = openai, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=call.credential, max_retries=retries)
    else:
        import anthropic

        failures, client = anthropic, anthropic.AsyncAnthropic(base_url=url, auth_token=call.credential, max_retries=retries)
    target = client
    for name in method.split("."):
        target = getattr(target, name)
    try:
        answer = await target.create(extra_headers=headers, **arguments)
        if arguments.get("stream"):
            async for _ in answer:
                pass
        call.status, call.is_complete = 200, True
    except failures.APIStatusError as error:
        call.status, call.headers, call.reason = error.status_code, dict(error.response.headers), str(error)[:120]
    except failures.APIError as error:
        call.reason = str(error)[:120]
    finally:
        await client.close()
