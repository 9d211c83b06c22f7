"""User instructions that a check adds to a request in Envoy, counted with callgrind: the same on a busy machine as on a quiet one.

    make bench-envoy-instructions                  fails when they are more than 3 % above benches/instructions.txt
    PROFILE=ci make bench-envoy-instructions       the same for another build profile
    UPDATE=1 make bench-envoy-instructions         writes what was counted into benches/instructions.txt

Each Envoy runs twice under callgrind, and answers more requests the second time; the difference of the two totals, divided by how many
more, is what one request costs. What a check adds is beyond what a request costs without one. Start and first verification are in both.
"""

import os
import re
import signal

import gates
import gateways
import instructions
import measure
import report
import servers
from gateways import Envoy, Module
from measure import DIR

FEW, MANY = 1000, 4000
TOKENS = 64
#: The contestant whose instructions are held.
HELD = "module-lean"


def total(program, tool, file, contestant, count):
    """All instructions of one Envoy that answers so many requests."""
    with servers.Rig(DIR) as rig:
        upstream = gateways.nginx(rig)
        envoy = contestant(rig, upstream, f"counted-{count}")
        load = [tool, "http", "--target", envoy.address, "--tokens", file, "--distinct", TOKENS, "--body", 500]
        measure.run([*load, "--connections", 8, "--in-flight", 8, "--requests", count], timeout=600)
        envoy.server.process.send_signal(signal.SIGTERM)
        envoy.server.process.wait(120)
        found = re.search(r"Collected : (\d+)", envoy.server.log.read_text(errors="replace"))
    if not found:
        raise measure.Failed(f"callgrind counted nothing:\n{envoy.server.tail()}")
    return int(found[1])


def contestants(program, modules, tokens, policy):
    def envoy(config, socket="none.sock", text=None, gate=None):
        def start(rig, upstream, name):
            module = Module(modules, name, text) if text else None
            if gate:
                gates.Gate(rig, program, name, gate)
            wrapper = [servers.BIN / "valgrind", "--tool=callgrind", f"--callgrind-out-file={DIR}/callgrind-{name}.out"]
            return Envoy(rig, name, config, upstream, socket.replace("NAME", name), module=module, wrapper=wrapper)

        return start

    inside = gateways.shipped("envoy-embedded.yaml")
    return {
        "alone": envoy(gateways.with_check("")),
        "jwt-cache": envoy(gateways.with_check(gateways.jwt_authn(tokens.jwks, True))),
        "native": envoy(gateways.native(tokens.jwks, "native_local")),
        "module": envoy(inside, text=policy),
        "module-lean": envoy(inside, text=policy + gates.LEAN),
        "grpc": envoy(gateways.shipped("envoy.yaml"), "NAME.sock", gate=policy),
    }


def main():
    program, tool = measure.build()
    modules = measure.module()
    gates.clear()
    tokens = measure.Tokens(tool)
    file = tokens.file("RS256", 2000)
    found = {}
    for name, contestant in contestants(program, modules, tokens, gates.policy(tokens.jwks, body=True)).items():
        few, many = (total(program, tool, file, contestant, count) for count in (FEW, MANY))
        found[name] = round((many - few) / (MANY - FEW))
        measure.say(f"{name}: {found[name]} instructions a request")
    measure.save("envoy_instructions", "make bench-envoy-instructions", {"each": found})
    report.write()
    instructions.hold(f"envoy-{HELD}-{measure.PROFILE}", found[HELD] - found["alone"], "a check inside of Envoy")


if __name__ == "__main__":
    measure.main(main)
