"""The demo: a real model server, Tollgate and Envoy on this machine, and a tour of what passes and what does not.

    make demo                every command it runs is printed first and can be pasted from the project's directory
    DEMO_ONCE=1 make demo    ends after the tour: 0 if every answer was the expected one, 1 otherwise
    DEMO_PORT=8080           where Envoy listens; left out, 8080 or, if that is taken, a free one
    DEMO_PROFILE=ci          the cargo profile, `release` by default; `ci` builds faster

Configs: deploy/envoy/envoy-metered.yaml with its addresses replaced, and deploy/demo/tollgate.yaml. What the demo
makes (key, tokens, logs) is in .demo/.
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import time

import servers
from servers import ISSUER, ROOT, Failed

DIR = ROOT / ".demo"
COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOURS else text


def envoy_port():
    if asked := os.environ.get("DEMO_PORT"):
        try:
            return servers.free_port(int(asked))
        except (OSError, ValueError, OverflowError) as error:
            raise Failed(f"cannot listen on DEMO_PORT={asked}: {error}; choose another or leave it out") from error
    try:
        return servers.free_port(8080)
    except OSError:
        return servers.free_port()


def metered_envoy_config():
    shipped = (ROOT / "deploy/envoy/envoy-metered.yaml").read_text()
    return shipped.replace("path: /run/tollgate/access-log.sock", f'path: "{DIR}/access-log.sock"')


@contextlib.contextmanager
def rig(program, port):
    """Starts model, Tollgate and Envoy, in this order; yields them, and where the last two listen."""
    ops, admin = servers.free_port(), servers.free_port()
    (DIR / "admin.token").touch(0o600)
    (DIR / "admin.token").write_text(secrets.token_urlsafe(32))
    (DIR / "metering.secret").touch(0o600)
    (DIR / "metering.secret").write_text(secrets.token_urlsafe(32))
    with servers.Rig(DIR) as running:
        model = running.model()
        print(f"  model     http://127.0.0.1:{model}  SmolLM2 135M Instruct in llama.cpp")
        env = {"DEMO_DIR": str(DIR), "DEMO_OPS_PORT": str(ops), "DEMO_ADMIN_PORT": str(admin)}
        running.tollgate(program, "deploy/demo/tollgate.yaml", ops, env)
        print(f"  tollgate  unix:{DIR.relative_to(ROOT)}/authz.sock  store in memory, one issuer")
        running.envoy(metered_envoy_config(), port, model)
        print(f"  envoy     http://127.0.0.1:{port}  asks Tollgate about every request, and reports what each used\n", flush=True)
        at = {"url": port, "ops": ops, "admin": admin}
        yield running, {name: f"http://127.0.0.1:{number}" for name, number in at.items()}


# The tour -----------------------------------------------------------------------------------------------------

SHOWN_HEADERS = ("www-authenticate:", "retry-after", "x-ratelimit", "ratelimit")


def shell(command):
    """Prints a command and starts it, in the project's directory."""
    for number, line in enumerate(command.splitlines()):
        print(paint(36, ("  $ " if number == 0 else "    ") + line), flush=True)
    return subprocess.Popen(["bash", "-c", command], cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace")


def prepare(command):
    """Runs a command that only has to succeed."""
    process = shell(command)
    output, _ = process.communicate()
    if output.strip():
        print(paint(2, "\n".join("    " + line for line in output.strip().splitlines())))
    if process.returncode:
        raise Failed(f"the command above ended with status {process.returncode}")


def ask(command):
    """Runs a `curl -i`, shows its answer, and returns (status, code of the error body or the generated text)."""
    process = shell(command)
    status_line = process.stdout.readline().strip()
    status = int(status_line.split()[1]) if status_line.startswith("HTTP/") else 0
    print("    " + paint("1;32" if status == 200 else "1;33", status_line or "no answer"))
    streamed = False
    for line in iter(process.stdout.readline, ""):
        if not (line := line.strip()):
            break
        header = line.lower()
        streamed |= header.startswith("content-type: text/event-stream")
        if header.startswith(SHOWN_HEADERS):
            print(paint(2, f"    {line}"))
    result = show_stream(process.stdout) if streamed else show_body(process.stdout.read())
    process.wait()
    return status, result


def show_stream(lines):
    """Prints the generated text as its events arrive, and returns it if the stream came to its proper end."""
    text, ended = "", False
    print("    ", end="", flush=True)
    for line in lines:
        data = line.strip().removeprefix("data: ")
        ended |= data == "[DONE]"
        if data.startswith("{"):
            for choice in json.loads(data).get("choices", []):
                piece = choice["delta"].get("content") or ""
                text += piece
                print(piece.replace("\n", "\n    "), end="", flush=True)
    print()
    return text if ended else ""


def show_body(body):
    print("    " + body.strip())
    try:
        error = json.loads(body).get("error", {})
    except ValueError:
        return ""
    return error.get("code", "")


class Tour:
    """Runs the steps one after the other and counts the answers that were not the expected ones."""

    def __init__(self, program, url):
        self.program, self.url = program, url
        self.passed, self.failed = 0, 0

    def step(self, title, why):
        print(paint(1, f"{self.passed + self.failed + 1}. {title}"))
        print(f"  {why}")

    def expect(self, command, status, result):
        """`result` is the deny reason; None stands for any generated text, or any other body."""
        got_status, got = ask(command)
        if got_status == status and (got == result if result is not None else got != ""):
            self.passed += 1
        else:
            self.failed += 1
            print(paint("1;31", f"  expected {status} {result or 'and a body'}"))
        print(flush=True)

    def mint(self, who, scope, ttl="1h", more=""):
        """The command that puts a token into .demo/WHO.token, where a pasted `curl` finds it."""
        return (
            f"{self.program} token mint --key .demo/issuer.pem --kid demo --alg RS256 --iss {ISSUER} \\\n"
            f"  --aud inference-api --sub {who} --scope '{scope}' --ttl={ttl}{more} \\\n"
            f"  > .demo/{who}.token"
        )

    def chat(self, token=None, model="smollm2", prompt="Hello", stream=False, more=None):
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 48}
        if stream:
            body |= {"stream": True, "temperature": 0}
        body |= more or {}
        bearer = f'  -H "Authorization: Bearer $(cat .demo/{token}.token)" \\\n' if token else ""
        return (
            f"curl -sN -i {self.url}/v1/chat/completions \\\n"
            f"{bearer}"
            f"  --json '{json.dumps(body)}'"
        )

    def get(self, path, token):
        return f'curl -s -i {self.url}{path} -H "Authorization: Bearer $(cat .demo/{token}.token)"'


def tour(program, url, admin):
    t = Tour(program, url)
    text = "infer:text model:smollm2:inference"

    t.step("Allowed", "Alice may use the model `smollm2`. The text below is generated, and shown as it arrives.")
    prepare(t.mint("alice", text, more=" --jti alice-1 --claim tenant_id='\"acme\"'"))
    t.expect(t.chat("alice", prompt="What is a toll gate? Answer in one sentence.", stream=True), 200, None)

    t.step("No token", "The model server itself asks for none; this is where the request ends.")
    t.expect(t.chat(), 401, "missing_credential")

    t.step("Wrong scope", "Bob's token is genuine, but it only lets him list the models.")
    prepare(t.mint("bob", "models:read"))
    t.expect(t.chat("bob"), 403, "insufficient_scope")

    t.step("Forbidden model", "Alice asks for a model that her token does not name. The model is found in the body.")
    t.expect(t.chat("alice", model="big-70b"), 403, "model_forbidden")

    t.step("Expired", "Carol's token ended an hour ago.")
    prepare(t.mint("carol", text, ttl="-1h"))
    t.expect(t.chat("carol"), 401, "expired")

    t.step("No such route", "The model server would show its slots; no rule names the path, so nobody gets there.")
    t.expect(t.get("/slots", "alice"), 403, "no_route")

    t.step("Rate limited", "Four requests at once and one every ten seconds is what a subject has here. Bob sends four more.")
    prepare(
        f'for i in 1 2 3 4; do curl -s -o /dev/null -w "%{{http_code}} " {url}/v1/models \\\n'
        '  -H "Authorization: Bearer $(cat .demo/bob.token)"; done'
    )
    t.expect(t.get("/v1/models", "bob"), 429, "rate_limited")

    t.step("Budget used up", "Erin has 260 tokens a day. A request holds what it may use (254 here), and is charged what it did.")
    prepare(t.mint("erin", text))
    prepare(t.chat("erin").replace("curl -sN -i", "curl -s -o /dev/null -w '%{http_code}'"))
    t.expect(t.chat("erin"), 429, "budget_exhausted")

    t.step("Too many at once", "Frank may have one answer at a time, and one is still being generated.")
    prepare(t.mint("frank", text))
    long = t.chat("frank", prompt="Tell me a long story.", stream=True, more={"max_tokens": 400, "ignore_eos": True})
    # The whole command in the background; it is ended after the next one.
    prepare(
        f"{{ {long} \\\n  > .demo/frank.events & echo $! > .demo/frank.pid; }}\n"
        "for i in $(seq 100); do grep -q data: .demo/frank.events && break; sleep 0.1; done"
    )
    t.expect(t.chat("frank"), 429, "too_many_in_flight")
    prepare("kill $(cat .demo/frank.pid) || true")

    t.step("Revoked", "Alice's token is withdrawn an hour before its end. It is the one that passed in step 1.")
    prepare(
        f"{program} revoke add --admin {admin} --token-file .demo/admin.token \\\n"
        f"  --issuer {ISSUER} --jti alice-1 --ttl 1h"
    )
    t.expect(t.chat("alice"), 401, "revoked")

    print(f"{t.passed} passed, {t.failed} failed", flush=True)
    return t.failed == 0


def stay(program, running, at):
    t = Tour(program, at["url"])
    print("\n" + paint(1, "Now it is yours, until Ctrl-C. From another terminal, in the project's directory:"))
    print("\n" + t.mint("me", "infer:text model:smollm2:inference"))
    print(t.chat("me", prompt="Tell me a joke."))
    print(f"\n  metrics   curl -s {at['ops']}/metrics")
    print("  audit     tail -f .demo/tollgate.log")
    print("  proxy     tail -f .demo/envoy.log")
    print("  policy    deploy/demo/tollgate.yaml, deploy/envoy/envoy-metered.yaml", flush=True)
    while True:
        time.sleep(1)
        running.check()


def main():
    def end(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    lock = (ROOT / ".parts/demo.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Failed("another demo is running from this directory") from None

    print(paint("1;36", "Tollgate demo") + "\n", flush=True)
    port = envoy_port()  # a taken one is said before the build
    program = servers.build(os.environ.get("DEMO_PROFILE", "release"))
    servers.empty(DIR)
    servers.make_issuer(DIR, program)
    with rig(program, port) as (running, at):
        as_expected = tour(program, at["url"], at["admin"])
        if os.environ.get("DEMO_ONCE") != "1":
            stay(program, running, at)
    return 0 if as_expected else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        print(f"\ndemo: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopped")
