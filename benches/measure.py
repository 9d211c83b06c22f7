"""What the benchmarks share: programs, cores, rounds, spread, results."""

import datetime
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import time

import servers
from servers import BIN, ISSUER, ROOT, Failed

DIR = ROOT / ".bench"
RESULTS = DIR / "results"
#: The release profile is what is shipped; another builds faster and is for trying the harness itself.
PROFILE = os.environ.get("PROFILE", "release")
SERVER_CORE, LOAD_CORE = 0, 1
#: Tokens that are older than this are signed anew; they are good for 20 hours.
TOKEN_AGE = 10 * 3600


def number(name, default):
    """A number from the environment."""
    try:
        return type(default)(os.environ.get(name, default))
    except ValueError:
        raise Failed(f"{name} should be a number") from None


def say(text):
    print(text, file=sys.stderr, flush=True)


def two_cores():
    if (os.cpu_count() or 1) < 2:
        raise Failed("two cores are needed: one for the server and one for the load")


def on_core(core):
    """A command prefix that keeps a program on one core and, for root, ahead of what else runs there.

    Not a real-time class: under one, the audit log's thread would wait for as long as checks keep its core busy, and its queue
    would run over, which saves the work that is to be measured.
    """
    first = ["nice", "-n", "-20"] if os.geteuid() == 0 else []
    return [*first, *ahead(), "taskset", "-c", str(core)]


def ahead():
    """A command prefix that puts the session of a program ahead, too: where the kernel groups processes by session
    (`sched_autogroup_enabled`), a niceness counts only within its session."""
    group = pathlib.Path("/proc/self/autogroup")
    if os.geteuid() != 0 or not group.exists():
        return []
    return ["sh", "-c", 'echo -20 >/proc/self/autogroup 2>/dev/null; exec "$@"', "sh"]


def build():
    """Builds Tollgate as it is shipped, and the fast parts of the benchmarks likewise; returns the two programs. With BUILD=no it
    takes what is there."""
    if os.environ.get("BUILD") == "no":
        program = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / PROFILE / "tollgate"
        return program, program.with_name("tollgate-bench")
    program = ROOT / servers.build(PROFILE)
    say("building the load generator (minutes the first time, seconds after)")
    if subprocess.run(["cargo", "build", "-p", "tollgate-bench", "--profile", PROFILE], cwd=ROOT).returncode:
        raise Failed("the build failed, see above")
    return program, program.with_name("tollgate-bench")


def module():
    """Builds the module for Envoy as it is shipped; returns its directory."""
    directory = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / PROFILE
    if os.environ.get("BUILD") != "no":
        say("building the module for Envoy (minutes the first time, seconds after)")
        # The library alone: beside an rlib it would be linked without LTO.
        command = ["cargo", "rustc", "-p", "tollgate-envoy", "--lib", "--crate-type", "cdylib", "--profile", PROFILE]
        if subprocess.run(command, cwd=ROOT).returncode:
            raise Failed("the build failed, see above")
    if not (directory / "libtollgate_envoy.so").exists():
        raise Failed(f"{directory}/libtollgate_envoy.so is missing")
    return directory


def run(command, timeout=120):
    """Runs one of the programs and returns the JSON it prints."""
    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout, env=environment)
    if done.returncode:
        raise Failed(f"`{' '.join(str(part) for part in command[:12])} …` failed: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None


class Tokens:
    """Keys, and files of tokens signed with them, kept between runs."""

    def __init__(self, tool):
        self.tool, self.keys = tool, DIR / "keys"
        if not (self.keys / "client.der").exists():
            run([tool, "keys", self.keys])

    @property
    def jwks(self):
        return self.keys / "jwks.json"

    def file(self, algorithm, count, issuer=ISSUER):
        """A file of `count` tokens with a subject each."""
        name = "" if issuer == ISSUER else "-" + issuer.rpartition("/")[2]
        path = self.keys / f"{algorithm}-{count}{name}.txt"
        newer = (self.keys / "jwks.json").stat().st_mtime
        if not path.exists() or path.stat().st_mtime < newer or time.time() - path.stat().st_mtime > TOKEN_AGE:
            say(f"signing {count} tokens with {algorithm}")
            run([self.tool, "tokens", "--keys", self.keys, "--algorithm", algorithm, "--count", count, "--issuer", issuer, "--to", path], 600)
        return path


def check(tool, address, tokens, server, *more, in_flight=64, seconds=1.0, warm=0.2):
    """One measurement of a check server; `server` is a servers.Server."""
    command = [*on_core(LOAD_CORE), tool, "check", "--target", address, "--tokens", tokens, "--in-flight", in_flight]
    return run([*command, "--seconds", seconds, "--warm", warm, "--watch", server.process.pid, *more])


def resident(server, key="VmRSS"):
    """Memory of a process in MiB: `VmRSS` now, `VmHWM` at most so far."""
    for line in pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise Failed(f"{server.name} has ended")


def rounds(count, cells, measure):
    """Measures every cell once a round, in another order each time. Returns a list of {cell: what `measure` returned}."""
    found, order = [], random.Random(5)
    for index in range(count):
        say(f"round {index + 1} of {count}")
        shuffled = list(cells)
        order.shuffle(shuffled)
        found.append({cell: measure(cell) for cell in shuffled})
    return found


def values(found, cell, key):
    return [one[cell][key] if not isinstance(key, int) else one[cell]["cpu_us"][key] for one in found if cell in one]


def ratios(found, over, under, key):
    """The ratio of two cells, within each round."""
    return [a / b for a, b in zip(values(found, over, key), values(found, under, key))]


def spread(values, digits=0):
    low, middle, high = min(values), statistics.median(values), max(values)
    if f"{low:.{digits}f}" == f"{high:.{digits}f}":
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def first_line(command):
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    return ((done.stdout or done.stderr).splitlines() or ["?"])[0].strip()


def machine():
    """What the figures were measured on."""
    model = "?"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    commit = first_line(["git", "-C", ROOT, "rev-parse", "--short=10", "HEAD"])
    changed = first_line(["git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no", "--", "src", "core", "Cargo.lock"])
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release().partition("-")[0],
        "rustc": first_line(["rustc", "--version"]).removeprefix("rustc ").partition(" (")[0],
        "commit": commit + ("" if changed == "?" else " and changes"),
        "profile": PROFILE,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "load": pathlib.Path("/proc/loadavg").read_text().split()[0],
    }


def save(name, command, data):
    """Keeps what was measured, for the report: .bench/results/NAME.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine(), "command": command, **data}, indent=1) + "\n")


def load(name):
    """What was measured last, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def main(body):
    try:
        body()
    except Failed as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit("stopped")
