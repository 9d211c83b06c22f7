"""Envoy with the shipped configurations, and nginx as the upstream, for the benchmarks."""

import pathlib
import re
import urllib.error
import urllib.request

import servers
from measure import DIR, LOAD_CORE, SERVER_CORE, Failed, on_core, run
from servers import BIN, ROOT

HERE = pathlib.Path(__file__).resolve().parent
FILTERS = " " * 18 + "- name: envoy.filters.http."


def shipped(name):
    """A shipped configuration without its access log, which only some contestants could fill."""
    config = (ROOT / "deploy/envoy" / name).read_text()
    return without(config, " " * 16 + "access_log:\n", " " * 16 + "route_config:\n")


def without(config, start, end, instead=""):
    """`config` with the block from the line `start` up to the line `end` taken out."""
    if config.count(start) != 1 or end not in config.partition(start)[2]:
        raise Failed(f"deploy/envoy should have `{start.strip()}` once, and `{end.strip()}` after it")
    before, _, rest = config.partition(start)
    return before + instead + end + rest.partition(end)[2]


def with_check(check):
    """The shipped configuration with another filter, or none, in the place of ext_authz."""
    return without(shipped("envoy.yaml"), FILTERS + "ext_authz\n", FILTERS + "router\n", check)


def jwt_authn(jwks, cached):
    """Envoy's own check of the same tokens, with or without its cache."""
    text = (HERE / "envoy/jwt_authn.yaml").read_text().replace("JWKS_FILE", f'"{jwks}"')
    line = "                          audiences: [inference-api]\n"
    if cached:
        text = text.replace(line, line + "                          jwt_cache_config: { jwt_cache_size: 5000 }\n")
    return text


def native(jwks, limits):
    """What Envoy's own filters can do of the policy: jwt_authn with its cache, the model of the body, scopes, and the filter `limits`; and
    an access log, where Tollgate has its audit lines."""
    token = jwt_authn(jwks, True)
    line = "                          claim_to_headers:\n"
    if token.count(line) != 1:
        raise Failed(f"jwt_authn.yaml should have `{line.strip()}` once")
    token = token.replace(line, "                          payload_in_metadata: claims\n" + line)
    filters = [token] + [(HERE / f"envoy/{name}.yaml").read_text() for name in ("native", limits)]
    log, line = (HERE / "envoy/access_log.yaml").read_text(), " " * 16 + "route_config:\n"
    return with_check("".join(filters)).replace(line, log + line)


class Module:
    """The module for Envoy with a policy: `directory` has the library."""

    def __init__(self, directory, name, text):
        self.directory, self.ops, self.path = directory, servers.free_port(), DIR / f"{name}-policy.yaml"
        listen = f'listen: {{ embedded: true, ops: "127.0.0.1:{self.ops}" }}\naudit: {{ to: "file:/dev/null" }}\n'
        self.path.write_text(listen + text)


class Envoy:
    """Envoy with one worker. `socket` is where its check server listens; `module` is the Tollgate inside of it."""

    def __init__(self, rig, name, config, upstream, socket="none.sock", core=SERVER_CORE, module=None, wrapper=()):
        self.port, admin = servers.free_port(), servers.free_port()
        for old, new in {
            r"address: 0\.0\.0\.0, port_value: 8080": f"address: 127.0.0.1, port_value: {self.port}",
            r"pipe: \{ path: /run/tollgate/envoy-admin\.sock, mode: 384 \}":
                f"socket_address: {{ address: 127.0.0.1, port_value: {admin} }}",
            r"path: /run/tollgate/(authz|envoy)\.sock": f'path: "{DIR}/{socket}"',
            r"address: 127\.0\.0\.1, port_value: 8000": f"address: 127.0.0.1, port_value: {upstream}",
        }.items():
            config, found = re.subn(old, new, config)
            if found != 1 and not (module and "authz" in old):
                raise Failed(f"deploy/envoy should have `{old}` exactly once")
        environment = {}
        if module:
            config = config.replace("value: /etc/tollgate/tollgate.yaml", f'value: "{module.path}"')
            environment["ENVOY_DYNAMIC_MODULES_SEARCH_PATH"] = str(module.directory)
        path = DIR / f"{name}.yaml"
        path.write_text(config)
        command = [*on_core(core), *wrapper, BIN / "envoy-1.40.0", "-c", path, "--disable-hot-restart", "--concurrency", "1"]
        self.server = rig.start(name, [*command, "--log-level", "error"], env=environment)
        within = 600 if wrapper else servers.START_DEADLINE  # under valgrind it starts fifty times slower
        self.server.wait_for("readiness", lambda: servers.answers(f"http://127.0.0.1:{admin}/ready"), within)
        if module:
            self.server.wait_for("readiness of the module", lambda: servers.answers(f"http://127.0.0.1:{module.ops}/readyz"), within)
        self.address = f"127.0.0.1:{self.port}"


def nginx(rig):
    """The upstream: a fixed small answer. Returns its port."""
    port = servers.free_port()
    config = (HERE / "envoy/nginx.conf").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    (DIR / "nginx.conf").write_text(config)
    server = rig.start("nginx", [*on_core(LOAD_CORE), BIN / "nginx", "-p", DIR, "-c", DIR / "nginx.conf", "-e", "stderr"])
    server.wait_for("answer", lambda: servers.answers(f"http://127.0.0.1:{port}/"))
    return port


def status_of(address, token=None, body=b"{}"):
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(f"http://{address}/v1/chat/completions", data=body, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code


def must_check(name, address, checks):
    """A contestant that lets everybody in would be measured doing nothing."""
    expected = 401 if checks else 200
    if (status := status_of(address)) != expected:
        raise Failed(f"{name} answered {status} without a token, not {expected}: it would not measure a check")


def must_read(name, address, token):
    """A contestant that lets a token use every model would be measured without the body."""
    if (status := status_of(address, token, b'{"model":"another"}')) != 403:
        raise Failed(f"{name} answered {status} to a model that is not the token's, not 403: it would not measure the whole policy")


def http(tool, address, tokens, watched, *more, connections=32, seconds=1.0, warm=0.3, body=500):
    """One measurement over HTTP/1.1; the CPU time of the `watched` servers is counted."""
    command = [*on_core(LOAD_CORE), tool, "http", "--target", address, "--tokens", tokens, "--body", body]
    command += ["--connections", connections, "--in-flight", connections, "--seconds", seconds, "--warm", warm]
    for server in watched:
        command += ["--watch", server.process.pid]
    return run([*command, *more])
