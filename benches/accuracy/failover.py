"""One failover of Redis: the replica is promoted, and lacks the last writes of the primary. How much was charged for nothing, or not at all."""

import asyncio
import time

import audit
import clients
import measure
import servers
from system import Replica, start_redis
from upstream import Upstream
from wire import Redis, Relay

#: The time for which the replica gets no writes before the primary is killed.
LAG = 0.5
LIFE, FLUSH = 10, 3


class ReplicationLink:
    """Passes the stream of replication, and drops it from a moment on: what the primary acknowledges then is lost."""

    def __init__(self, port):
        self.target, self.drops = port, False

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader, writer):
        try:
            there, to = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            return writer.close()
        await asyncio.gather(self.copy(reader, to, False), self.copy(there, writer, True))

    async def copy(self, reader, writer, is_stream):
        try:
            while data := await reader.read(1 << 16):
                if not (is_stream and self.drops):
                    writer.write(data)
                    await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        writer.close()


async def one(program, seconds, number):
    """One run with one failover. Returns its row, and the sentences of what is wrong."""
    with servers.Rig(measure.DIR) as rig:
        upstream = await Upstream().start()
        port, other = servers.free_port(), servers.free_port()
        primary, first_socket = await asyncio.to_thread(start_redis, rig, f"primary-{number}", port)
        link = await ReplicationLink(port).start()
        _, second_socket = await asyncio.to_thread(start_redis, rig, f"replica-{number}", other, link.port)
        promoted = Redis(second_socket)
        first = Redis(first_socket)
        await until_replicated(first)
        store = Relay(str(rig.directory / f"store-{number}.sock"), str(first_socket))
        store.keeps = False
        await store.start()
        start = lambda name: asyncio.to_thread(Replica, rig, program, f"{name}-{number}", store.path, upstream.port, LIFE, FLUSH)
        fleet = clients.Fleet([await start("first"), await start("second")], upstream)
        fleet.until = fleet.latest = time.time() + seconds
        running = asyncio.gather(*(fleet.client(client) for client in range(10)))
        await asyncio.sleep(seconds / 2)
        # The replica has all that was written until now; of later writes it gets some until the link drops them.
        began = time.time()
        await has_all(first)
        link.drops = True
        await asyncio.sleep(LAG)
        primary.process.kill()
        primary.process.wait()
        ended = time.time()
        rig.all.remove(primary)
        store.target = str(second_socket)
        await promoted.call("REPLICAOF", "NO", "ONE")
        await running
        _, left = await audit.settled(promoted, LIFE)
        holding = await audit.read_charges(promoted, fleet.calls)
        await upstream.stop()
    row, problems = compare(fleet.calls, upstream.ledger, began, ended)
    again = [call.ended for call in fleet.calls if call.status == 200 and call.began > ended]
    row |= {"phantoms": left["reservations"] + len(holding), "lag": ended - began, "again": min(again, default=ended) - ended}
    if row["phantoms"]:
        problems.append(f"after the failover {left['reservations']} reservations are open, and {len(holding)} requests hold tokens")
    return row, problems


async def until_replicated(primary):
    while "state=online" not in (await primary.call("INFO", "replication")).decode():
        await asyncio.sleep(0.1)


async def has_all(primary):
    """Waits until the replica has acknowledged a write, and with it all before it."""
    await primary.call("SET", "accuracy", "1")
    if await primary.call("WAIT", 1, 5000) != 1:
        raise servers.Failed("the replica has not acknowledged a write")


def compare(calls, ledger, began, ended):
    """What was lost, beside its bound: what requests used that began and ended within the writes that were lost."""
    row = {"requests": len(calls), "within": 0, "bound": 0, "loss": 0, "lost": 0, "dearer": 0, "dearer_tokens": 0}
    problems = []
    for call in calls:
        if call.kind.expected == "running":
            continue
        used, entries = ledger.tokens(call.number), ledger.of(call.number)
        # The proxy closes the connection of its client some time after a response that was cut.
        over = min([call.ended, *(entry.ended for entry in entries if entry.ended)])
        is_within = bool(entries) and entries[0].began >= began and over <= ended
        row["within"] += is_within
        row["bound"] += used if is_within else 0
        if call.charged < used:
            row["lost"] += 1
            row["loss"] += used - call.charged
            if not is_within:
                problems.append(f"request {call.number} ({call.kind.name}) did not begin and end within the lost writes; it used {used} tokens, {call.charged} are charged")
        elif call.charged > used and call.kind.expected == "exact" and call.is_complete:
            row["dearer"] += 1
            row["dearer_tokens"] += call.charged - used
    return row, problems


async def measure_all(options):
    """Some failovers, each with servers of its own."""
    rows, problems = [], []
    for number in range(options.failovers):
        row, wrong = await one(options.program, options.failover_seconds, number)
        print(f"failover {number + 1}: {row}")
        rows.append(row)
        problems += wrong
    if not sum(row["loss"] for row in rows):
        problems.append("no failover has lost anything, so that nothing was tried")
    for problem in problems:
        print(f"WRONG: {problem}")
    return {"rows": rows, "lag": LAG, "life": LIFE, "flush": FLUSH, "seconds": options.failover_seconds}, problems
