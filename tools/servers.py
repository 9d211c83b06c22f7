"""Starting, watching and ending the real servers, for the demo and the benchmarks."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
BIN = ROOT / ".parts/bin"
START_DEADLINE = 60  # seconds

ISSUER = "https://auth.example.com"


class Failed(Exception):
    """It cannot go on; the text says why and what to do."""


def build(profile):
    """Builds Tollgate and returns the program's path, relative to the project if it is inside."""
    program = f"{os.environ.get('CARGO_TARGET_DIR', 'target')}/{profile}/tollgate"
    print(f"building {program} (minutes the first time, seconds after)", flush=True)
    if subprocess.run(["cargo", "build", "--bin", "tollgate", "--profile", profile], cwd=ROOT).returncode:
        raise Failed("the build failed, see above")
    return program


def empty(directory):
    """Makes `directory` anew, with nothing in it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()


def free_port(wanted=0):
    """A port on loopback that nobody listens on: `wanted`, or any. Raises OSError if `wanted` is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", wanted))
        return probe.getsockname()[1]


def answers(url):
    """Whether `url` answers with 200."""
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except (urllib.error.URLError, OSError):
        return False


class Server:
    """One child process with a log in `directory`, ended by its own process id whatever happens."""

    def __init__(self, directory, name, command, env=None, output=None):
        """`output` takes its standard output instead of the log, which always has the standard error."""
        self.name, self.log = name, directory / f"{name}.log"
        log = self.log.open("wb")
        # Its own session, so that Ctrl-C reaches the caller alone, which then ends its servers in order.
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log if output is None else output,
            stderr=log,
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

    def wait_for(self, what, condition, within=START_DEADLINE):
        """Polls until `condition` gives a true value, and returns that."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            self.check()
            if found := condition():
                return found
            time.sleep(0.05)
        raise Failed(f"{self.name}: no {what} after {within} s; the end of its log:\n{self.tail()}")

    def tail(self):
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return "\n".join(f"    {line}" for line in lines) + f"\n    ({os.path.relpath(self.log, ROOT)})"


class Rig(contextlib.ExitStack):
    """Servers that share a directory for their configs, keys and logs, and that end together, last one first."""

    def __init__(self, directory):
        super().__init__()
        self.directory, self.all = directory, []

    def start(self, name, command, **more):
        server = self.enter_context(Server(self.directory, name, command, **more))
        self.all.append(server)
        return server

    def check(self):
        """Raises if one of them has ended."""
        for server in self.all:
            server.check()

    def model(self, *arguments):
        """A real model server; returns its port."""
        server = self.start("model", [BIN / "python", "tools/llama_server.py", *arguments])
        prefix = "listening on http://127.0.0.1:"

        def announced():
            return [line for line in server.log.read_text().splitlines() if line.startswith(prefix)]

        return int(server.wait_for("model loaded", announced)[0].removeprefix(prefix))

    def tollgate(self, program, config, ops, env, wrapper=()):
        """Tollgate, ready; its ops listener has to be on port `ops`."""
        server = self.start("tollgate", [*wrapper, program, "serve", "--config", config], env=env)
        server.wait_for("readiness", lambda: answers(f"http://127.0.0.1:{ops}/readyz"))
        return server

    def envoy(self, config, port, upstream, name="envoy", wrapper=(), output=None, authz="authz.sock"):
        """Envoy, ready, on `port`. `config` is the shipped text or one made from it; its four addresses are replaced. `authz` is the socket
        of Tollgate."""
        admin = free_port()
        for old, new in {
            "address: 0.0.0.0, port_value: 8080": f"address: 127.0.0.1, port_value: {port}",
            "pipe: { path: /run/tollgate/envoy-admin.sock, mode: 384 }":
                f"socket_address: {{ address: 127.0.0.1, port_value: {admin} }}",
            "path: /run/tollgate/authz.sock": f'path: "{self.directory}/{authz}"',
            "address: 127.0.0.1, port_value: 8000": f"address: 127.0.0.1, port_value: {upstream}",
        }.items():
            if config.count(old) != 1:
                raise Failed(f"deploy/envoy/envoy.yaml should have `{old}` exactly once")
            config = config.replace(old, new)
        path = self.directory / f"{name}.yaml"
        path.write_text(config)
        # Hot restart is not needed, and would clash with another Envoy on this machine.
        command = [*wrapper, BIN / "envoy-1.40.0", "-c", path, "--disable-hot-restart", "--concurrency", "1"]
        server = self.start(name, [*command, "--log-level", "warning"], output=output)
        server.wait_for("readiness", lambda: answers(f"http://127.0.0.1:{admin}/ready"))
        return server


def shipped_envoy_config():
    return (ROOT / "deploy/envoy/envoy.yaml").read_text()


def make_issuer(directory, program):
    """What there is of an identity provider here: issuer.pem, its private key, and jwks.json, what it publishes."""
    key = directory / "issuer.pem"

    def token(*arguments):
        done = subprocess.run([program, "token", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"`tollgate token {arguments[0]}` failed: {done.stderr.strip()}")
        return done.stdout

    token("keygen", "--alg", "RS256", "--out", key)
    (directory / "jwks.json").write_text(token("jwks", "--key", f"demo={key}"))
