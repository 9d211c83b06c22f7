"""The demo: a real model server, Tollgate and Envoy on this machine, and a tour of what passes and what does not.

    make demo                every command it runs is printed first and can be pasted from the project's directory
    DEMO_ONCE=1 make demo    ends after the tour: 0 if every answer was the expected one, 1 otherwise
    DEMO_PORT=8080           where Envoy listens; left out, 8080 or, if that is taken, a free one
    DEMO_PROFILE=ci          the cargo profile, `release` by default; `ci` builds faster

Configs: deploy/envoy/envoy.yaml with its four addresses replaced, and deploy/demo/tollgate.yaml. What the demo
makes (key, tokens, logs) is in .demo/.
"""

import base64
import contextlib
import fcntl
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIR = ROOT / ".demo"
BIN = ROOT / ".parts/bin"
PROFILE = os.environ.get("DEMO_PROFILE", "release")
TOLLGATE = f"{os.environ.get('CARGO_TARGET_DIR', 'target')}/{PROFILE}/tollgate"
ISSUER = "https://auth.example.com"
START_DEADLINE = 60  # seconds

COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOURS else text


class Failed(Exception):
    """The demo cannot go on; the text says why and what to do."""


# Servers ------------------------------------------------------------------------------------------------------


class Server:
    """One child process with its log in .demo/, ended by its own process id whatever happens."""

    def __init__(self, name, command, env=None):
        self.name, self.log = name, DIR / f"{name}.log"
        # Its own session, so that Ctrl-C reaches the demo alone, which then ends the servers in order.
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def check(self):
        """Raises if the process has ended."""
        if (status := self.process.poll()) is not None:
            raise Failed(f"{self.name} ended with status {status}; the end of its log:\n{self.tail()}")

    def wait_for(self, what, condition):
        """Polls until `condition` gives a true value, and returns that."""
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            self.check()
            if found := condition():
                return found
            time.sleep(0.05)
        raise Failed(f"{self.name} had no {what} after {START_DEADLINE} s; the end of its log:\n{self.tail()}")

    def tail(self):
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return "\n".join(f"    {line}" for line in lines) + f"\n    ({self.log.relative_to(ROOT)})"


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except (urllib.error.URLError, OSError):
        return False


def free_port(wanted=0):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", wanted))
        return probe.getsockname()[1]


def envoy_port():
    if asked := os.environ.get("DEMO_PORT"):
        try:
            return free_port(int(asked))
        except (OSError, ValueError, OverflowError) as error:
            raise Failed(f"cannot listen on DEMO_PORT={asked}: {error}; choose another or leave it out") from error
    try:
        return free_port(8080)
    except OSError:
        return free_port()


# Setting up ---------------------------------------------------------------------------------------------------


def build():
    print(paint(2, f"building {TOLLGATE} (minutes the first time, seconds after)"), flush=True)
    if subprocess.run(["cargo", "build", "--quiet", "--bin", "tollgate", "--profile", PROFILE], cwd=ROOT).returncode:
        raise Failed("the build failed, see above")


def openssl(*arguments):
    done = subprocess.run([BIN / "openssl", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"`openssl {arguments[0]}` failed: {done.stderr.strip()}")
    return done.stdout


def make_issuer():
    """What there is of an identity provider here: its private key, and the key set that it would publish."""
    key = DIR / "issuer.pem"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key)
    key.chmod(0o600)
    printed = openssl("rsa", "-in", key, "-noout", "-modulus")
    modulus = bytes.fromhex(printed.strip().removeprefix("Modulus="))
    public = {"kty": "RSA", "kid": "demo", "alg": "RS256", "use": "sig", "e": "AQAB"}
    public["n"] = base64.urlsafe_b64encode(modulus).rstrip(b"=").decode()
    (DIR / "jwks.json").write_text(json.dumps({"keys": [public]}))


def envoy_config(listen, admin, model):
    """The shipped config with its four addresses replaced, each of which must be there exactly once."""
    text = (ROOT / "deploy/envoy/envoy.yaml").read_text()
    for old, new in {
        "address: 0.0.0.0, port_value: 8080": f"address: 127.0.0.1, port_value: {listen}",
        "address: 127.0.0.1, port_value: 9901": f"address: 127.0.0.1, port_value: {admin}",
        "path: /run/tollgate/authz.sock": f'path: "{DIR}/authz.sock"',
        "address: 127.0.0.1, port_value: 8000": f"address: 127.0.0.1, port_value: {model}",
    }.items():
        if text.count(old) != 1:
            raise Failed(f"deploy/envoy/envoy.yaml should have `{old}` exactly once")
        text = text.replace(old, new)
    (DIR / "envoy.yaml").write_text(text)


@contextlib.contextmanager
def servers(port):
    """Starts model, Tollgate and Envoy, in this order, and yields their addresses; `port` is Envoy's."""
    ops, admin = free_port(), free_port()
    (DIR / "admin.token").write_text(secrets.token_urlsafe(32))
    (DIR / "admin.token").chmod(0o600)
    with contextlib.ExitStack() as running:
        start = lambda *arguments, **named: running.enter_context(Server(*arguments, **named))

        model = start("model", [BIN / "python", "tools/llama_server.py"])
        prefix = "listening on "
        line = model.wait_for("model loaded", lambda: [l for l in model.log.read_text().splitlines() if l.startswith(prefix)])
        model_url = line[0].removeprefix(prefix)
        print(f"  model     {model_url}  SmolLM2 135M Instruct in llama.cpp")

        env = {"DEMO_DIR": str(DIR), "DEMO_OPS_PORT": str(ops), "DEMO_ADMIN_PORT": str(admin)}
        tollgate = start("tollgate", [TOLLGATE, "serve", "--config", "deploy/demo/tollgate.yaml"], env=env)
        tollgate.wait_for("readiness", lambda: answers(f"http://127.0.0.1:{ops}/readyz"))
        print(f"  tollgate  unix:{DIR.relative_to(ROOT)}/authz.sock  store in memory, one issuer")

        envoy_admin = free_port()
        envoy_config(port, envoy_admin, model_url.rpartition(":")[2])
        # Without hot restart: it is not needed, and it would clash with another Envoy on this machine.
        command = [BIN / "envoy-1.40.0", "-c", DIR / "envoy.yaml", "--disable-hot-restart", "--log-level", "warning"]
        envoy = start("envoy", [*command, "--concurrency", "1"])
        envoy.wait_for("readiness", lambda: answers(f"http://127.0.0.1:{envoy_admin}/ready"))
        print(f"  envoy     http://127.0.0.1:{port}  asks Tollgate about every request\n", flush=True)

        yield {
            "url": f"http://127.0.0.1:{port}",
            "ops": f"http://127.0.0.1:{ops}",
            "admin": f"http://127.0.0.1:{admin}",
            "all": [model, tollgate, envoy],
        }


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
            for choice in json.loads(data)["choices"]:
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

    def __init__(self, url):
        self.url, self.passed, self.failed = url, 0, 0

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
        """A token in .demo/WHO.token, so that a pasted command finds it too."""
        prepare(
            f"{TOLLGATE} token mint --key .demo/issuer.pem --kid demo --alg RS256 --iss {ISSUER} \\\n"
            f"  --aud inference-api --sub {who} --scope '{scope}' --ttl={ttl}{more} > .demo/{who}.token"
        )

    def chat(self, token=None, model="smollm2", prompt="Hello", stream=False):
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 48}
        if stream:
            body |= {"stream": True, "temperature": 0}
        bearer = f'  -H "Authorization: Bearer $(cat .demo/{token}.token)" \\\n' if token else ""
        return (
            f"curl -sN -i {self.url}/v1/chat/completions \\\n"
            f"{bearer}"
            f"  --json '{json.dumps(body)}'"
        )

    def get(self, path, token):
        return f'curl -s -i {self.url}{path} -H "Authorization: Bearer $(cat .demo/{token}.token)"'


def tour(url, admin):
    t = Tour(url)
    text = "infer:text model:smollm2:inference"

    t.step("Allowed", "Alice may use the model `smollm2`. The text below is generated, and shown as it arrives.")
    t.mint("alice", text, more=" --jti alice-1 --claim tenant_id='\"acme\"'")
    t.expect(t.chat("alice", prompt="What is a toll gate? Answer in one sentence.", stream=True), 200, None)

    t.step("No token", "The model server itself asks for none; this is where the request ends.")
    t.expect(t.chat(), 401, "missing_credential")

    t.step("Wrong scope", "Bob's token is genuine, but it only lets him list the models.")
    t.mint("bob", "models:read")
    t.expect(t.chat("bob"), 403, "insufficient_scope")

    t.step("Forbidden model", "Alice asks for a model that her token does not name. The model is found in the body.")
    t.expect(t.chat("alice", model="big-70b"), 403, "model_forbidden")

    t.step("Expired", "Carol's token ended an hour ago.")
    t.mint("carol", text, ttl="-1h")
    t.expect(t.chat("carol"), 401, "expired")

    t.step("No such route", "The model server would show its slots; no rule names the path, so nobody gets there.")
    t.expect(t.get("/slots", "alice"), 403, "no_route")

    t.step("Rate limited", "Four requests at once and one every ten seconds is what a subject has here. Bob sends four more.")
    prepare(
        f'for i in 1 2 3 4; do curl -s -o /dev/null -w "%{{http_code}} " {url}/v1/models \\\n'
        '  -H "Authorization: Bearer $(cat .demo/bob.token)"; done'
    )
    t.expect(t.get("/v1/models", "bob"), 429, "rate_limited")

    t.step("Revoked", "Alice's token is withdrawn an hour before its end. It is the one that passed in step 1.")
    prepare(
        f"{TOLLGATE} revoke add --admin {admin} --token-file .demo/admin.token \\\n"
        f"  --iss {ISSUER} --jti alice-1 --ttl 1h"
    )
    t.expect(t.chat("alice"), 401, "revoked")

    print(f"{t.passed} passed, {t.failed} failed", flush=True)
    return t.failed == 0


def stay(running):
    t = Tour(running["url"])
    print("\n" + paint(1, "Now it is yours, until Ctrl-C. From another terminal, in this directory:"))
    print("\n  A token, and a question:")
    print(
        f"    {TOLLGATE} token mint --key .demo/issuer.pem --kid demo --alg RS256 --iss {ISSUER} \\\n"
        "      --aud inference-api --sub me --scope 'infer:text model:smollm2:inference' --ttl 1h > .demo/me.token"
    )
    print("\n".join("    " + line for line in t.chat("me", prompt="Tell me a joke.").splitlines()))
    print(f"\n  Metrics:  curl -s {running['ops']}/metrics")
    print("  Audit:    tail -f .demo/tollgate.log")
    print("  Proxy:    tail -f .demo/envoy.log")
    print("  Policy:   deploy/demo/tollgate.yaml, deploy/envoy/envoy.yaml", flush=True)
    while True:
        time.sleep(1)
        for server in running["all"]:
            server.check()


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
    build()
    shutil.rmtree(DIR, ignore_errors=True)
    DIR.mkdir()
    make_issuer()
    with servers(port) as running:
        as_expected = tour(running["url"], running["admin"])
        if os.environ.get("DEMO_ONCE") != "1":
            stay(running)
    return 0 if as_expected else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        print(f"\ndemo: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopped")
