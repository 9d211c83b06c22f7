"""Tollgate alone, beside the stock server's empty answer: what `make bench` measures.

    make bench                       every section, under 15 minutes on two cores
    SECTIONS="wire cold" make bench  only these; the others keep what they measured last
    ROUNDS=7 SECONDS=0.8 make bench  rounds, and the length of each measurement

Sections: wire (in flight, transports), cold (unknown tokens, bad tokens), redis, footprint (memory, start), size (of the policy), revocations,
steady (latency while everything is reloaded), attack (latency while one client sends large bodies), allocations. `SECTIONS=soak MINUTES=10` is not among them by default.

Contestants of a section take turns within each round, in another order each time, and a ratio is taken within a round, so that
what else the machine does falls on all of them. The server has one core for itself, load and Redis share the other.
"""

import json
import os
import re
import socket
import statistics
import subprocess
import threading
import time
import urllib.request

import gates
import measure
import report
import servers
from gates import Gate, Noop
from measure import DIR, LOAD_CORE, SERVER_CORE, on_core

ROUNDS = measure.number("ROUNDS", 7)
SECONDS = measure.number("SECONDS", 0.8)
IN_FLIGHT = [1, 16, 64, 256]
TRANSPORTS = ["unix", "tcp"]
BODY = ["--body", 4096]
TOKENS = 2000
COLD = 6000
MANY = 100_000
ALGORITHMS = ["RS256", "ES256", "EdDSA"]


def cell(*parts):
    return "|".join(str(part) for part in parts)


def redis_server(rig):
    """Redis on the load's core; returns it and its socket."""
    return gates.redis_server(rig, LOAD_CORE)


def primed(tool, gate, file, *more):
    """The gate, after it has seen every token once: what is hot has to be hot from the first round on."""
    measure.check(tool, gate.address, file, gate.server, "--once", *more)
    return gate


def dropped(gate):
    """Audit lines that found no room: each is work that was saved and should not have been."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{gate.ops}/metrics", timeout=5).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("tollgate_audit_dropped_total"))


def wire(program, tool, tokens):
    """Throughput, latency and CPU of each contestant on both transports, with 1 to 256 checks in flight."""
    file = tokens.file("RS256", TOKENS)
    with servers.Rig(DIR) as rig:
        contestants = {}
        for transport in TRANSPORTS:
            start = lambda name, text: Gate(rig, program, f"{name}-{transport}", text, transport)
            hot = lambda name, body: primed(tool, start(name, gates.policy(tokens.jwks, body)), file, *(BODY if body else []))
            contestants["noop", transport] = Noop(rig, tool, f"noop-{transport}", transport), []
            contestants["noop-body", transport] = contestants["noop", transport][0], BODY
            contestants["own", transport] = start("own", gates.PUBLIC), []
            contestants["hot", transport] = hot("hot", False), []
            contestants["hot-body", transport] = hot("hot-body", True), BODY
        cells = {cell(*name, count): (*asked, count) for name, asked in contestants.items() for count in IN_FLIGHT}

        def one(name):
            contestant, more, count = cells[name]
            return measure.check(tool, contestant.address, file, contestant.server, *more, in_flight=count, seconds=SECONDS)

        found = measure.rounds(ROUNDS, cells, one)
        lost = sum(dropped(gate) for gate, _ in contestants.values() if isinstance(gate, Gate))
    return {"rounds": found, "audit_dropped": lost}


def cold(program, tool, tokens):
    """Tokens that were never seen, of each algorithm, and tokens that are no good; with a bare verification beside them."""
    files = {name: tokens.file(name, COLD) for name in ALGORITHMS}
    hot = tokens.file("RS256", TOKENS)
    text = gates.policy(tokens.jwks, body=False)
    fresh = {"number": 0}

    def measured(rig, name):
        kind, _, what = name.partition("|")
        if kind == "verify":
            command = [*on_core(SERVER_CORE), tool, "verify", "--keys", tokens.keys, "--algorithm", what, "--tokens", files[what]]
            return {"cpu_us": [measure.run(command)["cpu_us"]]}
        if kind == "hot":
            return measure.check(tool, warm.address, hot, warm.server, seconds=SECONDS)
        if kind == "flood":
            bad = ["--spoil", what, "--expect", 401]
            return measure.check(tool, flooded.address, hot, flooded.server, *bad, seconds=SECONDS)
        # A program that has just started has seen no token.
        fresh["number"] += 1
        with servers.Rig(DIR) as own:
            gate = Gate(own, program, f"cold-{fresh['number']}", text)
            return measure.check(tool, gate.address, files[what], gate.server, "--once")

    cells = ["hot|", "flood|distinct", "flood|repeated"]
    cells += [f"{kind}|{name}" for kind in ["cold", "verify"] for name in ALGORITHMS]
    with servers.Rig(DIR) as rig:
        warm = primed(tool, Gate(rig, program, "warm", text), hot)
        flooded = Gate(rig, program, "flooded", text)
        return {"rounds": measure.rounds(ROUNDS, cells, lambda name: measured(rig, name))}


def the_call(path, gate, tool, tokens):
    """What Tollgate asks Redis in one check, word by word: Redis' own MONITOR shows it."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.connect(str(path))
        monitor.settimeout(5)
        monitor.sendall(b"MONITOR\r\n")
        text = b""
        asked = subprocess.Popen(
            [str(part) for part in [tool, "check", "--target", gate.address, "--tokens", tokens, "--requests", 40, "--in-flight", 1]],
            stdout=subprocess.DEVNULL,
        )
        try:
            while text.lower().count(b'"evalsha"') < 30:
                text += monitor.recv(1 << 16)
        finally:
            asked.wait()
    for line in text.decode().splitlines():
        words = line.partition("] ")[2]
        if words.lower().startswith('"evalsha"') and line.endswith('"'):
            found = [unescaped(word) for word in words[1:-1].split('" "')]
    return found


def unescaped(word):
    """The bytes of a word as MONITOR writes them, one character each."""
    short = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b"}

    def byte(escape):
        text = escape[1]
        return chr(int(text[1:], 16)) if len(text) == 3 else short.get(text, text)

    return re.sub(r"\\(x[0-9a-f]{2}|.)", byte, word)


def redis(program, tool, tokens):
    """Limits counted in Redis by one atomic script a check, beside the same in memory and beside that script alone."""
    file = tokens.file("RS256", TOKENS)
    policy = gates.policy(tokens.jwks, body=False)
    with servers.Rig(DIR) as rig:
        server, path = redis_server(rig)
        contestants = {
            "hot": primed(tool, Gate(rig, program, "in-memory", policy), file),
            "redis": primed(tool, Gate(rig, program, "in-redis", gates.redis_store(path) + policy), file),
        }
        call = the_call(path, contestants["redis"], tool, file)
        cells = {cell(name, count): (name, count) for name in ["hot", "redis", "evalsha"] for count in IN_FLIGHT}

        def one(name):
            kind, count = cells[name]
            if kind == "evalsha":
                command = [*on_core(SERVER_CORE), tool, "evalsha", "--url", f"redis+unix://{path}", "--call", json.dumps(call)]
                return measure.run([*command, "--in-flight", count, "--seconds", SECONDS, "--watch", server.process.pid])
            gate = contestants[kind]
            more = ["--watch", server.process.pid]
            return measure.check(tool, gate.address, file, gate.server, *more, in_flight=count, seconds=SECONDS)

        found = measure.rounds(ROUNDS, cells, one)
    return {"rounds": found, "call": len(call), "redis": measure.first_line([servers.BIN / "redis-server", "--version"])}


def ready_after(rig, program, name, text):
    """Milliseconds from the start of the process to its first `ready`, and the process."""
    gate_path = DIR / f"{name}.yaml"
    ops = servers.free_port()
    gate_path.write_text(f'listen: {{ grpc: "unix:{DIR}/{name}.sock", ops: "127.0.0.1:{ops}" }}\n' + text)
    command = [*on_core(SERVER_CORE), program, "serve", "--config", gate_path]
    began = time.monotonic()
    server = rig.start(name, command, output=rig.enter_context(open("/dev/null", "wb")))
    question = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    while time.monotonic() - began < 20:
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", ops)) == 0:
                asking.sendall(question)
                if b" 200 " in asking.recv(100):
                    return (time.monotonic() - began) * 1000, server
        time.sleep(0.0005)
        server.check()
    raise measure.Failed(f"{name} was not ready after 20 s")


def footprint(program, tool, tokens):
    """Memory when idle and with many tokens, and the time from start to ready."""
    text = gates.policy(tokens.jwks, body=False)
    # Without limits, so that what grows is what the tokens take, and not the buckets of 100 000 subjects.
    unlimited = text.replace("    limits: [per-subject, per-tenant]\n", "")
    many = tokens.file("EdDSA", MANY)
    found = {"ready_ms": [], "idle_mib": [], "tokens": MANY}
    for index in range(ROUNDS * 2):
        with servers.Rig(DIR) as rig:
            took, server = ready_after(rig, program, f"start-{index}", text)
            time.sleep(0.2)
            found["ready_ms"].append(took)
            found["idle_mib"].append(measure.resident(server))
    for key, policy in [("tokens", unlimited), ("subjects", text)]:
        with servers.Rig(DIR) as rig:
            gate = Gate(rig, program, f"many-{key}", policy)
            empty = measure.resident(gate.server)
            passes = [measure.check(tool, gate.address, many, gate.server, "--once") for _ in range(2)]
            found[f"many_{key}"] = {
                "before_mib": empty,
                "after_mib": measure.resident(gate.server),
                "most_mib": measure.resident(gate.server, "VmHWM"),
                "first_us": passes[0]["cpu_us"][0],
                "second_us": passes[1]["cpu_us"][0],
            }
    return found


def large(policy, kind):
    """The same policy with ten, or very many, of something around what the check uses."""
    if kind == "10 000 routes":
        routes = [f"  - match: {{ methods: [POST], paths: [/tenants/t{i}/v1/chat/completions] }}\n    scopes: [infer:text]\n" for i in range(10_000)]
        return policy.replace("routes:\n", "routes:\n" + "".join(routes))
    if kind == "1 000 issuers":
        one = next(line for line in policy.splitlines() if line.startswith("  - { issuer:"))
        more = [one.replace(measure.ISSUER, f"https://auth-{i}.example.com") + "\n" for i in range(1000)]
        return policy.replace("issuers:\n", "issuers:\n" + "".join(more))
    if kind == "10 000 limits":
        return policy + "".join(f"  - {{ name: other-{i}, by: [subject], rate: 10/1m }}\n" for i in range(10_000))
    return policy


def size(program, tool, tokens):
    """The same check under small and large policies."""
    file = tokens.file("RS256", TOKENS)
    policy = gates.policy(tokens.jwks, body=False)
    kinds = ["small", "10 000 routes", "1 000 issuers", "10 000 limits"]
    with servers.Rig(DIR) as rig:
        contestants = {kind: primed(tool, Gate(rig, program, kind.replace(" ", "-"), large(policy, kind)), file) for kind in kinds}
        memory = {kind: measure.resident(gate.server) for kind, gate in contestants.items()}
        found = measure.rounds(
            ROUNDS, kinds, lambda kind: measure.check(tool, contestants[kind].address, file, contestants[kind].server, seconds=SECONDS)
        )
    return {"rounds": found, "mib": memory}


#: Writes revocations of tokens nobody has, as `tollgate revoke` does: the key, and the index they are listed by.
REVOKE = """
local now = redis.call('TIME')[1] * 1000
for i = ARGV[1], ARGV[2] do
  local hex = redis.sha1hex(i)
  local member = 'jti:' .. hex .. string.sub(hex, 1, 24) .. ':' .. hex .. string.sub(hex, 1, 24)
  redis.call('SET', '{tollgate}:revoked:' .. member, math.floor(now / 1000), 'PX', 7200000)
  redis.call('ZADD', '{tollgate}:revocations', string.format('%.0f', now + 7200000), member)
end
"""
REVOKED = 1_000_000


def revoke(path, database, count):
    """So many revocations in a database of Redis."""
    with socket.socket(socket.AF_UNIX) as redis, redis.makefile("rb") as answers:
        redis.connect(str(path))

        def call(*words):
            parts = [str(word).encode() for word in words]
            redis.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
            if (answer := answers.readline()).startswith(b"-"):
                raise measure.Failed(f"Redis: {answer.decode().strip()}")
            if answer.startswith(b"$") and answer != b"$-1\r\n":
                answers.readline()

        call("SELECT", database)
        for start in range(0, count, 20_000):
            call("EVAL", REVOKE, 0, start + 1, min(start + 20_000, count))


def metric(gate, name):
    """The value of a metric without labels, 0 while there is none."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{gate.ops}/metrics", timeout=10).read().decode()
    return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)


def revocations(program, tool, tokens):
    """The same check with ten and with a million revocations in Redis, replicated to memory."""
    file = tokens.file("RS256", TOKENS)
    policy = gates.policy(tokens.jwks, body=False).replace("    limits: [per-subject, per-tenant]\n", "")
    with servers.Rig(DIR) as rig:
        _, path = redis_server(rig)
        contestants, found = {}, {"mib": {}, "known_after_s": {}}
        for database, count in enumerate([10, REVOKED]):
            revoke(path, database, count)
            store = f'store: {{ redis: {{ url: "unix://{path}?db={database}", replicate_revocations: {{ max_staleness: 5s }} }} }}\n'
            began = time.monotonic()
            gate = Gate(rig, program, f"revoked-{count}", store + policy)
            gate.server.wait_for("revocations", lambda: metric(gate, "tollgate_store_replica_revocations") >= count)
            found["known_after_s"][str(count)] = time.monotonic() - began
            contestants[str(count)] = primed(tool, gate, file)
            found["mib"][str(count)] = measure.resident(gate.server)
        cells = list(contestants)
        found["rounds"] = measure.rounds(
            ROUNDS, cells, lambda count: measure.check(tool, contestants[count].address, file, contestants[count].server, seconds=SECONDS)
        )
    return found


class Disturbance(threading.Thread):
    """Everything at once, all the time: the policy compiled again and again, the policy and the keys changed, the metrics scraped."""

    def __init__(self, gate, text, keys):
        super().__init__(daemon=True)
        self.gate, self.text, self.keys, self.over = gate, text, keys, threading.Event()
        self.scrapes = 0

    def reloads(self):
        """The reloads since the start of the server."""
        return self.gate.server.log.read_text(errors="replace").count("configuration reloaded")

    def run(self):
        known = json.loads(self.keys.read_text())
        index = 0
        while not self.over.wait(0.05):
            index += 1
            urllib.request.urlopen(f"http://127.0.0.1:{self.gate.ops}/metrics", timeout=10).read()
            self.scrapes += 1
            if index % 50 == 1:
                # A changed key set, and a policy that differs. A changed file is used when two reads, a second apart, agree.
                changed = {"keys": [*known["keys"], {**known["keys"][0], "kid": f"another-{index}"}]}
                self.keys.write_text(json.dumps(changed))
                self.gate.write(self.text + f"  - {{ name: changing, by: [subject], rate: {index}/1m }}\n")
            # The file is compiled at the signal, whether or not it has changed.
            self.gate.server.process.send_signal(1)


#: The load of a busy GPU cluster, in checks/s. At half of what the server can do, the machine's own pauses hide the rest.
USUAL_RATE = 5000


def steady(program, tool, tokens):
    """Latency at half of what the server can do and at a usual load, evenly asked, with and without everything changing meanwhile."""
    file = tokens.file("RS256", TOKENS)
    keys = DIR / "changing-jwks.json"
    keys.write_text(tokens.jwks.read_text())
    text = large(gates.policy(keys, body=False), "10 000 limits")
    seconds = max(SECONDS * 5, 2.0)
    found = {"rounds": [], "seconds": seconds, "reloads": 0, "scrapes": 0}
    with servers.Rig(DIR) as rig:
        noop = Noop(rig, tool, "steady-noop")
        gate = primed(tool, Gate(rig, program, "steady", text), file)
        most = statistics.median(measure.check(tool, gate.address, file, gate.server, seconds=SECONDS)["rps"] for _ in range(3))
        rate = round(most / 2)
        for index in range(max(ROUNDS - 1, 2)):
            measure.say(f"round {index + 1}")
            one = {}
            for prefix, checks in [("", rate), ("usual_", USUAL_RATE)]:
                at = lambda who: measure.check(tool, who.address, file, who.server, "--rate", checks, in_flight=256, seconds=seconds)
                one |= {f"{prefix}noop": at(noop), f"{prefix}quiet": at(gate)}
                disturbance = Disturbance(gate, text, keys)
                before = disturbance.reloads()
                disturbance.start()
                one[f"{prefix}disturbed"] = at(gate)
                disturbance.over.set()
                disturbance.join()
                found["reloads"] += disturbance.reloads() - before
                found["scrapes"] += disturbance.scrapes
            found["rounds"].append(one)
    return {**found, "rate": rate, "usual_rate": USUAL_RATE}


#: Below `body.max`.
ATTACK_BYTES = 15 << 20
ATTACK_CONNECTIONS = 3
ATTACK_RATE = 1000


def many_keys(size):
    """A chat of this size whose text is objects of 250 keys, which cost a reader most."""
    head, tail = b'{"model":"Qwen/Qwen2-72B-Instruct","messages":[{"role":"user","content":[', b"]}]}"
    one = b"{" + b",".join(b'"%x":1' % key for key in range(250)) + b"},"
    return head + (one * ((size - len(head) - len(tail)) // len(one))).rstrip(b",") + tail


class Attack(threading.Thread):
    """One connection that sends the same large body again and again, as Envoy sends checks over HTTP."""

    def __init__(self, address, token, body):
        super().__init__(daemon=True)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: api.example.com\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.9\r\n"
        head += f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.address, self.request, self.over, self.statuses = address, head.encode() + body, threading.Event(), []

    def run(self):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(self.address)
            while not self.over.is_set():
                stream.sendall(self.request)
                self.statuses.append(stream.recv(1 << 16).split(b" ", 2)[1].decode())


def attack(program, tool, tokens):
    """Latency of other clients while one token sends bodies that cost their reader most, on three connections."""
    file, one_token = tokens.file("RS256", TOKENS), tokens.file("EdDSA", 1)
    seconds = max(SECONDS * 5, 2.0)
    token, body = one_token.read_text().split()[0], many_keys(ATTACK_BYTES)
    found = {"rounds": [], "seconds": seconds, "rate": ATTACK_RATE, "bytes": len(body), "statuses": {}}
    # The load on its core is this program's too.
    os.sched_setaffinity(0, {LOAD_CORE})
    with servers.Rig(DIR) as rig:
        text = gates.policy(tokens.jwks, body=True)
        gate = Gate(rig, program, "attacked", text, http="{ address: ADDRESS, dialect: envoy_http, body: sent }")
        primed(tool, gate, file, *BODY)
        at = lambda: measure.check(tool, gate.address, file, gate.server, "--rate", ATTACK_RATE, *BODY, in_flight=256, seconds=seconds)
        for index in range(ROUNDS):
            measure.say(f"round {index + 1}")
            one = {"quiet": at()}
            attackers = [Attack(f"{DIR}/attacked-http.sock", token, body) for _ in range(ATTACK_CONNECTIONS)]
            for attacker in attackers:
                attacker.start()
            began = time.monotonic()
            one["attacked"] = at()
            for attacker in attackers:
                attacker.over.set()
            for attacker in attackers:
                attacker.join()
            answers = [status for attacker in attackers for status in attacker.statuses]
            one["hostile"] = {"rps": len(answers) / (time.monotonic() - began)}
            for status in answers:
                found["statuses"][status] = found["statuses"].get(status, 0) + 1
            found["rounds"].append(one)
    if not found["statuses"].get("200"):
        raise measure.Failed(f"no hostile body was read: {found['statuses']}")
    return found


def soak(program, tool, tokens):
    """Memory over minutes at half load."""
    minutes = measure.number("MINUTES", 10.0)
    file = tokens.file("RS256", TOKENS)
    with servers.Rig(DIR) as rig:
        gate = primed(tool, Gate(rig, program, "soak", gates.policy(tokens.jwks, body=False)), file)
        most = measure.check(tool, gate.address, file, gate.server, seconds=1)["rps"]
        memory, over = [], time.monotonic() + minutes * 60
        while time.monotonic() < over:
            more = ["--rate", round(most / 2)]
            measure.check(tool, gate.address, file, gate.server, *more, in_flight=256, seconds=10)
            memory.append(measure.resident(gate.server))
    return {"minutes": minutes, "rate": round(most / 2), "mib": memory}


def allocations(_program, _tool, _tokens):
    """How often a hot check takes memory: a test counts it, and holds it."""
    command = ["cargo", "test", "--quiet", "-p", "tollgate-bench", "--test", "allocations", "--", "--nocapture"]
    done = subprocess.run(command, cwd=servers.ROOT, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith('{"public"'):
            return json.loads(line)
    raise measure.Failed(f"`{' '.join(command)}` counted nothing:\n{done.stdout}{done.stderr}")


SECTIONS = {
    "wire": wire,
    "cold": cold,
    "redis": redis,
    "footprint": footprint,
    "size": size,
    "revocations": revocations,
    "steady": steady,
    "attack": attack,
    "allocations": allocations,
    "soak": soak,
}


def main():
    measure.two_cores()
    wanted = os.environ.get("SECTIONS", " ".join(name for name in SECTIONS if name != "soak")).split()
    for name in wanted:
        if name not in SECTIONS:
            raise measure.Failed(f"there is no section `{name}`: {' '.join(SECTIONS)}")
    program, tool = measure.build()
    gates.clear()
    tokens = measure.Tokens(tool)
    command, failed = f"ROUNDS={ROUNDS} SECONDS={SECONDS:g} make bench", []
    for name in wanted:
        began = time.monotonic()
        measure.say(f"section {name}")
        try:
            measure.save(name, command, SECTIONS[name](program, tool, tokens))
        except (measure.Failed, OSError) as error:
            failed.append(name)
            measure.say(f"section {name}: {error}")
        measure.say(f"section {name}: {time.monotonic() - began:.0f} s")
    report.write()
    if failed:
        raise measure.Failed(f"not measured: {' '.join(failed)}; SECTIONS=\"{' '.join(failed)}\" measures only these")


if __name__ == "__main__":
    measure.main(main)
